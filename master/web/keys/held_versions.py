"""The versions that nodes hold of deleted and overwritten values: asked of every node, and put in one order."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from broker import integers, keys, logs
from broker.errors import InvalidKey
from broker.http import internal_addresses
from broker.http.peer_client import PeerFailed
from broker.http.peer_reads import PeerReads
from master.cluster.nodes import Nodes

log = logs.get(__name__)

MOST = 1_000  # of one page of a node
_SECS = 5.0  # that a node may stand still
_ROUNDS = 8  # for one page, when nodes have looked at much and found little

Name = tuple[str, int]  # key and version, in whose order they are listed


class HeldVersion(NamedTuple):
    """A version that can be brought back. Times are in seconds since the epoch."""

    key: str
    version: int
    node: str
    size: int  # bytes
    etag: str
    content_type: str
    content_encoding: str | None
    stored_type: str  # both as a Store command has them
    created: float
    expires: float | None
    deleted: float
    until: float  # when its bytes go

    @property
    def name(self) -> Name:
        """Key and version."""
        return self.key, self.version


class Page(NamedTuple):
    """Some versions in the order of their names."""

    versions: list[HeldVersion]
    following: Name | None  # behind which the next page begins; None at the end
    missing: list[str]  # nodes that did not answer, and may hold others


class _Part(NamedTuple):
    """What one node says."""

    versions: list[HeldVersion]
    following: Name | None


class HeldVersions:
    """Asks the nodes; for the event loop of a web worker."""

    def __init__(self, network: Nodes, secret: bytes, trusted: ssl.SSLContext | None = None) -> None:
        self._network = network
        self._secret = secret
        self._peers = PeerReads(_SECS, trusted)

    async def page(self, prefix: str, after: Name | None, limit: int) -> Page:
        """Up to `limit` versions of keys that begin with the prefix, behind `after`; each version once.

        A page may be short when others follow.
        """
        found: list[HeldVersion] = []
        missing: set[str] = set()
        for _ in range(_ROUNDS):
            parts = await self._ask_all(prefix, after, limit - len(found), missing)
            # Beyond where the first of them stopped, not all is known.
            ends = [part.following for part in parts if part.following]
            merged: dict[Name, HeldVersion] = {}
            for version in sorted((version for part in parts for version in part.versions), key=_by_name):
                if not ends or version.name <= min(ends):
                    merged.setdefault(version.name, version)
            taken = list(merged.values())[: limit - len(found)]
            found += taken
            if len(taken) < len(merged):
                return Page(found, taken[-1].name, sorted(missing))
            if not ends:
                return Page(found, None, sorted(missing))
            after = min(ends)
            if len(found) == limit:
                break
        return Page(found, after, sorted(missing))

    async def of_key(self, key: str) -> tuple[list[HeldVersion], list[str]]:
        """All versions of a key on all nodes, the newest first; and the nodes that did not answer."""
        missing: set[str] = set()
        found: list[HeldVersion] = []
        after: Name | None = None
        while True:
            # The versions of the key itself come before those of longer keys.
            parts = await self._ask_all(key, after, MOST, missing)
            ends = [part.following for part in parts if part.following and part.following[0] == key]
            after = min(ends, default=None)
            for part in parts:
                found += [one for one in part.versions if one.key == key and (after is None or one.name <= after)]
            if after is None:
                return sorted(found, key=_by_name, reverse=True), sorted(missing)

    async def _ask_all(self, prefix: str, after: Name | None, limit: int, missing: set[str]) -> Sequence[_Part]:
        """What each node says that answers; `missing` gets those that do not, and they are not asked again."""
        nodes = [node for node in self._network.names() if node not in missing]
        given = {"prefix": prefix, "limit": str(limit)} | ({"after": written(after)} if after else {})
        parts = await asyncio.gather(*(self._ask(node, given) for node in nodes), return_exceptions=True)
        good = []
        for node, part in zip(nodes, parts, strict=True):
            if isinstance(part, _Part):
                good.append(part)
            elif isinstance(part, PeerFailed):
                log.warning("node does not say what it holds", node=node, reason=part)
                missing.add(node)
            else:
                raise part
        return good

    async def _ask(self, node: str, given: Mapping[str, str]) -> _Part:
        """What a node says; raises `PeerFailed`."""
        url = self._network.url(node)
        if url is None or self._network.gone(node):
            raise PeerFailed("it was not heard from lately")
        target = internal_addresses.make(self._secret, internal_addresses.DELETED, given, node)
        read = await self._peers.get(url + target)
        try:
            body = await read.body()
        finally:
            read.close()
        if read.status != 200:
            raise PeerFailed(f"it answered with status {read.status}: {body[:200].decode('utf-8', 'replace')}")
        data = json.loads(body)["data"]
        versions = [
            HeldVersion(node=node, **{name: row[name] for name in HeldVersion._fields if name != "node"})
            for row in data["keys"]
        ]
        return _Part(versions, None if data["next"] is None else read_name(data["next"]))


def _by_name(version: HeldVersion) -> Name:
    return version.name


def written(name: Name) -> str:
    """A name as the next page's `after`."""
    return f"{name[0]}:{name[1]}"


def read_name(text: str) -> Name:
    """What `written` was given; raises `ValueError`."""
    key, _, version = text.rpartition(":")
    try:
        return keys.check(key), integers.parse(version)
    except (ValueError, InvalidKey) as error:
        raise ValueError(f"{text[:80]!r} is no KEY:VERSION") from error
