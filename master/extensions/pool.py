"""The processes for extensions of one web worker. Each has one request at a time and is used again."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from master.extensions.errors import Failed, ProcessDied
from master.extensions.frames import Setup
from master.extensions.process_client import Process

START_SECS = 30.0  # for a process to be ready, on a busy machine
IDLE_SECS = 300.0  # after which an idle process is ended


class Pool:
    """Up to `size` processes, started when they are needed. All methods belong on one event loop."""

    def __init__(self, setup: Setup, size: int, scratch: Path, on_end: Callable[[], None] = lambda: None) -> None:
        """`scratch` is a directory for temporary files; `on_end` is called each time a process has ended."""
        self._setup = setup
        self._scratch = scratch
        self._on_end = on_end
        self._free = size  # how many requests may begin
        self._idle: list[Process] = []
        self._queue: deque[asyncio.Future[None]] = deque()
        self._numbers = itertools.count(1)
        self._end_tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """The right to use a process. Requests get it in the order in which they asked."""
        if self._free > 0:
            self._free -= 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave()  # the slot was given, and nobody takes it
                else:
                    self._queue.remove(turn)
                raise
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    async def take(self) -> Process:
        """A process that is ready. The caller has a slot. Raises `Failed`."""
        while self._idle:
            process = self._idle.pop()
            if not process.ended:
                return process
            self.discard(process)
        try:
            process = Process(self._setup, self._scratch / f"process-{next(self._numbers)}")
        except OSError as error:
            message = "a process for extensions can't be started; the master's log says why"
            raise Failed(500, message, str(error)) from error
        try:
            await asyncio.wait_for(process.ready(), START_SECS)
        except (ProcessDied, TimeoutError) as error:
            how = await process.end()
            detail = f"{str(error) or 'it was not ready in time'}; it {how}"
            raise Failed(500, "a process for extensions did not start; the master's log says why", detail) from error
        except asyncio.CancelledError:
            self.discard(process)
            raise
        return process

    def give_back(self, process: Process) -> None:
        """Return a process whose request is over; another request may have it."""
        process.done()
        process.idle_since = time.monotonic()
        self._idle.append(process)
        asyncio.get_running_loop().call_later(IDLE_SECS, self._tidy)

    def discard(self, process: Process) -> asyncio.Task[None]:
        """End a process that no request may have any more. The task is done when nothing of it lives."""
        task = asyncio.ensure_future(self._end(process))
        self._end_tasks.add(task)  # the loop alone would not keep the task
        task.add_done_callback(self._end_tasks.discard)
        return task

    async def _end(self, process: Process) -> None:
        await process.end()
        self._on_end()

    def _tidy(self) -> None:
        since = time.monotonic() - IDLE_SECS
        for process in [process for process in self._idle if process.idle_since <= since]:
            self._idle.remove(process)
            self.discard(process)

    async def close(self) -> None:
        """End all processes that are idle."""
        for process in self._idle:
            self.discard(process)
        self._idle.clear()
        if self._end_tasks:
            await asyncio.wait(self._end_tasks)
