"""Requests to a cluster: redirects are followed, and what may be sent again is sent again.

| repeat  | after a lost connection or 503                                 | which requests                            |
| ------- | -------------------------------------------------------------- | ----------------------------------------- |
| `SAFE`  | it is sent again                                               | reads; writes that do no harm twice       |
| `ASK`   | `UnknownOutcome` is raised; the caller looks what became of it | a PUT that must not replace another value |
| `NEVER` | `UnknownOutcome` is raised                                     | a DELETE without a condition, a copy      |

A request that has not reached the server is sent again in each case.
"""

from __future__ import annotations

import enum
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urljoin

from pulzar import errors
from pulzar.errors import PulzarError, ServerError, Unavailable, UnknownOutcome
from pulzar.wire import addresses
from pulzar.wire.addresses import Location, Origin
from pulzar.wire.connection import Body, Broken, Pool, Response
from pulzar.wire.trust import Trust

USER_AGENT = "pulzar"
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_MESSAGE_BYTES = 1 << 16
_PAUSES_SECS = (0.0, 0.1, 0.3, 1.0, 2.0)  # between two tries; the last one again and again
_SLOWEST = 8 << 20  # bytes a second that a server needs at most to have a value on its disks


class Repeat(enum.Enum):
    """Whether a request may be sent again when it is not known what became of it."""

    SAFE = enum.auto()
    ASK = enum.auto()
    NEVER = enum.auto()


class Ask(NamedTuple):
    """A request. `body` makes the body anew for each try."""

    method: str
    target: str  # path and query, at the master; or a whole URL, which is signed
    headers: Mapping[str, str] = {}
    body: Callable[[], Body] | None = None
    repeat: Repeat = Repeat.SAFE
    accepted: tuple[int, ...] = ()  # statuses above 299 that the caller reads


class Exchange:
    """Sends requests to one cluster. Any thread may use it."""

    def __init__(self, home: Origin, token: str, trust: Trust, timeout: float, patience: float) -> None:
        """`token` goes to `home` alone. `timeout`: seconds without a byte.

        `patience`: seconds for which a server that is away, or answers 503, is asked again.
        """
        self.home = home
        self.patience = patience
        self._headers = {"User-Agent": USER_AGENT, "Accept": "*/*"}
        self._own_headers = self._headers | ({"Authorization": f"Bearer {token}"} if token else {})
        self._pool = Pool(timeout, trust)

    def close(self) -> None:
        """Close the connections that are kept."""
        self._pool.close()

    def abort(self) -> None:
        """Close all connections. Requests of other threads fail at once, with `Unavailable`."""
        self._pool.abort()

    def data(self, ask: Ask) -> Any:
        """`data` of the envelope that a request is answered with; raises `PulzarError`."""
        with self.open(ask) as response:
            return _envelope(self._body(ask, response), response.status)["data"]

    def told(self, ask: Ask) -> tuple[int, dict[str, str], Any]:
        """Status, headers and `data` of a response."""
        with self.open(ask) as response:
            content = self._body(ask, response)
            return response.status, response.headers, _envelope(content, response.status)["data"] if content else None

    def _body(self, ask: Ask, response: Response) -> bytes:
        try:
            return response.read()
        except Broken as error:
            # The status said what became of the request; only its text was lost.
            raise Unavailable(f"{ask.method} {_shown(ask.target)}: {error}", response.status) from error

    def open(self, ask: Ask) -> Response:
        """The response to a request, after redirects and further tries. Raises `PulzarError` for statuses above 299."""
        until = time.monotonic() + self.patience
        for pause in tries():
            try:
                response = self._follow(ask, fresh=ask.repeat is Repeat.NEVER)
            except Broken as error:
                said = f"{ask.method} {_shown(ask.target)}: {error}"
                if error.sent and ask.repeat is not Repeat.SAFE:
                    raise UnknownOutcome(f"{said}; it may have taken effect") from error
                failed: PulzarError = Unavailable(said)
            else:
                if response.status < 300 or response.status in ask.accepted:
                    return response
                failed = _refusal(ask, response)
                if response.status != 503:
                    raise failed
                if ask.repeat is not Repeat.SAFE:
                    raise UnknownOutcome(f"{failed}; it may have taken effect", 503)
                pause = max(pause, _retry_after(response.headers, until))
            if self._pool.closed or time.monotonic() + pause > until:
                raise failed
            time.sleep(pause)
        raise AssertionError("the pauses never end")

    def _follow(self, ask: Ask, fresh: bool) -> Response:
        """The response at the end of all redirects; raises `Broken`."""
        location = addresses.parse(ask.target) if "://" in ask.target else Location(self.home, ask.target)
        headers = dict(ask.headers)
        spare = ""
        for _ in range(_MOST_REDIRECTS + 1):
            try:
                response = self._once(ask, location, headers, fresh)
            except Broken as error:
                # Another node has the same value.
                if not spare or (error.sent and ask.repeat is not Repeat.SAFE):
                    raise
                location, spare = addresses.parse(spare), ""
                continue
            target = response.headers.get("location")
            if response.status not in _REDIRECTS or not target or response.status in ask.accepted:
                return response
            _drop(response)
            headers.pop("Expect", None)  # the master has said where to send it
            location = addresses.parse(urljoin(f"{location.origin}{location.target}", target))
            spare = location.following if ask.method in ("GET", "HEAD") else ""
        raise ServerError(f"{ask.method} {_shown(ask.target)}: too many redirects")

    def _once(self, ask: Ask, location: Location, headers: Mapping[str, str], fresh: bool) -> Response:
        """One request to one server. The token goes to the master alone, never to another server."""
        common = self._own_headers if location.origin == self.home else self._headers
        body = ask.body() if ask.body else None
        patience = (body.size or 0) / _SLOWEST if body else 0.0
        connection = self._pool.take(location.origin, fresh)
        return connection.ask(ask.method, location.target, {**common, **headers}, body, patience)


def pieces_of(value: bytes) -> Callable[[], Body]:
    """The body that is these bytes."""
    return lambda: Body((value,), len(value))


def _drop(response: Response) -> None:
    """Read what is left of a short body, so that the connection can be used again."""
    try:
        while response.reusable and response.read(_MESSAGE_BYTES):
            continue
    except Broken:  # what it said is known already
        return
    finally:
        response.close()


def _refusal(ask: Ask, response: Response) -> PulzarError:
    text = b""
    try:
        while len(text) < _MESSAGE_BYTES and (piece := response.read(_MESSAGE_BYTES)):
            text += piece
    except Broken:  # the status says enough
        text = b""
    response.close()
    try:
        message = str(json.loads(text)["msg"])
    except (ValueError, KeyError, TypeError):
        message = text[:200].decode("utf-8", "replace").strip() or "no reason was given"
    error = errors.of_status(response.status, f"{message} ({ask.method} {_shown(ask.target)}: {response.status})")
    if ask.method == "GET" and response.status == 500 and "/get_key/" in ask.target:
        return errors.Damaged(str(error), 500)
    return error


def _envelope(content: bytes, status: int) -> dict[str, Any]:
    try:
        found = json.loads(content)
        return dict(found) | {"data": found["data"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError(f"what responds there is no Pulzar: {content[:80]!r}", status) from error


def _retry_after(headers: Mapping[str, str], until: float) -> float:
    """Seconds to wait, by what the server says; never longer than the patience lasts."""
    text = headers.get("retry-after", "")
    return min(float(text), max(0.0, until - time.monotonic() - 0.01)) if text.isdecimal() else 0.0


def _shown(target: str) -> str:
    """A target without its query, which may hold a signature."""
    return target.partition("?")[0]


def tries() -> Iterator[float]:
    """Seconds to wait before each further try."""
    return itertools.chain(_PAUSES_SECS, itertools.repeat(_PAUSES_SECS[-1]))
