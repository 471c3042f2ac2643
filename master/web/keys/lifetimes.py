"""`POST /lifetime/{key}?ttl=`: another lifetime for a value that is there. Nothing of it passes through anybody."""

from __future__ import annotations

from broker import keys
from broker.clock import now_ms
from broker.contract.kinds import Span
from broker.contract.parameters import Parameter
from broker.http import responses
from broker.http.responses import Response
from broker.refusals import BadRequest
from broker.server.request import Request
from master.store.writer import Writer
from master.web.keys import parameters

PATH = "/lifetime/"
FOR_EVER = "never"  # the ttl that takes the end of a lifetime away
TTL = Parameter(
    "ttl",
    Span(parameters.MAX_LIFETIME_MS, FOR_EVER),
    "The value lives so long from now on: 90s, 15m, 12h or 7d; never takes the end away. This or temporal is needed.",
    0,
)


class Lifetimes:
    """The handler of a web worker that gives values another lifetime."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def __call__(self, request: Request) -> Response:
        """Respond to one request. Raises `Refused` or `InvalidKey`."""
        environ = request.environ
        key = parameters.writable_key(environ, PATH)
        given = parameters.parameters(environ["QUERY_STRING"])
        if "temporal" not in given and TTL.name not in given:
            raise BadRequest("ttl is missing; give one like 90s, 15m, 12h or 7d from now on, or never")
        life = parameters.lifetime(given) if "temporal" in given else TTL.read(given)
        expires = now_ms() + life if life else 0
        await self._writer.renew(keys.encode(key), parameters.check_of(environ), expires)
        data = {"expires": expires / 1000 if expires else None}
        return responses.make_plain(200, data, "lifetime set", [])
