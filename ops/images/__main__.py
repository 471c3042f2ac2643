"""`ops/test-images`: build the images and try them."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from broker.errors import PulzarError
from ops.cluster.processes import ROOT
from ops.cluster.terminal import say, step
from ops.images import base, composition, network
from ops.images.composition import Build, Composition
from ops.images.errors import TrialFailed
from ops.images.podman import Podman
from ops.images.trial import Trial
from ops.installer import configuration

DESCRIPTION = """\
Builds the images of master and node and runs the services of compose.yaml with them: stores, reads, runs jobs and an
extension, stops, starts, and finds everything again. It needs root, but no Docker and no image from elsewhere: the
base image and that of RabbitMQ are made from Debian's packages. It installs what is missing first."""

BASE = "docker.io/library/debian:trixie-slim"
STAND_IN = Build("ops/images", "Dockerfile.rabbitmq", "")


def main() -> int:
    """Build and try; the exit status of the program."""
    options = _options()
    if os.geteuid() != 0:
        print("Only root can build and run images so: sudo ./ops/test-images", file=sys.stderr)
        return 2
    started = time.monotonic()
    cache: Path = (options.caller / options.cache).resolve()
    cache.mkdir(parents=True, exist_ok=True)
    podman = Podman(cache / "podman")
    try:
        made = Path(tempfile.mkdtemp())
        subprocess.run([str(ROOT / "ops/docker/users"), str(made)], check=True, stdout=subprocess.DEVNULL)
        known = configuration.variables((made / ".env").read_text(encoding="utf-8"))
        password = known["RABBITMQ_PASSWORD"]
        services = composition.read(ROOT / "compose.yaml", {name: value for name, value in known.items() if value})
        try:
            podman.clear(images=False)
            _build(podman, services, cache, twice=options.twice)
            network.leave()
            with tempfile.TemporaryDirectory() as scripts:
                binds = {"./extensions": Path(scripts), "./ops/docker/definitions.json": made / "definitions.json"}
                Trial(podman, services, password, binds, step).run()
        finally:
            shutil.rmtree(made)
            with step("cleaning up"):
                podman.clear(images=not options.keep)
    except PulzarError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    say(f"  the images are good: {time.monotonic() - started:.0f} s")
    return 0


def _build(podman: Podman, services: Composition, cache: Path, *, twice: bool) -> None:
    with step("making the base image from Debian's packages"):
        podman.import_image(base.make_root(cache), BASE)
    with step("downloading wheels"):
        wheels = base.download_wheels(cache)
    arguments = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
    builds = {service.image: service.build for service in services.services}
    for image, build in builds.items():
        with step(f"building {image}" + ("" if build else ", a stand-in")):
            if build:
                podman.build(ROOT, build, image, arguments, {wheels: "/wheels"})
            else:
                podman.build(ROOT, STAND_IN, f"docker.io/library/{image}", {}, {})
    for image in builds:
        say(f"  {image}: {podman.size(image) / 1e6:.0f} MB")
    for image, build in builds.items():
        if build and twice:
            with step(f"building {image} again, from nothing"):
                podman.build(ROOT, build, f"{image}-again", arguments, {wheels: "/wheels"}, anew=True)
            first, second = podman.layers(image), podman.layers(f"{image}-again")
            if differing := [str(number) for number, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]:
                raise TrialFailed(f"{image}, built twice: of {len(first)} layers these differ: {', '.join(differing)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("ops/test-images", description=DESCRIPTION)
    parser.add_argument(
        "--cache",
        type=Path,
        default=ROOT / ".cache" / "images",
        metavar="DIR",
        help="where Debian's files, wheels and, with --keep, images are kept for the next time; default: .cache/images",
    )
    parser.add_argument("--caller", type=Path, default=Path.cwd(), help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help="keep the images: the next build is faster")
    parser.add_argument("--twice", action="store_true", help="build each image twice: both must have the same files")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
