"""Requests to the master. Each thread keeps a connection."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import threading
import time
from typing import Any

from broker import tls
from broker.settings import TOKEN_VARIABLE
from ops.manager.errors import Answered, Conflicting, ManageError

_SECS = 90.0  # longest time without an answer
_BUSY_SECS = 60.0  # how long a master that is not ready is asked again
_PAUSE_SECS = 0.5


class Master:
    """The master of a cluster."""

    def __init__(self, url: str, trusted: ssl.SSLContext) -> None:
        """`url` has no path; `trusted` are the certificates of the master."""
        self.url = url
        self._trusted = trusted
        self._local = threading.local()

    def ask(self, method: str, path: str, body: Any = None, *, secs: float = _SECS) -> Any:
        """The `data` of the response to a request.

        Raises `ManageError` when the master does not answer in `secs` seconds, and `Answered` for an error status.
        """
        status, answer = self._answer(method, path, None if body is None else json.dumps(body), secs)
        if status == http.HTTPStatus.CONFLICT:
            raise Conflicting(status, str(answer.get("msg")))
        if answer.get("status") != "ok":
            raise Answered(status, str(answer.get("msg")))
        return answer["data"]

    def ask_patiently(self, method: str, path: str, *, secs: float = _SECS) -> Any:
        """As `ask`; while the master is busy or not there (503, or no answer), it is asked again for a minute."""
        deadline = time.monotonic() + _BUSY_SECS
        while True:
            try:
                return self.ask(method, path, secs=secs)
            except ManageError as error:
                if getattr(error, "status", 503) != 503 or time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE_SECS)

    def etag(self, path: str) -> str | None:
        """The ETag of a value; None when there is none. Raises `ManageError`."""
        response = self._exchange("HEAD", path, None, _SECS)[0]
        return response.headers["ETag"] if response.status == 200 else None

    def _answer(self, method: str, path: str, body: str | None, secs: float) -> tuple[int, dict[str, Any]]:
        response, content = self._exchange(method, path, body, secs)
        try:
            answer = json.loads(content)
            return response.status, answer | {"data": answer["data"]}
        except (ValueError, TypeError, KeyError) as error:
            raise ManageError(
                f"what answers at {self.url} is no master of Pulzar: {response.status} {content[:80]!r}"
            ) from error

    def _exchange(
        self, method: str, path: str, body: str | None, secs: float
    ) -> tuple[http.client.HTTPResponse, bytes]:
        kept: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        for connection in (kept, None):
            try:
                return self._once(connection, method, path, body, secs)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._local.connection = None
                if connection is None:
                    raise ManageError(f"the master at {self.url} does not answer: {error}") from error
                connection.close()  # it was kept for too long, perhaps; once more with a new one
        raise AssertionError("the second connection returns or raises")

    def _once(
        self, connection: http.client.HTTPConnection | None, method: str, path: str, body: str | None, secs: float
    ) -> tuple[http.client.HTTPResponse, bytes]:
        if connection is None:
            connection = tls.connection(self.url, secs, self._trusted)
        if connection.sock is not None:
            connection.sock.settimeout(secs)
        headers = {} if body is None else {"Content-Type": "application/json"}
        if token := os.environ.get(TOKEN_VARIABLE):
            headers["Authorization"] = f"Bearer {token}"
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read()
        self._local.connection = connection
        return response, content
