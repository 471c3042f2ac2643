"""The application of a node's data server: reads, uploads, and who this is.

It speaks ASGI; the master's speaks RSGI. ASGI waits until a client has taken what is sent. It also tells a body that
was cut off from one with trailers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from broker import VERSION, keys, logs, process, tls
from broker import settings as configuration
from broker.http import internal_addresses, responses, signed_addresses, signing
from broker.http.browsers import Browsers
from broker.http.responses import Response
from broker.http.router import Router
from broker.metrics.keeper import Keeper
from broker.refusals import NotFound, ServerError, Unavailable
from broker.server import connections, lingering_close, request_headers
from broker.server.client_timeouts import ClientTimeouts
from broker.server.granian_requests import AsgiReceive, AsgiScope, AsgiSend, from_asgi
from broker.server.networks import Networks
from broker.server.request import Request
from broker.settings import Settings
from node import identity
from node.errors import Corrupt, StorageError, StorageUnavailable
from node.metrics import figures
from node.storage.context import StorageLimits
from node.storage.disk.damages import DamageReports
from node.storage.reader import Reader
from node.storage.staging import Staging
from node.web.commit_request import Committer
from node.web.deleted import DeletedVersions
from node.web.downloads import Download, Downloads
from node.web.figures_page import FiguresPage
from node.web.staged_copies import StagedCopies
from node.web.upload_body import UploadBodies
from node.web.uploads import Uploads
from node.web.verification import Verification

log = logs.get(__name__)

_PROBE = keys.encode("health")  # any key will do

ROOM_SECS = 5.0  # for the agent, to end held values before an upload is refused

Handler = Callable[[Request], Awaitable[Response | Download]]


class Application:
    """Sends each request to its handler, and the response to the client."""

    def __init__(self, settings: Settings, reader: Reader, staging: Staging) -> None:
        damages = DamageReports(Path(settings.volume.dir))
        self._node = identity.load(settings)
        self._url = settings.url(settings.volume)
        self._browsers = Browsers(settings.server.cors, settings.names(settings.volume))
        self._reader = reader
        self._timeouts = ClientTimeouts(settings.server.client_timeout, settings.server.client_rate)
        self._secrets = settings.secrets()
        trusted = Networks(settings.security.trust) if settings.open_reads else None
        peers = tls.trust(settings.security.ca)
        committer = Committer(settings.secret(), settings.server.put_timeout, settings.scheme(settings.server), peers)
        threads = settings.volume.threads
        bodies = UploadBodies(threads)
        uploads = Uploads(self._node, staging, committer, self._secrets, bodies, trusted=peers)
        staged = StagedCopies(self._node, staging, self._secrets, bodies)
        downloads = Downloads(
            self._node,
            reader,
            self._secrets,
            trusted,
            timeouts=self._timeouts,
            threads=threads,
            damages=damages,
            scheme=settings.scheme(settings.server),
        )
        self._health_thread = ThreadPoolExecutor(1, "health")
        routes: dict[str, dict[str, Handler]] = {
            "/get_key/": {"GET": downloads, "HEAD": downloads},
            "/add_key/": {"PUT": uploads},
            internal_addresses.VERIFY: {"GET": Verification(reader, self._secrets, self._node, damages)},
            internal_addresses.STAGED: {"POST": staged.add, "DELETE": staged.remove},
            "/autodiscovery": {"GET": self._autodiscovery},
            "/health": {"GET": self._health, "HEAD": self._health},
            internal_addresses.METRICS: {"GET": FiguresPage(settings, self._node)},
            internal_addresses.DELETED: {"GET": DeletedVersions(reader, self._secrets, self._node)},
        }
        self._router = Router(routes)
        self._routes = {
            method: {path: figures.REQUESTS.row(method, route) for path, route in figures.ROUTES.items()}
            for method in ("GET", "HEAD", "PUT")
        }

    async def __call__(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        """Answer one request, and count it."""
        began = time.perf_counter()
        request = from_asgi(scope, receive, self._timeouts)
        response = await self._response(request)
        try:
            await self._send(request, response, send)
        finally:
            figures.REQUESTS.note(self._row(request), response.status, time.perf_counter() - began)
        if request.unread and not isinstance(response, Download):
            await lingering_close.linger(request, self._timeouts)

    def _row(self, request: Request) -> int:
        """The row of its route among the figures."""
        path, rows = request.environ["PATH_INFO"], self._routes.get(request.environ["REQUEST_METHOD"], {})
        row = rows.get(path[: path.find("/", 1) + 1])
        return rows.get(path, figures.REQUESTS.other) if row is None else row

    async def _send(self, request: Request, response: Response | Download, send: AsgiSend) -> None:
        response.headers.extend(await lingering_close.headers(request, self._timeouts))
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in response.headers]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if isinstance(response, Download):
            await response.send(send)
            return
        body = b"" if request.environ["REQUEST_METHOD"] == "HEAD" else response.body
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _response(self, request: Request) -> Response | Download:
        environ = request.environ
        path: str = environ["PATH_INFO"]
        # The master has looked at the origin of a page that it has sent here.
        permitted = signed_addresses.authentic(self._secrets, environ, self._node) if "HTTP_ORIGIN" in environ else None
        sent_here, of_page = permitted is not None, (permitted or {}).get(signing.PAGE, "")
        response: Response | Download
        try:
            request_headers.check(environ)
            self._browsers.check(environ, sent_here=sent_here)
            if environ["REQUEST_METHOD"] == "OPTIONS":
                page = self._browsers.allowed(environ, sent_here=sent_here, page=of_page) != ""
                response = self._router.options(path, page)
            else:
                response = await self._handler(path, environ["REQUEST_METHOD"])(request)
        except Exception as error:  # noqa: BLE001 - whatever fails, the client gets a response
            response = responses.from_error(_for_client(error, request), environ, "node")
        response.headers.extend(self._browsers.headers(environ, sent_here=sent_here, page=of_page))
        return response

    def _handler(self, path: str, method: str) -> Handler:
        handler = self._router.handler(path, method)
        if handler is None:
            raise NotFound(f"a node has no path {path}")
        return handler

    async def _autodiscovery(self, _request: Request) -> Response:
        data = {"node": self._node, "url": self._url, "version": VERSION}
        return responses.make_plain(200, data, "ok", [])

    async def _health(self, _request: Request) -> Response:
        """Whether values can be read here; raises `StorageError` when not."""
        await asyncio.get_running_loop().run_in_executor(self._health_thread, self._read_any)
        return responses.make_plain(200, {"node": self._node, "version": VERSION}, "ok", [])

    def _read_any(self) -> None:
        found = self._reader.get(_PROBE)
        if found is not None:
            found.close()


def _for_client(error: Exception, request: Request) -> Exception:
    """What a client is told of an error of the storage, which is logged; any other error as it is."""
    match error:
        case StorageUnavailable():
            return Unavailable(f"{error}; try again")
        case StorageError():
            event = "value damaged" if isinstance(error, Corrupt) else "storage failed"
            method, path = request.environ["REQUEST_METHOD"], request.environ["PATH_INFO"]
            log.error(event, method=method, path=path, reason=error)
            return ServerError(f"{event}; the node's log says more")
    return error


def create() -> Application:
    """The data server's application; called once in its process."""
    process.die_with_parent()
    process.hide()  # from jobs
    process.give_up_capabilities()  # the agent needs them
    settings = configuration.load()
    logs.setup(settings.general.log_level, "data")
    process.raise_open_files()
    connections.guard(settings.volume.port, settings.server.client_timeout, workers=1)
    directory = Path(settings.volume.dir)
    reader = Reader(directory, undelete_ms=StorageLimits.of(settings).undelete_ms)
    patience = ROOM_SECS if settings.volume.undelete_days else 0.0
    made = Application(settings, reader, Staging(directory, settings.volume.reserve, patience))
    Keeper(figures.LAYOUT, directory, "data", figures.PROCESS.of()).start()
    log.info("data server started", directory=directory)
    return made
