"""A service of Pulzar: a web server and one companion process beside it.

The master's companion is the controller, a node's is the agent. The main process keeps both alive and ends both.
They never outlive it, even when it is killed with -9.
"""

from __future__ import annotations

import multiprocessing

from broker import backoff, logs
from broker.server.web_server import STOP_SECS, WebServer
from broker.service.companion import CompanionKeeper

log = logs.get(__name__)


class Service:
    """A web server and the companion module that runs beside it."""

    def __init__(self, server: WebServer, companion: str) -> None:
        self._server = server
        self._keeper = CompanionKeeper(companion)

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; returns the exit status."""
        # A fork would copy the lock states of this process's threads.
        multiprocessing.set_start_method("spawn", force=True)
        self._keeper.start()
        try:
            while not self._keeper.stopping.is_set() and not self._server.serve():
                log.error("the web server ended; starting it anew")
                self._keeper.stopping.wait(backoff.FIRST_SECS)
        finally:
            self._keeper.stop(STOP_SECS)
        return self._keeper.status
