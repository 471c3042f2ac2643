"""Asks the kernel for properties of this process. Outside Linux `die_with_parent` and `adopt_orphans` do nothing.

`node/runs/processes.py` has its own copy: the zygote imports nothing of this package, so that no script sees it.
"""

from __future__ import annotations

import ctypes
import resource
import signal
import sys

_SET_PDEATHSIG = 1
_SET_CHILD_SUBREAPER = 36


def die_with_parent(signal_number: int = signal.SIGKILL) -> None:
    """The kernel sends this process the signal when its parent ends."""
    _prctl(_SET_PDEATHSIG, signal_number)


def adopt_orphans() -> None:
    """The kernel makes this process the parent of all its descendants whose own parents end."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def raise_open_files() -> None:
    """This process may have as many open files as the system lets it: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)
