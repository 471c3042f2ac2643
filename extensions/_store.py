"""The store as an extension sees it: entries are read from the master's index, all else goes through its REST API."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol

from broker import keys
from broker.clock import now_ms
from broker.http import content_types, request_fields
from extensions._errors import Refused
from jobs.client import Client

_BATCH = 1000  # entries read at once; a longer read would keep pages of the index from being used again


class KeyIndex(Protocol):
    """The source of the entries: `master.index.index.Index`."""

    def scan(self, prefix: str, after: str) -> Iterator[tuple[str, Any]]:
        """Key and `master.index.index.Entry` of the keys with `prefix` that are greater than `after`, in key order."""


class Entry(NamedTuple):
    """The properties of a key."""

    key: str
    size: int  # bytes
    created: float  # seconds since the epoch
    expires: float | None  # seconds since the epoch; None: never
    digest: bytes  # SHA-256 of the value
    packed_type: str  # Content-Type and Content-Encoding as `broker.http.content_types.pack` made it
    master: str  # its URL, without a path

    @property
    def etag(self) -> str:
        """As in the response to a GET, with its quotes."""
        return f'"{self.digest.hex()}"'

    @property
    def content_type(self) -> str:
        """As in the response to a GET."""
        return content_types.type_of(self.key, self.packed_type)[0]

    @property
    def content_encoding(self) -> str | None:
        """As in the response to a GET; None: none."""
        return content_types.type_of(self.key, self.packed_type)[1] or None

    @property
    def url(self) -> str:
        """The URL of the value at the master, which redirects to its node."""
        return f"{self.master}/get_key/{request_fields.quote_key(self.key)}"


class Store:
    """The keys and the jobs of the cluster. Methods raise `StoreError` when something goes wrong."""

    def __init__(self, index: KeyIndex, master: str, ca: str = "") -> None:
        """`master` is its URL, without a path; `ca` a file of certificates to trust."""
        self._index = index
        self._master = master
        self._ca = ca
        self.act_for("", "", None)

    def act_for(self, name: str, token: str, reads: Sequence[str] | None) -> None:
        """Act with the rights of the token `name` from now on; the process calls this at each request.

        `token` goes with requests. `reads`: beginnings of the keys that may be read; None: all of them.
        """
        self._name = name
        self._client = Client(self._master, token=token, ca=self._ca)
        self._reads = None if reads is None else tuple(reads)

    def keys(self, prefix: str = "", after: str = "", limit: int | None = None) -> Iterator[Entry]:
        """The keys that start with `prefix` and are greater than `after`, in order, at most `limit` of them.

        A leading slash is ignored. Keys are read while they are asked for. Keys whose lifetime is over are left out.
        Raises `Refused` when the caller may not read all keys with the prefix.
        """
        prefix = keys.beginning(prefix)
        if self._reads is not None and not prefix.startswith(self._reads):
            raise Refused(403, f"the token {self._name} lacks the right read:{prefix[:400]}")
        entries = self._entries(prefix, keys.beginning(after))
        return entries if limit is None else itertools.islice(entries, limit)

    def _entries(self, prefix: str, after: str) -> Iterator[Entry]:
        while True:
            with closing(self._index.scan(prefix, after)) as scanned:  # type: ignore[type-var]
                batch = list(itertools.islice(scanned, _BATCH))
            now = now_ms()
            for key, row in batch:
                if row.expires and row.expires <= now:
                    continue
                expires = row.expires / 1000 if row.expires else None
                yield Entry(key, row.size, row.created / 1000, expires, row.digest, row.content_type, self._master)
            if len(batch) < _BATCH:
                return
            after = batch[-1][0]

    def read(self, key: str) -> bytes:
        """The value of a key; raises `KeyMissing`."""
        return self._client.fetch(key)

    def save(self, key: str, path: str | os.PathLike[str]) -> None:
        """Write the value of a key, however large, to a file; raises `KeyMissing`."""
        self._client.fetch_to(key, path)

    def write(
        self, key: str, data: bytes | str | os.PathLike[str], ttl: str | None = None, overwrite: bool = False
    ) -> str:
        """Store bytes, or the file of a path, under a key. Returns its URL.

        `ttl` is a lifetime: "90s", "15m", "12h", "7d". Without `overwrite` raises `KeyExists` for a key that exists.
        """
        return self._client.store(data, key, ttl, overwrite)

    def launch(
        self, script: str, arguments: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None
    ) -> int:
        """Launch the job script `folder/name`. Returns the job's id. `options` are those of `pulzar_options`."""
        return self._client.launch(script, arguments, options)
