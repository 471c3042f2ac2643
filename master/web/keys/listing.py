"""`GET /keys` and `GET /stats/{prefix}`: pages of entries, and what lies beneath a prefix.

Both run on the event loop of a web worker, a stretch of rows at a time. Between two stretches other requests have their
turn. A thread would hold them up longer: Python's lock changes hands every 5 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, closing
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from typing import NamedTuple, TypeVar

from broker import keys
from broker.clock import now_ms
from broker.contract.kinds import Beginning, Integer, Text
from broker.contract.parameters import Parameter
from broker.http import content_types, responses
from broker.http.responses import Response
from broker.refusals import BadRequest
from broker.server.request import Request
from master.index.folders import Usage
from master.index.index import Entry, Index
from master.web.keys import key_filter, parameters
from master.web.keys.key_filter import KeyFilter

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000
_STRETCH = 100  # rows; about 0.4 ms
_FILTERED_STRETCH = 250  # rows that are looked at; about 0.4 ms
MOST_LOOKED_AT = 10_000  # keys in one request with a filter; 20 to 30 ms

PREFIX = Parameter(
    "prefix", parameters.PREFIX, "Only keys that begin so. A leading slash counts for nothing.", default=""
)
DELIMITER = Parameter(
    "delimiter",
    Text(keys.MAX_BYTES, "[ -~]*"),
    "Fold keys that have it behind the prefix into one row of prefixes. Not with deleted, contains, since and until.",
    default="",
)
AFTER = Parameter(
    "after",
    Beginning(keys.MAX_BYTES + 20),  # a key, and with deleted=1 its version besides
    "Only keys greater than this: next of the page before. A leading slash counts for nothing.",
    default="",
)
LIMIT = Parameter("limit", Integer(MAX_LIMIT), "Rows at most.", DEFAULT_LIMIT)
PARAMETERS = (PREFIX, DELIMITER, AFTER, LIMIT, *key_filter.PARAMETERS)

_Row = TypeVar("_Row")


class _Page(NamedTuple):
    """What a request for a page asks for."""

    prefix: str
    after: str
    delimiter: str
    limit: int
    only: KeyFilter | None

    @classmethod
    def read(cls, given: Mapping[str, str]) -> _Page:
        """From the parameters of the request; raises `BadRequest`."""
        prefix, after = (
            PREFIX.read(given),
            AFTER.read(given)[: keys.MAX_BYTES],
        )  # no key is longer, so the same keys are greater than this
        delimiter, limit = DELIMITER.read(given), LIMIT.read(given)
        only = KeyFilter.read(given)
        if only and delimiter:
            raise BadRequest("delimiter does not go with contains, since and until; give a prefix")
        return cls(prefix, after, delimiter, limit, only)


class Listing:
    """The handlers of a web worker that list keys and count them."""

    def __init__(self, index: Index, quotas: Mapping[str, int]) -> None:
        """`quotas` has the bytes that folders may hold."""
        self._index = index
        self._quotas = quotas

    async def page(self, request: Request) -> Response:
        """A page of entries in key order. With a delimiter, deeper keys are folded into common prefixes."""
        environ = request.environ
        page = _Page.read(parameters.parameters(environ["QUERY_STRING"]))
        if page.only:
            return self._sent(environ["REQUEST_METHOD"], await self._found(page, page.only))
        texts: list[str] = []
        prefixes: list[str] = []
        usages: list[str] = []
        now = now_ms()
        last = following = None
        async with aclosing(in_turns(self._index.pages(page.prefix, page.after, page.delimiter))) as rows:
            async for stretch in rows:
                for key, row in stretch:
                    if isinstance(row, Entry) and row.expires and row.expires <= now:
                        continue
                    if len(texts) + len(prefixes) == page.limit:
                        following = last
                        break
                    if isinstance(row, Entry):
                        texts.append(_described(key, row))
                    else:
                        prefixes.append(quoted(key))
                        if row is not None:
                            usages.append(f'{{"prefix":{prefixes[-1]},"keys":{row.keys},"bytes":{row.size}}}')
                    last = key
                else:
                    continue
                break
        # Only with a slash there are counters.
        folders = f',"folders":[{",".join(usages)}]' if page.delimiter == "/" else ""
        going_on = "null" if following is None else quoted(following)
        body = (
            f'{{"data":{{"keys":[{",".join(texts)}],"prefixes":[{",".join(prefixes)}]{folders},"next":{going_on}}},'
            '"msg":"ok","status":"ok"}\n'
        )
        return self._sent(environ["REQUEST_METHOD"], body.encode("ascii"))

    async def _found(self, page: _Page, only: KeyFilter) -> bytes:
        """A page of entries that a filter lets through; it may be short, or empty, when others follow."""
        texts: list[str] = []
        now = now_ms()
        looked = 0
        last = following = None
        rows = self._index.search(page.prefix, page.after, only.text)
        async with aclosing(in_turns(rows, _FILTERED_STRETCH)) as stretches:
            async for stretch in stretches:
                for key, entry in stretch:
                    if looked == MOST_LOOKED_AT or len(texts) == page.limit:
                        following = last
                        break
                    last = key
                    looked += 1
                    if isinstance(entry, Entry) and entry.live(now) and only.takes(entry.created):
                        texts.append(_described(key, entry))
                else:
                    continue
                break
        going_on = "null" if following is None else quoted(following)
        return (
            f'{{"data":{{"keys":[{",".join(texts)}],"prefixes":[],"looked":{looked},"next":{going_on}}},'
            '"msg":"ok","status":"ok"}\n'
        ).encode("ascii")

    async def stats(self, request: Request) -> Response:
        """How many keys begin with a prefix, and their bytes together. A whole folder is one row of the index."""
        environ = request.environ
        prefix = parameters.prefix_of(environ, "/stats/")
        if not prefix or prefix.endswith("/"):
            with self._index.read() as tables:
                usage = tables.usage(prefix)
        else:
            usage = await self._sum(prefix)
        data: dict[str, object] = {"keys": usage.keys, "bytes": usage.size}
        if prefix in self._quotas:
            data["quota"] = self._quotas[prefix]
        return self._sent(environ["REQUEST_METHOD"], responses.envelope(200, data, "ok", compact=True))

    async def _sum(self, prefix: str) -> Usage:
        """What begins with a prefix that ends inside a name: its keys one by one, and the folders behind it."""
        count = size = 0
        async with aclosing(in_turns(self._index.pages(prefix, "", "/"))) as rows:
            async for stretch in rows:
                for _, row in stretch:
                    if isinstance(row, Entry):
                        count += 1
                        size += row.size
                    elif row is not None:
                        count += row.keys
                        size += row.size
        return Usage(count, size)

    def _sent(self, method: str, body: bytes) -> Response:
        head = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), responses.NO_FRAMES]
        return Response(200, head, b"" if method == "HEAD" else body)


async def in_turns(rows: Iterator[_Row], length: int = _STRETCH) -> AsyncGenerator[list[_Row], None]:
    """The rows, a stretch of some `length` at a time; other tasks run between two of them."""
    with closing(rows):  # type: ignore[type-var]
        stretch: list[_Row] = []
        for row in rows:
            stretch.append(row)
            if len(stretch) == length:
                yield stretch
                stretch = []
                await asyncio.sleep(0)
        yield stretch


def _described(key: str, entry: Entry) -> str:
    """An entry as the API shows it, in JSON."""
    _, node, _, _, created, expires, size, packed_type, digest, _, copies = entry
    media = _given_type(packed_type) or _media(*content_types.type_of(key, packed_type))
    others = "".join([f',"{copy.node}"' for copy in copies]) if copies else ""
    return (
        f'{{"key":{quoted(key)},"size":{size},"etag":"\\"{digest.hex()}\\"","nodes":["{node}"{others}],'
        f'"created":{_seconds(created)},"expires":{_seconds(expires) if expires else "null"},{media}}}'
    )


def _seconds(time: int) -> str:
    """A time in ms since the epoch as seconds. A float would take three times as long to write."""
    digits = str(time)
    return f"{digits[:-3]}.{digits[-3:]}" if time >= 1000 else repr(time / 1000)


@lru_cache(maxsize=1024)
def _given_type(packed: str) -> str:
    """As `_media`, for a type that was given without an encoding, so that the key does not matter; else ""."""
    content_type, encoding = content_types.unpack(packed)
    return _media(content_type, "") if content_type and not encoding else ""


@lru_cache(maxsize=1024)
def _media(content_type: str, encoding: str) -> str:
    return f'"content_type":{quoted(content_type)},"content_encoding":{quoted(encoding) if encoding else "null"}'
