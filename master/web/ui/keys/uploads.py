"""What the page's script sends: files as keys, through this worker or straight to a node.

`POST /ui/keys/clashes` says which keys are there already. `POST /ui/keys/place` gives an address at a node, for one
key. `PUT /ui/keys/put` takes a value here, of any size: for small ones, and where a browser can't reach the node.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection
from pathlib import PurePosixPath
from urllib.parse import urlencode

from broker import keys
from broker.clock import now_ms
from broker.errors import InvalidKey
from broker.http import request_fields, responses
from broker.http.responses import Response
from broker.refusals import BadRequest, Forbidden, TooLarge
from broker.server.request import Request
from master.index.index import Index
from master.security import rights
from master.security.gate import RIGHTS
from master.security.rights import Right
from master.security.sessions import Sessions
from master.web.application import Handler
from master.web.keys import parameters
from master.web.keys.writes import Writes
from master.web.ui.frame import visits

_BODY_BYTES = 1 << 20
_MOST_KEYS = 1_000  # in one question
_MOST_TRIES = 1_000  # for a name that is free
_PERMITTED = ("ttl", "overwrite")


class Uploads:
    """The handlers of a web worker for what the page's script sends. Errors are the API's, as JSON."""

    def __init__(self, index: Index, writes: Writes, sessions: Sessions) -> None:
        self._index = index
        self._writes = writes
        self._sessions = sessions

    def routes(self) -> dict[str, dict[str, Handler]]:
        """The routes that lead here."""
        return {
            "/ui/keys/clashes": {"POST": self._as_json(self.clashes)},
            "/ui/keys/place": {"POST": self._as_json(self.place)},
            "/ui/keys/put": {"PUT": self._as_json(self.put)},
        }

    def _as_json(self, handler: Callable[[Request], Awaitable[Response]]) -> Handler:
        """A handler for requests of the page's own script, whose errors are no pages."""

        async def checked(request: Request) -> Response:
            environ = request.environ
            try:
                if not visits.is_form_text(environ, self._sessions, None):
                    raise Forbidden("the request is not from this page, or older than your login; load the page again")
                return await handler(request)
            except Exception as error:  # noqa: BLE001 - as for any other client of the API
                return responses.from_error(error, environ, "master")

        return checked

    async def clashes(self, request: Request) -> Response:
        """Which of the keys in the body are there already, each with a name beside it that is free."""
        length = request_fields.content_length(request.environ)
        if length is None or length > _BODY_BYTES:
            raise TooLarge(f"the list of keys has more than {_BODY_BYTES} bytes; send it in parts")
        given = _keys(await request.read(length))
        may = rights.parse(request.environ.get(RIGHTS, ""))
        for key in given:
            if not may.allow(Right("write", key)):
                raise Forbidden(f"you lack the right {Right('write', key)}; nothing was done")
        wanted = set(given)
        taken = {key: self._free(key, wanted) for key in given if self._is_there(key)}
        return responses.make_plain(200, {"taken": taken}, "ok", [])

    async def place(self, request: Request) -> Response:
        """Where to PUT a key straight to a node, from the page that asks."""
        self._turn(request, "GET", "/get_node/")
        return await self._writes.place(request)

    async def put(self, request: Request) -> Response:
        """Store a value that is sent here."""
        given = self._turn(request, "PUT", "/add_key/")
        return await self._writes.store(request, parameters.writable_key(request.environ, "/add_key/"), given)

    def _turn(self, request: Request, method: str, path: str) -> dict[str, str]:
        """Make a request of the page one of the API, and give its parameters; the audit log then shows it as such."""
        environ = request.environ
        given = parameters.parameters(environ["QUERY_STRING"])
        environ["REQUEST_METHOD"] = method
        environ["PATH_INFO"] = path + given.get("key", "").encode().decode("latin-1")
        permitted = {name: given[name] for name in _PERMITTED if name in given}
        environ["QUERY_STRING"] = urlencode(permitted)
        return permitted

    def _is_there(self, key: str) -> bool:
        entry = self._index.get(keys.encode(key))
        return entry is not None and entry.live(now_ms())

    def _free(self, key: str, wanted: Collection[str]) -> str | None:
        """`name (2).ext`, or the first number that nobody has; None when there is none."""
        name = PurePosixPath(key)
        folder, stem, ending = key[: len(key) - len(name.name)], name.stem, name.suffix
        for number in range(2, _MOST_TRIES):
            free = f"{folder}{stem} ({number}){ending}"
            if len(free) > keys.MAX_BYTES:
                return None
            if free not in wanted and not self._is_there(free):
                return free
        return None


def _keys(body: bytes) -> list[str]:
    """The keys in a body; raises `BadRequest` or `InvalidKey`."""
    try:
        given = json.loads(body)["keys"]
        if not isinstance(given, list) or not all(isinstance(key, str) for key in given):
            raise TypeError("keys is no list of texts")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON object with a list of keys: {error}") from error
    if len(given) > _MOST_KEYS:
        raise BadRequest(f"{len(given)} keys were received; send up to {_MOST_KEYS} at once")
    try:
        return [keys.check(key) for key in given]
    except InvalidKey as error:
        raise BadRequest(str(error)) from error
