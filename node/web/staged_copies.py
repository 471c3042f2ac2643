"""`POST|DELETE /internal/staged` on a node: an upload that another node takes and sends on, to be staged here as well.

The query is signed, and names the upload (`token`). It becomes a value when the master says so. DELETE removes it again
when its upload came to nothing.
"""

from __future__ import annotations

from broker import integers
from broker.http import internal_addresses, request_fields, responses
from broker.http.responses import Response
from broker.http.signing import Secrets
from broker.refusals import BadRequest, NoRoom
from broker.server.request import BrokenBody, Request
from node.errors import DiskFull
from node.storage import value_files
from node.storage.staging import Staging
from node.web.upload_body import UploadBodies


class StagedCopies:
    """The handlers of one data directory."""

    def __init__(self, node: str, staging: Staging, secrets: Secrets, bodies: UploadBodies) -> None:
        self._node = node
        self._staging = staging
        self._secrets = secrets
        self._bodies = bodies

    async def add(self, request: Request) -> Response:
        """Stage the body; 201 when it is durable. Raises `Refused`, `BadSignature` or `StorageError`."""
        token, size = self._read(request)
        length = request_fields.content_length(request.environ)
        if size != length:
            raise BadRequest(f"the body has {length} bytes, and the address is for {size}; nothing was stored")
        try:
            with self._bodies.counted():
                upload = await self._bodies.do(lambda: self._staging.create(length, token=token))
                whole = False
                try:
                    await self._bodies.receive(request, upload)
                    if length is not None and upload.size != length:
                        raise BrokenBody(f"the body ended after {upload.size} of {length} bytes; nothing was stored")
                    staged = await self._bodies.do(upload.finish)
                    whole = True
                finally:
                    if not whole:
                        await self._bodies.do(upload.abort)
        except DiskFull as error:
            raise NoRoom(f"this node has no room for the value: {error}") from error
        data = {"size": staged.size, "digest": staged.sha256.hex()}
        return responses.make_plain(201, data, "staged", [])

    async def remove(self, request: Request) -> Response:
        """Remove a staged upload; 200 also when there is none. Raises `Refused`, `BadSignature` or `StorageError`."""
        token, _ = self._read(request)
        await self._bodies.do(lambda: self._staging.remove(token))
        return responses.make_plain(200, None, "removed", [])

    def _read(self, request: Request) -> tuple[str, int | None]:
        """The upload that a request names, and its length."""
        given = internal_addresses.check(self._secrets, request.environ, self._node)
        token = given.get("token", "")
        if not value_files.is_token(token):
            raise BadRequest(f"{token[:40]!r} is no name of an upload")
        try:
            return token, integers.parse(given["size"]) if "size" in given else None
        except ValueError as error:
            raise BadRequest(f"size={error}") from error
