"""Messages about runs of jobs; for their codec see `broker.messages.codec`, for a job itself `broker.messages.jobs`.

| message       | from → to             | queue                | carries                                             |
| ------------- | --------------------- | -------------------- | --------------------------------------------------- |
| `Reports`     | node → controller     | `pulzar.results`     | runs claimed and ended, jobs given back             |
| `Progress`    | node → controller     | `pulzar.progress`    | how far a run is, and new bytes of its log          |
| `NodeCatalog` | node → controller     | `pulzar.heartbeats`  | the scripts that a node has                         |
| `Named`       | controller → one node | `pulzar.node.<id>`   | the id of a job that was published by hand          |
| `Withdrawn`   | controller → one node | `pulzar.node.<id>`   | at its start: jobs that it must not run any more    |
| `AskCatalog`  | controller → one node | `pulzar.node.<id>`   | "send me your catalog"                              |
| `Withdraw`    | controller → all      | `pulzar.control`     | "end the runs of this job, and run it no more"      |

A run is one attempt at a job; its name is a random token. Times are milliseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

from broker.messages import checks

MAX_BODY = 1 << 20

ProgressTuple = tuple[float, float, str]  # done, total (0: not known), text
NO_PROGRESS: ProgressTuple = (0.0, 0.0, "")


class RunState(IntEnum):
    """How a run ended."""

    COMPLETED = 0  # its exit status was 0
    FAILED = 1  # anything else that nobody asked for
    CANCELLED = 2  # somebody asked for it
    LOST = 3  # its node, or the node's agent, ended before it


class RunEnd(NamedTuple):
    """How and when a run ended: one record for the runner, the node's claims, the report and the ledger."""

    state: RunState
    reason: str  # what happened, for a person; "" when there is nothing to say
    started: int
    ended: int

    @classmethod
    def unpacked(cls, state: int, reason: str, started: int, ended: int) -> RunEnd:
        """The record with these fields, as they were packed; raises `ValueError` for a state that is none."""
        return cls(RunState(state), reason, started, ended)


class Claimed(NamedTuple):
    """A node has taken a job, durably, and runs it now."""

    run: str
    id: int  # of the job, 0 when it was published by hand and has none yet
    attempt: int
    at: int
    order: bytes  # the job as it was published when it has no id, else b""


class Finished(NamedTuple):
    """A run has ended. On the wire, and in the node's `claims.log`, the fields of `end` stand between the others."""

    run: str
    id: int
    attempt: int
    end: RunEnd
    log_key: str = ""  # where its log is, "" when there is none
    output_key: str = ""
    progress: ProgressTuple = NO_PROGRESS  # the last it told

    def flat(self) -> tuple[object, ...]:
        """The fields as they are packed."""
        return *self[:3], *self.end, *self[4:]

    @classmethod
    def unpacked(cls, *fields: Any) -> Finished:
        """The report with these fields, as `flat` gave them; raises `ValueError` or `TypeError` for others."""
        run, job, attempt, state, reason, started, ended, log_key, output_key, (done, total, text) = fields
        end = RunEnd.unpacked(state, reason, started, ended)
        return cls(run, job, attempt, end, log_key, output_key, (done, total, text))


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


class CatalogRow(TypedDict):
    """A script of a node."""

    path: str  # folder/script
    description: NotRequired[str]
    args: NotRequired[str]
    category: NotRequired[str]
    author: NotRequired[str]
    error: NotRequired[str]
    kind: NotRequired[str]  # class, script or helper
    arguments: NotRequired[object]  # as `jobs.docstrings.parse_arguments` has them
    problems: NotRequired[list[str]]  # what is wrong with what it says of itself; it runs all the same
    preload: NotRequired[list[str]]  # modules that its runs find loaded, once it runs often
    preload_left_out: NotRequired[dict[str, str]]  # those that can't be, and why; of this node


class NodeCatalog(NamedTuple):
    """The scripts of a node."""

    node: str
    digest: str
    rows: list[CatalogRow]


class Named(NamedTuple):
    """The job of this run has this id."""

    run: str
    id: int


class Withdrawn(NamedTuple):
    """Jobs (id, attempt) that must not run any more, up to that attempt, whenever they are pulled."""

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

_NUMBERS: dict[type[Claimed | Finished | Returned], int] = {Claimed: 1, Finished: 2, Returned: 3}


def fields(message: Reports) -> tuple[str, list[tuple[object, ...]]]:
    """The fields of the message as they are packed: each item with a number that says what it is."""
    flat = [(_NUMBERS[type(item)], item.flat() if isinstance(item, Finished) else item) for item in message.items]
    return message.node, [(number, *values) for number, values in flat]


def _reports(node: object, items: object) -> Reports:
    return Reports(checks.node(node), [_item(item) for item in checks.items(items)])


def _item(raw: object) -> Claimed | Finished | Returned:
    match checks.items(raw):
        case [1, run, job, attempt, at, order]:
            return Claimed(_run(run), checks.number(job), checks.number(attempt), checks.number(at), _body(order))
        case [2, run, job, attempt, state, reason, started, ended, log_key, output_key, progress]:
            name, number, attempt = _run(run), checks.number(job), checks.number(attempt)
            end = RunEnd(
                RunState(checks.number(state)), checks.text(reason), checks.number(started), checks.number(ended)
            )
            done, total, words = checks.items(progress)
            told = checks.share(done), checks.share(total), checks.text(words)
            return Finished(name, number, attempt, end, checks.text(log_key), checks.text(output_key), told)
        case [3, order, reason, token]:
            return Returned(_body(order), checks.text(reason), _run(token))
    raise ValueError(f"no report looks like {raw!r:.60}")


def _progress(*values: object) -> Progress:
    number, share = checks.number, checks.share
    read = (checks.node, _run, number, number, share, share, checks.text, _body, number)
    return Progress._make(check(value) for check, value in zip(read, values, strict=True))


def _catalog(node: object, digest: object, rows: object) -> NodeCatalog:
    for row in checks.items(rows):
        if not isinstance(row, dict) or not isinstance(row.get("path"), str):
            raise ValueError(f"no row of a catalog looks like {row!r:.60}")
    return NodeCatalog(checks.node(node), checks.text(digest), cast("list[CatalogRow]", rows))


def _withdrawn(entries: object) -> Withdrawn:
    pairs = [checks.items(entry) for entry in checks.items(entries)]
    return Withdrawn([(checks.number(job), checks.number(attempt)) for job, attempt in pairs])


def _withdraw(job: object, attempt: object, run: object, reason: object) -> Withdraw:
    return Withdraw(checks.number(job), checks.number(attempt), _run(run) if run else "", checks.text(reason))


def _run(value: object) -> str:
    text = checks.text(value)
    checks.token(text)
    return text


def _body(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) > MAX_BODY:
        raise TypeError(f"expected up to {MAX_BODY} bytes, received {value!r:.60}")
    return value


# How each message is made of its fields, checked.
BUILD: dict[type[RunMessage], Callable[..., RunMessage]] = {
    Reports: _reports,
    Progress: _progress,
    NodeCatalog: _catalog,
    Named: lambda run, job: Named(_run(run), checks.number(job)),
    Withdrawn: _withdrawn,
    AskCatalog: lambda reason: AskCatalog(checks.text(reason)),
    Withdraw: _withdraw,
}
