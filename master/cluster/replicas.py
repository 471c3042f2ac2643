"""On how many nodes values are to be, by their keys; and what an order to a node says of a value that is elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Self

from broker import keys
from broker.http import request_fields, signing
from broker.messages.store import Store
from broker.settings import General
from master.index.index import Entry

PATIENCE_SECS = 60.0  # for an order in the background, and more for a large value
_PATIENT_BYTES = 1 << 20  # in a second, at least
FETCHED_BYTES = 20 << 20  # at least, in a second, from node to node while a client waits
_GOOD_SECS = 3_600  # a large value may wait for its turn


class Replicas:
    """The settings `replicas` and `min_replicas`."""

    def __init__(self, folders: Iterable[tuple[str, int]] = (), least: int = 0) -> None:
        """`folders` has the number of each folder, by its name with the slash at its end; "" is the whole store.

        `least` holders are enough at first; 0: it takes all of them.
        """
        given = dict(folders)
        self._default = given.pop("", 1)
        # The longest name comes first.
        self._folders = sorted(given.items(), key=lambda row: -len(row[0]))
        self._least = least
        self.most = max([self._default, *given.values()])  # the highest number of all

    @classmethod
    def of(cls, general: General) -> Self:
        """Those of the settings."""
        return cls(general.replicas, general.min_replicas)

    def wanted(self, key: bytes) -> int:
        """On how many nodes the value of an encoded key is to be."""
        if self._folders:
            name = keys.decode(key)
            for folder, number in self._folders:
                if name.startswith(folder):
                    return number
        return self._default

    def least(self, wanted: int) -> int:
        """On how many nodes a value must be that is to be on `wanted` of them, before its client hears of it."""
        return min(wanted, self._least or wanted)


def patience(size: int) -> float:
    """For how many seconds an order in the background for a value of `size` bytes is waited for."""
    return PATIENCE_SECS + size / _PATIENT_BYTES


def bare_store(key: bytes, entry: Entry) -> Store:
    """The command that makes the version of an entry at another node, without the value. Nobody waits for it."""
    about = entry.expires, entry.content_type, entry.digest, entry.size
    return Store(0, key, entry.version, entry.created, *about, None, "")


def source_addresses(url_of: Callable[[str], str | None], secret: bytes, key: bytes, nodes: Iterable[str]) -> list[str]:
    """The addresses at which another node fetches the value of an encoded key from `nodes`.

    `url_of` says where the server of a node is; None for one that was never heard of, which is left out.
    """
    found = ((node, url_of(node)) for node in nodes)
    return [_source_address(url, secret, key, node) for node, url in found if url]


def _source_address(url: str, secret: bytes, key: bytes, node: str) -> str:
    """The address at which another node fetches the value of an encoded key from `node`, whose server is at `url`."""
    name = keys.decode(key)
    query = signing.sign(secret, "GET", name, {signing.NODE: node}, int(time.time()) + _GOOD_SECS)
    return f"{url}/get_key/{request_fields.quote_key(name)}?{query}"
