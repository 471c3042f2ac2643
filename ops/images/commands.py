"""Programs that are run, and their errors."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from ops.images.errors import CommandFailed

# Podman would have systemd ask the health checks; a trial asks them itself.
_ENVIRONMENT = {"DISABLE_HC_SYSTEMD": "true"}
_SHOWN_LINES = 40


def run(command: Sequence[str], environment: Mapping[str, str] | None = None, timeout: float = 1800) -> str:
    """What a command prints on standard output; raises `CommandFailed` when it can't be run or ends with an error."""
    status, out, error = attempt(command, environment, timeout)
    if status != 0:
        shown = "\n".join((out + error).splitlines()[-_SHOWN_LINES:])
        raise CommandFailed(f"{' '.join(command[:2])} … ended with {status}:\n{shown}")
    return out


def attempt(
    command: Sequence[str], environment: Mapping[str, str] | None = None, timeout: float = 1800
) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command; raises `CommandFailed` when it can't be run."""
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
