"""The application of a web worker: the hot routes of the keys, and Flask behind them.

The hot routes run on the worker's event loop (RSGI), so that a PUT that waits for its node holds no thread:
handing each request to a thread and back cost half of what a PUT took. All others are Flask's, on threads.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from broker import connections, http, linger, logs, received, service, settings, topology
from broker.http import Answer
from broker.incoming import Incoming, RsgiBody
from broker.link import Link
from broker.patience import Patience
from broker.refusals import answer_to
from master.answers import AnswerClient
from master.app import UNEXPECTED, Parts, create_app
from master.bridge import Bridge
from master.dispatch import Dispatcher
from master.extensions import bodies
from master.extensions.bodies import Bodies
from master.extensions.frames import Hello
from master.extensions.pool import Pool
from master.extensions.route import Extensions
from master.extensions.streamed import Streamed
from master.index import Index
from master.jobs_view import SHOWN_BYTES
from master.kept import Kept
from master.launches import Launches
from master.ledger import Ledger
from master.locks import KeyLocks
from master.network import Network
from master.reads import Reads
from master.redirects import Redirects
from master.store import Writer
from master.versions import Versions
from master.writes import COMMIT, Writes

log = logs.get(__name__)

LINK_SECS = 2.0  # a worker that can't store yet had better not take requests yet

Handler = Callable[[Incoming], Answer | Awaitable[Answer | Streamed]]


class Application:
    """Sends each request to its handler and turns errors into answers."""

    def __init__(
        self,
        routes: dict[tuple[str, str], Handler],
        fallback: Handler,
        dispatcher: Dispatcher,
        patience: Patience,
        cors: str,
    ) -> None:
        self._routes = routes
        self._methods = {segment: sorted(m for s, m in routes if s == segment) for segment, _ in routes}
        self._fallback = fallback
        self._dispatcher = dispatcher
        self._patience = patience
        self._cors = cors

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """The worker's event loop is there."""
        self._dispatcher.run_on(loop)

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Answer one request."""
        shown = scope.headers  # made anew each time it is asked for
        headers = shown.items()
        incoming = Incoming(
            scope.http_version, scope.method, scope.path, scope.query_string, headers, scope.client, scope.server,
            RsgiBody(protocol), self._patience,
        )  # fmt: skip
        # Another number than there are names: some may have been left out.
        if len(headers) != len(shown) and (hidden := received.hidden(shown.keys(), headers)):
            incoming.environ[received.HIDDEN] = hidden
        answer = await self._answer(incoming)
        if isinstance(answer, Streamed):
            await answer.send(protocol)
        else:
            if "HTTP_EXPECT" in incoming.environ and incoming.deaf:
                answer = answer.bare()
            said = answer.headers
            if incoming.unread or incoming.spoiled:
                said = [*said, *await linger.headers(incoming, self._patience)]
            protocol.response_bytes(answer.status, said, answer.body)
        if incoming.unread:
            await linger.linger(incoming, self._patience)

    async def _answer(self, incoming: Incoming) -> Answer | Streamed:
        path: str = incoming.environ["PATH_INFO"]
        method: str = incoming.environ["REQUEST_METHOD"]
        segment = path[1 : path.find("/", 1)]
        if segment == "skynet" and path.startswith(COMMIT):
            segment = COMMIT
        try:
            received.check(incoming.environ)
            handler = self._routes.get((segment, method)) or self._other(segment, method)
            answer = handler(incoming)
            return answer if isinstance(answer, Answer) else await answer
        except Exception as error:
            known = answer_to(error)
            if known is None:
                log.exception("request failed", method=method, path=path)
                return self._refuse(incoming, 500, UNEXPECTED)
            return self._refuse(incoming, known.status, str(known), *known.headers)

    def _other(self, segment: str, method: str) -> Handler:
        """What answers a request that no hot route is for."""
        methods = self._methods.get(segment)
        if method == "OPTIONS":
            return lambda _incoming: http.options(methods or http.ALL_METHODS, self._cors)
        if methods is None:
            return self._fallback
        allowed = ("Allow", ", ".join(methods))
        message = f"{method} is not possible on /{segment}/…; {allowed[1]} is"
        return lambda incoming: self._refuse(incoming, 405, message, allowed)

    def _refuse(self, incoming: Incoming, status: int, message: str, *headers: http.Header) -> Answer:
        answer = http.answer(status, None, message, headers, self._cors)
        return answer._replace(body=b"") if incoming.environ["REQUEST_METHOD"] == "HEAD" else answer


def create() -> Application:
    """A web worker's application; called once in each worker process."""
    service.die_with_parent(signal.SIGKILL)
    config = settings.load()
    logs.setup(config["general", "log_level"], "web")
    directory = Path(config["server", "dir"])
    timeout = config["server", "put_timeout"]
    index = Index(directory / "index", config["server", "index_map"])
    versions = Versions(directory)
    origin = f"{versions.number}.{secrets.token_hex(4)}"
    network = Network(index, config["general", "heartbeat"])
    link = Link(config["broker", "url"], f"pulzar master web {versions.number}", topology.master)
    dispatcher = Dispatcher(link, origin, int(timeout * 1000), network.choose)
    redirects = Redirects(network, config.secret(), config.address("server"))
    cors = config["server", "cors"]
    controller = AnswerClient(directory / "controller.sock", origin, dispatcher.answered)
    writer = Writer(index, network, dispatcher, KeyLocks(directory, service.workers(config) == 1), versions, timeout)
    reads = Reads(index, network, redirects, http.cors_headers(cors))
    inline, relayed = config["volume", "inline"], config["server", "relay"]
    writes = Writes(writer, network, redirects, config.secret(), inline, relayed, timeout, cors)
    kept = Kept(index, redirects, SHOWN_BYTES)
    ledger = Ledger(directory / "ledger", map_size=config["jobs", "ledger_map"])
    launches = Launches(controller, ledger, cors)
    flask = create_app(Parts(config, index, network, link, controller, time.time(), ledger, kept))
    extensions = _extensions(config, index, directory / bodies.FOLDER / str(versions.number))
    link.on_up = network.connected
    link.start()
    link.wait(LINK_SECS)
    log.info("web worker started", origin=origin)
    service.raise_open_files()
    connections.guard(config["server", "port"], config["server", "client_timeout"])
    behind = Bridge(flask.wsgi_app, config["server", "threads"])
    patience = Patience(config["server", "client_timeout"], config["server", "client_rate"])
    return Application(routes(reads, writes, launches, extensions), behind, dispatcher, patience, cors)


def _extensions(config: settings.Settings, index: Index, directory: Path) -> Extensions:
    """What runs extensions; `directory` is for the temporary files of this worker."""
    folder = Path(config["extensions", "dir"]).resolve()
    hello = Hello(
        str(folder), str(index.directory.resolve()), config["server", "index_map"], config.address("server"),
        settings.joined(config["server", "host"], config["server", "port"]), config["extensions", "fetch"],
    )  # fmt: skip
    size = config["extensions", "processes"] or os.cpu_count() or 1
    place = bodies.empty(directory.resolve())
    # A process that was killed while it read the index holds pages of it.
    pool = Pool(hello, size, place, index.forget_dead)
    received = Bodies(place, config["extensions", "max_body"])
    return Extensions(folder, pool, received, config["extensions", "timeout"], config["server", "cors"])


def routes(reads: Reads, writes: Writes, launches: Launches, extensions: Extensions) -> dict[tuple[str, str], Handler]:
    """The hot routes: first segment of the path and method, and what answers them."""
    return {
        ("get_key", "GET"): reads,
        ("get_key", "HEAD"): reads,
        ("add_key", "HEAD"): reads,  # some clients look first whether it is there
        ("add_key", "PUT"): writes.put,
        ("delete_key", "DELETE"): writes.delete,
        ("get_node", "GET"): writes.place,
        ("get_node", "PUT"): writes.place,
        (COMMIT, "POST"): writes.commit,
        ("launch_job", "POST"): launches.launch,
        ("cancel_job", "POST"): launches.cancel,
        ("extension", "GET"): extensions,
        ("extension", "PUT"): extensions,
    }
