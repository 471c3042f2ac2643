"""Carries out `Fetch`: gets the bytes of a value from another node, and has them stored under the same version.

The bytes are compared with the digest of the value before they are stored: a copy is never worse than what was put.
`Confirm` is carried out in the same way: the bytes come from this node's own data server, and are thrown away.
"""

from __future__ import annotations

import hashlib
import http.client
import queue
import ssl
import threading
from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit

from broker import logs, tls
from broker.messages.horizon import Horizon
from broker.messages.store import Confirm, Fetch, Result, Status, Store
from broker.settings import Settings
from node.command_executor import CommandExecutor
from node.errors import DiskFull, StorageError
from node.storage.disk.throttle import Throttle
from node.storage.staging import Staging, Upload

log = logs.get(__name__)

THREADS = 4  # values that are fetched at once
_WHOLE_BYTES = 1 << 16  # a value of up to this size is held in memory; a larger one becomes an upload
_CHUNK_BYTES = 1 << 20
_SECS = 20.0  # that a holder may stand still
_ERROR_BYTES = 500  # of a response that is no value


class _NotFetched(Exception):
    """Raised when a holder does not give the value, with the reason."""


class Fetcher:
    """Threads that fetch values, each one from the first of its holders that gives it."""

    def __init__(self, config: Settings, staging: Staging, commands: CommandExecutor) -> None:
        self._staging = staging
        self._commands = commands
        self._trusted = tls.trust(config.security.ca)
        self._orders: queue.SimpleQueue[Fetch | Confirm | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._pace = threading.Lock()
        self._throttle = Throttle(config.volume.repair_bandwidth, self._stopping)  # for copies that nobody waits for
        self._threads = [
            threading.Thread(target=self._run, name=f"fetch {number}", daemon=True) for number in range(THREADS)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads; what they have not stored is not stored. Waits up to 5 s for each."""
        self._stopping.set()
        for _ in self._threads:
            self._orders.put(None)
        for thread in self._threads:
            thread.join(5)

    def take(self, order: Fetch | Confirm) -> None:
        """Fetch or read a value soon; any thread may call this. The result is sent when that is done, or can't be."""
        self._orders.put(order)

    def _run(self) -> None:
        peers = _Peers(self._trusted)
        while (order := self._orders.get()) is not None and not self._stopping.is_set():
            try:
                if isinstance(order, Confirm):
                    self._commands.answer(order, self._objection(order, peers))
                else:
                    self._fetch(order, peers)
            except Exception as error:  # whatever fails, the next value is fetched
                log.exception("value can't be fetched", key=order.store.key, version=order.store.version)
                if isinstance(order, Confirm):
                    self._commands.answer(order, repr(error))
                else:
                    self._refuse(order, Status.FAILED, repr(error))
        peers.close()

    def _objection(self, order: Confirm, peers: _Peers) -> str:
        """Why the bytes of a value here are not what was put; "" when they are."""
        digest = hashlib.sha256()
        try:
            for piece in peers.pieces(order.source, order.store.size):
                digest.update(piece)
                self._spend(order.store, len(piece))
                if self._stopping.is_set():
                    return "this node is being stopped"
        except (_NotFetched, StorageError) as error:
            return str(error)
        return "" if digest.digest() == order.store.digest else "the node has other bytes"

    def _fetch(self, order: Fetch, peers: _Peers) -> None:
        store = order.store
        if objection := Horizon.now().objection(store.version, store.created):
            self._refuse(order, Status.FAILED, objection)
            return
        reason = "no node is said to have it"
        for source in order.sources:
            try:
                value, upload = self._get(store, source, peers)
            except _NotFetched as error:
                reason = str(error)
                log.warning("copy not fetched", key=store.key, version=store.version, reason=reason)
                continue
            except DiskFull as error:
                self._refuse(order, Status.FULL, str(error))
                return
            except StorageError as error:
                self._refuse(order, Status.FAILED, str(error))
                return
            ready = store._replace(value=value, staged=upload.token if upload else "")
            self._commands.store_fetched(order.origin, ready, partial(_settle, upload))
            return
        self._refuse(order, Status.MISSING, reason)

    def _get(self, store: Store, source: str, peers: _Peers) -> tuple[bytes | None, Upload | None]:
        """The value, or the upload that has it, durable. Raises `_NotFetched`, `DiskFull` or `StorageError`."""
        pieces = peers.pieces(source, store.size)
        if store.size <= _WHOLE_BYTES:
            value = b"".join(pieces)
            self._spend(store, len(value))
            if hashlib.sha256(value).digest() != store.digest:
                raise _NotFetched(f"{urlsplit(source).netloc} has other bytes")
            return value, None
        upload = self._staging.create(store.size)
        try:
            for piece in pieces:
                upload.write(piece)
                self._spend(store, len(piece))
                if self._stopping.is_set():
                    raise _NotFetched("this node is being stopped")
            if upload.finish().sha256 != store.digest:
                raise _NotFetched(f"{urlsplit(source).netloc} has other bytes")
        except BaseException:
            upload.abort()
            raise
        return None, upload

    def _refuse(self, order: Fetch, status: Status, reason: str) -> None:
        self._commands.report(order.origin, order.result(status, reason))

    def _spend(self, store: Store, count: int) -> None:
        """Count bytes of a copy that nobody waits for, and sleep if that was too fast. Raises `StorageUnavailable`."""
        if not store.ticket:
            with self._pace:  # all threads together keep to the speed
                self._throttle.spend(count)


def _settle(upload: Upload | None, result: Result) -> None:
    """Remove an upload that has not become the value."""
    if upload is not None and result.status != Status.DONE:
        upload.abort()


class _Peers:
    """Connections of one thread to other nodes, kept for further values."""

    def __init__(self, trusted: ssl.SSLContext) -> None:
        self._trusted = trusted
        self._idle: dict[str, http.client.HTTPConnection] = {}

    def close(self) -> None:
        """Close all of them."""
        for connection in self._idle.values():
            connection.close()

    def pieces(self, url: str, size: int) -> Iterator[bytes]:
        """The `size` bytes that an address leads to. Raises `_NotFetched`."""
        server = urlsplit(url).netloc
        connection, response = self._ask(url, server)
        left = size
        try:
            if response.status != 200 or response.length != size:
                text = response.read(_ERROR_BYTES).decode("utf-8", "replace")
                raise _NotFetched(f"{server} answered with status {response.status}, length {response.length}: {text}")
            while left and (piece := response.read(min(left, _CHUNK_BYTES))):
                left -= len(piece)
                yield piece
            if left:
                raise _NotFetched(f"{server} broke off {left} bytes before the end")
            response.read()
        except (OSError, http.client.HTTPException) as error:
            raise _NotFetched(f"{server} broke off: {error!r}") from error
        finally:
            if left:
                connection.close()
            else:
                self._idle[server] = connection

    def _ask(self, url: str, server: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        parts = urlsplit(url)
        target = f"{parts.path}?{parts.query}"
        if kept := self._idle.pop(server, None):
            try:
                kept.request("GET", target)
                return kept, kept.getresponse()
            except (OSError, http.client.HTTPException) as error:
                log.debug("connection is over", server=server, reason=error)
                kept.close()
        try:
            connection = tls.connection(url, _SECS, self._trusted)
        except ValueError as error:
            raise _NotFetched(str(error)) from error
        try:
            connection.request("GET", target)
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _NotFetched(f"{server} did not answer: {error!r}") from error
