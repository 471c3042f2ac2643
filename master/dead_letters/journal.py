"""A small file that says which messages are being sent again, and which were but may still be in the queue.

It is written whole and durably before each step. Its lock is held as long as one look lasts; the kernel frees it when
the process ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from broker import logs
from broker.refusals import Unavailable

log = logs.get(__name__)

FILE = "dead-letters.json"
LOCK = "dead-letters.lock"
WAIT_SECS = 15.0  # for another look
_LOOK_SECS = 0.02
_KEPT_SECS = 400 * 86_400.0  # the longest that RabbitMQ could still have what a note is about


class Step(StrEnum):
    """How far a message is."""

    SENDING = "sending"  # it may have been sent
    SENT = "sent"  # its queue has it; it may still be in `pulzar.dead`


class Note(NamedTuple):
    """What is known of a message."""

    step: Step
    copies: int  # how many of those with this id
    at: float  # seconds since the epoch


Notes = dict[str, Note]


class Journal:
    """The file in a directory. Any thread and process may use it."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._lock = directory / LOCK

    @contextmanager
    def locked(self) -> Iterator[Notes]:
        """The notes, for one at a time. Raises `Unavailable` when another look lasts too long."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + WAIT_SECS
            while not _try(descriptor):
                if time.monotonic() > deadline:
                    raise Unavailable("somebody else is at the dead letters just now; try again in a moment")
                time.sleep(_LOOK_SECS)
            yield self._read()
        finally:
            os.close(descriptor)

    def write(self, notes: Notes) -> None:
        """Write the notes durably; while the lock is held. Raises `OSError`."""
        limit = time.time() - _KEPT_SECS
        kept = {name: note for name, note in notes.items() if note.at > limit}
        new = self._path.with_suffix(".new")
        with new.open("w") as file:
            json.dump(kept, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _read(self) -> Notes:
        try:
            rows = json.loads(self._path.read_text())
            return {str(name): Note(Step(step), int(copies), float(at)) for name, (step, copies, at) in rows.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError) as error:
            aside = self._path.with_suffix(".bad")
            log.error("the journal of dead letters can't be read; put aside", file=aside, error=error)
            self._path.replace(aside)
            return {}


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # another look has it
        return False
    return True
