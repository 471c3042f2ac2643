"""The WSGI application of a node's data server: reads, uploads, and who this is."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from broker import VERSION, addresses, http, keys, logs, received, service
from broker import settings as configuration
from broker.connections import Connections
from broker.refusals import answer_to
from broker.settings import Settings
from node import identity
from node.commit import Committer
from node.downloads import Downloads
from node.errors import Corrupt, StorageError
from node.errors import Unavailable as StorageUnavailable
from node.reader import Reader
from node.staging import Staging
from node.uploads import Uploads

log = logs.get(__name__)

_PROBE = keys.encode("health")  # any key will do
_RETRY_AFTER = ("Retry-After", "1")

Environ = dict[str, Any]
Handler = Callable[[Environ, Any], Iterable[bytes]]


class Application:
    """Sends each request to its handler and turns errors into answers."""

    def __init__(
        self, settings: Settings, reader: Reader, staging: Staging, announce: Callable[[], None] | None = None
    ) -> None:
        """`announce` makes the node tell the master of itself at once."""
        self._node = identity.load(settings)
        self._url = f"http://{settings.address('volume')}"
        self._cors = settings["server", "cors"]
        self._reader = reader
        self._announce = announce
        self._secret = secret = settings.secret()
        committer = Committer(secret, settings["server", "put_timeout"])
        threads = settings["volume", "threads"]
        self._uploads = Uploads(self._node, staging, Connections(), committer, secret, threads)
        downloads = Downloads(reader, secret, settings["volume", "open_reads"], self._cors)
        self._routes: dict[str, dict[str, Handler]] = {
            "/get_key/": {"GET": downloads, "HEAD": downloads},
            "/add_key/": {"PUT": self._put},
            "/autodiscovery": {"GET": self._autodiscovery},
            "/health": {"GET": self._health, "HEAD": self._health},
        }

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        method: str = environ["REQUEST_METHOD"]
        path: str = environ["PATH_INFO"]
        try:
            received.check(environ)
            handlers = self._routes.get(path) or self._routes.get(path[: path.find("/", 1) + 1])
            if method == "OPTIONS":
                return http.give(start_response, http.options(handlers or http.ALL_METHODS, self._origin(environ)))
            if handlers is None:
                return self._refuse(environ, start_response, 404, f"a node has no path {path}")
            handler = handlers.get(method)
            if handler is None:
                allowed = ", ".join(sorted({*handlers, "OPTIONS"}))
                message = f"{method} is not possible on {path}; {allowed} is"
                return self._refuse(environ, start_response, 405, message, ("Allow", allowed))
            return handler(environ, start_response)
        except StorageUnavailable as error:
            return self._refuse(environ, start_response, 503, f"{error}; try again", _RETRY_AFTER)
        except StorageError as error:
            what = "value damaged" if isinstance(error, Corrupt) else "storage failed"
            log.error(what, method=method, path=path, reason=error)
            return self._refuse(environ, start_response, 500, f"{what}; the node's log says more")
        except Exception as error:
            known = answer_to(error)
            if known is None:
                log.exception("request failed", method=method, path=path)
                return self._refuse(environ, start_response, 500, "something went wrong in the node; its log says what")
            return self._refuse(environ, start_response, known.status, str(known), *known.headers)

    def _refuse(
        self, environ: Environ, start_response: Any, status: int, message: str, *headers: http.Header
    ) -> Iterable[bytes]:
        """Answer that it was not done; what is left of the request's body is not wanted."""
        return self._respond(environ, start_response, status, None, message, [*headers, *http.unread(environ)])

    def _respond(
        self,
        environ: Environ,
        start_response: Any,
        status: int,
        data: Any,
        message: str,
        headers: Iterable[http.Header] = (),
    ) -> Iterable[bytes]:
        body = http.give(start_response, http.answer(status, data, message, headers, self._origin(environ)))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else body

    def _origin(self, environ: Environ) -> str:
        return addresses.allowed_origin(self._secret, environ, self._cors)

    def _put(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        committed = self._uploads.put(environ)
        headers = [
            *committed.headers,
            ("Content-Length", str(len(committed.body))),
            *http.cors_headers(self._origin(environ)),
        ]
        start_response(http.STATUS_LINES[committed.status], headers)
        return [committed.body]

    def _autodiscovery(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        if self._announce is not None:
            self._announce()
        data = {"node": self._node, "url": self._url, "version": VERSION}
        return self._respond(environ, start_response, 200, data, "ok")

    def _health(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        """Whether values can be read here; raises `StorageError` when not."""
        found = self._reader.get(_PROBE)
        if found is not None:
            found.close()
        return self._respond(environ, start_response, 200, {"node": self._node, "version": VERSION}, "ok")


def create() -> Application:
    """The data server's application; called once in its process."""
    service.die_with_parent(signal.SIGKILL)
    settings = configuration.load()
    logs.setup(settings["general", "log_level"], "data")
    directory = Path(settings["volume", "dir"])
    made = Application(settings, Reader(directory), Staging(directory, settings["volume", "reserve"]))
    log.info("data server started", directory=directory)
    return made
