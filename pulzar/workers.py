"""The same work for many items on several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

from pulzar.errors import Full, PulzarError, Unavailable

T = TypeVar("T")
_AT_ONCE = 8  # items that a thread takes at a time


class Failure(NamedTuple, Generic[T]):
    """An item that could not be done, and why."""

    item: T
    error: PulzarError


class Workers(Generic[T]):
    """Does the same work for many items. When the cluster is away, it ends instead of trying each of them."""

    def __init__(self, items: Iterable[T], work: Callable[[T], None], threads: int) -> None:
        self.failures: list[Failure[T]] = []
        self._items = iter(items)
        self._work = work
        self._lock = threading.Lock()
        self._stop = False
        self._broken: Exception | None = None
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def run(self, abort: Callable[[], None]) -> list[Failure[T]]:
        """Do it; those that failed. `abort` is called when it is interrupted, and ends what is under way."""
        for thread in self._threads:
            thread.start()
        try:
            for thread in self._threads:
                while thread.is_alive():
                    thread.join(0.5)
        except BaseException:
            self._stop = True
            abort()
            for thread in self._threads:
                thread.join(2)
            raise
        if self._broken:
            raise self._broken
        return self.failures

    def _run(self) -> None:
        try:
            while not self._stop:
                with self._lock:
                    items = list(islice(self._items, _AT_ONCE))
                if not items:
                    return
                for item in items:
                    self._do(item)
                    if self._stop:
                        return
        except Exception as error:  # noqa: BLE001 - it is raised where all threads are waited for
            self._stop = True
            self._broken = error

    def _do(self, item: T) -> None:
        try:
            self._work(item)
        except PulzarError as error:
            self.failures.append(Failure(item, error))
            if isinstance(error, Unavailable) and not isinstance(error, Full):
                self._stop = True


def each(items: Iterable[T], work: Callable[[T], None], threads: int, abort: Callable[[], None]) -> list[Failure[T]]:
    """Do the work for every item; those that failed. See `Workers`."""
    return Workers(items, work, threads).run(abort)
