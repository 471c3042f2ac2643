"""The child processes of a process, from /proc."""

from __future__ import annotations

import os
from contextlib import suppress


def children(pid: int) -> list[int]:
    """The processes below a process: those it started and orphans it was given, until it waits for them."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    except FileNotFoundError:  # a thread just ended, or a kernel that does not tell
        import psutil

        with suppress(psutil.NoSuchProcess):  # then it has no children any more
            return [child.pid for child in psutil.Process(pid).children()]
    return found
