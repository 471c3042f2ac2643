"""`GET /internal/deleted` on a node: the deleted and overwritten versions that can be brought back, in pages.

`prefix` is the beginning of the keys, `after` the last `KEY:VERSION` of the page before, `limit` how many at most. They
come in the order of keys, then versions. `next` is the next page's `after`, null at the end. A page may be short.
Of each version, `stored_type` is what a Store command that brings it back has as content type: with the encoding.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from broker import integers, keys
from broker.errors import InvalidKey
from broker.http import content_types, internal_addresses, responses, values
from broker.http.responses import Response
from broker.http.signing import Secrets
from broker.refusals import BadRequest
from broker.server.request import Request
from node.storage.reader import DeletedVersion, Reader

MOST = 1000  # of one page


class DeletedVersions:
    """The handler of the route, for one data directory."""

    def __init__(self, reader: Reader, secrets: Secrets, node: str) -> None:
        self._reader = reader
        self._node = node
        self._secrets = secrets
        self._threads = ThreadPoolExecutor(2, "deleted")

    async def __call__(self, request: Request) -> Response:
        """Respond to one request. Raises `BadSignature`, `BadRequest` or `StorageError`."""
        parameters = internal_addresses.check(self._secrets, request.environ, self._node)
        unknown = sorted(parameters.keys() - {"prefix", "after", "limit"})
        if unknown:
            raise BadRequest(f"there is no parameter {unknown[0]!r:.60}; prefix, after and limit can be given")
        limit = _limit(parameters.get("limit", str(MOST)))
        after = _after(parameters.get("after", ""))
        prefix = parameters.get("prefix", "")
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._page, prefix, after, limit)

    def _page(self, prefix: str, after: tuple[str, int] | None, limit: int) -> Response:
        page = self._reader.deleted(prefix, after, limit)
        last = page.last
        following = f"{last[0]}:{last[1]}" if last else None
        data = {"keys": [_row(one) for one in page.versions], "next": following}
        return responses.make_plain(200, data, "ok", [], compact=True)


def _row(one: DeletedVersion) -> dict[str, object]:
    key = keys.decode(one.key)
    content_type, encoding = content_types.type_of(key, one.content_type)
    return {
        "key": key,
        "version": one.version,
        "size": one.size,
        "etag": values.etag(one.digest),
        "content_type": content_type,
        "content_encoding": encoding or None,
        "stored_type": one.content_type,
        "created": one.created / 1000,
        "expires": one.expires / 1000 if one.expires else None,
        "deleted": one.deleted / 1000,
        "until": one.until / 1000,
    }


def _limit(text: str) -> int:
    try:
        return integers.parse(text, 1, MOST)
    except ValueError as error:
        raise BadRequest(f"limit: {error}; give a number from 1 to {MOST}") from error


def _after(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    key, _, version = text.rpartition(":")
    try:
        return keys.check(key), integers.parse(version)
    except (ValueError, InvalidKey) as error:
        raise BadRequest(f"after is {text!r:.100}; give KEY:VERSION of the last version before ({error})") from error
