"""`GET /keys?deleted=1` lists what can be brought back; `POST /undelete/{key}[?version=]` brings it back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from broker import integers, keys, phases
from broker.http import content_types, responses
from broker.http.responses import Response
from broker.messages.store import Source
from broker.refusals import BadRequest, NotFound, Unavailable
from broker.server.request import Request
from master.cluster.nodes import Nodes
from master.store.writer import Put, Writer
from master.web.keys import parameters
from master.web.keys.held_versions import HeldVersion, HeldVersions, Name, read_name, written
from master.web.keys.redirects import Redirects

UNDELETE = "/undelete/"
DEFAULT_LIMIT, MAX_LIMIT = 100, 1_000

List = Callable[[Request], Response | Awaitable[Response]]


class DeletedKeys:
    """The handlers of what can be brought back, in a web worker."""

    def __init__(self, writer: Writer, network: Nodes, redirects: Redirects, secret: bytes) -> None:
        self._writer = writer
        self._network = network
        self._redirects = redirects
        self._held = HeldVersions(network, secret, redirects.trusted)

    def beside(self, others: List) -> Callable[[Request], Awaitable[Response]]:
        """The handler of `/keys`: with `?deleted=1` from here, else by `others`."""

        async def listing(request: Request) -> Response:
            query = request.environ["QUERY_STRING"]
            given = parameters.parameters(query) if "deleted" in query else {}
            if not parameters.flag("deleted", given.get("deleted")):
                response = others(request)
                return response if isinstance(response, Response) else await response
            response = await self.page(given)
            return response._replace(body=b"") if request.environ["REQUEST_METHOD"] == "HEAD" else response

        return listing

    async def page(self, given: Mapping[str, str]) -> Response:
        """A page of the versions that nodes hold, with these parameters; raises `BadRequest`."""
        prefix = parameters.prefix(given.get("prefix", ""))
        if given.get("delimiter"):
            raise BadRequest("delimiter does not go with deleted=1; give a prefix")
        limit = parameters.integer("limit", given.get("limit"), DEFAULT_LIMIT, MAX_LIMIT)
        page = await self._held.page(prefix, _after(given.get("after", "")), limit)
        data = {
            "keys": [_row(version) for version in page.versions],
            "next": written(page.following) if page.following else None,
            "missing": page.missing,
        }
        return responses.make_plain(200, data, "ok", [])

    async def undelete(self, request: Request) -> Response:
        """Bring a version back, the newest that is held unless one is named."""
        environ = request.environ
        key = parameters.writable_key(environ, UNDELETE)
        given = parameters.parameters(environ["QUERY_STRING"])
        version = _version(given.get("version"))
        overwrite = parameters.overwrite(given) or "HTTP_IF_MATCH" in environ
        check = parameters.check_of(environ)
        self._writer.admit(keys.encode(key), check, overwrite)  # what can be refused is refused at once
        found = await self._find(key, version)
        put = Put(
            key=keys.encode(key),
            size=found.size,
            digest=bytes.fromhex(found.etag.strip('"')),
            content_type=found.stored_type,
            expires=round(found.expires * 1000) if found.expires else 0,
            overwrite=overwrite,
            check=check,
            node=found.node,
            source=Source(keys.encode(key), found.version),
            replicas=content_types.replicas(found.stored_type),
        )
        stored = await self._writer.put(put)
        phases.announce("undelete.stored")
        data = {"url": self._redirects.location(key, stored.node), "version": str(found.version)}
        return responses.make_plain(201, data, "key undeleted", [("ETag", found.etag)])

    async def _find(self, key: str, version: int | None) -> HeldVersion:
        """The version to bring back; raises `NotFound`, or `Unavailable` when another node may hold it."""
        versions, missing = await self._held.of_key(key)
        wanted = [one for one in versions if version is None or one.version == version]
        newest = [one for one in wanted if one.version == wanted[0].version]
        alive = [one for one in newest if self._network.alive(one.node)]
        if newest and version is None and missing:
            raise Unavailable(
                f"{', '.join(missing)} did not answer and may hold a newer version of {key}; try again, or bring"
                f" back the newest one that is seen now by ?version={newest[0].version}"
            )
        if alive or newest:
            return (alive or newest)[0]
        what = f"version {version} of the key {key}" if version else f"a deleted version of the key {key}"
        if missing:
            raise Unavailable(f"no node that answers holds {what}; {', '.join(missing)} did not answer; try again")
        there = f"; versions {', '.join(str(one.version) for one in versions[:20])} are held" if versions else ""
        raise NotFound(f"no node holds {what}{there}")


def _row(version: HeldVersion) -> dict[str, object]:
    """A version as the API shows it. A program that has no integers of 63 bits would change its number."""
    row = version._asdict() | {"version": str(version.version)}
    del row["stored_type"]
    return row


def _after(text: str) -> Name | None:
    text = keys.beginning(text)
    if not text:
        return None
    try:
        return read_name(text)
    except ValueError as error:
        raise BadRequest(f"after={error}; give next of the page before") from error


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return integers.parse(text, 1)
    except ValueError as error:
        raise BadRequest(f"version={error}; GET /keys?deleted=1 lists those there are") from error
