"""Where clients are sent: signed URLs of nodes."""

from __future__ import annotations

import ssl
import time
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

from broker import keys, tls
from broker.http import request_fields, signing
from broker.http.environ import Environ
from broker.messages.upload import FurtherNode, UploadPermit
from broker.refusals import NoRoom, Unavailable
from master.cluster.nodes import Nodes
from master.index.index import Entry
from master.security.gate import LINK_END, NAME

READ_SECS = 300
UPLOAD_SECS = 3_600  # to begin an upload; it may take as long as it takes


class Place(NamedTuple):
    """A node, and the signed URL to PUT a value at."""

    node: str
    url: str


class Redirects:
    """Makes signed URLs of nodes."""

    def __init__(
        self, network: Nodes, secret: bytes, master: str, trusted: ssl.SSLContext | None = None, *, direct: bool = True
    ) -> None:
        """`master` is its own URL, without a path: nodes commit uploads there, and send late readers back.

        `trusted`: the certificates of nodes. `direct`: nodes answer reads that are not signed.
        """
        self.trusted = trusted or tls.trust("")
        self._network = network
        self._secret = secret
        self.address = urlsplit(master).netloc
        self._master = master
        self._direct = direct

    def read(self, key: str, entry: Entry, environ: Environ | None = None) -> str:
        """The URL of a value on a node, for a request; raises `Unavailable` when none with it is heard from.

        The node sends its client on to another one with the value when it does not have it.
        """
        if not entry.copies:
            return self._signed(key, entry.node, self._url(entry.node), environ)
        version = {signing.VERSION: str(entry.version)}
        others = self.order(entry)
        node = others.pop(0)
        if others:
            following = self._signed(key, others[0], self._url(others[0]), environ, version)
            version = version | {signing.NEXT: following}
        return self._signed(key, node, self._url(node), environ, version)

    def each(self, key: str, entry: Entry) -> list[str]:
        """The URL of a value on each node that has it and is heard from; raises `Unavailable` when none is."""
        return [self.at(key, node) for node in self.order(entry)]

    def at(self, key: str, node: str) -> str:
        """The URL of a value on a node; raises `Unavailable` when that is not heard from."""
        return self._signed(key, node, self._url(node))

    def order(self, entry: Entry) -> list[str]:
        """The holders that are not gone, those to ask first at the beginning."""
        nodes = self._network.by_load(entry.nodes)
        return [node for node in nodes if not self._network.gone(node) and self._network.url(node)] or nodes[:1]

    def _url(self, node: str) -> str:
        url = self._network.url(node)
        if url is None or self._network.gone(node):
            raise Unavailable(f"node {node}, which has this value, was not heard from lately; try again")
        return url

    def _signed(
        self,
        key: str,
        node: str,
        url: str,
        environ: Environ | None = None,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        fields, until = {signing.MASTER: self.address, signing.NODE: node, **more}, int(time.time()) + READ_SECS
        if environ is not None and NAME in environ:
            fields[signing.BY] = environ[NAME]
        if environ is not None and LINK_END in environ:
            # Whoever comes too late is sent to the link again, and the master looks at it again.
            fields[signing.BACK] = environ["QUERY_STRING"]
            until = min(until, int(environ[LINK_END]))
        query = signing.sign(self._secret, "GET", key, fields, until)
        return f"{url}/get_key/{request_fields.quote_key(key)}?{query}"

    def location(self, key: str, node: str) -> str:
        """The URL of a value that was just stored on a node, without a signature."""
        # A node that was not heard from lately: the master knows the way by then.
        base = (self._network.url(node) if self._direct else None) or self._master
        return f"{base}/get_key/{request_fields.quote_key(key)}"

    def upload(
        self,
        key: str,
        permit: UploadPermit,
        size: int = 0,
        exclude: Collection[str] = (),
        *,
        wanted: int = 1,
        holders: Sequence[str] = (),
    ) -> Place:
        """Where to PUT a value of `size` bytes with a permit, at another node than those in `exclude`.

        It is to be on `wanted` nodes: the first one sends the bytes on to the others, those with the older value first.
        Raises `Unavailable` or `NoRoom` when no node can take it.
        """
        key = keys.check(key)
        node = self._network.choose(size, exclude)
        url = self._network.url(node) if node else None
        if node is None or url is None:
            if exclude or not self._network.any_alive():
                raise Unavailable("no node was heard from lately, or can be reached; try again")
            raise NoRoom(f"no node has room for {size} bytes")
        fields = permit._replace(node=node, further=self._further(node, size, exclude, wanted, holders)).fields()
        query = signing.sign(self._secret, "PUT", key, fields, int(time.time()) + UPLOAD_SECS)
        return Place(node, f"{url}/add_key/{request_fields.quote_key(key)}?{query}")

    def _further(
        self, first: str, size: int, exclude: Collection[str], wanted: int, holders: Sequence[str]
    ) -> tuple[FurtherNode, ...]:
        """The further nodes that are to have an upload to `first`; fewer when there are no more."""
        if wanted == 1:
            return ()
        near = [node for node in holders if node != first and node not in exclude and self._network.takes(node)]
        near = near[: wanted - 1]
        others = self._network.choose_several(size, wanted - 1 - len(near), exclude, [first, *near])
        found = ((node, self._network.url(node)) for node in [*near, *others])
        return tuple(FurtherNode(node, url) for node, url in found if url)
