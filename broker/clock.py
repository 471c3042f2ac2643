"""The time of this machine, and the units that times are counted in."""

from __future__ import annotations

import time

DAY_SECS = 86_400
DAY_MS = DAY_SECS * 1_000


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def now_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1_000
