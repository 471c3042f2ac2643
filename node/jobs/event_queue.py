"""The queue of the jobs thread: what other threads want it to do."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import NamedTuple, TypeVarTuple

Ts = TypeVarTuple("Ts")


class Event(NamedTuple):
    """A call that the jobs thread is to make."""

    function: Callable[..., None]
    arguments: tuple[object, ...] = ()


class EventQueue:
    """Calls for the jobs thread, made in the order in which they were put. Thread-safe."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def put(self, function: Callable[[*Ts], None], *arguments: *Ts) -> None:
        """Call the function on the jobs thread; if it fails, its name is logged."""
        self._events.put(Event(function, arguments))

    def take(self, seconds: float) -> list[Event]:
        """All events that have come; waits for the first one for up to so many seconds."""
        events = []
        try:
            events.append(self._events.get(timeout=seconds))
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:  # these are all
            return events
