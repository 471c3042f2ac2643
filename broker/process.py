"""Requests of a process to the kernel: to end with its parent, to adopt orphans, to be alone on a directory.

Needs little of the standard library and nothing else: `ops/cluster/child.py` starts with this. `node/runs/processes.py`
has its own calls of prctl: the zygote imports nothing of this package, so that no script sees it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import sys

_SIGKILL = 9
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(signal_number: int = _SIGKILL) -> None:
    """The kernel sends this process the signal when its parent ends (Linux). Raises `OSError`."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def adopt_orphans() -> None:
    """This process becomes the parent of its descendants whose own parents end (Linux). Raises `OSError`."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def raise_open_files() -> None:
    """This process may have as many open files as the system lets it: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(option, int(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


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
