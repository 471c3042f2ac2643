"""`GET /keys?deleted=1` lists what can be brought back; `POST /undelete/{key}[?version=]` brings it back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from broker import keys, phases
from broker.contract.kinds import Flag, Integer
from broker.contract.parameters import Parameter
from broker.http import content_types, responses
from broker.http.responses import Response
from broker.messages.store import Source
from broker.refusals import BadRequest, NotFound, Unavailable
from broker.server.request import Request
from master.cluster.nodes import Nodes
from master.store.writer import Put, Writer
from master.web.keys import listing, parameters
from master.web.keys.held_versions import HeldVersion, HeldVersions, Name, read_name, written
from master.web.keys.redirects import Redirects

UNDELETE = "/undelete/"
DELETED = Parameter("deleted", Flag(), "1: what can be brought back, by POST /undelete/{key}.", default=False)
VERSION = Parameter(
    "version", Integer(), "The version to bring back; the newest that is held when none is named.", default=0
)

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

        async def pages(request: Request) -> Response:
            query = request.environ["QUERY_STRING"]
            given = parameters.parameters(query) if "deleted" in query else {}
            if not DELETED.read(given):
                response = others(request)
                return response if isinstance(response, Response) else await response
            response = await self.page(given)
            return response._replace(body=b"") if request.environ["REQUEST_METHOD"] == "HEAD" else response

        return pages

    async def page(self, given: Mapping[str, str]) -> Response:
        """A page of the versions that nodes hold, with these parameters; raises `BadRequest`."""
        prefix = listing.PREFIX.read(given)
        if given.get("delimiter"):
            raise BadRequest("delimiter does not go with deleted=1; give a prefix")
        page = await self._held.page(prefix, _after(listing.AFTER.read(given)), listing.LIMIT.read(given))
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
        version = VERSION.read(given) or None
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
    if not text:
        return None
    try:
        return read_name(text)
    except ValueError as error:
        raise BadRequest(f"after={error}; give next of the page before") from error
