"""`ops/sbom`: a bill of materials of what runs, made of the locks and of the files that come with Pulzar."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from ops.cluster.processes import ROOT
from ops.locks import lock_file
from ops.locks.errors import LockError, Unreadable
from ops.locks.lock_file import Locked
from pulzar import VERSION

DESCRIPTION = """\
Prints a bill of materials (CycloneDX 1.6, JSON): every Python package that master, nodes and extensions need, with who
needs it, and what of others is in the checkout. The same checkout gives the same bytes: it has no time and no number of
its own. Debian's packages, Python and RabbitMQ are not in it."""

STATIC = Path("master/web/ui/static")
_OF_OTHERS = re.compile(r"(?P<name>[a-z]+)-(?P<version>\d+\.\d+\.\d+)\.min\.(?:js|css)")
_NPM = {"htmx": ("", "htmx.org"), "pico": ("@picocss", "pico")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print it; the exit status."""
    argparse.ArgumentParser("ops/sbom", description=DESCRIPTION).parse_args(arguments)
    try:
        print(document(ROOT), end="")
    except LockError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def document(top: Path) -> str:
    """The bill of materials of a checkout. Raises `LockError`."""
    root = Component(
        name="pulzar",
        version=VERSION,
        type=ComponentType.APPLICATION,
        bom_ref="pulzar",
        purl=PackageURL("generic", None, "pulzar", VERSION),
    )
    bom = Bom()
    bom.metadata.component = root
    packages = _packages(top)
    components = {name: _component(package) for name, package in packages.items()}
    for component in [*components.values(), *of_others(top)]:
        bom.components.add(component)
    needed: dict[str, list[Component]] = {}
    for name, package in packages.items():
        for who in package.wanted_by:
            needed.setdefault(who, []).append(components[name])
    for name, component in components.items():
        bom.register_dependency(component, needed.get(name, []))
    direct = [each for source in lock_file.SOURCES for each in needed.get(source, [])]
    bom.register_dependency(root, [*direct, *of_others(top)])
    made = json.loads(JsonV1Dot6(bom).output_as_string())
    del made["serialNumber"], made["metadata"]["timestamp"]
    return json.dumps(made, indent=2, sort_keys=True) + "\n"


def of_others(top: Path) -> list[Component]:
    """The files of other projects in the checkout. Raises `Unreadable` for one of a project that is not known."""
    found = []
    for path in sorted((top / STATIC).glob("*.min.*")):
        named = _OF_OTHERS.fullmatch(path.name)
        if not named or named["name"] not in _NPM:
            raise Unreadable(f"{STATIC / path.name}: whose file is it? ops/locks/sbom.py is to know")
        group, name = _NPM[named["name"]]
        found.append(
            Component(
                name=name,
                group=group or None,
                version=named["version"],
                type=ComponentType.LIBRARY,
                bom_ref=path.name,
                purl=PackageURL("npm", group or None, name, named["version"]),
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(path.read_bytes()).hexdigest())],
            )
        )
    return found


def _packages(top: Path) -> dict[str, Locked]:
    """The packages of all locks of the product, by name; those of several locks are the same in all of them."""
    found: dict[str, Locked] = {}
    for lock in lock_file.PRODUCT:
        for package in lock_file.read(lock, top):
            before = found.get(package.name)
            if before and before.version != package.version:
                raise Unreadable(f"{package.name} is {before.version} and, in {lock}, {package.version}: run ops/lock")
            wanted_by = dict.fromkeys((*(before.wanted_by if before else ()), *package.wanted_by))
            marker = package.marker if before is None or before.marker else ""
            found[package.name] = Locked(package.name, package.version, marker, package.digests, tuple(wanted_by))
    return found


def _component(package: Locked) -> Component:
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{package.name}=={package.version}",
        purl=PackageURL("pypi", None, package.name, package.version),
        description=f"only where {package.marker}" if package.marker else None,
    )


if __name__ == "__main__":
    sys.exit(main())
