"""Answers `Replay`: sends again what is alive of the node's log, a stretch at a time."""

from __future__ import annotations

import queue
import threading

from broker import logs, topology
from broker.errors import LinkDown
from broker.link import Link
from broker.messages.codec import encode
from broker.messages.store import Replay, Result, Results
from node.errors import StorageError
from node.storage.storage import Storage

log = logs.get(__name__)

MESSAGES = 24  # of one stretch; then the master asks for the next, so that it is never flooded
UNCONFIRMED = 4  # messages on their way to the broker


class Replayer:
    """A thread of the agent."""

    def __init__(self, node: str, storage: Storage, link: Link) -> None:
        self._node = node
        self._storage = storage
        self._link = link
        self._requests: queue.SimpleQueue[Replay | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the message it is sending."""
        self._requests.put(None)
        self._thread.join(5)

    def ask(self, request: Replay) -> None:
        """Have a stretch sent."""
        self._requests.put(request)

    def _run(self) -> None:
        while True:
            request = self._requests.get()
            if request is None:
                return
            try:
                self._send(request)
            except LinkDown as error:
                log.warning("replay broken off; the master will ask again", request=request.request, reason=error)
            except (StorageError, OSError):
                log.exception("replay failed", request=request.request)

    def _send(self, request: Replay) -> None:
        window = threading.Semaphore(UNCONFIRMED)
        batches = self._storage.replay(request.after)
        after = upto = request.after
        records = 0
        first = [Result.of_epochs(self._storage.epochs)]
        for count in range(1, MESSAGES + 1):
            batch = next(batches, None)
            items: list[Result] = []
            if batch is not None:
                after, upto, items = batch
                records += len(items)
            end = self._storage.seq if batch is not None else upto
            last = batch is None or count == MESSAGES
            message = Results(self._node, "", request.request, after, upto, end, last, first + items)
            first = []
            window.acquire()
            self._link.publish(topology.RESULTS, encode(message), done=lambda _: window.release())
            after = upto
            if last:
                break
        log.debug("replayed", request=request.request, after=request.after, upto=upto, records=records)
