"""How many jobs to take ahead of free slots, by how long runs have taken lately.

A job of some milliseconds costs less than its message, if each is asked for, acknowledged and reported alone.
But a job that is taken ahead waits for this node while another one may be idle. So the node takes no more ahead than
it can run in a moment, and none unless the last runs were all short.
"""

from __future__ import annotations

AHEAD_SECS = 0.1  # of work for the slots of a node
MOST = 32  # jobs ahead, for each slot
HOLD_SECS = 0.2  # a job that was taken ahead is given back after this time without a free slot
_LONG_SECS = 10.0  # at the beginning, and when what was taken had to be given back
_WEIGHT = 0.1  # of the last run in the mean


class Prefetch:
    """The mean duration of a node's runs, and what follows from it."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._mean = _LONG_SECS

    def ran(self, seconds: float) -> None:
        """Count a run. A longer one than before counts at once, shorter ones only when there were many."""
        self._mean = max(seconds, 0.001, self._mean + _WEIGHT * (seconds - self._mean))

    def gave_back(self) -> None:
        """Take none ahead until many runs were short again."""
        self._mean = _LONG_SECS

    @property
    def ahead(self) -> int:
        """Jobs to take beyond those that slots are free for."""
        return min(MOST * self._slots, int(AHEAD_SECS * self._slots / self._mean))
