"""Programs that the trial runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from ops.images.errors import CommandFailed

# Without this podman lets systemd run the health checks; the trial runs them itself.
_ENVIRONMENT = {"DISABLE_HC_SYSTEMD": "true"}
_SHOWN_LINES = 40


def run(command: Sequence[str], environment: Mapping[str, str] | None = None, timeout: float = 1800) -> str:
    """The standard output of a command. Raises `CommandFailed`, also after `timeout` seconds."""
    status, out, error = attempt(command, environment, timeout)
    if status != 0:
        shown = "\n".join((out + error).splitlines()[-_SHOWN_LINES:])
        raise CommandFailed(f"{' '.join(command[:2])} … ended with {status}:\n{shown}")
    return out


def attempt(
    command: Sequence[str], environment: Mapping[str, str] | None = None, timeout: float = 1800
) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command.

    Raises `CommandFailed` when it can't be run, or takes more than `timeout` seconds.
    """
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **_ENVIRONMENT, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except OSError as error:
        raise CommandFailed(f"{command[0]} can't be run: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{' '.join(command[:2])} … takes longer than {timeout:g} s") from error
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
