"""`GET /events?prefix=&types=`: what happens, as server-sent events, resumable with `Last-Event-ID`.

A client that takes too little is cut off, and resumes. Each has a bounded amount of memory: what waits for it here, and
what the web server has taken and the client's side has not acknowledged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from granian.rsgi import HTTPProtocol  # type: ignore[attr-defined]

from broker import logs
from broker.clock import now_ms
from broker.http.environ import Environ
from broker.http.responses import NO_FRAMES, Header
from broker.refusals import BadRequest, Refused, Unavailable
from broker.server.client_socket import ClientSocket
from broker.server.request import Request
from broker.server.streaming_response import note_gone
from master.events import cloud_events
from master.events.audience import Audience, asked
from master.events.cloud_events import CloudEvents
from master.events.hub import STOPPING, Hub, Listener
from master.index.events import Position
from master.metrics import figures
from master.security.gate import Gate
from master.web.keys import parameters

log = logs.get(__name__)

LOOK_SECS = 5.0  # between two looks at the rights of a listener
KEEP_ALIVE_SECS = 15.0  # without an event
WINDOW_BYTES = 1 << 20  # sent, and not yet acknowledged by the client's side
RETRY_MS = 1_000  # after which a client connects again
BUSY_SECS = 10  # after which to ask again
_QUIET_BYTES = 1 << 18  # of a stream that are sent before its client is watched
_POLL_SECS = 0.05
_UNKNOWN = "the event with the id that was received is not known here any more: others may have been missed"


class Events:
    """The handler of streams of events in a web worker."""

    def __init__(self, hub: Hub, gate: Gate, shape: CloudEvents, *, most: int, secs: float) -> None:
        """`most` listen at once. A client may take nothing for `secs` seconds."""
        self._hub = hub
        self._gate = gate
        self._shape = shape
        self._most = most
        self._secs = secs
        self._streams = 0

    async def __call__(self, request: Request) -> EventStream:
        """Respond to one request; raises `Refused`."""
        environ = request.environ
        given = parameters.parameters(environ["QUERY_STRING"])
        audience = self._audience(environ, given)
        after = _resumed(environ, given)
        if self._hub.stopping:
            raise Unavailable(STOPPING)
        if self._streams >= self._most:
            raise Unavailable(
                f"{self._streams} clients listen to events here, and {self._most} is the limit"
                " ([server] listeners); try again in a while",
                BUSY_SECS,
            )
        return EventStream(self, request, audience, after)

    def _audience(self, environ: Environ, given: Mapping[str, str]) -> Audience:
        token = self._gate.caller(environ)
        audience = asked(given)
        return audience if token is None else audience._replace(token=token.name, rights=token.rights)

    def may_go_on(self, environ: dict[str, str], audience: Audience) -> bool:
        """Whether a listener's token is as good as it was."""
        try:
            self._gate.admit(environ)
            token = self._gate.caller(environ)
        except Refused:  # the listener is told, and so is the log
            return False
        return token is None or token.rights.all == (audience.rights.all if audience.rights else ())

    async def run(self, stream: EventStream, protocol: HTTPProtocol) -> None:
        """Send a stream until it ends."""
        self._streams += 1
        figures.LISTENERS.set(self._streams)
        try:
            with _Client(protocol, stream, self._secs) as client:
                await client.send(f"retry: {RETRY_MS}\n\n".encode())
                await self._past(stream, client)
                await self._run(stream, client)
        finally:
            self._hub.remove(stream.listener)
            self._streams -= 1
            figures.LISTENERS.set(self._streams)

    async def _past(self, stream: EventStream, client: _Client) -> None:
        """Send what came behind the event that the client got last, and begin to listen."""
        hub, listener, after = self._hub, stream.listener, stream.after
        if after is None:
            hub.add(listener)
            await client.send(_id(hub.position))
            return
        while not listener.ended and (page := hub.page(after, listener.audience)) is not None:
            after = page.until
            if not page.is_last:
                await client.send(page.text)
                continue
            # From here on without a pause: what the hub hands out from now on comes behind these pages.
            hub.add(listener)
            text = page.text
            while after.number < hub.position.number and (page := hub.page(after, listener.audience)) is not None:
                text, after = text + page.text, page.until
            listener.after = after.number
            await client.send(text + _id(after))
            return
        hub.add(listener)
        await client.send(self._shape.lines(hub.position, cloud_events.reset(now_ms(), _UNKNOWN)))

    async def _run(self, stream: EventStream, client: _Client) -> None:
        listener = stream.listener
        loop = asyncio.get_running_loop()
        sent = loop.time()
        beat: asyncio.TimerHandle

        def look() -> None:
            nonlocal beat, sent
            if not self.may_go_on(stream.environ, listener.audience):
                listener.end("its token has other rights than before")
            elif loop.time() - sent >= KEEP_ALIVE_SECS:
                sent = loop.time()
                listener.add(b": keep-alive\n" + _id(self._hub.position))
            beat = loop.call_later(LOOK_SECS, look)

        beat = loop.call_later(LOOK_SECS, look)
        try:
            while piece := await listener.take():
                await client.send(piece)
                sent = loop.time()
        finally:
            beat.cancel()


class EventStream:
    """A stream of events to one client."""

    status = 200

    def __init__(self, events: Events, request: Request, audience: Audience, after: Position | None) -> None:
        self.headers: list[Header] = [
            ("Content-Type", "text/event-stream; charset=utf-8"),
            ("Cache-Control", "no-store"),
            ("X-Accel-Buffering", "no"),  # nginx would keep events back
            NO_FRAMES,
        ]
        self.listener = Listener(audience)
        self.environ = request.environ
        self.after = after
        self.request = request
        self._events = events

    async def send(self, protocol: HTTPProtocol) -> None:
        """Send events until the client goes, is cut off, or this process is to end."""
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gone.add_done_callback(lambda _: self.listener.end("its client is gone"))
        watch = asyncio.ensure_future(note_gone(self.request, gone))
        try:
            await self._events.run(self, protocol)
        finally:
            watch.cancel()
            log.debug("stream of events ended", client=self.request.client, reason=self.listener.ended)


class _Client:
    """Sends to a client no more than it takes."""

    def __init__(self, protocol: HTTPProtocol, stream: EventStream, secs: float) -> None:
        self._transport = protocol.response_stream(stream.status, stream.headers)
        self._listener = stream.listener
        self._address = stream.request.client
        self._secs = secs
        self._sent = 0  # bytes, in all
        self._watched = 0  # of them, since the connection is watched
        self._peer: ClientSocket | None = None

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        if self._peer is not None:
            with self._peer as peer:
                if _is_slow(self._listener):
                    figures.CUT_OFF.add()
                    peer.cut()

    async def send(self, text: bytes) -> None:
        """Send text, and wait until most of what was sent before has arrived."""
        if not text or self._listener.ended:
            return
        await self._transport.send_bytes(text)
        self._sent += len(text)
        if self._peer is None:
            if self._sent < _QUIET_BYTES:
                return
            self._peer = ClientSocket(self._address)
        else:
            self._watched += len(text)
        await self._wait_for_room(self._peer)

    async def _wait_for_room(self, peer: ClientSocket) -> None:
        last, moved = peer.received(), time.monotonic()
        while (received := peer.received()) is not None and self._watched - received > WINDOW_BYTES:
            if received != last:
                last, moved = received, time.monotonic()
            if time.monotonic() - moved > self._secs:
                self._listener.end(f"{_SLOW}: it took nothing for {self._secs:g} s")
            if self._listener.ended:
                return
            await asyncio.sleep(_POLL_SECS)


_SLOW = "it is slow"


def _is_slow(listener: Listener) -> bool:
    """Whether a client was cut off. What the web server keeps for it is dropped with its connection."""
    return listener.ended.startswith(_SLOW)


def _id(position: Position) -> bytes:
    """Tells a client where it is, without an event."""
    return f"id: {position}\n\n".encode()


def _resumed(environ: Environ, given: Mapping[str, str]) -> Position | None:
    """The last event that the client got, as it says; None for a client that begins. Raises `BadRequest`."""
    text = environ.get("HTTP_LAST_EVENT_ID") or given.get("after", "")
    if not text:
        return None
    position = Position.parse(text.strip())
    if position is None:
        raise BadRequest(
            f"Last-Event-ID {text[:60]!r} is no id of an event; send the last id that came, like 1795538292411-57"
        )
    return position
