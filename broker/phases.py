"""The phases of long operations, announced for tests that interrupt a real process between two of them.

`announce` does nothing unless the environment variable `PULZAR_PHASES` names a file. Then the phase's name is added to
that file as a line. A process that reaches the phase named by `PULZAR_STOP_AT` kills itself, the first time.
"""

from __future__ import annotations

import os
import signal
import stat

FILE_VARIABLE = "PULZAR_PHASES"
STOP_VARIABLE = "PULZAR_STOP_AT"


def announce(phase: str) -> None:
    """Say that this process has reached a phase, like `snapshot.linked`."""
    path = os.environ.get(FILE_VARIABLE)
    if not path:
        return
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        stops = os.environ.get(STOP_VARIABLE) == phase and not _was_reached(fd, phase)
        os.write(fd, f"{phase}\n".encode())
    finally:
        os.close(fd)
    if stops:
        os.kill(os.getpid(), signal.SIGKILL)


def _was_reached(fd: int, phase: str) -> bool:
    """Whether the file names the phase already. A FIFO can't tell, and counts as no."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return False
    return phase.encode() in os.pread(fd, status.st_size, 0).split(b"\n")
