"""Events in one web worker: follows the ring while somebody listens, hands out events, and wakes who waits for a key.

Everything happens on the event loop. The worker asks the controller to be told of an event behind the last one that it
has read, and then reads what is new from the index: at most every `PACE_SECS`, however many events there are. Nobody
has a thread, and who waits for a key is looked up by that key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import NamedTuple

from broker import keys, logs
from broker.refusals import Refused, Unavailable
from master.channel import Listen
from master.events.audience import Audience
from master.events.cloud_events import CloudEvents
from master.index.events import RESET, Event, Position
from master.index.index import Index

log = logs.get(__name__)

PACE_SECS = 0.05  # between two looks at the ring
STRETCH = 1_000  # events read at once
LISTENER_BYTES = 1 << 20  # that may wait for one listener
TOGETHER = 8  # listeners that are written to at once: all of them would hold other requests up
_APART_SECS = 0.001
_AGAIN_SECS = 0.2  # after the controller or the index could not be asked
STOPPING = "the master is being stopped, or this process of it replaced; ask again"


class Listener:
    """What waits to be sent to one client."""

    __slots__ = ("_pieces", "_wake", "after", "audience", "ended", "size")

    def __init__(self, audience: Audience) -> None:
        self.audience = audience
        self.after = 0  # it has got the events up to the one with this number
        self.ended = ""  # why nothing more comes
        self.size = 0  # bytes that wait
        self._pieces: list[bytes] = []
        self._wake: asyncio.Future[None] | None = None

    def add(self, piece: bytes) -> None:
        """Have this sent, unless too much waits already: then nothing more is."""
        if self.ended:
            return
        if self.size + len(piece) > LISTENER_BYTES:
            self.end(f"it is slow: more than {LISTENER_BYTES} bytes wait for it")
            return
        self._pieces.append(piece)
        self.size += len(piece)
        self._notify()

    def end(self, reason: str) -> None:
        """Send nothing any more."""
        if not self.ended:
            self.ended = reason
            self._notify()

    async def take(self) -> bytes:
        """All that waits, as soon as there is something; b"" once it has ended."""
        while not self._pieces and not self.ended:
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        if self.ended:
            return b""
        taken = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self.size = 0
        return taken

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


class _Stretch:
    """Events that were read together. The text of each is made once, for all who get it."""

    def __init__(self, shape: CloudEvents, stream: int, rows: Sequence[tuple[int, Event]]) -> None:
        self._shape = shape
        self._stream = stream
        self._rows = [
            (number, event, keys.decode(event.subject) if isinstance(event.subject, bytes) else "")
            for number, event in rows
        ]
        self._lines: dict[int, bytes] = {}
        self.first = rows[0][0]

    def text(self, audience: Audience, after: int = 0) -> bytes:
        """The events of an audience, behind the one with a number."""
        return b"".join(
            self._line(number, event)
            for number, event, key in self._rows
            if number > after and audience.takes(event, key)
        )

    def _line(self, number: int, event: Event) -> bytes:
        line = self._lines.get(number)
        if line is None:
            line = self._lines[number] = self._shape.lines(Position(self._stream, number), event)
        return line


class Page(NamedTuple):
    """A stretch of events that are past."""

    text: bytes  # server-sent events
    until: Position
    is_last: bool  # there is no other


class Hub:
    """The events of one web worker."""

    def __init__(self, index: Index, ask: Callable[[Listen], Awaitable[object]], shape: CloudEvents) -> None:
        """`ask` sends a call to the controller, without a limit of time."""
        self._index = index
        self._ask = ask
        self._shape = shape
        self._position = Position(0, 0)  # the newest event that was handed out
        self._audiences: dict[Audience, set[Listener]] = {}
        self._waiters: dict[bytes, set[asyncio.Future[None]]] = {}
        self._task: asyncio.Task[None] | None = None
        self.stopping = False
        self.waiting = 0  # who waits for a key

    @property
    def listeners(self) -> list[Listener]:
        """All who listen."""
        return [listener for listeners in self._audiences.values() for listener in listeners]

    @property
    def position(self) -> Position:
        """The newest event that was handed out; who begins to listen gets those behind it."""
        return self._position

    def add(self, listener: Listener) -> None:
        """Hand events to a listener from now on: those behind `position`."""
        self._begin()
        self._audiences.setdefault(listener.audience, set()).add(listener)

    def remove(self, listener: Listener) -> None:
        """Hand no more events to a listener."""
        if listeners := self._audiences.get(listener.audience):
            listeners.discard(listener)
            if not listeners:
                del self._audiences[listener.audience]

    def page(self, after: Position, audience: Audience) -> Page | None:
        """Events of an audience that are past, behind one; None when some of them are gone."""
        with self._index.read() as tables:
            newest = tables.newest_event()
            found = tables.events(after)
            rows = None if found is None else list(islice(found, STRETCH))
        if rows is None:
            return None
        if not rows:
            return Page(b"", after, is_last=True)
        until = Position(newest.stream, rows[-1][0])
        return Page(_Stretch(self._shape, newest.stream, rows).text(audience), until, until == newest)

    def expect(self, key: bytes) -> asyncio.Future[None]:
        """A future that is done when an encoded key may have changed. `forget` it afterwards."""
        if self.stopping:
            raise Unavailable(STOPPING)
        self._begin()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(key, set()).add(future)
        self.waiting += 1
        return future

    def forget(self, key: bytes, future: asyncio.Future[None]) -> None:
        """Nobody waits for this future any more."""
        waiters = self._waiters.get(key)
        if waiters is not None and future in waiters:
            self.waiting -= 1
            waiters.discard(future)
            if not waiters:
                del self._waiters[key]

    def stop(self) -> None:
        """End all that wait or listen: this process is to end."""
        self.stopping = True
        for listener in self.listeners:
            listener.end(STOPPING)
        self._wake_all()

    def _begin(self) -> None:
        """Follow the ring, unless that is done already."""
        if not self._audiences and not self._waiters:
            with self._index.read() as tables:
                self._position = tables.newest_event()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        while self._audiences or self._waiters:
            try:
                await self._ask(Listen(self._position.number))
                while await self._hand_out():
                    await asyncio.sleep(0)  # other requests have their turn
            except Refused as error:  # the controller is being started again
                log.debug("no events just now", reason=error)
                await asyncio.sleep(_AGAIN_SECS)
            except Exception:
                log.exception("events can't be handed out; trying again")
                await asyncio.sleep(_AGAIN_SECS)
            else:
                await asyncio.sleep(PACE_SECS)

    async def _hand_out(self) -> bool:
        """Hand out what is new; whether there may be more."""
        with self._index.read() as tables:
            newest = tables.newest_event()
            found = tables.events(self._position)
            rows = None if found is None else list(islice(found, STRETCH))
        if rows is None:
            log.warning("events were missed; all who listen are cut off", after=str(self._position), newest=str(newest))
            self._position = newest
            for listener in self.listeners:
                listener.end("events were missed")
            self._wake_all()
            return False
        if not rows:
            return False
        for _, event in rows:
            if event.type == RESET:
                self._wake_all()
            elif isinstance(event.subject, bytes):
                for future in self._waiters.get(event.subject, ()):
                    _wake(future)
        stretch = _Stretch(self._shape, newest.stream, rows)
        # Who begins to listen meanwhile is not among these, and gets what comes behind this.
        self._position = Position(newest.stream, rows[-1][0])
        audiences = [(audience, list(listeners)) for audience, listeners in self._audiences.items()]
        handed = 0
        for audience, listeners in audiences:
            text = stretch.text(audience)
            for listener in listeners:
                own = text if listener.after < stretch.first else stretch.text(audience, listener.after)
                if own:
                    listener.add(own)
                    handed += 1
                    if handed % TOGETHER == 0:
                        await asyncio.sleep(_APART_SECS)
        return len(rows) == STRETCH

    def _wake_all(self) -> None:
        for futures in self._waiters.values():
            for future in futures:
                _wake(future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
