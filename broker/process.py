"""Requests of a process to the kernel: to end with its parent, to adopt orphans, to be alone on a directory.

Needs little of the standard library and nothing else: `ops/cluster/child.py` starts with this. `node/runs/processes.py`
has its own calls of prctl: the zygote imports nothing of this package, so that no script sees it.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import resource
import struct
import sys
import time

_POLL_SECS = 0.005
_COLLECT_OBJECTS = 10_000
_SIGKILL = 9
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_DUMPABLE = 4
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITIES_VERSION = 0x20080522


def die_with_parent(signal_number: int = _SIGKILL) -> None:
    """The kernel sends this process the signal when its parent ends (Linux). Raises `OSError`."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def adopt_orphans() -> None:
    """This process becomes the parent of its descendants whose own parents end (Linux). Raises `OSError`."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide() -> None:
    """Other processes of this user can't read this one's environment, memory and descriptors (Linux). No core dumps."""
    _prctl(_PR_SET_DUMPABLE, 0)


def pass_no_capabilities() -> None:
    """Programs that this process starts have none of its capabilities (Linux)."""
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


def give_up_capabilities() -> None:
    """This process has no capabilities any more, unless it is root's (Linux). Raises `OSError`."""
    if os.geteuid() and sys.platform == "linux":
        header = struct.pack("Ii", _CAPABILITIES_VERSION, 0)
        if ctypes.CDLL(None, use_errno=True).capset(header, bytes(24)) != 0:
            raise OSError(ctypes.get_errno(), "capset failed")


def raise_open_files() -> None:
    """This process may have as many open files as the system lets it: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def collect_rarely() -> None:
    """Look for garbage in circles less often in this process, and never among what it has loaded so far.

    Messages and requests make few circles, but thousands of objects a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_OBJECTS, *gc.get_threshold()[1:])


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(option, int(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def hold(directory: str | os.PathLike[str], *, shared: bool = False) -> int:
    """Lock a directory until the descriptor that is returned is closed, or this process ends.

    Any number of processes may hold a `shared` lock, one alone the other kind. Raises `BlockingIOError` when another
    process holds it, and another `OSError` when there is no such directory.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def wait_until_free(descriptor: int, timeout: float) -> bool:
    """Wait up to `timeout` seconds until no other process holds an open directory; returns whether that is so."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECS)
