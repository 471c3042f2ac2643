"""The node's side of a commit: tells the master of an upload, and brings back what the client shall be answered."""

from __future__ import annotations

import http.client
import json
import time
from typing import NamedTuple

from broker import http as web
from broker import logs, signing
from broker.errors import PulzarError
from broker.http import Header

log = logs.get(__name__)

PATH = "/skynet/commit/"
_MARGIN_SECS = 5.0  # the master answers within its own time; this is for the way
_MOST_BYTES = 1 << 20  # of an answer
_PAUSE_SECS = 0.2  # between two attempts to reach the master
_RELAYED = ("Content-Type", "ETag", "Retry-After")


class Unreachable(PulzarError):
    """Raised when the master did not get the commit; nothing was stored."""


class AnswerLost(PulzarError):
    """Raised when the master got the commit and its answer did not come; the value may be stored."""


class Committed(NamedTuple):
    """The master's answer, which is the client's."""

    status: int
    headers: list[Header]
    body: bytes


class Upload(NamedTuple):
    """What the master is told of an upload."""

    node: str
    staged: str
    size: int
    digest: str
    content_type: str  # and Content-Encoding, see `broker.media`
    if_match: str | None
    if_none_match: str | None
    if_unmodified_since: str | None


class Committer:
    """Thread-safe. `timeout` is the master's own, in seconds."""

    def __init__(self, secret: bytes, timeout: float) -> None:
        self._secret = secret
        self._timeout = timeout

    def commit(self, address: str, key: str, query: str, upload: Upload) -> Committed:
        """Have the master at `address` store the upload under its key; raises `Unreachable` or `AnswerLost`.

        `query` is the signed one that the master sent the client here with: it says what was allowed.
        """
        body = json.dumps(upload._asdict()).encode()
        headers = {"Content-Type": "application/json", "X-Pulzar-Signature": signing.sign_body(self._secret, body)}
        target = f"{PATH}{web.quote_key(key)}?{query}"
        connection = self._connected(address)
        try:
            try:
                connection.request("POST", target, body, headers)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise Unreachable(f"the master at {address} could not be told: {error}") from error
            try:
                response = connection.getresponse()
                answer = response.read(_MOST_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise AnswerLost(f"the master at {address} did not answer: {error or type(error).__name__}") from error
            kept = [(name, value) for name in _RELAYED if (value := response.getheader(name)) is not None]
            return Committed(response.status, kept, answer)
        finally:
            connection.close()

    def _connected(self, address: str) -> http.client.HTTPConnection:
        """A connection to the master, which may just be starting again: a large upload is worth some waiting."""
        deadline = time.monotonic() + self._timeout
        while True:
            connection = http.client.HTTPConnection(address, timeout=self._timeout + _MARGIN_SECS)
            try:
                connection.connect()
                return connection
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if time.monotonic() + _PAUSE_SECS > deadline:
                    raise Unreachable(f"the master at {address} can't be reached: {error}") from error
                log.debug("master not reached", address=address, reason=error)
                time.sleep(_PAUSE_SECS)
