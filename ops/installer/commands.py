"""Programs that the installer runs, and what a person sees of them."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ops.installer.errors import CommandFailed

_SHOWN_LINES = 40


def say(text: str) -> None:
    """Print one line of news."""
    print(f"  {text}", flush=True)


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is done, and then how many seconds it took."""
    started = time.monotonic()
    print(f"  {what} …", end="", flush=True)
    try:
        yield
    except BaseException:
        print(" failed", flush=True)
        raise
    print(f" {time.monotonic() - started:.0f} s", flush=True)


def run(what: str, *command: str | Path, advice: str = "", environment: Mapping[str, str] | None = None) -> None:
    """Run a program quietly as one step. Raises `CommandFailed` with the end of its output and `advice`."""
    with step(what):
        status, output = attempt(*command, environment=environment)
        if status != 0:
            shown = "\n".join(output.splitlines()[-_SHOWN_LINES:])
            raise CommandFailed("\n".join(filter(None, (shown, advice or f"{what}: ended with {status}"))))


def attempt(*command: str | Path, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """The exit status of a program, and what it printed on both outputs. Raises `CommandFailed` if it can't be run."""
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except OSError as error:
        raise CommandFailed(f"{command[0]} can't be run: {error.strerror or error}") from error
    return done.returncode, done.stdout.decode(errors="replace")
