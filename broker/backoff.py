"""Pauses between attempts that fail one after the other."""

from __future__ import annotations

FIRST_SECS = 0.1
MOST_SECS = 5.0


class Backoff:
    """Pauses that grow from `FIRST_SECS` to `MOST_SECS`: each is twice as long as the one before."""

    def __init__(self, steady: float) -> None:
        """An attempt that lasted longer than `steady` seconds is no failure: the pauses begin anew after it."""
        self._steady = steady
        self._next = FIRST_SECS

    def pause(self, lasted: float) -> float:
        """The seconds to wait after an attempt that lasted `lasted` seconds."""
        if lasted > self._steady:
            self._next = FIRST_SECS
        pause, self._next = self._next, min(self._next * 2, MOST_SECS)
        return pause


def pause_after(failures: int, first: float, most: float) -> float:
    """The pause after so many failures in a row, from `first` seconds on; each is twice as long, up to `most`."""
    return float(min(most, first * 2 ** min(failures - 1, 60)))
