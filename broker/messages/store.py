"""Messages about values and nodes; `broker.messages.codec` has a table of them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, Self

import msgpack

DIGEST_BYTES = 32

Outcome = tuple[int, int, str]  # ticket, status and reason: what the request that waits for a command is told


class Kind(IntEnum):
    """The kind of a log record, a command or a result."""

    PUT = 1  # a value
    DELETE = 2  # a tombstone: every version of the key up to and including this one is gone
    EPOCH = 3  # the node's agent started; no key
    DROP = 4  # the node no longer has a version, since enough other nodes have it; no deletion


class Status(IntEnum):
    """The outcome of one command."""

    DONE = 0  # durable on the node (again, if it was delivered twice)
    STALE = 1  # the node already holds a newer version of the key; nothing was written
    FULL = 2  # the disk has no room; nothing was written
    MISSING = 3  # the staged upload that was to become the value is not there
    FAILED = 4  # anything else; `reason` says what


class Epoch(NamedTuple):
    """One start of a node's agent."""

    seq: int  # of its record in the node's log
    id: str  # random


class Store(NamedTuple):
    """Store a value. It is in `value`, or on the node as the staged upload or the `Source` that `staged` names."""

    ticket: int  # names the command to its sender; 0: nobody waits
    key: bytes
    version: int
    created: int
    expires: int  # 0: never
    content_type: str  # and Content-Encoding, see `broker.http.content_types`
    digest: bytes  # SHA-256 of the value, 32 bytes
    size: int  # bytes
    value: bytes | None
    staged: str  # token of the upload, or a `Source` as text; "" when `value` is given

    @property
    def kind(self) -> Kind:
        """`Kind.PUT`."""
        return Kind.PUT

    def result(self, status: Status, reason: str = "", seq: int = 0, value: bytes | None = None) -> Result:
        """The result of this command; `seq` is 0 when nothing was written."""
        ticket, key, version, created, expires, media, digest, size, _, _ = self
        return Result(ticket, status, reason, seq, Kind.PUT, key, version, created, expires, media, digest, size, value)


class Source(NamedTuple):
    """A version of a key on a node, whose bytes become another value there; it may be superseded or deleted."""

    key: bytes
    version: int

    def text(self) -> str:
        """What stands in `Store.staged`."""
        return f"{_SOURCE}{self.version}:{self.key.decode()}"

    @classmethod
    def read(cls, staged: str) -> Self | None:
        """What `text` was made of; None for the token of an upload. Raises `ValueError`."""
        if not staged.startswith(_SOURCE):
            return None
        version, separator, key = staged.removeprefix(_SOURCE).partition(":")
        if not (separator and key and version.isascii() and version.isdecimal()):
            raise ValueError(f"{staged!r:.60} names no version of a key")
        return cls(key.encode("ascii"), int(version))


_SOURCE = "copy:"
DROP = "drop"  # in place of the Content-Type in the record of a `Drop`, which is a tombstone for this node alone
PURGE = "purge"  # in place of the Content-Type of a tombstone that no older version may be brought back from


class Delete(NamedTuple):
    """Write a tombstone: every version of the key up to and including `version` is gone.

    With `purge`, none of them can be brought back.
    """

    ticket: int
    key: bytes
    version: int
    purge: bool = False

    @property
    def kind(self) -> Kind:
        """`Kind.DELETE`."""
        return Kind.DELETE

    def result(self, status: Status, reason: str = "", seq: int = 0, value: None = None) -> Result:
        """The result of this command; `seq` is 0 when nothing was written."""
        note = PURGE if self.purge else ""
        return Result(self.ticket, status, reason, seq, Kind.DELETE, self.key, self.version, 0, 0, note, b"", 0, value)


class Drop(NamedTuple):
    """Forget a version on this node alone, if it is the newest here: other nodes have it."""

    ticket: int
    key: bytes
    version: int

    @property
    def kind(self) -> Kind:
        """`Kind.DROP`."""
        return Kind.DROP

    def result(self, status: Status, reason: str = "", seq: int = 0, value: None = None) -> Result:
        """The result of this command; `seq` is 0 when nothing was written."""
        return Result(self.ticket, status, reason, seq, Kind.DROP, self.key, self.version, 0, 0, "", b"", 0, value)


Command = Store | Delete | Drop


class Fetch(NamedTuple):
    """Store a version of a value that other nodes have. Its bytes come from one of them."""

    origin: str  # names the process whose request waits for it; "": none
    store: Store  # with neither a value nor an upload
    sources: list[str]  # signed addresses of the value at its holders

    def result(self, status: Status, reason: str) -> Result:
        """The result when nothing was stored."""
        return self.store.result(status, reason)


class Commands(NamedTuple):
    """A batch for one node. `origin` names the process whose requests wait for it; "": none."""

    origin: str
    items: list[Command]


class Confirm(NamedTuple):
    """Read a version of a value that this node has, and say whether it is what was put."""

    request: str  # repeated in `Confirmed`
    store: Store  # with neither a value nor an upload
    source: str  # signed address of the value at this node


class Confirmed(NamedTuple):
    """What became of some `Confirm`."""

    node: str
    items: list[tuple[str, str]]  # request, and why the value is not there; "": it is


class Replay(NamedTuple):
    """Ask for `Results` with all live records of the log after the seq `after`."""

    request: str  # repeated in every `Results` of this replay
    after: int


class Announce(NamedTuple):
    """Ask for a heartbeat."""

    reason: str


class Result(NamedTuple):
    """The outcome of one command, or one record of a replay (`ticket` 0)."""

    ticket: int
    status: Status
    reason: str
    seq: int  # of the record in the node's log; 0 when nothing was written
    kind: Kind
    key: bytes
    version: int
    created: int
    expires: int
    content_type: str  # and Content-Encoding, see `broker.http.content_types`
    digest: bytes
    size: int
    value: bytes | None  # the value when it is small enough for the index

    @classmethod
    def of_epochs(cls, epochs: Sequence[Epoch]) -> Self:
        """The result of kind EPOCH: the epochs that a node's log is made of, the oldest first."""
        seq, epoch = epochs[-1]
        packed: bytes = msgpack.packb(epochs)
        return cls(0, Status.DONE, "", seq, Kind.EPOCH, epoch.encode(), 0, 0, 0, "", b"", len(packed), packed)

    def epochs(self) -> list[Epoch]:
        """What `of_epochs` was given."""
        return [Epoch(int(seq), str(epoch)) for seq, epoch in msgpack.unpackb(self.value or b"\x90")]


class Results(NamedTuple):
    """All live records of a node's log after the seq `after`, up to and including `upto`."""

    node: str
    origin: str
    request: str  # of the replay that this is a part of; "": of none
    after: int
    upto: int
    end: int  # seq of the newest record in the node's log
    last: bool  # of a replay: the next part must be asked for; the replay is over when `upto` has reached `end`
    items: list[Result]


class Damaged(NamedTuple):
    """Values that a node has damaged, or lacks. It asks for the good copies of other nodes."""

    node: str
    values: list[tuple[bytes, int]]  # key and version of each


class Heartbeat(NamedTuple):
    """The identity and state of a node."""

    node: str
    url: str  # http://host:port that clients reach it at
    at: int  # the node's clock
    version: str  # of the software
    epoch: str  # random, made when the agent started
    epoch_seq: int  # seq of that epoch's record; this process has written all records after it
    seq: int  # of the newest record
    disk_total: int  # bytes, of the data directory's filesystem, without what it reserves for root
    disk_free: int  # bytes
    full: bool  # takes no more values
    load: float  # 1-minute load average divided by cores
    memory: float  # percent of the machine's memory in use
    keys: int  # values it holds
    slots: int  # runs it can have at once
    running: list[tuple[str, int, int]]  # run, id of the job (0: not known yet) and attempt of each run
    catalog: str  # digest of its catalog of scripts
    held_keys: int = 0  # deleted and overwritten values that can be brought back
    held_bytes: int = 0  # their bytes
    cert_until: int = 0  # when its certificate ends, in seconds since the epoch; 0: it has none
    fence: str = ""  # what keeps its runs apart from the rest of the machine: `user files signals`
    zone: str = ""  # what it shares with nodes that may fail together; "": nothing
    damaged: int = 0  # values that can't be read, and have no good copy yet
    healed: int = 0  # values that were replaced by a good copy since the agent started
