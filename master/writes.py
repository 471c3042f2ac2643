"""`PUT /add_key/{key}`, `DELETE /delete_key/{key}`, `GET|PUT /get_node/{key}`, and the commit of an upload that a node has taken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from broker import checksums, http, keys, signing
from broker.checksums import BadChecksum, Checksums
from broker.connections import Connections
from broker.errors import BadSignature
from broker.refusals import BadRequest, Forbidden
from master import requests
from master.index import now_ms
from master.network import Network
from master.redirects import Redirects
from master.relay import relay
from master.store import Put, Writer

COMMIT = "/skynet/commit/"
_COMMIT_BYTES = 65_536  # most that a commit's body may have
_CHUNK_BYTES = 1 << 16

Respond = Callable[[int, Any, str, list[tuple[str, str]]], Iterable[bytes]]


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
    ) -> None:
        self._writer = writer
        self._network = network
        self._redirects = redirects
        self._connections = connections
        self._secret = secret
        self._inline = inline

    def put(self, environ: dict[str, Any], respond: Respond) -> Iterable[bytes]:
        """Take a small value and store it; send the client with a large one to a node, before it sends it."""
        key = http.key_of(environ, "/add_key/")
        given = requests.parameters(environ.get("QUERY_STRING", ""))
        now = now_ms()
        life = requests.lifetime(given)
        may_overwrite = requests.overwrite(given)
        length = http.content_length(environ)
        content_type = requests.content_type(environ.get("CONTENT_TYPE"))
        promised = _promised(environ)
        if length is None and "HTTP_EXPECT" in environ:
            length = self._inline + 1  # who waits to be told where to send it may as well send it to a node
        if length is not None and length > self._inline:
            location = self._redirects.upload(key, life, may_overwrite, length)
            headers = [("Location", location), *http.unread(environ)]
            return respond(307, {"node": location}, "put it there", headers)
        if length is None:
            chunks, whole = self._read_chunks(environ["wsgi.input"])
            if not whole:
                location = self._redirects.upload(key, life, may_overwrite, 0)
                return self._pass_on(location, chunks, environ, respond)
            if not any(promised) and self._connections.cut_off(environ):
                raise BadRequest("the connection broke in the middle of the body; nothing was stored")
            value = b"".join(chunks)
        else:
            value = self._read(environ["wsgi.input"], length)
        digest = hashlib.sha256(value).digest()
        if any(promised):
            _compare(promised, value, digest)
        if_match = environ.get("HTTP_IF_MATCH")
        return self._store(
            key,
            Put(
                key=keys.encode(key),
                size=len(value),
                digest=digest,
                content_type=content_type,
                expires=now + life if life else 0,
                overwrite=requests.replaces(if_match, may_overwrite),
                check=requests.check(if_match, environ.get("HTTP_IF_NONE_MATCH")),
                value=value,
            ),
            respond,
        )

    def place(self, environ: dict[str, Any], respond: Respond) -> Iterable[bytes]:
        """Where to PUT a key directly; a PUT is sent there."""
        key = http.key_of(environ, "/get_node/")
        given = requests.parameters(environ.get("QUERY_STRING", ""))
        location = self._redirects.upload(key, requests.lifetime(given), requests.overwrite(given), 0)
        if environ["REQUEST_METHOD"] == "GET":
            return respond(200, {"node": location}, "ok", [])
        return respond(307, {"node": location}, "put it there", [("Location", location), *http.unread(environ)])

    def commit(self, environ: dict[str, Any], respond: Respond) -> Iterable[bytes]:
        """A node has an upload; store it under its key as if the client had put it here."""
        key = http.key_of(environ, COMMIT)
        body = environ["wsgi.input"].read(min(_COMMIT_BYTES, http.content_length(environ) or 0))
        try:
            signing.verify_body(self._secret, body, environ.get("HTTP_X_PULZAR_SIGNATURE"))
            # The node looked at its end when the upload began, which may be long ago.
            signed = signing.verify(self._secret, "PUT", key, environ.get("QUERY_STRING", ""), 0)
        except BadSignature as error:
            raise Forbidden(str(error)) from error
        upload = json.loads(body)
        life = int(signed.get("life", "0"))
        if_match = upload["if_match"]
        return self._store(
            key,
            Put(
                key=keys.encode(key),
                size=upload["size"],
                digest=bytes.fromhex(upload["digest"]),
                content_type=requests.content_type(upload["content_type"]),
                expires=now_ms() + life if life else 0,
                overwrite=requests.replaces(if_match, "overwrite" in signed),
                check=requests.check(if_match, upload["if_none_match"]),
                node=upload["node"],
                staged=upload["staged"],
            ),
            respond,
        )

    def delete(self, environ: dict[str, Any], respond: Respond) -> Iterable[bytes]:
        """Delete a key."""
        key = http.key_of(environ, "/delete_key/")
        check = requests.check(environ.get("HTTP_IF_MATCH"), environ.get("HTTP_IF_NONE_MATCH"))
        self._writer.delete(keys.encode(key), check)
        return respond(200, None, "key deleted", [])

    def _store(self, key: str, put: Put, respond: Respond) -> Iterable[bytes]:
        stored = self._writer.put(put)
        url = f"{self._network.url(stored.node)}/get_key/{http.quote_key(key)}"
        etag = f'"{put.digest.hex()}"'
        return respond(201, {"url": url}, "key added", [("ETag", etag)])

    def _read(self, stream: Any, length: int) -> bytes:
        value: bytes = stream.read(length) if length else b""
        if len(value) != length:
            raise BadRequest(f"the body ended after {len(value)} of {length} bytes; nothing was stored")
        return value

    def _read_chunks(self, stream: Any) -> tuple[list[bytes], bool]:
        """The body so far, and whether that is all of it; not more than what goes beyond the inline limit."""
        chunks: list[bytes] = []
        room = self._inline
        while chunk := stream.read(_CHUNK_BYTES):
            chunks.append(chunk)
            room -= len(chunk)
            if room < 0:
                return chunks, False
        return chunks, True

    def _pass_on(self, location: str, read: list[bytes], environ: dict[str, Any], respond: Respond) -> Iterable[bytes]:
        answer = relay(location, read, environ, self._connections)
        envelope = json.loads(answer.body)
        return respond(answer.status, envelope["data"], envelope["msg"], answer.headers)


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
