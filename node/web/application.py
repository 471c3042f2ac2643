"""The application of a node's data server (ASGI): reads, uploads, and who this is.

ASGI rather than the RSGI of the master: it waits until a client has taken what is sent, and tells a body that was cut off
from one with trailers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from broker import VERSION, keys, logs, process
from broker import settings as configuration
from broker.http import responses, signed_addresses
from broker.http.responses import Response
from broker.refusals import response_to
from broker.server import connections, lingering_close, request_headers
from broker.server.client_timeouts import ClientTimeouts
from broker.server.granian_requests import AsgiReceive, AsgiScope, AsgiSend, from_asgi
from broker.server.request import Request
from broker.settings import Settings
from node import identity
from node.errors import Corrupt, StorageError
from node.errors import StorageUnavailable as StorageUnavailable
from node.storage.reader import Reader
from node.storage.staging import Staging
from node.web.commit_request import Committer
from node.web.downloads import Download, Downloads
from node.web.uploads import Uploads

log = logs.get(__name__)

_PROBE = keys.encode("health")  # any key will do
_RETRY_AFTER = ("Retry-After", "1")

Handler = Callable[[Request], Awaitable[Response | Download]]


class Application:
    """Sends each request to its handler and turns errors into answers."""

    def __init__(
        self, settings: Settings, reader: Reader, staging: Staging, announce: Callable[[], None] | None = None
    ) -> None:
        """`announce` makes the node tell the master of itself at once."""
        self._node = identity.load(settings)
        self._url = f"http://{settings.address(settings.volume)}"
        self._cors = settings.server.cors
        self._reader = reader
        self._announce = announce
        self._patience = ClientTimeouts(settings.server.client_timeout, settings.server.client_rate)
        self._secret = secret = settings.secret()
        committer = Committer(secret, settings.server.put_timeout)
        threads = settings.volume.threads
        uploads = Uploads(self._node, staging, committer, secret, threads)
        downloads = Downloads(reader, secret, settings.volume.open_reads, self._patience, threads)
        self._looks = ThreadPoolExecutor(1, "health")
        self._routes: dict[str, dict[str, Handler]] = {
            "/get_key/": {"GET": downloads, "HEAD": downloads},
            "/add_key/": {"PUT": uploads},
            "/autodiscovery": {"GET": self._autodiscovery},
            "/health": {"GET": self._health, "HEAD": self._health},
        }

    async def __call__(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        """Answer one request."""
        incoming = from_asgi(scope, receive, self._patience)
        answer = await self._answer(incoming)
        answer.headers.extend(await lingering_close.headers(incoming, self._patience))
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        if isinstance(answer, Download):
            await answer.send(send)
            return
        body = b"" if incoming.environ["REQUEST_METHOD"] == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body, "more_body": False})
        if incoming.unread:
            await lingering_close.linger(incoming, self._patience)

    async def _answer(self, incoming: Request) -> Response | Download:
        path: str = incoming.environ["PATH_INFO"]
        handlers = self._routes.get(path) or self._routes.get(path[: path.find("/", 1) + 1])
        origin = signed_addresses.allowed_origin(self._secret, incoming.environ, self._cors)
        if incoming.environ["REQUEST_METHOD"] == "OPTIONS":
            return responses.options(handlers or responses.ALL_METHODS, origin)
        answer = await self._handled(incoming, handlers)
        answer.headers.extend(responses.cors_headers(origin))
        return answer

    async def _handled(self, incoming: Request, handlers: dict[str, Handler] | None) -> Response | Download:
        method: str = incoming.environ["REQUEST_METHOD"]
        path: str = incoming.environ["PATH_INFO"]
        try:
            request_headers.check(incoming.environ)
            if handlers is None:
                return _refuse(404, f"a node has no path {path}")
            handler = handlers.get(method)
            if handler is None:
                allowed = ", ".join(sorted({*handlers, "OPTIONS"}))
                return _refuse(405, f"{method} is not possible on {path}; {allowed} is", ("Allow", allowed))
            return await handler(incoming)
        except StorageUnavailable as error:
            return _refuse(503, f"{error}; try again", _RETRY_AFTER)
        except StorageError as error:
            what = "value damaged" if isinstance(error, Corrupt) else "storage failed"
            log.error(what, method=method, path=path, reason=error)
            return _refuse(500, f"{what}; the node's log says more")
        except Exception as error:
            known = response_to(error)
            if known is None:
                log.exception("request failed", method=method, path=path)
                return _refuse(500, "something went wrong in the node; its log says what")
            return _refuse(known.status, str(known), *known.headers)

    async def _autodiscovery(self, _incoming: Request) -> Response:
        if self._announce is not None:
            self._announce()
        data = {"node": self._node, "url": self._url, "version": VERSION}
        return responses.make_plain(200, data, "ok", [])

    async def _health(self, _incoming: Request) -> Response:
        """Whether values can be read here; raises `StorageError` when not."""
        await asyncio.get_running_loop().run_in_executor(self._looks, self._look)
        return responses.make_plain(200, {"node": self._node, "version": VERSION}, "ok", [])

    def _look(self) -> None:
        found = self._reader.get(_PROBE)
        if found is not None:
            found.close()


def _refuse(status: int, message: str, *headers: responses.Header) -> Response:
    return responses.make_plain(status, None, message, headers)


def create() -> Application:
    """The data server's application; called once in its process."""
    process.die_with_parent()
    settings = configuration.load()
    logs.setup(settings.general.log_level, "data")
    process.raise_open_files()
    connections.guard(settings.volume.port, settings.server.client_timeout)
    directory = Path(settings.volume.dir)
    made = Application(settings, Reader(directory), Staging(directory, settings.volume.reserve))
    log.info("data server started", directory=directory)
    return made
