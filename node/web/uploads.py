"""`PUT /add_key/{key}` on a node: a value too large for the master, sent here by it.

The body is streamed into a staged file while its digest is computed, and to the other nodes that are to have the value.
When it is complete and durable, the node asks the master to commit it, and passes the response on. An upload that does
not become the value of the key is removed everywhere.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence

from broker import keys, logs
from broker.http import checksums, content_types, request_fields, signing
from broker.http.environ import Environ
from broker.http.responses import Response
from broker.http.signing import Secrets
from broker.messages.upload import StagedCopy, UploadCommit, UploadPermit
from broker.refusals import NoRoom, Unavailable
from broker.server.request import BrokenBody, Request
from node.errors import DiskFull
from node.storage.staging import StagedUpload, Staging
from node.web.commit_request import Committer, ResponseLost, Unreachable
from node.web.copy_streams import CopyStreams
from node.web.upload_body import UploadBodies

log = logs.get(__name__)


class Uploads:
    """Takes uploads into one data directory."""

    def __init__(
        self,
        node: str,
        uploads: Staging,
        committer: Committer,
        secrets: Secrets,
        bodies: UploadBodies,
        *,
        trusted: ssl.SSLContext,
    ) -> None:
        """`trusted`: the certificates of other nodes."""
        self._node = node
        self._staging = uploads
        self._committer = committer
        self._secrets = secrets
        self._bodies = bodies
        self._trusted = trusted

    async def __call__(self, request: Request) -> Response:
        """Take one upload; the response is the master's.

        Raises `Refused`, `InvalidKey`, `BadSignature` or `StorageError` when nothing was stored.
        After `Unavailable` it may have been.
        """
        try:
            with self._bodies.counted():
                return await self._take(request)
        except DiskFull as error:
            raise NoRoom(f"this node has no room for the value: {error}") from error

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
        upload = await self._bodies.do(lambda: self._staging.create(length, md5=promised.md5 is not None))
        streams = CopyStreams(permit.further, length, self._secrets[0], self._trusted)
        keep = False
        try:
            await streams.open()
            await self._bodies.receive(request, upload, streams.send if permit.further else None)
            if length is not None and upload.size != length:
                raise BrokenBody(f"the body ended after {upload.size} of {length} bytes; nothing was stored")
            permit.check_length(upload.size)
            _, staged = await asyncio.gather(streams.end(upload.size), self._bodies.do(upload.finish))
            promised.compare(staged.md5, staged.sha256)
            commit = self._commit(environ, staged, streams.copies(staged))
            response = await self._committer.commit(permit.master, key, query, commit)
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
                await self._bodies.do(upload.abort)
            await streams.close(keep=keep)

    def _commit(self, environ: Environ, staged: StagedUpload, copies: Sequence[StagedCopy]) -> UploadCommit:
        return UploadCommit(
            node=self._node,
            staged=staged.token,
            size=staged.size,
            digest=staged.sha256,
            content_type=content_types.read(environ),
            if_match=environ.get("HTTP_IF_MATCH"),
            if_none_match=environ.get("HTTP_IF_NONE_MATCH"),
            if_unmodified_since=environ.get("HTTP_IF_UNMODIFIED_SINCE"),
            copies=tuple(copies),
        )
