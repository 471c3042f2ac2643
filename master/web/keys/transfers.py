"""`POST /copy/{key}?to=KEY`, `POST /move/{key}?to=KEY`: nothing of the value passes through the client or the master.

A key that ends with "/" is a folder, or any prefix: the job `keys/transfer` copies or moves what begins so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import islice

from broker import keys
from broker.clock import now_ms
from broker.contract.kinds import Text
from broker.contract.parameters import Parameter
from broker.errors import InvalidKey
from broker.http import request_fields, responses, values
from broker.http.environ import Environ
from broker.http.responses import Response
from broker.refusals import BadRequest, NotFound
from broker.server.request import Request
from master.index.index import Index
from master.security.audit import ABOUT
from master.store.writer import Copy, Writer
from master.web.keys import parameters
from master.web.keys.redirects import Redirects

COPY, MOVE = "/copy/", "/move/"
SCRIPT = "keys/transfer"
_CONDITIONS = ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH", "HTTP_IF_UNMODIFIED_SINCE")
_EXAMPLE = "?to=folder/name.ext"
TO = Parameter(
    "to",
    Text(keys.MAX_BYTES, f"/?{keys.PATTERN}/?", "key"),
    "The other key; of a folder, the other folder.",
    "",
    required=True,
)

# Launches a script with arguments, for the token of a request; returns the job's id.
Start = Callable[[str, dict[str, object], Environ], Awaitable[int]]


class Transfers:
    """The handlers of copies and moves in a web worker."""

    def __init__(self, index: Index, writer: Writer, redirects: Redirects, start: Start) -> None:
        self._index = index
        self._writer = writer
        self._redirects = redirects
        self._start = start

    async def copy(self, request: Request) -> Response:
        """Store the value of a key under another one as well."""
        return await self._transfer(request, COPY, move=False)

    async def move(self, request: Request) -> Response:
        """Give the value of a key another one."""
        return await self._transfer(request, MOVE, move=True)

    async def _transfer(self, request: Request, path: str, *, move: bool) -> Response:
        environ = request.environ
        given = parameters.parameters(environ["QUERY_STRING"])
        to = given.get("to")
        if not to:
            raise BadRequest(f"to is missing; give the key that the value is to have, like {_EXAMPLE}")
        environ[ABOUT] = f"{environ['PATH_INFO'].removeprefix(path)} -> {to}"
        life = parameters.lifetime(given)
        overwrite = parameters.overwrite(given)
        if environ["PATH_INFO"].endswith("/"):
            prefix = parameters.prefix_of(environ, path)
            if conditions := [name for name in _CONDITIONS if name in environ]:
                raise BadRequest(f"{conditions[0][5:].replace('_', '-').title()} is for single keys, not for a folder")
            return await self._launch(request, prefix, to.removeprefix("/"), life, move=move, overwrite=overwrite)
        source = parameters.writable_key(environ, path) if move else request_fields.key_of(environ, path)
        target = parameters.writable(_target(to))
        if target == source:
            raise BadRequest(f"to={target[:80]!r} is the key itself; give another one")
        copy = Copy(
            source=keys.encode(source),
            target=keys.encode(target),
            check=parameters.check_of(environ),
            overwrite=overwrite,
            expires=now_ms() + life if life else None,
        )
        stored, entry = await (self._writer.move(copy) if move else self._writer.copy(copy))
        data = {"url": self._redirects.location(target, stored.node)}
        etag = [("ETag", values.etag(entry.digest))]
        return responses.make_plain(201, data, "key moved" if move else "key copied", etag)

    async def _launch(
        self, request: Request, prefix: str, to: str, life: int, *, move: bool, overwrite: bool
    ) -> Response:
        """Have a job copy or move all that is below a prefix."""
        if not to.endswith("/"):
            raise BadRequest(f"to={to[:80]!r} is no folder; to copy or move a folder give one, with / at its end")
        _target(to + "name")
        if not prefix:
            raise BadRequest("the folder is missing; give one, or the key of a single value")
        if to.startswith(prefix):
            raise BadRequest(f"to={to[:80]!r} is in the folder {prefix[:80]!r} itself; give one outside of it")
        if not any(islice(self._index.scan(prefix, ""), 1)):
            raise parameters.nothing_below(prefix)
        again = prefix + prefix.removeprefix(to)  # to/x is below the prefix again for the keys that begin so
        if prefix.startswith(to) and any(islice(self._index.scan(again, ""), 1)):
            told = f"to={to[:80]!r}: the keys below {again[:80]!r} would come into the folder {prefix[:80]!r} itself"
            raise BadRequest(f"{told}; copy or move them elsewhere first")
        arguments: dict[str, object] = {"prefix": prefix, "to": to, "move": move, "overwrite": overwrite}
        if life:
            arguments["ttl"] = f"{life // 1000}s"
        try:
            number = await self._start(SCRIPT, arguments, request.environ)
        except NotFound as error:
            what = f"a folder is {'moved' if move else 'copied'} by the script {SCRIPT}, which comes with Pulzar"
            raise NotFound(f"{what}; put it into [jobs] dir of a node: {error}") from error
        message = (
            f"job {number} {'moves' if move else 'copies'} the folder; GET /admin/jobs/{number} tells how far it is"
        )
        return responses.make_plain(202, {"job_id": number}, message, [])


def _target(text: str) -> str:
    """The key in the parameter `to`; raises `BadRequest` with the reason when it is none."""
    try:
        return keys.check(text)
    except InvalidKey as error:
        raise BadRequest(f"to={text[:80]!r}: {error}") from error
