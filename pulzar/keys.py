"""The keys of a cluster: store, read, list, copy, delete."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pulzar import reading
from pulzar.errors import BadRequest, Conflict, Damaged, NotFound, ServerError, UnknownOutcome
from pulzar.models import Entry, Folder, Page, Stored
from pulzar.reading import Value
from pulzar.sending import SMALL_BYTES, LargeFile, Stream, Told, nobody
from pulzar.wire import addresses
from pulzar.wire.exchange import Ask, Exchange, Repeat, pieces_of

PAGE = 1_000
Source = bytes | bytearray | memoryview | str | os.PathLike[str] | Iterable[bytes]


class Life(NamedTuple):
    """How a value is stored."""

    overwrite: bool = False  # replace the value of a key that exists
    match: str = ""  # the digest that the value has which is replaced
    ttl: str | None = None  # a lifetime like 90s, 15m, 12h, 7d
    content_type: str = ""
    replicas: int | None = None  # on how many nodes


class Keys:
    """What a client can do with keys."""

    _exchange: Exchange

    def put(
        self,
        key: str,
        value: Source,
        *,
        overwrite: bool = False,
        match: str = "",
        ttl: str | None = None,
        content_type: str = "",
        replicas: int | None = None,
        told: Told = nobody,
    ) -> Stored:
        """Store bytes, the file at a path (text or `Path`), or pieces of bytes, which are sent once.

        A key that exists is replaced with `overwrite`, or with `match` if its value has this SHA-256 (hex). `ttl`: a
        lifetime like `7d`. `told` gets the number of bytes sent, again and again. When the outcome of a try is not
        known, the client looks at what is there by then.

        Raises `Conflict`, `Full`, `Damaged`, `Unavailable` and other `PulzarError`.
        """
        life = Life(overwrite, match, ttl, content_type, replicas)
        if isinstance(value, bytes | bytearray | memoryview):
            return self._put_bytes(key, bytes(value), life, told)
        if isinstance(value, str | os.PathLike):
            return self._put_file(key, Path(value), life, told)
        return self._put_stream(key, value, life, told)

    def _put_file(self, key: str, path: Path, life: Life, told: Told) -> Stored:
        try:
            if path.stat().st_size <= SMALL_BYTES:
                return self._put_bytes(key, path.read_bytes(), life, told)
            file = LargeFile(path, told)
        except OSError as error:
            raise BadRequest(f"{path} can't be read: {error.strerror or error}") from error
        # The master says where a large value goes before it is sent.
        ask = _put(key, life, {"Expect": "100-continue"})._replace(body=file.body)
        try:
            _, headers, _ = self._exchange.told(ask)
        except UnknownOutcome:
            return self._look(key, lambda: Stored(key, file.size, file.digest or _digest(path)), ask)
        return _compare(Stored(key, file.size, file.digest), headers)

    def _put_bytes(self, key: str, value: bytes, life: Life, told: Told) -> Stored:
        digest = hashlib.sha256(value).hexdigest()
        stored = Stored(key, len(value), digest)
        ask = _put(key, life, {"X-Checksum-Sha256": digest})._replace(body=pieces_of(value))
        if len(value) > SMALL_BYTES:
            ask = ask._replace(headers={**ask.headers, "Expect": "100-continue"})
        try:
            _, headers, _ = self._exchange.told(ask)
        except UnknownOutcome:
            return self._look(key, lambda: stored, ask)
        told(len(value))
        return _compare(stored, headers)

    def _put_stream(self, key: str, pieces: Iterable[bytes], life: Life, told: Told) -> Stored:
        stream = Stream(pieces, told)
        node = self._exchange.data(Ask("GET", _put(key, life, {}).target.replace("/add_key/", "/get_node/", 1)))["node"]
        ask = _put(key, life, {})._replace(target=str(node), body=stream.body, repeat=Repeat.NEVER)
        _, headers, _ = self._exchange.told(ask)
        return _compare(Stored(key, stream.size, stream.digest), headers)

    def _look(self, key: str, stored: Any, ask: Ask) -> Stored:
        """What became of a PUT that must not replace another value: it has stored this one, or it is sent again."""
        wanted: Stored = stored()
        try:
            if self.stat(key).digest == wanted.digest:
                return wanted
        except NotFound:
            if any(name == "If-Match" for name in ask.headers):
                raise
        try:
            _, headers, _ = self._exchange.told(ask)
        except Conflict:
            # The first try may have come to its end meanwhile.
            if self.stat(key).digest == wanted.digest:
                return wanted
            raise
        return _compare(wanted, headers)

    def open(self, key: str) -> Value:
        """The value of a key, to be read piece by piece: `with client.open(key) as value: …`. Raises `NotFound`."""
        return Value(self._exchange, key)

    def get(self, key: str) -> bytes:
        """The value of a key; raises `NotFound`, `Damaged` and other `PulzarError`."""
        with self.open(key) as value:
            return value.read()

    def fetch(self, key: str, path: str | os.PathLike[str], *, told: Told = nobody) -> Entry:
        """Write the value of a key to a file. It is replaced when the whole value is there, and its digest is right.

        A download of 8 MiB or more that was interrupted is resumed. Raises `NotFound`, `Damaged` and others.
        """
        value = reading.fetch(self._exchange, key, Path(path), told)
        return Entry(key, value.size, value.digest, content_type=value.content_type)

    def stat(self, key: str) -> Entry:
        """What is known of a key; raises `NotFound`."""
        key = key.removeprefix("/")
        page = self.page(key, limit=1)
        if not page.keys or page.keys[0].key != key:
            raise NotFound(f"there is no key {key}", 404)
        return page.keys[0]

    def changed(self, key: str, digest: str) -> bool:
        """Whether a key has another value than the one with this digest; one request. Raises `NotFound`."""
        ask = Ask("HEAD", addresses.target("get_key", key), {"If-None-Match": f'"{digest}"'}, accepted=(304,))
        with self._exchange.open(ask) as response:
            return response.status != 304

    def wait_for_change(self, key: str, digest: str | None, secs: float) -> str | None:
        """The SHA-256 (hex) of the key's value, None without one, as soon as it is not `digest` any more.

        After `secs` seconds, up to 300, it may still be the same. A master of before events responds at once.
        """
        headers = {} if digest is None else {"If-None-Match": f'"{digest}"'}
        ask = Ask("HEAD", addresses.target("get_key", key, wait=f"{secs:g}"), headers, accepted=(304, 404))
        with self._exchange.open(ask) as response:
            if response.status == 404:
                return None
            return digest if response.status == 304 else response.headers.get("etag", "").strip('"')

    def page(self, prefix: str = "", *, after: str = "", folders: bool = False, limit: int = PAGE) -> Page:
        """A page of keys that begin with the prefix; with `folders`, deeper keys are folded into their folders."""
        query = {"prefix": prefix, "after": after or None, "limit": limit, "delimiter": "/" if folders else None}
        data = self._exchange.data(Ask("GET", addresses.target("keys", **query)))
        found = tuple(Folder(row["prefix"], row["keys"], row["bytes"]) for row in data.get("folders", ()))
        return Page(tuple(map(Entry.of, data["keys"])), found, data["next"])

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All keys that begin with the prefix, in order, page by page."""
        after: str | None = ""
        while after is not None:
            page = self.page(prefix, after=after)
            yield from page.keys
            after = page.next

    def delete(self, key: str, *, match: str = "", purge: bool = False) -> None:
        """Delete a key; with `match`, only a value with this SHA-256 (hex). `purge`: it can't be brought back.

        Raises `NotFound` and `Conflict`, and `UnknownOutcome` for a lost connection without `match`.
        """
        headers = {"If-Match": f'"{match}"'} if match else {}
        repeat = Repeat.ASK if match else Repeat.NEVER
        ask = Ask("DELETE", addresses.target("delete_key", key, purge=purge), headers, repeat=repeat)
        try:
            self._exchange.data(ask)
        except UnknownOutcome:
            if not match:
                raise
            try:
                self._exchange.data(ask)
            except NotFound:  # the first try has deleted it
                return

    def copy(self, key: str, to: str, *, overwrite: bool = False, ttl: str | None = None) -> int:
        """Store the value under another key as well, without sending it. Raises `NotFound` and `Conflict`.

        With a folder, whose name ends with `/`, a job does it: its id is returned, else 0.
        """
        return self._transfer("copy", key, to, overwrite, ttl)

    def move(self, key: str, to: str, *, overwrite: bool = False, ttl: str | None = None) -> int:
        """As `copy`, and the old key is deleted."""
        return self._transfer("move", key, to, overwrite, ttl)

    def _transfer(self, route: str, key: str, to: str, overwrite: bool, ttl: str | None) -> int:
        target = addresses.target(route, key, to=to, overwrite=overwrite, ttl=ttl)
        return int(self._exchange.data(Ask("POST", target, body=pieces_of(b""), repeat=Repeat.NEVER)).get("job_id", 0))

    def lifetime(self, key: str, ttl: str) -> float | None:
        """Give a value another lifetime, from now on: `7d`, `never`. Its end, or None. Raises `NotFound`."""
        ask = Ask("POST", addresses.target("lifetime", key, ttl=ttl), body=pieces_of(b""), repeat=Repeat.NEVER)
        found: float | None = self._exchange.data(ask)["expires"]
        return found

    def undelete(self, key: str, *, overwrite: bool = False) -> None:
        """Bring back what was deleted or overwritten last; raises `NotFound` and `Conflict`."""
        target = addresses.target("undelete", key, overwrite=overwrite)
        self._exchange.data(Ask("POST", target, body=pieces_of(b""), repeat=Repeat.NEVER))


def _put(key: str, life: Life, headers: dict[str, str]) -> Ask:
    if life.match:
        headers["If-Match"] = f'"{life.match}"'
    if life.content_type:
        headers["Content-Type"] = life.content_type
    target = addresses.target("add_key", key, overwrite=life.overwrite, ttl=life.ttl, replicas=life.replicas)
    return Ask("PUT", target, headers, repeat=Repeat.SAFE if life.overwrite and not life.match else Repeat.ASK)


def _compare(sent: Stored, headers: dict[str, str]) -> Stored:
    etag = headers.get("etag", "").strip('"')
    if not etag:
        raise ServerError(f"the response for {sent.key} has no ETag; whether its value is right is not known")
    if etag != sent.digest:
        raise Damaged(f"{sent.key}: the store has the SHA-256 {etag}, {sent.digest} was sent")
    return sent


def _digest(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
