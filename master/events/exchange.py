"""Publishes events to `pulzar.events` in RabbitMQ, each at least once and in order, where the settings ask for that.

The ring is what waits to be published. How far RabbitMQ has them is noted in the index once a second. A controller that
was killed goes on from there, so some come twice, with the same id. While RabbitMQ is away nothing is held up.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from itertools import islice

from broker import logs, topology
from broker.clock import now_ms
from broker.link import Link
from master.events import cloud_events
from master.events.cloud_events import CONTENT_TYPE, CloudEvents
from master.index.events import Event, Position
from master.index.index import Index

log = logs.get(__name__)

WINDOW = 2_000  # events that RabbitMQ has not confirmed
_GAP = "events were missed: RabbitMQ was away for longer than the master keeps them"


class Exchange:
    """The publisher of events. For the controller's thread alone, but `_done` is called on the link's."""

    def __init__(self, index: Index, link: Link, shape: CloudEvents, *, wanted: bool) -> None:
        self._index = index
        self._link = link
        self._shape = shape
        self._wanted = wanted
        self._window: deque[int] = deque()  # numbers of events under way, in order
        self._confirms: deque[int] = deque()
        self._confirmed: set[int] = set()
        with index.read() as tables:
            known, newest = tables.published(), tables.newest_event()
        self._sent = self._safe = self._noted = known or newest
        if (known is None) == wanted:
            with index.write() as tables:
                tables.set_published(newest if wanted else None)

    def tell(self) -> None:
        """Publish what is new, as far as there is room in the window."""
        if not self._wanted:
            return
        self._settle()
        room = WINDOW - len(self._window)
        if room <= 0 or not self._link.ready:
            return
        with self._index.read() as tables:
            newest = tables.newest_event()
            found = tables.events(self._sent)
            new = None if found is None else list(islice(found, room))
        if new is None:
            log.warning("events were not published", after=str(self._sent), newest=str(newest), reason=_GAP)
            new = [(newest.number, cloud_events.reset(now_ms(), _GAP))]
            self._sent = self._safe = newest
        for number, event in new:
            self._publish(Position(newest.stream, number), event)

    def tick(self) -> None:
        """Go on, and note how far it came."""
        self.tell()
        if self._wanted and self._safe != self._noted:
            with self._index.write() as tables:
                tables.set_published(self._safe)
            self._noted = self._safe

    def _publish(self, position: Position, event: Event) -> None:
        self._link.publish(
            cloud_events.routing_key(event),
            self._shape.write(position, event).encode("ascii"),
            exchange=topology.EVENTS,
            durable=True,
            content_type=CONTENT_TYPE,
            done=partial(self._done, position.number),
        )
        self._window.append(position.number)
        self._sent = position

    def _done(self, number: int, _queued: bool) -> None:
        """RabbitMQ has it, or nobody has bound a queue for it."""
        self._confirms.append(number)

    def _settle(self) -> None:
        while self._confirms:
            self._confirmed.add(self._confirms.popleft())
        while self._window and self._window[0] in self._confirmed:
            number = self._window.popleft()
            self._confirmed.discard(number)
            self._safe = Position(self._sent.stream, number)
