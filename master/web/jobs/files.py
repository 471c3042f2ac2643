"""Values of the store that the master itself shows: logs and outputs of jobs."""

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
    """Of one web worker."""

    def __init__(self, index: Index, redirects: Redirects, most: int) -> None:
        self._index = index
        self._redirects = redirects
        self._most = most  # bytes

    def read(self, key: str, most: int) -> bytes | None:
        """The value of a key; None when there is none, or its node can't be asked just now.

        Of a value with more than `most` bytes it is the end: at least one byte more, so that this is to be seen.
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
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECS) as answer:
                value: bytes = answer.read(most)
                return value
        except (OSError, Refused, urllib.error.URLError) as error:
            log.warning("value can't be read from its node", key=key, node=entry.node, error=error)
            return None
