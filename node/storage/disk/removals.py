"""Removes files, or puts that off while a snapshot makes its links: it may need them still."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker import logs
from node.storage.disk.files import remove

log = logs.get(__name__)


class Removals:
    """The removals of a data directory. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._later: list[Path] | None = None  # None: nothing is put off

    def remove(self, path: Path) -> None:
        """Remove a file that no record needs any more, now or later. Raises `OSError`."""
        with self._guard:
            if self._later is not None:
                self._later.append(path)
                return
        remove(path)

    @contextmanager
    def put_off(self) -> Iterator[None]:
        """Remove nothing in the block, and everything at its end."""
        with self._guard:
            self._later = []
        try:
            yield
        finally:
            with self._guard:
                later, self._later = self._later, None
            for path in later:
                try:
                    remove(path)
                except OSError as error:
                    log.error("file can't be removed; the next start will try again", file=path.name, error=error)
