"""How far ahead of this machine's clock a version or a time of a message may be: one day.

Versions rise with time, and the highest of a key wins. One from the far future would win for ever: no PUT and no
DELETE of its key could come above it. So a command, a result or a heartbeat from beyond the horizon is not believed.
"""

from __future__ import annotations

from typing import NamedTuple

from broker.clock import DAY_MS, now_ms

NUMBERS = 4096  # makers of versions, see `broker.messages.versions`
_PER_MS = 1000 * NUMBERS


class Horizon(NamedTuple):
    """The latest time and the highest version that are believed."""

    time: int  # ms since the epoch
    version: int

    @classmethod
    def at(cls, now_ms: int) -> Horizon:
        """The horizon at a time, in ms since the epoch."""
        return cls(now_ms + DAY_MS, (now_ms + DAY_MS) * _PER_MS)

    @classmethod
    def now(cls) -> Horizon:
        """The horizon now."""
        return cls.at(now_ms())

    def objection(self, version: int, time: int) -> str:
        """Why these are not believed, for a person; "" when they are."""
        if version <= self.version and time <= self.time:
            return ""
        what, days = f"the time {time}", (time - self.time) / DAY_MS + 1
        if version > self.version:
            what, days = f"the version {version}", (version - self.version) / _PER_MS / DAY_MS + 1
        return f"{what} is {days:,.1f} days ahead of this machine's clock, and 1 day is the most; is the clock right?"
