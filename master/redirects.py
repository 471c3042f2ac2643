"""Where clients are sent: signed URLs of nodes."""

from __future__ import annotations

import time

from broker import addresses, http, keys, signing
from broker.refusals import NoRoom, Unavailable
from master.network import Network

READ_SECS = 300
UPLOAD_SECS = 3_600  # to begin an upload; it may take as long as it takes


class Redirects:
    """Of one web worker. `address` is the master's own `host:port`: nodes commit uploads there, and send late readers back."""

    def __init__(self, network: Network, secret: bytes, address: str) -> None:
        self._network = network
        self._secret = secret
        self._address = address

    def read(self, key: str, node: str) -> str:
        """The URL of a value on its node; raises `Unavailable` when the node is not heard from."""
        url = self._network.url(node)
        if url is None or self._network.gone(node):
            raise Unavailable(f"node {node}, which has this value, was not heard from lately; try again")
        query = signing.sign(self._secret, "GET", key, {"url": self._address}, int(time.time()) + READ_SECS)
        return f"{url}/get_key/{http.quote_key(key)}?{query}"

    def upload(
        self, key: str, lifetime_ms: int, overwrite: bool, size: int | None, length: int | None, if_match: str | None
    ) -> str:
        """The URL to PUT a value at; raises `Unavailable` or `NoRoom` when no node can take it.

        `size` is the room it needs, when that is known. A body of another `length`, or a value that `if_match` does not
        hold for, is refused there.
        """
        key = keys.check(key)
        node = self._network.choose(size or 0)
        url = self._network.url(node) if node else None
        if url is None:
            if self._network.any_alive():
                raise NoRoom(f"no node has room for {size} bytes")
            raise Unavailable("no node was heard from lately; try again")
        fields = addresses.upload(self._address, lifetime_ms, overwrite, length, if_match)
        query = signing.sign(self._secret, "PUT", key, fields, int(time.time()) + UPLOAD_SECS)
        return f"{url}/add_key/{http.quote_key(key)}?{query}"
