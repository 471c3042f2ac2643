"""Every message between master and nodes: its fields and its codec.

| message     | from → to            | queue                | carries                                            |
| ----------- | -------------------- | -------------------- | -------------------------------------------------- |
| `Commands`  | master → one node    | `pulzar.node.<id>`   | a batch of `Store` and `Delete` commands           |
| `Replay`    | master → one node    | `pulzar.node.<id>`   | "send me your log again, from here"                |
| `Announce`  | master → every node  | `pulzar.control`     | "send a heartbeat now"                             |
| `Results`   | node → controller    | `pulzar.results`     | what became of commands, or a stretch of a replay  |
| `Heartbeat` | node → controller    | `pulzar.heartbeats`  | who and where the node is, how it feels, its `seq` |

On the wire a message is one msgpack array `[PROTOCOL, code, field, …]`, fields in the order of the
class. Named tuples rather than dataclasses, because msgpack packs a tuple as it stands and thousands
of commands are built every second.

Times are integers, milliseconds since the epoch, UTC. Keys are encoded keys (`broker.keys.encode`).
Versions are 63-bit integers that rise with time (`master.versions`). Messages about runs of jobs are in `broker.runs`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple, TypeVar

import msgpack

from broker import check, runs
from broker.errors import InvalidKey, MalformedMessage, UnknownProtocol, Unsendable
from broker.numbers import short as _short

PROTOCOL = 1
DIGEST_BYTES = 32


class Kind(IntEnum):
    """What a log record, a command or a result is about."""

    PUT = 1  # a value
    DELETE = 2  # a tombstone: every version of the key up to and including this one is gone
    EPOCH = 3  # the node's agent started; no key


class Status(IntEnum):
    """What became of one command."""

    DONE = 0  # durable on the node (again, if it was delivered twice)
    STALE = 1  # the node already holds a newer version of the key; nothing was written
    FULL = 2  # the disk has no room; nothing was written
    MISSING = 3  # the staged upload that was to become the value is not there
    FAILED = 4  # anything else; `reason` says what


class Store(NamedTuple):
    """Keep a value. It travels in `value`, or waits on the node as the staged upload `staged`."""

    ticket: int  # names the command to its sender, 0 when nobody waits
    key: bytes
    version: int
    created: int
    expires: int  # 0: never
    content_type: str  # and Content-Encoding, see `broker.media`
    digest: bytes  # SHA-256 of the value, 32 bytes
    size: int  # bytes
    value: bytes | None
    staged: str  # "" when `value` is given

    @property
    def kind(self) -> Kind:
        """`Kind.PUT`."""
        return Kind.PUT


class Delete(NamedTuple):
    """Write a tombstone: every version of the key up to and including `version` is gone."""

    ticket: int
    key: bytes
    version: int

    @property
    def kind(self) -> Kind:
        """`Kind.DELETE`."""
        return Kind.DELETE


class Commands(NamedTuple):
    """A batch for one node. `origin` names the process whose requests wait for it, "" for none."""

    origin: str
    items: list[Store | Delete]


class Replay(NamedTuple):
    """Send again, as `Results`, all that is alive of what was logged after `after`."""

    request: str  # repeated in every `Results` that answers
    after: int


class Announce(NamedTuple):
    """Send a heartbeat now."""

    reason: str


class Result(NamedTuple):
    """What became of one command, or one record of a replay (`ticket` 0)."""

    ticket: int
    status: Status
    reason: str
    seq: int  # of the record in the node's log; 0 when nothing was written
    kind: Kind
    key: bytes
    version: int
    created: int
    expires: int
    content_type: str  # and Content-Encoding, see `broker.media`
    digest: bytes
    size: int
    value: bytes | None  # the value itself when it is small enough to be kept beside the entry


class Results(NamedTuple):
    """Everything that is alive of the node's log after `after`, up to and including `upto`."""

    node: str
    origin: str
    request: str  # of the replay this is part of, "" when it is not
    after: int
    upto: int
    end: int  # seq of the newest record in the node's log
    last: bool  # of a replay: no more comes unless it is asked for; the replay is over when `upto` reached `end`
    items: list[Result]


class Heartbeat(NamedTuple):
    """A node says who it is and how it feels."""

    node: str
    url: str  # http://host:port that clients reach it at
    at: int  # the node's clock
    version: str  # of the software
    epoch: str  # random, made when the agent started
    epoch_seq: int  # seq of that epoch's record: all after it was written by this process
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


Message = Commands | Replay | Announce | Results | Heartbeat | runs.RunMessage

CODES: dict[type[Any], int] = {
    Commands: 1, Replay: 2, Announce: 3, Results: 4, Heartbeat: 5, runs.Reports: 6, runs.Progress: 7, runs.Catalog: 8,
    runs.Named: 9, runs.Withdrawn: 10, runs.AskCatalog: 11, runs.Withdraw: 12,
}  # fmt: skip
_TYPES: dict[int, type[Any]] = {code: cls for cls, code in CODES.items()}

M = TypeVar("M")


def encode(message: Message) -> bytes:
    """The message as bytes for the wire; raises `Unsendable`."""
    if isinstance(message, Commands):
        items: Any = [(item.kind, *item) for item in message.items]
        fields: tuple[Any, ...] = (message.origin, items)
    elif isinstance(message, runs.Reports):
        fields = runs.fields(message)
    else:
        fields = message
    return packed((PROTOCOL, CODES[type(message)], *fields))


def packed(value: Any) -> bytes:
    """A value as msgpack; raises `Unsendable`."""
    try:
        # Text that was made of bytes which are none is for people: it is shown as well as can be.
        body: bytes = msgpack.packb(value, use_bin_type=True, unicode_errors="backslashreplace")
    except (TypeError, ValueError, OverflowError) as error:
        raise Unsendable(f"a message can't be packed: {error}") from error
    return body


def decode(body: bytes, expected: type[M]) -> M:
    """The message in `body`, which must be an `expected`.

    Raises `UnknownProtocol` for a message of another protocol version and `MalformedMessage` for
    anything that is no such message.
    """
    message = decode_any(body)
    if not isinstance(message, expected):
        raise MalformedMessage(f"expected a {expected.__name__} message, received a {type(message).__name__}")
    return message


def decode_any(body: bytes) -> Message:
    """The message in `body`, whichever it is; raises as `decode` does."""
    try:
        fields = msgpack.unpackb(body, raw=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise MalformedMessage(f"not a msgpack message of {len(body)} bytes: {error}") from error
    if not isinstance(fields, list) or len(fields) < 2:
        raise MalformedMessage(f"expected an array [protocol, code, …], received {_short(fields)}")
    if fields[0] != PROTOCOL:
        raise UnknownProtocol(f"protocol {_short(fields[0])} is not known here; this is protocol {PROTOCOL}")
    cls = _TYPES.get(fields[1]) if isinstance(fields[1], int) else None
    if cls is None:
        raise MalformedMessage(f"no message has the code {_short(fields[1])}")
    if len(fields) - 2 != len(cls._fields):
        raise MalformedMessage(f"{cls.__name__} has {len(cls._fields)} fields, received {len(fields) - 2}")
    try:
        return _build(cls, fields[2:])
    except (TypeError, ValueError, LookupError, InvalidKey, msgpack.UnpackException) as error:
        raise MalformedMessage(f"bad {cls.__name__} message: {error}") from error


def _build(cls: type[Any], fields: list[Any]) -> Message:
    if cls is Commands:
        origin, raw = fields
        return Commands(check.text(origin), [read_command(item) for item in check.items(raw)])
    if cls is Results:
        node, origin, request, after, upto, end, last, raw = fields
        return Results(
            check.node(node), check.text(origin), check.text(request), check.number(after), check.number(upto),
            check.number(end), check.flag(last), [_result(item) for item in check.items(raw)],
        )  # fmt: skip
    if cls is Replay:
        return Replay(check.text(fields[0]), check.number(fields[1]))
    if cls is Announce:
        return Announce(check.text(fields[0]))
    if cls in runs.BUILD:
        return runs.BUILD[cls](*fields)
    return _heartbeat(Heartbeat._make(fields))


# Types of the fields of a command or result; the values of those of the right types are looked at then.
_STORES = {
    (int, bytes, int, int, int, str, bytes, int, bytes, str),
    (int, bytes, int, int, int, str, bytes, int, type(None), str),
}
_DELETE = (int, bytes, int)
_RESULTS = {
    (int, int, str, int, int, bytes, int, int, int, str, bytes, int, bytes),
    (int, int, str, int, int, bytes, int, int, int, str, bytes, int, type(None)),
}


def read_command(fields: list[Any]) -> Store | Delete:
    """A command from its fields, its kind first; raises `TypeError`, `ValueError` or `InvalidKey`."""
    types = tuple(map(type, fields[1:]))
    if fields[0] == Kind.PUT and types in _STORES:
        store = Store._make(fields[1:])
        check.key(store.key)
        check.numbers(store.ticket, store.version, store.created, store.expires, store.size)
        if store.staged:
            check.token(store.staged)
        elif store.value is None or len(store.value) != store.size:
            raise ValueError("a Store has neither a staged upload nor a value of its size")
        if len(store.digest) != DIGEST_BYTES:
            raise ValueError("a Store has a digest of another length")
        return store
    if fields[0] == Kind.DELETE and types == _DELETE:
        delete = Delete._make(fields[1:])
        check.key(delete.key)
        check.numbers(delete.ticket, delete.version)
        return delete
    raise ValueError(f"no command looks like {_short(fields)}")


def _result(fields: list[Any]) -> Result:
    if tuple(map(type, fields)) not in _RESULTS:
        raise TypeError(f"no result looks like {_short(fields)}")
    result = Result._make(fields)
    check.numbers(result.ticket, result.seq, result.version, result.created, result.expires, result.size)
    Status(result.status)
    if Kind(result.kind) is Kind.EPOCH:
        check.chain(msgpack.unpackb(result.value or b""))
    else:
        check.key(result.key)
    return result


def _heartbeat(beat: Heartbeat) -> Heartbeat:
    check.node(beat.node)
    for text in (beat.url, beat.version, beat.epoch, beat.catalog):
        check.text(text)
    for number in (
        beat.at, beat.epoch_seq, beat.seq, beat.disk_total, beat.disk_free, beat.keys, beat.slots,
    ):  # fmt: skip
        check.number(number)
    for run, job, attempt in check.items(beat.running):
        check.text(run)
        check.numbers(job, attempt)
    check.flag(beat.full)
    check.share(beat.load)
    check.share(beat.memory)
    return beat
