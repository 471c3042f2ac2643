"""What can go wrong in the master, beside requests that are refused (`broker.refusals`).

PulzarError
└── IndexUnusable            the index can't be opened or has no room
"""

from __future__ import annotations

from broker.errors import PulzarError


class IndexUnusable(PulzarError):
    """Raised when the index can't be opened, read or written; the message says how to mend it."""
