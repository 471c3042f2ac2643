"""`PUT /add_key/{key}` on a node: a value too large for the master, sent here by it.

The body is streamed into a staged file while its digest is computed. When it is complete and durable, the node asks the
master to commit it, and passes the response on. An upload that does not become the value of the key is removed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from broker import keys, logs
from broker.http import checksums, content_types, request_fields, signing
from broker.http.environ import Environ
from broker.http.responses import Response
from broker.http.signing import Secrets
from broker.messages.upload import UploadCommit, UploadPermit
from broker.refusals import NoRoom, Unavailable
from broker.server.request import BrokenBody, Request
from node.errors import DiskFull
from node.storage.staging import StagedUpload, Staging, Upload
from node.web.commit_request import Committer, ResponseLost, Unreachable

log = logs.get(__name__)

CHUNK_BYTES = 1 << 20  # written at once
MOST = 2_000  # uploads at once
_FEW = 32  # up to this number of uploads, each holds more in memory
_SMALL_CHUNK_BYTES = 1 << 17

T = TypeVar("T")


class Uploads:
    """Takes uploads into one data directory; the disk is written on `threads` threads."""

    def __init__(self, node: str, uploads: Staging, committer: Committer, secrets: Secrets, threads: int) -> None:
        self._node = node
        self._staging = uploads
        self._committer = committer
        self._secrets = secrets
        self._threads = ThreadPoolExecutor(threads, "upload")
        self._count = 0

    async def __call__(self, request: Request) -> Response:
        """Take one upload; the response is the master's.

        Raises `Refused`, `InvalidKey`, `BadSignature` or `StorageError` when nothing was stored.
        After `Unavailable` it may have been.
        """
        if self._count >= MOST:
            raise Unavailable(f"this node takes {MOST} uploads at once, and has them; try again")
        self._count += 1
        try:
            return await self._take(request)
        except DiskFull as error:
            raise NoRoom(f"this node has no room for the value: {error}") from error
        finally:
            self._count -= 1

    async def _take(self, request: Request) -> Response:
        environ = request.environ
        key = request_fields.key_of(environ, "/add_key/")
        query: str = environ["QUERY_STRING"]
        # All refusals come before the body is read: a client that waits for "100 Continue" sends it once.
        fields = signing.verify(self._secrets, "PUT", key, query, time.time(), node=self._node)
        permit = UploadPermit.read(fields)
        content_types.read(environ)
        promised = checksums.read(environ)
        length = request_fields.content_length(environ)
        permit.check_length(length)
        upload = await self._do(lambda: self._staging.create(length, md5=promised.md5 is not None))
        keep = False
        try:
            await self._receive(request, upload)
            if length is not None and upload.size != length:
                raise BrokenBody(f"the body ended after {upload.size} of {length} bytes; nothing was stored")
            permit.check_length(upload.size)
            staged = await self._do(upload.finish)
            promised.compare(staged.md5, staged.sha256)
            response = await self._committer.commit(permit.master, key, query, self._commit(environ, staged))
            keep = response.status == 201
            return response
        except Unreachable as error:
            raise Unavailable(f"the value was not stored: {error}") from error
        except ResponseLost as error:
            # The agent may store it at this moment; otherwise it is removed after a day.
            keep = True
            log.warning("commit not answered", key=keys.encode(key), upload=upload.token, reason=error)
            raise Unavailable(f"the value may be stored, or not: {error}") from error
        finally:
            if not keep:
                await self._do(upload.abort)

    async def _receive(self, request: Request, upload: Upload) -> None:
        """Read the body into the upload; raises `BrokenBody` for a body that is cut off, or `SlowClient`."""
        writing: asyncio.Future[None] | None = None
        gathered: list[bytes] = []
        size = 0
        try:
            while piece := await request.chunk():
                gathered.append(piece)
                size += len(piece)
                if size < (CHUNK_BYTES if self._count <= _FEW else _SMALL_CHUNK_BYTES):
                    continue
                if writing is not None:
                    await writing
                # Written and hashed while the next chunk comes in.
                writing = self._write(upload, gathered)
                gathered, size = [], 0
            if gathered:
                if writing is not None:
                    await writing
                writing = self._write(upload, gathered)
        finally:
            if writing is not None:
                await writing

    def _write(self, upload: Upload, pieces: list[bytes]) -> asyncio.Future[None]:
        return asyncio.get_running_loop().run_in_executor(self._threads, upload.write, b"".join(pieces))

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _commit(self, environ: Environ, staged: StagedUpload) -> UploadCommit:
        return UploadCommit(
            node=self._node,
            staged=staged.token,
            size=staged.size,
            digest=staged.sha256,
            content_type=content_types.read(environ),
            if_match=environ.get("HTTP_IF_MATCH"),
            if_none_match=environ.get("HTTP_IF_NONE_MATCH"),
            if_unmodified_since=environ.get("HTTP_IF_UNMODIFIED_SINCE"),
        )
