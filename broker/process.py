"""What a process asks of the kernel: to end with its parent, and to be alone on a directory.

Needs the standard library alone, and little of it: `ops/cluster/child.py` starts with this.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process the signal when its parent is gone (Linux). Raises `OSError`."""
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def hold(directory: str | os.PathLike[str]) -> int:
    """Be the only process that holds a directory, while the descriptor that is returned is open.

    Raises `BlockingIOError` when another process holds it, and another `OSError` when there is no such directory.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
