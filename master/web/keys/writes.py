"""`PUT /add_key/{key}`, `DELETE /delete_key/{key}`, `GET|PUT /get_node/{key}`, and the commit of an upload that a node has taken."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from broker import integers, keys, logs
from broker.clock import DAY_MS, now_ms
from broker.errors import BadSignature
from broker.http import checksums, content_types, request_fields, responses, signed_addresses, signing
from broker.http.checksums import BadChecksum, Checksums
from broker.http.peer_client import PeerClient, PeerFailed
from broker.http.responses import Header, Response
from broker.refusals import BadRequest, Forbidden, Unavailable
from broker.server import client_quirks
from broker.server.request import Request
from master.cluster.nodes import Nodes
from master.store.writer import Put, Writer
from master.web.keys import parameters
from master.web.keys.redirects import Place, Redirects
from master.web.keys.upload_relay import PASSED_BACK, relay

log = logs.get(__name__)

COMMIT = "/skynet/commit/"
_COMMIT_BYTES = 65_536  # most that a commit's body may have
_QUICK_BYTES = 1 << 18  # a digest of more takes so long that other requests would notice
_DIGESTS = 2  # threads


class Writes:
    """Of one web worker."""

    def __init__(
        self,
        writer: Writer,
        network: Nodes,
        redirects: Redirects,
        secret: bytes,
        inline: int,
        relayed: int,
        timeout: float,
        cors: str,
    ) -> None:
        """Values of up to `inline` bytes are stored from here, those of up to `relayed` passed on to a node.

        That may stand still for `timeout` seconds.
        """
        self._writer = writer
        self._network = network
        self._redirects = redirects
        self._secret = secret
        self._inline = inline
        self._relayed = relayed
        self._timeout = timeout
        self._digests = ThreadPoolExecutor(_DIGESTS, "digest")
        self._cors = cors

    def _answer(self, status: int, data: Any, message: str, headers: list[Header]) -> Response:
        return responses.make(status, data, message, headers, self._cors)

    async def put(self, incoming: Request) -> Response:
        """Store a value: a small one from here; a large one is passed on to a node, or its client sent there."""
        environ = incoming.environ
        key = _key(environ, "/add_key/")
        given = parameters.parameters(environ["QUERY_STRING"])
        now = now_ms()
        life = parameters.lifetime(given)
        may_overwrite = parameters.overwrite(given)
        length = request_fields.content_length(environ)
        content_type = content_types.read(environ)
        promised = _promised(environ)
        if length is None:
            begun, whole = await self._beginning(incoming)
            if not whole:
                return await self._relay(incoming, key, given, begun, None)
            value = b"".join(begun)
        elif length <= self._inline:
            value = await incoming.read(length)
        elif not incoming.waits and (length <= self._relayed or client_quirks.sends_once(environ)):
            return await self._relay(incoming, key, given, [], length)
        else:
            return self._send_on(environ, self._upload(environ, key, given, length).url)
        digest = await self._digest(value)
        if any(promised):
            _compare(promised, value, digest)
        if_match = environ.get("HTTP_IF_MATCH")
        return await self._store(
            key,
            Put(
                key=keys.encode(key),
                size=len(value),
                digest=digest,
                content_type=content_type,
                expires=now + life if life else 0,
                overwrite=parameters.replaces(if_match, may_overwrite),
                check=parameters.check(
                    if_match, environ.get("HTTP_IF_NONE_MATCH"), environ.get("HTTP_IF_UNMODIFIED_SINCE")
                ),
                value=value,
            ),
        )

    async def place(self, incoming: Request) -> Response:
        """Where to PUT a key directly. A PUT is sent there, or passed on when its client can't know its length."""
        environ = incoming.environ
        key = _key(environ, "/get_node/")
        given = parameters.parameters(environ["QUERY_STRING"])
        length = request_fields.content_length(environ)
        content_types.read(environ)
        if environ["REQUEST_METHOD"] == "GET":
            return self._answer(200, {"node": self._upload(environ, key, given, None).url}, "ok", [])
        if not incoming.waits and (length is None or client_quirks.sends_once(environ)):
            return await self._relay(incoming, key, given, [], None)
        return self._send_on(environ, self._upload(environ, key, given, length).url)

    def _upload(
        self,
        environ: dict[str, Any],
        key: str,
        given: dict[str, str],
        length: int | None,
        exclude: Collection[str] = (),
    ) -> Place:
        """Where to PUT a value, of `length` bytes when that is known: at another node than `exclude`.

        What can be refused is: the client has not sent the value yet. Raises `Refused`.
        """
        may_overwrite = parameters.overwrite(given)
        life = parameters.lifetime(given)
        if_match = environ.get("HTTP_IF_MATCH")
        dated = environ.get("HTTP_IF_UNMODIFIED_SINCE")
        check = parameters.check(if_match, environ.get("HTTP_IF_NONE_MATCH"), dated)
        self._writer.admit(keys.encode(key), check, parameters.replaces(if_match, may_overwrite))
        told, if_match = parameters.signed(environ)
        return self._redirects.upload(key, life, may_overwrite, told, if_match, length or 0, exclude)

    def _send_on(self, environ: dict[str, Any], location: str) -> Response:
        return self._answer(307, {"node": location}, parameters.sent_on(environ), [("Location", location)])

    async def commit(self, incoming: Request) -> Response:
        """A node has an upload; store it under its key as if the client had put it here."""
        environ = incoming.environ
        key = _key(environ, COMMIT)
        length = request_fields.content_length(environ)
        if length is None or length > _COMMIT_BYTES:
            raise BadRequest(f"the body of a commit has a Content-Length of up to {_COMMIT_BYTES} bytes")
        body = await incoming.read(length)
        try:
            signing.verify_body(self._secret, body, environ.get("HTTP_X_PULZAR_SIGNATURE"))
            # The node looked at its end when the upload began, which may be long ago.
            signed = signing.verify(self._secret, "PUT", key, environ["QUERY_STRING"], 0)
        except BadSignature as error:
            raise Forbidden(str(error)) from error
        upload = json.loads(body)
        try:
            life = integers.parse(signed.get("life", "0"), 0, parameters.MAX_DAYS * DAY_MS)
        except ValueError as error:
            raise BadRequest(f"life: {error}") from error
        return await self._store(
            key,
            Put(
                key=keys.encode(key),
                size=upload["size"],
                digest=bytes.fromhex(upload["digest"]),
                content_type=content_types.check(upload["content_type"]),
                expires=now_ms() + life if life else 0,
                overwrite=signed_addresses.replaces(signed),
                check=parameters.check_commit(signed, upload),
                node=upload["node"],
                staged=upload["staged"],
            ),
        )

    async def delete(self, incoming: Request) -> Response:
        """Delete a key."""
        environ = incoming.environ
        key = _key(environ, "/delete_key/")
        dated = environ.get("HTTP_IF_UNMODIFIED_SINCE")
        check = parameters.check(environ.get("HTTP_IF_MATCH"), environ.get("HTTP_IF_NONE_MATCH"), dated)
        await self._writer.delete(keys.encode(key), check)
        return self._answer(200, None, "key deleted", [])

    async def _store(self, key: str, put: Put) -> Response:
        stored = await self._writer.put(put)
        url = f"{self._network.url(stored.node)}/get_key/{request_fields.quote_key(key)}"
        etag = f'"{put.digest.hex()}"'
        return self._answer(201, {"url": url}, "key added", [("ETag", etag)])

    async def _beginning(self, incoming: Request) -> tuple[list[bytes], bool]:
        """What is stored from here of a body of unknown length, or a little more, and whether that is all of it."""
        pieces: list[bytes] = []
        room = self._inline
        while piece := await incoming.chunk():
            pieces.append(piece)
            room -= len(piece)
            if room < 0:
                return pieces, False
        return pieces, True

    async def _relay(
        self, incoming: Request, key: str, given: dict[str, str], begun: list[bytes], length: int | None
    ) -> Response:
        tried: list[str] = []
        while True:
            place = self._upload(incoming.environ, key, given, length, tried)
            url = urlsplit(place.url)
            try:
                exchange = await PeerClient.connect(url.netloc, self._timeout)
                break
            except PeerFailed as error:  # nothing was sent: another one will do
                log.warning("node not reached", node=place.node, error=error)
                self._network.doubt(place.node)
                tried.append(place.node)
        try:
            reply = await relay(exchange, f"{url.path}?{url.query}", begun, incoming, length, self._timeout)
        except PeerFailed as error:
            log.warning("upload could not be passed on", node=place.node, error=error)
            self._network.doubt(place.node)
            raise Unavailable(f"the node may have stored the value, or not: {error}") from error
        envelope = json.loads(reply.body)
        return self._answer(reply.status, envelope["data"], envelope["msg"], reply.picked(PASSED_BACK))

    async def _digest(self, value: bytes) -> bytes:
        if len(value) <= _QUICK_BYTES:
            return hashlib.sha256(value).digest()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._digests, lambda: hashlib.sha256(value).digest())


def _key(environ: dict[str, Any], prefix: str) -> str:
    """The key of a request that would change it."""
    key = request_fields.key_of(environ, prefix)
    if keys.is_system_name(key):
        raise Forbidden(
            f"{key[:100]!r} is a name for the log or output of a job, jobs/<id>/…, which only its node writes"
        )
    return key


def _promised(environ: dict[str, Any]) -> Checksums:
    try:
        return checksums.read(environ)
    except BadChecksum as error:
        raise BadRequest(str(error)) from error


def _compare(promised: Checksums, value: bytes, digest: bytes) -> None:
    try:
        promised.compare(hashlib.md5(value, usedforsecurity=False).digest(), digest)
    except BadChecksum as error:
        raise BadRequest(str(error)) from error
