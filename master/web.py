"""The WSGI application of a web worker: the hot routes of the keys, and Flask behind them.

A route that answers tens of thousands of requests a second is plain WSGI here; all others are Flask's.
"""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from broker import http, logs, service, settings, topology
from broker.connections import Connections
from broker.errors import InvalidKey, LinkDown
from broker.link import Link
from broker.refusals import Refused
from master.answers import AnswerClient
from master.app import Parts, create_app
from master.dispatch import Dispatcher
from master.index import Index
from master.locks import KeyLocks
from master.network import Network
from master.reads import Reads
from master.redirects import Redirects
from master.store import Writer
from master.versions import Versions
from master.writes import COMMIT, Writes

log = logs.get(__name__)

LINK_SECS = 2.0  # a worker that can't store yet had better not take requests yet

Handler = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Application:
    """Sends each request to its handler and turns errors into answers."""

    def __init__(self, routes: dict[tuple[str, str], Handler], fallback: Handler, cors: str) -> None:
        self._routes = routes
        self._methods = {segment: sorted(m for s, m in routes if s == segment) for segment, _ in routes}
        self._fallback = fallback
        self._cors = cors

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        path: str = environ["PATH_INFO"]
        segment = path[1 : path.find("/", 1)]
        if segment == "skynet" and path.startswith(COMMIT):
            segment = COMMIT
        method: str = environ["REQUEST_METHOD"]
        try:
            handler = self._routes.get((segment, method))
            if handler is not None:
                return handler(environ, start_response)
            if method == "OPTIONS":
                return http.options(start_response, self._methods.get(segment, http.ALL_METHODS), self._cors)
            if segment in self._methods:
                allowed = ", ".join(self._methods[segment])
                message = f"{method} is not possible on /{segment}/…; {allowed} is"
                return self._refuse(environ, start_response, 405, message, ("Allow", allowed))
            return self._fallback(environ, start_response)
        except Refused as error:
            more = [] if error.retry_after is None else [("Retry-After", str(error.retry_after))]
            return self._refuse(environ, start_response, error.status, str(error), *more)
        except InvalidKey as error:
            return self._refuse(environ, start_response, 400, str(error))
        except LinkDown as error:
            return self._refuse(environ, start_response, 503, str(error), ("Retry-After", "1"))
        except Exception:
            log.exception("request failed", method=method, path=path)
            message = "something went wrong in the master; its log says what"
            return self._refuse(environ, start_response, 500, message)

    def respond(
        self, start_response: Any, status: int, data: Any, message: str, headers: list[tuple[str, str]]
    ) -> Iterable[bytes]:
        """Answer with the envelope."""
        return http.respond(start_response, status, data, message, headers, self._cors)

    def _refuse(
        self, environ: dict[str, Any], start_response: Any, status: int, message: str, *headers: http.Header
    ) -> Iterable[bytes]:
        """Answer that it was not done; what is left of the request's body is not wanted."""
        body = self.respond(start_response, status, None, message, [*headers, *http.unread(environ)])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else body


def create() -> Application:
    """A web worker's application; called once in each worker process."""
    service.die_with_parent(signal.SIGKILL)
    config = settings.load()
    logs.setup(config["general", "log_level"], "web")
    connections = Connections()
    directory = Path(config["server", "dir"])
    timeout = config["server", "put_timeout"]
    index = Index(directory / "index", config["server", "index_map"])
    versions = Versions(directory)
    origin = f"{versions.number}.{secrets.token_hex(4)}"
    network = Network(index, config["general", "heartbeat"])
    link = Link(config["broker", "url"], f"pulzar master web {versions.number}", topology.master)
    dispatcher = Dispatcher(link, origin, int(timeout * 1000), network.choose)
    redirects = Redirects(network, config.secret(), config.address("server"))
    controller = AnswerClient(directory / "controller.sock", origin, dispatcher.answered)
    writer = Writer(index, network, dispatcher, KeyLocks(directory, service.workers(config) == 1), versions, timeout)
    reads = Reads(index, network, redirects, http.cors_headers(config["server", "cors"]))
    writes = Writes(writer, network, redirects, connections, config.secret(), config["volume", "inline"])
    flask = create_app(Parts(config, index, network, link, controller, time.time()))
    link.start()
    link.wait(LINK_SECS)
    log.info("web worker started", origin=origin)
    return _application(reads, writes, flask, config["server", "cors"])


def _application(reads: Reads, writes: Writes, flask: Any, cors: str) -> Application:
    def answering(handle: Callable[..., Iterable[bytes]]) -> Handler:
        def handler(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            def respond(status: int, data: Any, message: str, headers: list[tuple[str, str]]) -> Iterable[bytes]:
                return application.respond(start_response, status, data, message, headers)

            return handle(environ, respond)

        return handler

    application = Application(
        {
            ("get_key", "GET"): reads,
            ("get_key", "HEAD"): reads,
            ("add_key", "PUT"): answering(writes.put),
            ("delete_key", "DELETE"): answering(writes.delete),
            ("get_node", "GET"): answering(writes.place),
            ("get_node", "PUT"): answering(writes.place),
            (COMMIT, "POST"): answering(writes.commit),
        },
        flask.wsgi_app,
        cors,
    )
    return application
