"""Logs and outputs of jobs, which the master itself shows. They are values of the store."""

from __future__ import annotations

import urllib.error
import urllib.request

from broker import keys, logs
from broker.clock import now_ms
from broker.refusals import Refused
from master.index.index import Index
from master.web.keys.redirects import Redirects

log = logs.get(__name__)

TIMEOUT_SECS = 5.0


class JobFiles:
    """Reads values from the index, or from the node that has them."""

    def __init__(self, index: Index, redirects: Redirects, most: int) -> None:
        """`most`: bytes to read of any value."""
        self._index = index
        self._redirects = redirects
        self._most = most

    def read(self, key: str, most: int) -> bytes | None:
        """The value of a key; None when there is none, or its node can't be asked just now.

        If the value has more than `most` bytes, its end with at least one byte more: callers see that it was cut.
        """
        most = min(most, self._most) + 1
        entry = self._index.get(keys.encode(key))
        if entry is None or not entry.live(now_ms()):
            return None
        if entry.value is not None:
            return entry.value
        try:
            request = urllib.request.Request(self._redirects.read(key, entry.node))
            if entry.size > most:
                request.add_header("Range", f"bytes=-{most}")
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECS) as response:
                value: bytes = response.read(most)
                return value
        except (OSError, Refused, urllib.error.URLError) as error:
            log.warning("value can't be read from its node", key=key, node=entry.node, error=error)
            return None
