"""`GET|HEAD /get_key/{key}`, `HEAD /add_key/{key}`: answered from the index, or redirected to the node of the value."""

from __future__ import annotations

from broker import keys
from broker.clock import now_ms
from broker.http import request_fields, responses, values
from broker.http.environ import Environ
from broker.http.responses import Response
from broker.server.request import Request
from master.cluster.nodes import Nodes, missing, require_newest
from master.cluster.replicas import Replicas
from master.index.index import Index
from master.web.keys.redirects import Redirects


class Reads:
    """The handler of reads in a web worker."""

    def __init__(self, index: Index, network: Nodes, redirects: Redirects, replicas: Replicas) -> None:
        self._index = index
        self._network = network
        self._redirects = redirects
        self._replicas = replicas

    def __call__(self, request: Request) -> Response:
        """Respond to one request; raises `Refused` or `InvalidKey`."""
        environ = request.environ
        prefix = "/add_key/" if environ["PATH_INFO"].startswith("/add_key/") else "/get_key/"
        return self.respond(environ, request_fields.key_of(environ, prefix))

    def respond(self, environ: Environ, key: str) -> Response:
        """Respond to a request for the value of a key; raises `Refused`."""
        entry = self._index.get(keys.encode(key))
        if entry is None or not entry.live(now_ms()):
            raise missing(key, self._network)
        if self._replicas.most > 1:
            require_newest(keys.encode(key), self._replicas, self._network)
        head = environ["REQUEST_METHOD"] == "HEAD"
        plan = values.plan(environ, values.resource(key, entry))
        # A 304, 412 or 416 and a HEAD need no bytes, so they never leave the master.
        if entry.value is None and plan.ranges and not head:
            return responses.redirect(self._redirects.read(key, entry, environ))
        body = b"" if head else plan.body(entry.value)
        return Response(plan.status, plan.headers, body)
