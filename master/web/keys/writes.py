"""`PUT /add_key/{key}`, `DELETE /delete_key/{key}`, `GET|PUT /get_node/{key}`, and the commit of an upload."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import urlsplit

from broker import keys, logs
from broker.clock import now_ms
from broker.contract.kinds import Flag
from broker.contract.parameters import Parameter
from broker.errors import BadSignature, MalformedMessage
from broker.http import checksums, content_types, request_fields, responses, signing, values
from broker.http.environ import Environ
from broker.http.peer_client import PeerClient, PeerFailed
from broker.http.responses import Header, Response
from broker.http.signing import Secrets
from broker.messages import upload
from broker.messages.upload import UploadCommit, UploadPermit
from broker.refusals import BadRequest, Unavailable
from broker.server import client_quirks
from broker.server.request import Request
from master.cluster.nodes import Nodes
from master.security.gate import NAME
from master.store.writer import Put, Writer
from master.web.keys import parameters
from master.web.keys.redirects import Place, Redirects
from master.web.keys.upload_relay import PASSED_BACK, relay

log = logs.get(__name__)

_SIGNATURE = "HTTP_" + upload.SIGNATURE.upper().replace("-", "_")
_QUICK_BYTES = 1 << 18  # a digest of more takes so long that other requests would notice
_DIGESTS = 2  # threads

PURGE = Parameter(
    "purge",
    Flag(),
    "1: neither this value nor an older one can be brought back. Also for a key that is deleted already.",
    default=False,
)


class WriteLimits(NamedTuple):
    """Which values are stored how."""

    inline: int  # bytes: values of up to this size are stored by the master
    relayed: int  # bytes: values of up to this size are passed on to a node
    timeout: float  # seconds that a node may stand still while a value is passed on


class Writes:
    """The handlers of the routes that change keys; used on the event loop of a web worker."""

    def __init__(
        self,
        writer: Writer,
        network: Nodes,
        redirects: Redirects,
        limits: WriteLimits,
        *,
        secrets: Secrets,
    ) -> None:
        """`secrets` are those of the cluster."""
        self._writer = writer
        self._network = network
        self._redirects = redirects
        self._limits = limits
        self._secrets = secrets
        self._digests = ThreadPoolExecutor(_DIGESTS, "digest")

    def _respond(self, status: int, data: object, message: str, headers: list[Header]) -> Response:
        return responses.make_plain(status, data, message, headers)

    async def put(self, request: Request) -> Response:
        """Store a value. A large one is passed on to a node, or its client is sent there."""
        environ = request.environ
        key = parameters.writable_key(environ, "/add_key/")
        return await self.store(request, key, parameters.parameters(environ["QUERY_STRING"]), redirects=True)

    async def store(self, request: Request, key: str, given: dict[str, str], *, redirects: bool = False) -> Response:
        """Store the body of a request with the parameters of a PUT. `redirects`: its client may be sent to a node."""
        environ = request.environ
        now = now_ms()
        life = parameters.lifetime(given)
        may_overwrite = parameters.overwrite(given)
        length = request_fields.content_length(environ)
        content_type = content_types.read(environ)
        promised = checksums.read(environ)
        if length is None:
            begun, whole = await self._beginning(request)
            if not whole:
                return await self._relay(request, key, given, begun, None)
            value = b"".join(begun)
        elif length <= self._limits.inline:
            value = await request.read(length)
        elif redirects and (request.waits or not (length <= self._limits.relayed or client_quirks.sends_once(environ))):
            return self._send_on(environ, self._place(environ, key, given, length).url)
        else:
            return await self._relay(request, key, given, [], length)
        digest = await self._digest(value)
        if any(promised):
            promised.compare(hashlib.md5(value, usedforsecurity=False).digest(), digest)
        put = Put(
            key=keys.encode(key),
            size=len(value),
            digest=digest,
            content_type=content_type,
            expires=now + life if life else 0,
            overwrite=may_overwrite or "HTTP_IF_MATCH" in environ,
            check=parameters.check_of(environ),
            value=value,
            replicas=parameters.replicas(given),
        )
        return await self._store(key, put)

    async def place(self, request: Request) -> Response:
        """Where to PUT a key directly. A PUT is sent there, or passed on when its client can't know its length."""
        environ = request.environ
        key = parameters.writable_key(environ, "/get_node/")
        given = parameters.parameters(environ["QUERY_STRING"])
        length = request_fields.content_length(environ)
        content_types.read(environ)
        checksums.read(environ)
        if environ["REQUEST_METHOD"] == "GET":
            return self._respond(200, {"node": self._place(environ, key, given, None).url}, "ok", [])
        if not request.waits and (length is None or client_quirks.sends_once(environ)):
            return await self._relay(request, key, given, [], None)
        return self._send_on(environ, self._place(environ, key, given, length).url)

    def _place(
        self, environ: Environ, key: str, given: dict[str, str], length: int | None, exclude: Collection[str] = ()
    ) -> Place:
        """Where to PUT a value, of `length` bytes when that is known: at another node than `exclude`.

        What can be refused is refused now: the client has not sent the value yet. Raises `Refused`.
        """
        permit = parameters.permit(self._redirects.address, environ, given)
        entry, _ = self._writer.admit(keys.encode(key), parameters.check_of(environ), permit.replaces)
        self._writer.check_quota(keys.encode(key), length)
        self._writer.check_nodes(keys.encode(key), permit.replicas)
        wanted = self._writer.wanted(keys.encode(key), permit.replicas)
        return self._redirects.upload(
            key, permit, length or 0, exclude, wanted=wanted, holders=entry.nodes if entry else ()
        )

    def _send_on(self, environ: Environ, location: str) -> Response:
        return self._respond(307, {"node": location}, parameters.sent_on(environ), [("Location", location)])

    async def commit(self, request: Request) -> Response:
        """Store an upload that a node has under its key, as if the client had put it here."""
        environ = request.environ
        key = parameters.writable_key(environ, upload.PATH)
        length = request_fields.content_length(environ)
        if length is None or length > upload.MAX_BYTES:
            raise BadRequest(f"the body of a commit has a Content-Length of up to {upload.MAX_BYTES} bytes")
        body = await request.read(length)
        signing.verify_body(self._secrets, body, environ.get(_SIGNATURE))
        # The node looked at the end of the address when the upload began, which may be long ago.
        permit = UploadPermit.read(signing.verify(self._secrets, "PUT", key, environ["QUERY_STRING"], 0))
        environ[NAME] = permit.by
        try:
            commit = UploadCommit.decode(body)
        except MalformedMessage as error:
            raise BadRequest(str(error)) from error
        if commit.node != permit.node:
            raise BadSignature(f"the URL is for the node {permit.node}, and the node {commit.node} took the body")
        permitted = {other.node for other in permit.further}
        copies = {node: staged for node, staged in commit.copies if node in permitted}
        failed = permitted - copies.keys()
        for node in failed:
            self._network.doubt(node)  # other nodes fetch the value first
        put = Put(
            key=keys.encode(key),
            size=commit.size,
            digest=commit.digest,
            content_type=content_types.check(commit.content_type),
            expires=now_ms() + permit.lifetime_ms if permit.lifetime_ms else 0,
            overwrite=permit.replaces,
            check=parameters.check_commit(permit, commit),
            node=commit.node,
            staged=commit.staged,
            others=list(copies),
            staged_at=copies,
            failed=failed,
            replicas=permit.replicas,
        )
        return await self._store(key, put)

    async def delete(self, request: Request) -> Response:
        """Delete a key."""
        environ = request.environ
        key = parameters.writable_key(environ, "/delete_key/")
        purge = PURGE.read(parameters.parameters(environ["QUERY_STRING"]))
        await self._writer.delete(keys.encode(key), parameters.check_of(environ), purge=purge)
        return self._respond(200, None, "key deleted", [])

    async def _store(self, key: str, put: Put) -> Response:
        stored = await self._writer.put(put)
        url = self._redirects.location(key, stored.node)
        return self._respond(201, {"url": url}, "key added", [("ETag", values.etag(put.digest))])

    async def _beginning(self, request: Request) -> tuple[list[bytes], bool]:
        """The beginning of a body of unknown length, a little more than is stored here. True: it is all of the body."""
        pieces: list[bytes] = []
        room = self._limits.inline
        while piece := await request.chunk():
            pieces.append(piece)
            room -= len(piece)
            if room < 0:
                return pieces, False
        return pieces, True

    async def _relay(
        self, request: Request, key: str, given: dict[str, str], begun: list[bytes], length: int | None
    ) -> Response:
        tried: list[str] = []
        while True:
            place = self._place(request.environ, key, given, length, tried)
            url = urlsplit(place.url)
            try:
                exchange = await PeerClient.connect(place.url, self._limits.timeout, self._redirects.trusted)
                break
            except PeerFailed as error:  # nothing was sent: another one will do
                log.warning("node not reached", node=place.node, error=error)
                self._network.doubt(place.node)
                tried.append(place.node)
        try:
            response = await relay(
                exchange, f"{url.path}?{url.query}", request, begun=begun, length=length, timeout=self._limits.timeout
            )
        except PeerFailed as error:
            log.warning("upload could not be passed on", node=place.node, error=error)
            self._network.doubt(place.node)
            raise Unavailable(f"the node may have stored the value, or not: {error}") from error
        envelope = json.loads(response.body)
        return self._respond(response.status, envelope["data"], envelope["msg"], response.picked(PASSED_BACK))

    async def _digest(self, value: bytes) -> bytes:
        if len(value) <= _QUICK_BYTES:
            return hashlib.sha256(value).digest()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._digests, lambda: hashlib.sha256(value).digest())
