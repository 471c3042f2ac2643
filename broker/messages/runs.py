"""Messages about runs of jobs. Their codec is that of `broker.messages.codec`; a job itself travels as `broker.messages.jobs` says.

| message       | from → to             | queue                | carries                                             |
| ------------- | --------------------- | -------------------- | --------------------------------------------------- |
| `Reports`     | node → controller     | `pulzar.results`     | runs claimed and ended, jobs given back             |
| `Progress`    | node → controller     | `pulzar.progress`    | how far a run is, and new bytes of its log          |
| `NodeCatalog`     | node → controller     | `pulzar.heartbeats`  | the scripts that a node has                         |
| `Named`       | controller → one node | `pulzar.node.<id>`   | the id of a job that was published by hand          |
| `Withdrawn`   | controller → one node | `pulzar.node.<id>`   | at its start: jobs that it must not run any more    |
| `AskCatalog`  | controller → one node | `pulzar.node.<id>`   | "send me your catalog"                              |
| `Withdraw`    | controller → all      | `pulzar.control`     | "end the runs of this job, and run it no more"      |

A run is one attempt at a job; its name is a random token. Times are milliseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

from broker.messages import checks

MAX_BODY = 1 << 20


class RunState(IntEnum):
    """How a run ended."""

    COMPLETED = 0
    FAILED = 1
    CANCELLED = 2
    LOST = 3  # its node, or the node's agent, ended before it


class Claimed(NamedTuple):
    """A node has taken a job, durably, and runs it now."""

    run: str
    id: int  # of the job, 0 when it was published by hand and has none yet
    attempt: int
    at: int
    order: bytes  # the job as it was published when it has no id, else b""


class Finished(NamedTuple):
    """A run has ended."""

    run: str
    id: int
    attempt: int
    state: RunState
    reason: str  # what happened, for a person; "" when there is nothing to say
    started: int
    ended: int
    log_key: str  # where its log is, "" when there is none
    output_key: str
    progress: tuple[float, float, str] = (0.0, 0.0, "")  # done, total, text: the last it told


class Returned(NamedTuple):
    """A node that has no such script gives a job back."""

    order: bytes
    reason: str
    token: str  # random, the same when it is told twice


class Reports(NamedTuple):
    """What a node has to say of its runs, in the order in which it happened."""

    node: str
    items: list[Claimed | Finished | Returned]


class Progress(NamedTuple):
    """How far a run is."""

    node: str
    run: str
    id: int
    attempt: int
    done: float
    total: float  # 0: not known
    text: str
    log: bytes  # what is new of the log
    offset: int  # where in the log it begins


class NodeCatalog(NamedTuple):
    """The scripts of a node: dicts with path, description, args, category, author, error."""

    node: str
    digest: str
    rows: list[dict[str, Any]]


class Named(NamedTuple):
    """The job of this run has this id."""

    run: str
    id: int


class Withdrawn(NamedTuple):
    """Jobs (id, attempt) that shall not run any more, up to that attempt, whenever they are pulled."""

    entries: list[tuple[int, int]]


class AskCatalog(NamedTuple):
    """Send your catalog."""

    reason: str


class Withdraw(NamedTuple):
    """End all runs of a job up to this attempt, or the one run that is named, and run that job no more."""

    id: int
    attempt: int
    run: str  # "": all of them
    reason: str


RunMessage = Reports | Progress | NodeCatalog | Named | Withdrawn | AskCatalog | Withdraw

_ITEMS: dict[int, type[Any]] = {1: Claimed, 2: Finished, 3: Returned}
_NUMBERS = {cls: number for number, cls in _ITEMS.items()}


def fields(message: Reports) -> tuple[Any, ...]:
    """The fields of the message as they are packed: each item with a number that says what it is."""
    return message.node, [(_NUMBERS[type(item)], *item) for item in message.items]


def _reports(node: Any, items: Any) -> Reports:
    return Reports(checks.node(node), [_item(item) for item in checks.items(items)])


def _item(raw: Any) -> Claimed | Finished | Returned:
    number, *values = checks.items(raw)
    cls = _ITEMS.get(number) if isinstance(number, int) else None
    if cls is None or len(values) != len(cls._fields):
        raise ValueError(f"no report looks like {raw!r:.60}")
    if cls is Returned:
        return Returned(_body(values[0]), checks.text(values[1]), _run(values[2]))
    if cls is Claimed:
        run, job, attempt, at, order = values
        return Claimed(_run(run), checks.number(job), checks.number(attempt), checks.number(at), _body(order))
    run, job, attempt, state, reason, started, ended, log_key, output_key, progress = values
    done, total, text = checks.items(progress)
    return Finished(
        _run(run),
        checks.number(job),
        checks.number(attempt),
        RunState(checks.number(state)),
        checks.text(reason),
        checks.number(started),
        checks.number(ended),
        checks.text(log_key),
        checks.text(output_key),
        (checks.share(done), checks.share(total), checks.text(text)),
    )


def _progress(*values: Any) -> Progress:
    node, run, job, attempt, done, total, text, log, offset = values
    return Progress(
        checks.node(node),
        _run(run),
        checks.number(job),
        checks.number(attempt),
        checks.share(done),
        checks.share(total),
        checks.text(text),
        _body(log),
        checks.number(offset),
    )


def _catalog(node: Any, digest: Any, rows: Any) -> NodeCatalog:
    for row in checks.items(rows):
        if not isinstance(row, dict) or not isinstance(row.get("path"), str):
            raise ValueError(f"no row of a catalog looks like {row!r:.60}")
    return NodeCatalog(checks.node(node), checks.text(digest), rows)


def _withdrawn(entries: Any) -> Withdrawn:
    pairs = [checks.items(entry) for entry in checks.items(entries)]
    return Withdrawn([(checks.number(job), checks.number(attempt)) for job, attempt in pairs])


def _withdraw(job: Any, attempt: Any, run: Any, reason: Any) -> Withdraw:
    return Withdraw(checks.number(job), checks.number(attempt), _run(run) if run else "", checks.text(reason))


def _run(value: Any) -> str:
    text = checks.text(value)
    checks.token(text)
    return text


def _body(value: Any) -> bytes:
    if not isinstance(value, bytes) or len(value) > MAX_BODY:
        raise TypeError(f"expected up to {MAX_BODY} bytes, received {value!r:.60}")
    return value


# How each message is made of its fields, checked.
BUILD: dict[type[Any], Callable[..., RunMessage]] = {
    Reports: _reports,
    Progress: _progress,
    NodeCatalog: _catalog,
    Named: lambda run, job: Named(_run(run), checks.number(job)),
    Withdrawn: _withdrawn,
    AskCatalog: lambda reason: AskCatalog(checks.text(reason)),
    Withdraw: _withdraw,
}
