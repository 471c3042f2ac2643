"""`/restic/{repository}/…`: restic's REST protocol, versions 1 and 2.

Each file of a repository is a key, so it is placed, checked, counted, backed up and brought back as any other. restic
follows no redirect of a POST, so its files are passed on to nodes while they come in. It follows those of a GET.
Source: restic's documentation, "REST Backend".
"""

from __future__ import annotations

from collections.abc import Collection

from broker import keys
from broker.clock import now_ms
from broker.contract.kinds import Choice
from broker.contract.parameters import Parameter
from broker.http.responses import Header, Response
from broker.refusals import BadRequest, Forbidden, MethodNotAllowed, Unavailable
from broker.server.request import Request
from master.cluster.nodes import Nodes
from master.index.index import Entry, Index
from master.security import restic_paths
from master.security.restic_paths import CONFIG, LOCKS, Place
from master.store.writer import Writer
from master.web.keys import parameters
from master.web.keys.listing import in_turns
from master.web.keys.reads import Reads
from master.web.keys.writes import Writes

EVERY = "*"
CREATE = Parameter("create", Choice("true", "1"), "Must be true: begin a repository.", default="", required=True)
VERSION_1 = "application/vnd.x.restic.rest.v1"
VERSION_2 = "application/vnd.x.restic.rest.v2"


class Repositories:
    """The handlers of a web worker."""

    def __init__(
        self,
        index: Index,
        network: Nodes,
        reads: Reads,
        writes: Writes,
        writer: Writer,
        *,
        append_only: Collection[str],
    ) -> None:
        """`append_only`: repositories where nothing but a lock can be deleted, or `EVERY`."""
        self._index = index
        self._network = network
        self._reads = reads
        self._writes = writes
        self._writer = writer
        self._append_only = append_only

    async def read(self, request: Request) -> Response:
        """A file, or a list of files."""
        place = _place(request)
        if place.is_file:
            return self._reads.respond(request.environ, place.key)
        return await self._list(request, place)

    async def _list(self, request: Request, place: Place) -> Response:
        if self._network.may_lack_keys():
            # restic takes what is not in the list for lost.
            raise Unavailable(f"the list is not complete yet: {self._network.objection()}; try again")
        version_2 = request.environ.get("HTTP_ACCEPT") == VERSION_2
        now = now_ms()
        found: list[str] = []
        async for stretch in in_turns(self._index.pages(place.key, "", "")):
            for key, row in stretch:
                if isinstance(row, Entry) and row.live(now):
                    name = key[len(place.key) :]
                    found.append(f'{{"name":"{name}","size":{row.size}}}' if version_2 else f'"{name}"')
        body = f"[{','.join(found)}]".encode("ascii")
        head: list[Header] = [
            ("Content-Type", VERSION_2 if version_2 else VERSION_1),
            ("Content-Length", str(len(body))),
        ]
        return Response(200, head, b"" if request.environ["REQUEST_METHOD"] == "HEAD" else body)

    async def write(self, request: Request) -> Response:
        """Store a file, or begin a repository, of which nothing is stored yet."""
        place, environ = _place(request), request.environ
        if place.is_file:
            if place.kind != CONFIG:
                # The same bytes may come again after a lost response, and others not at all.
                environ["HTTP_X_CHECKSUM_SHA256"] = place.name
            given = {} if place.kind == CONFIG else {"overwrite": "1"}
            stored = await self._writes.store(request, place.key, given)
            if stored.status >= 300:
                return stored
        elif not CREATE.read(parameters.parameters(environ["QUERY_STRING"])):
            raise BadRequest(f"POST needs a file, {place.key}…, or ?create=true for the repository")
        return Response(200, [("Content-Length", "0")])

    async def delete(self, request: Request) -> Response:
        """Delete a file."""
        place = _place(request)
        if place.kind != LOCKS and (EVERY in self._append_only or place.repository in self._append_only):
            raise Forbidden(
                f"the repository {place.repository} is append-only ([general] restic_append_only); nothing was deleted"
            )
        # Nobody wants a lock back.
        await self._writer.delete(keys.encode(place.key), lambda _: None, purge=place.kind == LOCKS)
        return Response(200, [("Content-Length", "0")])


def _place(request: Request) -> Place:
    """Raises `BadRequest` or `MethodNotAllowed`."""
    place, method = restic_paths.parse(request.environ["PATH_INFO"]), request.environ["REQUEST_METHOD"]
    if method not in place.methods:
        raise MethodNotAllowed(method, place.key, sorted({*place.methods, "OPTIONS"}))
    return place
