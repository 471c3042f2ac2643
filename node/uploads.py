"""`PUT /add_key/{key}` on a node: a value too large for the master, sent here by it.

The body is streamed into a staged file while its digest is computed. When it is complete and durable the
master is asked to commit it, and its answer is the client's. An upload that does not become the key's value is removed.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from broker import addresses, checksums, http, keys, logs, media, signing
from broker.checksums import BadChecksum, Checksums
from broker.connections import Connections
from broker.errors import BadSignature
from broker.refusals import BadRequest, Forbidden, NoRoom, Unavailable
from node import commit
from node.commit import AnswerLost, Committed, Committer, Unreachable
from node.errors import DiskFull
from node.staging import Staged, Staging, Upload

log = logs.get(__name__)

CHUNK_BYTES = 1 << 20


class Uploads:
    """Takes uploads into one data directory."""

    def __init__(
        self,
        node: str,
        uploads: Staging,
        connections: Connections,
        committer: Committer,
        secret: bytes,
        threads: int,
    ) -> None:
        """`threads` is how many uploads there are at once."""
        self._node = node
        self._staging = uploads
        self._connections = connections
        self._committer = committer
        self._secret = secret
        self._writers = ThreadPoolExecutor(threads, "upload")

    def put(self, environ: dict[str, Any]) -> Committed:
        """Take one upload and answer what the master says of it.

        Raises `Refused`, `InvalidKey` or `StorageError` when nothing was stored, or may have been (`Unavailable`).
        """
        key = http.key_of(environ, "/add_key/")
        query: str = environ["QUERY_STRING"]
        # All that can be refused is, before the body is read: who waits for "100 Continue" sends it once.
        try:
            signed = signing.verify(self._secret, "PUT", key, query, time.time())
            media.read(environ)
            promised = checksums.read(environ)
            length = http.content_length(environ)
            addresses.check_length(signed, length)
            upload = self._staging.create(length or 0, md5=promised.md5 is not None)
        except BadSignature as error:
            raise Forbidden(str(error)) from error
        except BadChecksum as error:
            raise BadRequest(str(error)) from error
        except DiskFull as error:
            raise NoRoom(f"this node has no room for the value: {error}") from error
        keep = False
        try:
            self._receive(environ, upload, length, promised)
            addresses.check_length(signed, upload.size)
            staged = upload.finish()
            promised.compare(staged.md5, staged.sha256)
            committed = self._committer.commit(signed["url"], key, query, self._told(environ, staged))
            keep = committed.status == 201
            return committed
        except BadChecksum as error:
            raise BadRequest(str(error)) from error
        except DiskFull as error:
            raise NoRoom(f"this node has no room for the value: {error}") from error
        except Unreachable as error:
            raise Unavailable(f"the value was not stored: {error}") from error
        except AnswerLost as error:
            # The agent may be making it the key's value just now; if not, it is removed after a day.
            keep = True
            log.warning("commit not answered", key=keys.encode(key), upload=upload.token, reason=error)
            raise Unavailable(f"the value may be stored, or not: {error}") from error
        finally:
            if not keep:
                upload.abort()

    def _receive(self, environ: dict[str, Any], upload: Upload, length: int | None, promised: Checksums) -> None:
        """Read the body into the upload; raises `BadRequest` when the client stopped before its end."""
        stream = environ["wsgi.input"]
        writing: Future[None] | None = None
        try:
            while chunk := stream.read(CHUNK_BYTES):
                if writing is not None:
                    writing.result()
                # Written and hashed while the next chunk comes in.
                writing = self._writers.submit(upload.write, chunk)
        finally:
            if writing is not None:
                writing.result()
        if length is not None:
            if upload.size != length:
                raise BadRequest(f"the body ended after {upload.size} of {length} bytes; nothing was stored")
        elif not any(promised) and self._connections.cut_off(environ):
            raise BadRequest(
                f"the connection broke after {upload.size} bytes of the body; nothing was stored. "
                f"With a Content-Length or an X-Checksum-Sha256 it can be told for sure"
            )

    def _told(self, environ: dict[str, Any], staged: Staged) -> commit.Upload:
        return commit.Upload(
            node=self._node,
            staged=staged.token,
            size=staged.size,
            digest=staged.sha256.hex(),
            content_type=media.read(environ),
            if_match=environ.get("HTTP_IF_MATCH"),
            if_none_match=environ.get("HTTP_IF_NONE_MATCH"),
            if_unmodified_since=environ.get("HTTP_IF_UNMODIFIED_SINCE"),
        )
