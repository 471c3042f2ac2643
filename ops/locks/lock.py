"""`ops/lock`: make the locks."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ops.cluster.processes import ROOT
from ops.cluster.terminal import say
from ops.locks import lock_file
from ops.locks.errors import CommandFailed, LockError
from ops.locks.lock_file import SOURCES

OLDEST_PYTHON = "3.11"
DESCRIPTION = f"""\
Makes requirements*.lock of requirements*.txt: every package with its version and the SHA-256 of each of its files,
for Python {OLDEST_PYTHON} and newer on every machine. ops/up, ops/test, ops/install and the images install from them,
and take no other file. Versions that are locked and still fit stay. Asks the package index that uv is set up for."""
_HEAD = "# Made by ops/lock of {source}: change that, then run ops/lock.\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make or check the locks; the exit status."""
    parser = argparse.ArgumentParser("ops/lock", description=DESCRIPTION)
    parser.add_argument(
        "--upgrade", action="store_true", help="take the newest versions of what requirements*.txt leave open"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; the exit status is 1 if a lock would change"
    )
    options = parser.parse_args(arguments)
    try:
        changed = make(ROOT, upgrade=options.upgrade, write=not options.check)
    except LockError as error:
        print(error, file=sys.stderr)
        return 2
    for name in changed:
        say(f"{name} {'would change: run ops/lock' if options.check else 'is new'}")
    if not changed:
        say("every lock is as it should be")
    return 1 if options.check and changed else 0


def make(top: Path, *, upgrade: bool = False, write: bool = True) -> list[str]:
    """Make the locks of a checkout; the names of those that are not as they were. Raises `LockError`.

    Either all of them are replaced or none.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in (*SOURCES, *map(lock_file.lock_of, SOURCES)):
            if (top / name).exists():
                shutil.copy(top / name, place)
        for source, beside in SOURCES.items():
            _compile(place, source, [lock_file.lock_of(other) for other in beside], upgrade=upgrade)
        changed = []
        for name in map(lock_file.lock_of, SOURCES):
            new = (place / name).read_bytes()
            lock_file.parsed(new.decode(), name)
            if not (top / name).exists() or (top / name).read_bytes() != new:
                changed.append(name)
        for name in changed if write else ():
            part = top / f"{name}.new"
            part.write_bytes((place / name).read_bytes())
            part.replace(top / name)
    return changed


def _compile(place: Path, source: str, beside: Sequence[str], *, upgrade: bool) -> None:
    lock = lock_file.lock_of(source)
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--no-config", "--no-header"]
    command += ["--universal", "--python-version", OLDEST_PYTHON, "--generate-hashes"]
    command += ["--upgrade"] if upgrade else []
    for other in beside:
        command += ["--constraint", other]
    try:
        done = subprocess.run(
            [*command, source, "--output-file", lock],
            cwd=place,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise CommandFailed(f"{command[0]} can't be run: {error.strerror or error}") from error
    if done.returncode != 0:
        raise CommandFailed(f"uv can't make {lock}:\n{done.stderr.strip()}")
    written = (place / lock).read_text(encoding="utf-8")
    (place / lock).write_text(_HEAD.format(source=source) + written, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
