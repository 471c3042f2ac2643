"""`GET /metrics` on a node: what agent and data server have counted, for Prometheus.

Clients that may read without a signature may read this. Others ask the master, which comes with a signed address.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from broker import VERSION
from broker.http import internal_addresses
from broker.http.responses import Response
from broker.metrics import exposition
from broker.metrics.exposition import Text
from broker.metrics.reading import read
from broker.refusals import Unauthorized
from broker.server.networks import Networks
from broker.server.request import Request
from broker.settings import Settings
from node.metrics import figures


class FiguresPage:
    """The handler of the route."""

    def __init__(self, settings: Settings, node: str) -> None:
        self._node = node
        self._directory = Path(settings.volume.dir)
        self._secrets = settings.secrets()
        self._trusted = Networks(settings.security.trust) if settings.open_reads else None
        self._thread = ThreadPoolExecutor(1, "metrics")

    async def __call__(self, request: Request) -> Response:
        """Respond to one request. Raises `Unauthorized`, `BadSignature` or `OSError`."""
        environ = request.environ
        if "signature=" in environ["QUERY_STRING"]:
            internal_addresses.check(self._secrets, environ, self._node)
        elif self._trusted is None:
            raise Unauthorized(
                f"this node answers signed requests alone; ask the master: GET /metrics/{self._node}, with a token"
            )
        else:
            self._trusted.require(request.client)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._page)

    def _page(self) -> Response:
        text = Text()
        exposition.info(text, "pulzar_info", "The node and its version.", {"node": self._node, "version": VERSION})
        text.reading(figures.LAYOUT, read(figures.LAYOUT, self._directory))
        return exposition.response(text)
