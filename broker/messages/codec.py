"""Every message between master and nodes: its fields and its codec.

| message     | from → to            | queue                | carries                                            |
| ----------- | -------------------- | -------------------- | -------------------------------------------------- |
| `Commands`  | master → one node    | `pulzar.node.<id>`   | a batch of `Store`, `Delete` and `Drop` commands   |
| `Fetch`     | master → one node    | `pulzar.node.<id>`   | a `Store` of a value that other nodes have         |
| `Confirm`   | master → one node    | `pulzar.node.<id>`   | a question whether a copy is what was put          |
| `Replay`    | master → one node    | `pulzar.node.<id>`   | a request for the log from a seq on                |
| `Announce`  | master → every node  | `pulzar.control`     | a request for a heartbeat                          |
| `Results`   | node → controller    | `pulzar.results`     | outcomes of commands, or a part of a replay        |
| `Damaged`   | node → controller    | `pulzar.results`     | values that can't be read there                    |
| `Confirmed` | node → controller    | `pulzar.results`     | answers to `Confirm`                               |
| `Heartbeat` | node → controller    | `pulzar.heartbeats`  | identity, address and state of a node, its `seq`   |

On the wire a message is one msgpack array `[PROTOCOL, code, field, …]`, with the fields in the order of the class.
Messages are named tuples: msgpack packs a tuple as it stands, and thousands of commands are built every second.

Times are integers, milliseconds since the epoch, UTC. Keys are encoded keys (`broker.keys.encode`). Versions are
63-bit integers (`broker.messages.versions`). Messages about runs of jobs are in `broker.messages.runs`, those about
backups in `broker.messages.backups`.
"""

from __future__ import annotations

import msgpack

from broker.errors import InvalidKey, MalformedMessage, UnknownProtocol, Unsendable
from broker.integers import short
from broker.messages import backups, checks, runs, store
from broker.messages.store import (
    Announce,
    Command,
    Commands,
    Confirm,
    Confirmed,
    Damaged,
    Delete,
    Drop,
    Fetch,
    Heartbeat,
    Kind,
    Replay,
    Result,
    Results,
    Store,
)

PROTOCOL = 1

StoreMessage = Commands | Fetch | Confirm | Confirmed | Replay | Announce | Results | Damaged | Heartbeat
Message = StoreMessage | runs.RunMessage | backups.BackupMessage

CODES: dict[type[Message], int] = {
    Commands: 1,
    Replay: 2,
    Announce: 3,
    Results: 4,
    Heartbeat: 5,
    runs.Reports: 6,
    runs.Progress: 7,
    runs.NodeCatalog: 8,
    runs.Named: 9,
    runs.Withdrawn: 10,
    runs.AskCatalog: 11,
    runs.Withdraw: 12,
    backups.MakeBackup: 13,
    backups.BackupState: 14,
    Fetch: 15,
    Confirm: 16,
    Confirmed: 17,
    Damaged: 18,
}
_TYPES: dict[int, type[Message]] = {code: cls for cls, code in CODES.items()}


def encode(message: Message) -> bytes:
    """The message as bytes for the wire; raises `Unsendable`."""
    if isinstance(message, Commands):
        fields: tuple[object, ...] = (message.origin, [(item.kind, *item) for item in message.items])
    elif isinstance(message, runs.Reports):
        fields = runs.fields(message)
    else:
        fields = message
    return packed((PROTOCOL, CODES[type(message)], *fields))


def packed(value: object) -> bytes:
    """A value as msgpack; raises `Unsendable`."""
    try:
        # Text made of bytes that are no UTF-8 is for people, and is shown as well as can be.
        body: bytes = msgpack.packb(value, use_bin_type=True, unicode_errors="backslashreplace")
    except (TypeError, ValueError, OverflowError) as error:
        raise Unsendable(f"a message can't be packed: {error}") from error
    return body


def decode_any(body: bytes) -> Message:
    """The message in `body`, whichever it is.

    Raises `UnknownProtocol` for another version of the protocol, `MalformedMessage` for what is no message.
    """
    try:
        fields = msgpack.unpackb(body, raw=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise MalformedMessage(f"not a msgpack message of {len(body)} bytes: {error}") from error
    if not isinstance(fields, list) or len(fields) < 2:
        raise MalformedMessage(f"expected an array [protocol, code, …], received {short(fields)}")
    if fields[0] != PROTOCOL:
        raise UnknownProtocol(f"protocol {short(fields[0])} is not known here; this is protocol {PROTOCOL}")
    cls = _TYPES.get(fields[1]) if isinstance(fields[1], int) else None
    if cls is None:
        raise MalformedMessage(f"no message has the code {short(fields[1])}")
    # A Pulzar of before leaves out what has a default.
    if not len(cls._fields) - len(cls._field_defaults) <= len(fields) - 2 <= len(cls._fields):
        raise MalformedMessage(f"{cls.__name__} has {len(cls._fields)} fields, received {len(fields) - 2}")
    try:
        return _build(cls, fields[2:])
    except (TypeError, ValueError, LookupError, InvalidKey, msgpack.UnpackException) as error:
        raise MalformedMessage(f"bad {cls.__name__} message: {error}") from error


def _build(cls: type[Message], fields: list[object]) -> Message:
    if cls is Commands:
        origin, raw = fields
        return Commands(checks.text(origin), [read_command(item) for item in checks.items(raw)])
    if cls is Results:
        node, origin, request, after, upto, end, last, raw = fields
        return Results(
            node=checks.node(node),
            origin=checks.text(origin),
            request=checks.text(request),
            after=checks.number(after),
            upto=checks.number(upto),
            end=checks.number(end),
            last=checks.flag(last),
            items=[_result(item) for item in checks.items(raw)],
        )
    if cls is Replay:
        return Replay(checks.text(fields[0]), checks.number(fields[1]))
    if cls is Fetch:
        return _fetch(*fields)
    if cls is Damaged:
        return _damaged(*fields)
    if cls is Confirm:
        request, command, source = fields
        return Confirm(checks.text(request), _bare_store(command), checks.text(source))
    if cls is Confirmed:
        node, answers = fields
        return Confirmed(checks.node(node), [_answer(answer) for answer in checks.items(answers)])
    if cls is Announce:
        return Announce(checks.text(fields[0]))
    if cls in runs.BUILD:
        return runs.BUILD[cls](*fields)
    if cls in backups.BUILD:
        return backups.BUILD[cls](*fields)
    return _heartbeat(Heartbeat(*fields))  # type: ignore[arg-type]


# Types of the fields of a command or result; the values of those of the right types are looked at then.
_STORES = {
    (int, bytes, int, int, int, str, bytes, int, bytes, str),
    (int, bytes, int, int, int, str, bytes, int, type(None), str),
}
_DELETES = {(int, bytes, int, bool), (int, bytes, int)}  # the second from a Pulzar before `purge`
_RESULTS = {
    (int, int, str, int, int, bytes, int, int, int, str, bytes, int, bytes),
    (int, int, str, int, int, bytes, int, int, int, str, bytes, int, type(None)),
}


def read_command(fields: object) -> Command:
    """A command from the list of its fields, its kind first; raises `TypeError`, `ValueError` or `InvalidKey`."""
    if not isinstance(fields, list):
        raise TypeError(f"no command looks like {short(fields)}")
    types = tuple(map(type, fields[1:]))
    if fields[0] == Kind.PUT and types in _STORES:
        put = _store(fields[1:])
        if put.staged:
            source = store.Source.read(put.staged)
            if source is None:
                checks.token(put.staged)
            else:
                checks.key(source.key)
                checks.number(source.version)
        elif put.value is None or len(put.value) != put.size:
            raise ValueError("a Store has neither a staged upload nor a value of its size")
        return put
    if fields[0] == Kind.DELETE and types in _DELETES:
        delete = Delete(*fields[1:])
        checks.key(delete.key)
        checks.numbers(delete.ticket, delete.version)
        return delete
    if fields[0] == Kind.DROP and types == (int, bytes, int):
        drop = Drop(*fields[1:])
        checks.key(drop.key)
        checks.numbers(drop.ticket, drop.version)
        return drop
    raise ValueError(f"no command looks like {short(fields)}")


def _store(fields: list[object]) -> Store:
    put = Store._make(fields)
    checks.key(put.key)
    checks.numbers(put.ticket, put.version, put.created, put.expires, put.size)
    if len(put.digest) != store.DIGEST_BYTES:
        raise ValueError("a Store has a digest of another length")
    return put


def _bare_store(command: object) -> Store:
    fields = checks.items(command)
    if tuple(map(type, fields)) not in _STORES or fields[-1] or fields[-2] is not None:
        raise ValueError("a Fetch or a Confirm has a Store without a value")
    return _store(fields)


def _fetch(origin: object, command: object, sources: object) -> Fetch:
    return Fetch(checks.text(origin), _bare_store(command), [checks.text(source) for source in checks.items(sources)])


def _answer(answer: object) -> tuple[str, str]:
    request, reason = checks.items(answer)
    return checks.text(request), checks.text(reason)


def _damaged(node: object, rows: object) -> Damaged:
    values: list[tuple[bytes, int]] = []
    for row in checks.items(rows):
        key, version = checks.items(row)
        if not isinstance(key, bytes):
            raise TypeError(f"expected an encoded key, received {short(key)}")
        checks.key(key)
        values.append((key, checks.number(version)))
    return Damaged(checks.node(node), values)


_STATUSES = frozenset(map(int, store.Status))
_KINDS = frozenset(map(int, Kind))


def _result(fields: object) -> Result:
    # A replay brings millions of these: neither `_make` nor `Kind(…)` is called, which take half of the time.
    if not isinstance(fields, list) or tuple(map(type, fields)) not in _RESULTS:
        raise TypeError(f"no result looks like {short(fields)}")
    result = tuple.__new__(Result, fields)
    ticket, status, _, seq, kind, key, version, created, expires, _, _, size, value = fields
    checks.numbers(ticket, seq, version, created, expires, size)
    if status not in _STATUSES or kind not in _KINDS:
        raise ValueError(f"no result has the status {short(status)} and the kind {short(kind)}")
    if kind == Kind.EPOCH:
        checks.chain(msgpack.unpackb(value or b""))
    else:
        checks.key(key)
    return result


def _heartbeat(beat: Heartbeat) -> Heartbeat:
    checks.node(beat.node)
    for text in (beat.url, beat.version, beat.epoch, beat.catalog, beat.fence, beat.zone):
        checks.text(text)
    for number in (beat.at, beat.epoch_seq, beat.seq, beat.disk_total, beat.disk_free, beat.keys, beat.slots):
        checks.number(number)
    for number in (beat.held_keys, beat.held_bytes, beat.cert_until, beat.damaged, beat.healed):
        checks.number(number)
    for entry in checks.items(beat.running):
        run, job, attempt = checks.items(entry)
        checks.text(run)
        checks.number(job)
        checks.number(attempt)
    checks.flag(beat.full)
    checks.share(beat.load)
    checks.share(beat.memory)
    return beat
