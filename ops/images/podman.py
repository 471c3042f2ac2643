"""Images and containers in a storage of their own, apart from what else podman has on this machine."""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ops.images import commands
from ops.images.composition import Build, Service
from ops.images.errors import TrialFailed

# Debian's other runtime, crun, needs a cgroup that is delegated to it.
RUNTIME = "/usr/sbin/runc"
PROCESSES = 1024
BUILT = 1767225600  # seconds since 1970: the time of all that is built, as in ops/docker/Dockerfile
HEALTHY_SECS = 120.0
_PAUSE_SECS = 0.5


class Podman:
    """podman and buildah with all their files in one directory. The methods raise `CommandFailed`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._where = ["--root", str(directory / "storage"), "--runroot", str(directory / "run")]
        self._podman = ["podman", *self._where, "--runtime", RUNTIME, "--cgroup-manager", "cgroupfs"]

    def import_image(self, archive: Path, name: str) -> None:
        """Make an image from an archive of its files."""
        commands.run([*self._podman, "import", "-q", str(archive), name])

    def build(
        self,
        top: Path,
        build: Build,
        name: str,
        arguments: Mapping[str, str],
        mounts: Mapping[Path, str],
        *,
        anew: bool = False,
    ) -> None:
        """Build an image. `mounts`: folders that the build may read, each with its path in the build.

        `anew`: nothing of an earlier build is taken. Every file and the image itself have the time `BUILT`.
        """
        options = ["--isolation", "chroot", "--format", "docker", "--pull-never", "-t", name, "--timestamp", str(BUILT)]
        options += ["--layers", *(["--no-cache"] if anew else [])]
        for key, value in arguments.items():
            options += ["--build-arg", f"{key}={value}"]
        for source, path in mounts.items():
            options += ["--volume", f"{source}:{path}:ro"]
        if build.target:
            options += ["--target", build.target]
        context = top / build.context
        commands.run(["buildah", *self._where, "bud", *options, "-f", str(context / build.dockerfile), str(context)])

    def size(self, image: str) -> int:
        """The size of an image in bytes."""
        return int(self._inspect(image)["Size"])

    def layers(self, image: str) -> list[str]:
        """The digests of the files of each layer of an image, from the base on."""
        return list(self._inspect(image)["RootFS"]["Layers"])

    def run(self, service: Service, names: Sequence[tuple[str, str]], binds: Mapping[str, Path]) -> None:
        """Start a service in the network of this process.

        `names`: the names that it knows, each with an address. `binds`: the folders of this machine for its volumes.
        """
        options = ["--detach", "--name", service.name, "--network", "host", "--pull", "never", *service.options]
        for name, address in names:
            options += ["--add-host", f"{name}:{address}"]
        for key, value in service.environment.items():
            options += ["--env", f"{key}={value}"]
        for source, path, mode in service.volumes:
            options += ["--volume", f"{binds.get(source, source)}:{path}" + (f":{mode}" if mode else "")]
        # A container can't have more files than this process may open.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        soft, hard = (min(limit, most) for limit in service.files)
        options += ["--ulimit", f"nofile={soft}:{hard}", "--ulimit", f"nproc={PROCESSES}:{PROCESSES}"]
        commands.run([*self._podman, "run", *options, "--stop-timeout", str(service.stop_secs), service.image])

    def wait_healthy(self, name: str) -> None:
        """Wait until a container is healthy. Raises `TrialFailed` when it ends or after `HEALTHY_SECS`."""
        deadline = time.monotonic() + HEALTHY_SECS
        while True:
            status, out, error = commands.attempt([*self._podman, "healthcheck", "run", name])
            if status == 0:
                return
            if not self._inspect(name)["State"]["Running"]:
                raise TrialFailed(f"{name} ended while it was starting; its log:\n{self.log(name)}")
            if time.monotonic() > deadline:
                raise TrialFailed(f"{name} is not healthy after {HEALTHY_SECS:g} s: {out}{error}\n{self.log(name)}")
            time.sleep(_PAUSE_SECS)

    def stop(self, name: str) -> int:
        """Stop a container in order; its exit status, which is 137 if it was killed."""
        commands.run([*self._podman, "stop", name])
        return int(self._inspect(name)["State"]["ExitCode"])

    def start(self, name: str) -> None:
        """Start a container again."""
        commands.run([*self._podman, "start", name])

    def remove(self, name: str) -> None:
        """Remove a container, if there is one, but not its volumes."""
        commands.run([*self._podman, "rm", "--force", "--ignore", "--time", "1", name])

    def execute(self, name: str, *command: str) -> str:
        """The output of a command in a container."""
        return commands.run([*self._podman, "exec", name, *command])

    def log(self, name: str) -> str:
        """The end of a container's output."""
        _, out, error = commands.attempt([*self._podman, "logs", "--tail", "40", name])
        return out + error

    def clear(self, images: bool) -> None:
        """Remove all containers and volumes, with `images` the images too."""
        if not self._directory.exists():
            return
        commands.run([*self._podman, "rm", "--all", "--force", "--time", "1"])
        commands.run([*self._podman, "volume", "prune", "--force"])
        if images:
            commands.run([*self._podman, "rmi", "--all", "--force"])
            shutil.rmtree(self._directory)

    def _inspect(self, name: str) -> Any:
        return json.loads(commands.run([*self._podman, "inspect", name]))[0]
