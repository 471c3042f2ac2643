"""`PUT /add_key/{key}`, `DELETE /delete_key/{key}`, `GET|PUT /get_node/{key}`, and the commit of an upload that a node has taken."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

from broker import addresses, checksums, http, keys, media, signing
from broker.checksums import BadChecksum, Checksums
from broker.connections import Connections
from broker.errors import BadSignature
from broker.http import Answer, Header
from broker.refusals import BadRequest, Forbidden
from master import requests
from master.incoming import Incoming
from master.index import now_ms
from master.network import Network
from master.redirects import Redirects
from master.relay import relay
from master.store import Put, Writer

COMMIT = "/skynet/commit/"
_COMMIT_BYTES = 65_536  # most that a commit's body may have
_QUICK_BYTES = 1 << 18  # a digest of more takes so long that other requests would notice


class Writes:
    """Of one web worker."""

    def __init__(
        self,
        writer: Writer,
        network: Network,
        redirects: Redirects,
        connections: Connections,
        secret: bytes,
        inline: int,
        cors: str,
    ) -> None:
        self._writer = writer
        self._network = network
        self._redirects = redirects
        self._connections = connections
        self._secret = secret
        self._inline = inline
        self._cors = cors

    def _answer(self, status: int, data: Any, message: str, headers: list[Header]) -> Answer:
        return http.answer(status, data, message, headers, self._cors)

    async def put(self, incoming: Incoming) -> Answer:
        """Take a small value and store it; send the client with a large one to a node, before it sends it."""
        environ = incoming.environ
        key = http.key_of(environ, "/add_key/")
        given = requests.parameters(environ["QUERY_STRING"])
        now = now_ms()
        life = requests.lifetime(given)
        may_overwrite = requests.overwrite(given)
        length = http.content_length(environ)
        content_type = media.read(environ)
        promised = _promised(environ)
        if length is None and "HTTP_EXPECT" in environ:
            length = self._inline + 1  # who waits to be told where to send it may as well send it to a node
        if length is not None and length > self._inline:
            return await self._send_on(
                self._redirects.upload(key, life, may_overwrite, length, *requests.signed(environ)), incoming
            )
        if length is None:
            chunks, whole = await self._read_chunks(incoming)
            if not whole:
                return await self._relay(
                    self._redirects.upload(key, life, may_overwrite, 0, *requests.signed(environ)), chunks, incoming
                )
            if not any(promised) and await self._cut_off(incoming):
                raise BadRequest("the connection broke in the middle of the body; nothing was stored")
            value = b"".join(chunks)
        else:
            value = await incoming.read(length)
        digest = await _digest(value)
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
                overwrite=requests.replaces(if_match, may_overwrite),
                check=requests.check(
                    if_match, environ.get("HTTP_IF_NONE_MATCH"), environ.get("HTTP_IF_UNMODIFIED_SINCE")
                ),
                value=value,
            ),
        )

    async def place(self, incoming: Incoming) -> Answer:
        """Where to PUT a key directly; a PUT is sent there."""
        key = http.key_of(incoming.environ, "/get_node/")
        given = requests.parameters(incoming.environ["QUERY_STRING"])
        location = self._redirects.upload(
            key, requests.lifetime(given), requests.overwrite(given), 0, *requests.signed(incoming.environ)
        )
        if incoming.environ["REQUEST_METHOD"] == "GET":
            return self._answer(200, {"node": location}, "ok", [])
        media.read(incoming.environ)
        return await self._send_on(location, incoming)

    async def _send_on(self, location: str, incoming: Incoming) -> Answer:
        headers = [("Location", location), *await incoming.discard()]
        return self._answer(307, {"node": location}, requests.sent_on(incoming.environ), headers)

    async def commit(self, incoming: Incoming) -> Answer:
        """A node has an upload; store it under its key as if the client had put it here."""
        environ = incoming.environ
        key = http.key_of(environ, COMMIT)
        length = http.content_length(environ)
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
        life = int(signed.get("life", "0"))
        return await self._store(
            key,
            Put(
                key=keys.encode(key),
                size=upload["size"],
                digest=bytes.fromhex(upload["digest"]),
                content_type=media.check(upload["content_type"]),
                expires=now_ms() + life if life else 0,
                overwrite=addresses.replaces(signed),
                check=requests.check_commit(signed, upload),
                node=upload["node"],
                staged=upload["staged"],
            ),
        )

    async def delete(self, incoming: Incoming) -> Answer:
        """Delete a key."""
        environ = incoming.environ
        key = http.key_of(environ, "/delete_key/")
        dated = environ.get("HTTP_IF_UNMODIFIED_SINCE")
        check = requests.check(environ.get("HTTP_IF_MATCH"), environ.get("HTTP_IF_NONE_MATCH"), dated)
        await self._writer.delete(keys.encode(key), check)
        return self._answer(200, None, "key deleted", [])

    async def _store(self, key: str, put: Put) -> Answer:
        stored = await self._writer.put(put)
        url = f"{self._network.url(stored.node)}/get_key/{http.quote_key(key)}"
        etag = f'"{put.digest.hex()}"'
        return self._answer(201, {"url": url}, "key added", [("ETag", etag)])

    async def _read_chunks(self, incoming: Incoming) -> tuple[list[bytes], bool]:
        """The body so far, and whether that is all of it; not more than what goes beyond the inline limit."""
        chunks: list[bytes] = []
        room = self._inline
        while chunk := await incoming.chunk():
            chunks.append(chunk)
            room -= len(chunk)
            if room < 0:
                return chunks, False
        return chunks, True

    async def _cut_off(self, incoming: Incoming) -> bool:
        incoming.name_peers()
        return await asyncio.to_thread(self._connections.cut_off, incoming.environ)

    async def _relay(self, location: str, read: list[bytes], incoming: Incoming) -> Answer:
        incoming.name_peers()
        stream = incoming.stream(asyncio.get_running_loop())
        answer = await asyncio.to_thread(relay, location, read, stream, incoming.environ, self._connections)
        envelope = json.loads(answer.body)
        return self._answer(answer.status, envelope["data"], envelope["msg"], answer.headers)


async def _digest(value: bytes) -> bytes:
    digest = hashlib.sha256
    if len(value) <= _QUICK_BYTES:
        return digest(value).digest()
    return await asyncio.to_thread(lambda: digest(value).digest())


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
