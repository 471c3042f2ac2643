"""Logs and outputs of jobs, which the master itself shows. They are values of the store."""

from __future__ import annotations

import urllib.error
import urllib.request
from urllib.parse import urlsplit

from broker import keys, logs
from broker.clock import now_ms
from broker.http import content_types
from broker.refusals import NotFound, Refused
from master.index.index import Entry, Index
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

    def size(self, key: str) -> int | None:
        """Bytes of a value; None when there is none."""
        entry = self._index.get(keys.encode(key))
        return None if entry is None or not entry.live(now_ms()) else entry.size

    def describe(self, key: str) -> tuple[str, int] | None:
        """Content type and size of a value; None when there is none, or it is compressed. Raises `InvalidKey`."""
        entry = self._index.get(keys.encode(key))
        if entry is None or not entry.live(now_ms()):
            return None
        kind, encoding = content_types.type_of(key, entry.content_type)
        return None if encoding else (kind, entry.size)

    def place(self, key: str) -> str | None:
        """The signed address of a value on its node; None when the index has it. Raises `Refused`."""
        entry = self._index.get(keys.encode(key))
        if entry is None or not entry.live(now_ms()):
            raise NotFound(f"there is no key {key}; it was deleted, or its lifetime is over")
        return None if entry.value is not None else self._redirects.read(key, entry)

    def piece(self, key: str, begin: int, most: int) -> bytes | None:
        """Up to `most` bytes of a value, from one on; None when there are none, or its node can't be asked just now."""
        entry = self._index.get(keys.encode(key))
        if entry is None or not entry.live(now_ms()) or most <= 0 or not 0 <= begin < entry.size:
            return None
        if entry.value is not None:
            return entry.value[begin : begin + most]
        return self._fetch(key, entry, f"bytes={begin}-{begin + most - 1}", most)

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
        return self._fetch(key, entry, f"bytes=-{most}" if entry.size > most else "", most)

    def _fetch(self, key: str, entry: Entry, span: str, most: int) -> bytes | None:
        try:
            addresses = self._redirects.each(key, entry)
        except Refused as error:
            log.warning("value can't be read from its node", key=key, nodes=entry.nodes, error=error)
            return None
        for address in addresses:
            request = urllib.request.Request(address)
            if span:
                request.add_header("Range", span)
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_SECS, context=self._redirects.trusted) as response:
                    value: bytes = response.read(most)
                    return value
            except (OSError, urllib.error.URLError) as error:
                log.warning("value can't be read from its node", key=key, node=urlsplit(address).netloc, error=error)
        return None
