"""The ring of events: the last 100,000 and more things that happened, each with a number, in a table of the index.

An event is written in the transaction of what it tells of, or after that was committed. So what it tells of can be
read. Numbers rise by one. A row has up to `_ROW_EVENTS` events of one transaction, and its key is the number of the
last of them.

The stream is a number that changes when events may be lost: with a new file, and when the index has gone back to a
checkpoint. It is the time (ms) at which the stream began, and always rises. An id is `<stream>-<number>`. So no id is
ever used for something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import lmdb
import msgpack

KEPT = 100_000  # events, at least; fewer in a file that may not grow to 160 MB
_TRIM_EVERY = 256  # events; then what is too old is removed
_ROW_EVENTS = 16  # in one row: LMDB gives longer rows pages of their own
_BYTES = 200  # of an event, about
ID = "([0-9]{1,15})-([0-9]{1,18})"  # a pattern
_ID = re.compile(ID, re.ASCII)

RESET = "reset"
ADDED, OVERWRITTEN, DELETED, EXPIRED, LOST = (
    "key.added",
    "key.overwritten",
    "key.deleted",
    "key.expired",
    "key.lost",
)
OF_KEYS = (ADDED, OVERWRITTEN, DELETED, EXPIRED, LOST)
OF_JOBS = ("job.pending", "job.running", "job.completed", "job.failed", "job.cancelled")
BACK, AWAY = "node.back", "node.away"
OF_NODES = (BACK, AWAY)
OF_BACKUPS = ("backup.done", "backup.failed")
TYPES = (*OF_KEYS, *OF_JOBS, *OF_NODES, *OF_BACKUPS)


class KeyFacts(NamedTuple):
    """What an event says of a value: that which came, or that which is gone."""

    version: int
    size: int  # bytes
    digest: bytes  # SHA-256
    expires: int  # ms since the epoch, 0: never


class Event(NamedTuple):
    """Something that happened."""

    type: str  # one of `TYPES`, or `RESET`
    time: int  # ms since the epoch
    subject: bytes | str  # an encoded key; or a job's id, a node's name, a member of a backup, "" for a reset
    data: Any  # `KeyFacts`, or a dictionary of what can be JSON
    owner: str = ""  # of a job: name of the token that it was launched with


class Position(NamedTuple):
    """A place in a stream: that of its event with this number, or before all for 0."""

    stream: int
    number: int

    def __str__(self) -> str:
        return f"{self.stream}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """The place with this id; None for a text that is none."""
        match = _ID.fullmatch(text)
        return None if match is None else cls(int(match[1]), int(match[2]))


def row_key(number: int) -> bytes:
    """The key of a row whose last event has this number."""
    return number.to_bytes(8, "big")


def rows(events: Sequence[Event], last: int) -> Iterator[tuple[int, bytes]]:
    """Rows for events that come behind the one with the number `last`: the number of each one's last event, and it."""
    pack = msgpack.Packer().pack
    for at in range(0, len(events), _ROW_EVENTS):
        part = events[at : at + _ROW_EVENTS]
        last += len(part)
        yield last, pack(part)


def unpacked(number: int, row: bytes) -> Iterator[tuple[int, Event]]:
    """The events of a row whose last one has this number, each with its own."""
    found = msgpack.unpackb(row)
    for own, (kind, time, subject, data, owner) in enumerate(found, number - len(found) + 1):
        facts = KeyFacts._make(data) if isinstance(subject, bytes) else data
        yield own, Event(kind, time, subject, facts, owner)


def is_time_to_trim(before: int, after: int) -> bool:
    """Whether events that are too old are removed when the newest number goes from one to another."""
    return before // _TRIM_EVERY != after // _TRIM_EVERY


def kept(map_size: int) -> int:
    """How many events are kept, at least, in a file that may grow to so many bytes: they get an eighth of it."""
    return min(KEPT, map_size // 8 // _BYTES)


def trim(cursor: lmdb.Cursor[bytes], until: int) -> None:
    """Remove the rows of which all events have a number up to this one."""
    found = cursor.first()
    while found and int.from_bytes(cursor.key(), "big") <= until:
        found = cursor.delete()
