"""`GET|HEAD /get_key/{key}`, `HEAD /add_key/{key}`: straight from the index, or a redirect to the node that has the value."""

from __future__ import annotations

from broker import http, keys
from broker.http import Answer
from broker.incoming import Incoming
from master.index import Index, now_ms
from master.network import Network
from master.redirects import Redirects
from master.store import missing


class Reads:
    """Of one web worker."""

    def __init__(self, index: Index, network: Network, redirects: Redirects, cors: list[tuple[str, str]]) -> None:
        self._index = index
        self._network = network
        self._redirects = redirects
        self._cors = cors

    def __call__(self, incoming: Incoming) -> Answer:
        """Answer one request; raises `Refused` or `InvalidKey`."""
        environ = incoming.environ
        key = http.key_of(environ, "/add_key/" if environ["PATH_INFO"].startswith("/add_key/") else "/get_key/")
        entry = self._index.get(keys.encode(key))
        if entry is None or not entry.live(now_ms()):
            raise missing(key, self._network)
        head = environ["REQUEST_METHOD"] == "HEAD"
        plan = http.plan(environ, http.resource(key, entry))
        # A 304, 412 or 416 and a HEAD need no bytes, so they never leave the master.
        if entry.value is None and plan.ranges and not head:
            return http.elsewhere(self._redirects.read(key, entry.node), self._cors)
        body = b"" if head else plan.body(entry.value)
        return Answer(plan.status, [*plan.headers, *self._cors], body)
