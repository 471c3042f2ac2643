"""Where clients are sent: signed URLs of nodes."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import NamedTuple

from broker import keys
from broker.http import request_fields, signing
from broker.messages.upload import UploadPermit
from broker.refusals import NoRoom, Unavailable
from master.cluster.nodes import Nodes

READ_SECS = 300
UPLOAD_SECS = 3_600  # to begin an upload; it may take as long as it takes


class Place(NamedTuple):
    """A node, and the signed URL to PUT a value at."""

    node: str
    url: str


class Redirects:
    """Makes signed URLs of nodes."""

    def __init__(self, network: Nodes, secret: bytes, address: str) -> None:
        """`address` is the master's own `host:port`: nodes commit uploads there, and send late readers back."""
        self._network = network
        self._secret = secret
        self.address = address

    def read(self, key: str, node: str) -> str:
        """The URL of a value on its node; raises `Unavailable` when the node was not heard from lately."""
        url = self._network.url(node)
        if url is None or self._network.gone(node):
            raise Unavailable(f"node {node}, which has this value, was not heard from lately; try again")
        query = signing.sign(self._secret, "GET", key, {signing.MASTER: self.address}, int(time.time()) + READ_SECS)
        return f"{url}/get_key/{request_fields.quote_key(key)}?{query}"

    def upload(self, key: str, permit: UploadPermit, size: int = 0, exclude: Collection[str] = ()) -> Place:
        """Where to PUT a value of `size` bytes with a permit, at another node than those in `exclude`.

        Raises `Unavailable` or `NoRoom` when no node can take it.
        """
        key = keys.check(key)
        node = self._network.choose(size, exclude)
        url = self._network.url(node) if node else None
        if node is None or url is None:
            if exclude or not self._network.any_alive():
                raise Unavailable("no node was heard from lately, or can be reached; try again")
            raise NoRoom(f"no node has room for {size} bytes")
        query = signing.sign(self._secret, "PUT", key, permit.fields(), int(time.time()) + UPLOAD_SECS)
        return Place(node, f"{url}/add_key/{request_fields.quote_key(key)}?{query}")
