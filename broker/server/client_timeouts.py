"""Timeouts of clients that send a body or take a response.

One timer of the event loop looks at all waits, once in a while: a timer for each would cost more than most waits. A
wait that is over is ended by cancelling its task, as `asyncio.timeout` does.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

from broker.refusals import SlowClient

_LOOK_SECS = 1.0  # at most, between two looks at all waits
_LOOKS = 8  # at least, in the time that an idle client has


class ClientTimeouts:
    """The timeouts of all clients of one event loop."""

    def __init__(self, idle: float, rate: int) -> None:
        """A client times out when it sends or takes nothing for `idle` seconds.

        It also does when it needs more than these, plus a second for each `rate` bytes.
        """
        self.idle = idle
        self.rate = rate
        self._pause = min(_LOOK_SECS, idle / _LOOKS)
        self._waits: set[Wait] = set()
        self._looking = False

    def wait(self, secs: float) -> Wait:
        """A block with one `await`, which is ended with `SlowClient` after about `secs` seconds."""
        return Wait(self, secs)

    def left(self, waited: float, moved: int) -> float:
        """The seconds left for a client that has moved `moved` bytes in `waited` seconds."""
        return min(self.idle, self.idle + moved / self.rate - waited)

    def _add(self, wait: Wait) -> None:
        self._waits.add(wait)
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(self._pause, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        for wait in list(self._waits):
            if now >= wait.until:
                wait.end()
        self._looking = bool(self._waits)
        if self._looking:
            asyncio.get_running_loop().call_later(self._pause, self._look)


class Wait:
    """One wait, see `ClientTimeouts.wait`."""

    __slots__ = ("_ended", "_task", "_timeouts", "until")

    def __init__(self, timeouts: ClientTimeouts, secs: float) -> None:
        self._timeouts = timeouts
        self._ended = False
        self._task: asyncio.Task[object] | None = None
        self.until = time.monotonic() + secs

    def __enter__(self) -> Wait:
        self._task = asyncio.current_task()
        self._timeouts._add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._timeouts._waits.discard(self)
        # If somebody else cancelled the task, too, that goes on.
        if self._ended and self._task and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise SlowClient("the client sent or took nothing, or too little, for too long; nothing was done")

    def end(self) -> None:
        """End the wait: its time is over."""
        if not self._ended and self._task is not None:
            self._ended = True
            self._task.cancel()
