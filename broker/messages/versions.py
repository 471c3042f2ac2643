"""How versions of values are numbered: microseconds since the epoch times `NUMBERS`, plus the number of who made it.

So versions rise with time, and no two makers ever make the same one. Each maker has a number of its own:

| numbers          | makers                                              |
| ---------------- | --------------------------------------------------- |
| `MASTER_NUMBERS` | processes of the master; each claims a free one     |
| `NODE_NUMBERS`   | nodes, for what their runs leave; made of the name  |
"""

from __future__ import annotations

import hashlib
import threading

from broker.clock import now_us
from broker.messages.horizon import NUMBERS, Horizon

MASTER_NUMBERS = range(NUMBERS // 2)
NODE_NUMBERS = range(NUMBERS // 2, NUMBERS)


def node_number(node: str) -> int:
    """The number of the node with this name. Two nodes may share one: they never write the same key."""
    digest = hashlib.sha256(node.encode()).digest()
    return NODE_NUMBERS[int.from_bytes(digest[:8], "big") % len(NODE_NUMBERS)]


class VersionMaker:
    """Makes versions with one number. Any thread may use it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._guard = threading.Lock()
        self._last = 0

    def next(self, after: int = 0) -> int:
        """A version higher than `after` and than every one made here before, whatever the clock does.

        What is beyond the horizon does not count: nobody would believe what is above it.
        """
        with self._guard:
            version = now_us() * NUMBERS + self.number
            if version > self._last and version > after:  # nearly always
                self._last = version
                return version
            highest = Horizon.now().version - NUMBERS
            least = max(version if version <= highest else 0 for version in (self._last, after))
            if version <= least:
                version = (least // NUMBERS + 1) * NUMBERS + self.number
            self._last = version
            return version
