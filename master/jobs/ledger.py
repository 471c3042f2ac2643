"""The ledger: every job and schedule, durable, in LMDB. The controller alone writes it; the web workers read it.

| table      | key                                     | value                                                       |
| ---------- | --------------------------------------- | ----------------------------------------------------------- |
| jobs       | id (8 bytes)                            | `Job`                                                       |
| schedules  | id                                      | `Schedule`                                                  |
| lists      | `List` (1 byte) + id                    | nothing                                                     |
| executions | `List` + schedule (8 bytes, 0: all) + id | nothing: jobs that schedules made                          |
| owned      | token + 0 + `List`, `x` + `List` + id    | nothing: the same two tables, of one launcher               |
| history    | `s` script, `n` node, `o` source, 0, id | nothing: jobs by where they come from and ran               |
| due        | time (ms) + id                          | nothing: timers of retries and active schedules             |
| open       | id                                      | nothing: the broker has not confirmed its message yet       |
| waiting    | lane + 0 + id                           | nothing: pending jobs by the queue their message is in      |
| closed     | time (ms) + id                          | nothing: jobs and schedules that have ended                 |
| tokens     | digest of a unique token                | id                                                          |
| direct     | run                                     | id of the job that was published by hand                    |
| withdrawn  | lane + 0 + id                           | attempt, time: cancelled while their message was in a queue |
| live       | id                                      | `JobProgress`: progress and end of the log of a running job |
| catalogs   | node                                    | digest of the scripts it has                                |
| scripts    | path + 0 + node, helpers: 0 before that | `CatalogRow` without its path                               |
| meta       | `id`, `count:<list>`, `lane:<node>:`    | the last id given; how many there are                       |
| meta       | `format`                                | that of the ledger, see `FORMAT`                            |
| meta       | `bytes:p`, `bytes:s`                    | bytes of the arguments of pending jobs, of schedules        |
| events     | number (8 bytes)                        | `Event`: a new state of a job that the index has not told   |
| meta       | `event`                                 | number of the newest event                                  |

A job or schedule has rows in `lists`, `executions`, `owned`, `history`, `due`, `open`, `waiting` and `closed`. They
follow from its own row (`master.jobs.rows`), so they can't come apart. No other module names a table.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import lmdb
import msgpack

from broker.clock import now_ms
from broker.messages.runs import CatalogRow, NodeCatalog
from master.errors import IndexUnusable
from master.index.environment import Contents, Environment, Room, Transaction, pack, stamped
from master.index.events import Event
from master.jobs import model, rows
from master.jobs.model import MAY_FOLLOW, AttemptId, Job, JobProgress, Schedule, lane
from master.jobs.rows import Ids, List, Rows, id_key, lane_key, number_of

MAP_BYTES = 64 << 30  # address space, neither disk nor memory
_LAST = (1 << 64) - 1
_PENDING, _SCHEDULED = b"bytes:p", b"bytes:s"
_COLUMNS = ("description", "args", "category", "author", "error", "kind", "arguments")
_MORE_COLUMNS = ("problems", "preload", "preload_left_out")  # that few scripts have
_HELPER = b"\0"  # stands before the paths of modules that are no scripts
_ADVICE = "put back a copy of that directory, or remove it: the jobs it knows are forgotten then"
FORMAT = 3  # 1: of the versions that wrote no number; 2: without `history`
_WITHOUT_HISTORY = 2
_FORMAT = b"format"
_EVENT = b"event"
_TABLES = (
    "jobs schedules lists executions owned history due open waiting closed tokens direct withdrawn live catalogs"
    " scripts meta events"
)
_CONTENTS = Contents("ledger", "[jobs] ledger_map", _ADVICE, tuple(_TABLES.split()), durable=True)


class Pile(NamedTuple):
    """How many jobs or schedules there are, and the bytes of their arguments."""

    number: int
    size: int


class Withdrawal(NamedTuple):
    """A job whose message, still in some queue, must not be run."""

    attempt: AttemptId
    time: int  # ms


class IdCursor:
    """Goes down a list of ids. It belongs to a transaction, and must be closed before that ends."""

    def __init__(self, cursor: lmdb.Cursor[bytes], beginning: bytes) -> None:
        self._cursor = cursor
        self._beginning = beginning
        self._length = len(beginning) + 8

    def at_most(self, number: int) -> int:
        """The newest id up to `number`, 0 when there is none."""
        cursor, wanted = self._cursor, self._beginning + id_key(number)
        found = cursor.set_range(wanted)
        if found and cursor.key() == wanted:
            return number
        if not (cursor.prev() if found else cursor.last()):
            return 0
        key = cursor.key()
        return number_of(key[-8:]) if len(key) == self._length and key.startswith(self._beginning) else 0

    def close(self) -> None:
        """Free the cursor."""
        self._cursor.close()


class LedgerView(Transaction):
    """A transaction that reads the ledger. Ids are those of jobs and schedules, which share one counter."""

    __slots__ = ()

    # Jobs and schedules.

    def job(self, number: int) -> Job | None:
        """The job with this id."""
        raw = self._get("jobs", id_key(number))
        return None if raw is None else model.unpack_job(raw)

    def schedule(self, number: int) -> Schedule | None:
        """The schedule with this id."""
        raw = self._get("schedules", id_key(number))
        return None if raw is None else model.unpack_schedule(raw)

    def jobs(self, before: int = 0) -> Iterator[Job]:
        """Every job, newest first, or those before an id."""
        return (model.unpack_job(raw) for _, raw in self._newest("jobs", b"", before))

    def job_bytes(self, number: int) -> bytes | None:
        """The packed row of a job, see `master.jobs.model.unpack_job`: what it says is looked for in it first."""
        return self._get("jobs", id_key(number))

    def by_token(self, token: str) -> int:
        """Id of the job or schedule with this unique token, 0 if there is none."""
        return self._number("tokens", rows.token_key(token))

    def by_run(self, run: str) -> int:
        """Id of the job that was published by hand and claimed with this run, 0 if there is none."""
        return self._number("direct", run.encode())

    def progress(self, number: int) -> JobProgress | None:
        """How far a running job is; None if it has not said anything."""
        raw = self._get("live", id_key(number))
        return None if raw is None else model.unpack_progress(raw)

    # Lists. They must not be written while one of these iterators is read.

    def listed(self, which: List, before: int = 0) -> Iterator[int]:
        """Ids of a list, newest first, or those before an id."""
        return (number_of(key[-8:]) for key, _ in self._newest("lists", which.value, before))

    def owned(self, by: str, which: List, before: int = 0, *, executions: bool = False) -> Iterator[int]:
        """Ids of a list, or of executions, as the two others give them: those that the token `by` has launched."""
        prefix = rows.owner_key(by, which, executions=executions)
        return (number_of(key[-8:]) for key, _ in self._newest("owned", prefix, before))

    def executions(self, which: List, schedule: int = 0, before: int = 0) -> Iterator[int]:
        """Ids of the jobs that a schedule made (0: all schedules), newest first: ALL, READY or FAILED ones."""
        return (number_of(key[-8:]) for key, _ in self._newest("executions", which.value + id_key(schedule), before))

    def ids(self, of: Ids) -> IdCursor:
        """A list of ids, to go down in."""
        return IdCursor(self._cursor(of.table), of.beginning)

    def due(self, now: int) -> Iterator[int]:
        """Ids of the jobs and schedules whose time (ms) has come, the longest overdue first."""
        return self._stamped("due", now)

    def ahead(self, now: int) -> Iterator[int]:
        """Ids of the jobs and schedules whose time (ms) has not come."""
        return (number_of(key[-8:]) for key, _ in self._up("due", start=stamped(now + 1, 0)))

    def closed(self, until: int) -> Iterator[int]:
        """Ids of the jobs and schedules that ended before a time (ms), the oldest first."""
        return self._stamped("closed", until - 1)

    def unconfirmed(self) -> Iterator[int]:
        """Ids of the pending jobs whose message the broker has not confirmed."""
        return (number_of(key) for key, _ in self._up("open"))

    def waiting(self, lane: str) -> Iterator[int]:
        """Ids of the pending jobs whose message is in a queue, the oldest first."""
        return (number_of(key[-8:]) for key, _ in self._up("waiting", lane_key(lane, 0)[:-8]))

    def withdrawn(self, lane: str) -> Iterator[Withdrawal]:
        """The jobs whose message in this queue must be dropped."""
        for key, raw in self._up("withdrawn", lane_key(lane, 0)[:-8]):
            attempt, time = msgpack.unpackb(raw)
            yield Withdrawal(AttemptId(number_of(key[-8:]), attempt), time)

    # Events.

    def events(self) -> list[tuple[int, Event]]:
        """New states of jobs that may not be among the events of the index, the oldest first, with their numbers."""
        return [(number_of(key), Event(*msgpack.unpackb(raw))) for key, raw in self._up("events")]

    def newest_event(self) -> int:
        """The number of the newest event that there ever was."""
        return self._number("meta", _EVENT)

    # Counters.

    def count(self, which: List) -> int:
        """How many jobs or schedules a list has."""
        return self._number("meta", b"count:" + which.value)

    def pending(self) -> Pile:
        """The pending jobs."""
        return Pile(self.count(List.PENDINGS) - self.count(List.RUNNING), self._number("meta", _PENDING))

    def scheduled(self) -> Pile:
        """The schedules that are not over."""
        return Pile(self.count(List.SCHEDULED), self._number("meta", _SCHEDULED))

    def waiting_on(self, node: str) -> int:
        """How many jobs wait in a node's own queue."""
        return self._number("meta", b"lane:" + node.encode() + b":")

    # The catalog.

    def catalog_digest(self, node: str) -> str:
        """Digest of the catalog that is known of a node, "" for none."""
        return (self._get("catalogs", node.encode()) or b"").decode()

    def scripts(self) -> Iterator[tuple[str, CatalogRow]]:
        """Every script and helper of every node, with the node."""
        for key, raw in self._up("scripts"):
            path, _, node = key.removeprefix(_HELPER).decode().partition("\0")
            yield node, _script(path, raw)

    def nodes_with(self, path: str) -> set[str]:
        """The nodes that have a script."""
        prefix = _script_key(path)
        return {key[len(prefix) :].decode() for key, _ in self._up("scripts", prefix)}

    def script_on(self, node: str, path: str) -> CatalogRow | None:
        """What a node says of a script; None if it has none."""
        raw = self._get("scripts", _script_key(path) + node.encode())
        return None if raw is None else _script(path, raw)

    def script(self, path: str, helper: bool = False) -> CatalogRow | None:
        """What one of the nodes says of a script or helper; None if there is none."""
        for _, raw in self._up("scripts", _script_key(path, helper)):
            return _script(path, raw)
        return None

    # Tables.

    def _number(self, table: str, key: bytes) -> int:
        return number_of(self._get(table, key))

    def _stamped(self, table: str, until: int) -> Iterator[int]:
        last = stamped(max(0, until), _LAST)
        for key, _ in self._up(table):
            if key > last:
                return
            yield number_of(key[-8:])

    def _newest(self, table: str, prefix: bytes, before: int) -> Iterator[tuple[bytes, bytes]]:
        """Rows with a prefix, the newest id first, or those before an id."""
        return self._down(table, prefix, prefix + id_key(min(before, _LAST) or _LAST))


class LedgerTables(LedgerView):
    """A transaction that writes the ledger. It commits at its end; if something is raised, it changes nothing.

    Counters, which every row of a batch changes, are written at its end. What it has looked up of the catalog it keeps.
    """

    __slots__ = ("_counters", "_having", "told")

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment, write=True)
        self._counters: dict[bytes, int] = {}
        self._having: dict[str, set[str]] = {}
        self.told: list[tuple[int, Event]] = []  # that this transaction has added

    def __exit__(self, *error: object) -> None:
        if not any(error):
            try:
                for counter, number in self._counters.items():
                    self._put("meta", counter, id_key(number))
            except BaseException as problem:
                super().__exit__(type(problem), problem, problem.__traceback__)
                raise
        super().__exit__(*error)

    def nodes_with(self, path: str) -> set[str]:
        """The nodes that have a script."""
        found = self._having.get(path)
        if found is None:
            found = self._having[path] = super().nodes_with(path)
        return found

    def next_id(self) -> int:
        """An id that no job and no schedule had."""
        return self._add(b"id", 1)

    def save(self, old: Job | None, new: Job) -> Job:
        """Write a job, whose row was `old`, and return it; raises `ValueError` for a state that may not follow."""
        if old is not None and new.state != old.state and new.state not in MAY_FOLLOW[old.state]:
            raise ValueError(f"job {new.id} is {old.state.name}, it can't become {new.state.name}")
        self._put("jobs", id_key(new.id), pack(new))
        if old is None or old.state != new.state:
            self._add(_PENDING, new.weight() - (old.weight() if old else 0))
        if old is None or (old.state, old.attempt) != (new.state, new.attempt):
            self._tell(new)
        listed = old is None or old.node != new.node  # of what `history` goes by, nothing else changes
        self._move(rows.of_job(old, listed) if old else set(), rows.of_job(new, listed))
        return new

    def _tell(self, job: Job) -> None:
        """Note that a job has got another state, until the index has that among its events."""
        number, event = self._add(_EVENT, 1), model.event_of(job, now_ms())
        self._put("events", id_key(number), pack(event))
        self.told.append((number, event))

    def drop_events(self, until: int) -> None:
        """Forget the events up to a number: the index has them."""
        for key in [key for key, _ in takewhile(lambda row: number_of(row[0]) <= until, self._up("events"))]:
            self._delete("events", key)

    def save_schedule(self, old: Schedule | None, new: Schedule) -> Schedule:
        """Write a schedule, whose row was `old`, and return it."""
        self._put("schedules", id_key(new.id), pack(new))
        if old is None or old.state != new.state:
            self._add(_SCHEDULED, new.weight() - (old.weight() if old else 0))
        self._move(rows.of_schedule(old) if old else set(), rows.of_schedule(new))
        return new

    def remove(self, number: int) -> None:
        """Forget a job or schedule and all that belongs to it."""
        job, schedule = self.job(number), self.schedule(number)
        row = job or schedule
        if row is None:
            return
        self._move(rows.of_job(job) if job else rows.of_schedule(schedule) if schedule else set(), set())
        self._delete("jobs" if job else "schedules", id_key(number))
        self._add(_PENDING if job else _SCHEDULED, -row.weight())
        if row.options.unique and self.by_token(row.options.unique) == number:
            self._delete("tokens", rows.token_key(row.options.unique))
        if job:
            self.save_progress(number, None)
            for run in {job.run, *(attempt.run for attempt in job.attempts)} - {""}:
                self._delete("direct", run.encode())
            for where in (lane("", job.options.priority), lane(job.options.node, "")):
                self.drop_withdrawn(where, number)

    def drop_timer(self, number: int, until: int) -> None:
        """Remove the timers of an id up to a time (ms): a row that another version of the master left."""
        for key in [key for key, _ in self._up("due") if key[-8:] == id_key(number) and key <= stamped(until, _LAST)]:
            self._delete("due", key)

    def take_over(self) -> None:
        """Complete a ledger that an earlier version wrote: bytes were not counted, schedules had no row in `due`.

        Nor had anybody's jobs rows of their own. Raises `IndexUnusable` for a ledger of a later version.
        """
        found = self._number("meta", _FORMAT)
        if found > FORMAT:
            raise IndexUnusable(
                f"the ledger has the format {found}, and this version of Pulzar knows those up to {FORMAT}: it was "
                "written by a later version. Start that one, or put back a copy of the ledger from before the upgrade"
            )
        self._put("meta", _FORMAT, id_key(FORMAT))
        if found == FORMAT:
            return
        self._list_history()
        if found == _WITHOUT_HISTORY:
            return
        for which in (List.PENDINGS, List.READY, List.FAILED):
            for number in list(self.listed(which)):
                if (job := self.job(number)) and job.by:
                    self._move(set(), rows.of_job(job))
        if self._get("meta", _PENDING) is None:
            pending = [self.job(number) for number in self.listed(List.PENDINGS)]
            self._add(_PENDING, sum(job.weight() for job in pending if job))
        schedules = [row for number in self.listed(List.SCHEDULES) if (row := self.schedule(number))]
        if self._get("meta", _SCHEDULED) is None:
            self._add(_SCHEDULED, sum(row.weight() for row in schedules))
        for row in schedules:
            self._move(set(), rows.of_schedule(row))

    def _list_history(self) -> None:
        """Write the rows of `history`, and of failed and of cancelled jobs apart, for jobs of an earlier version.

        The table is empty, so its rows are written in order, without a search for each: 4 s per million jobs.
        """
        lists: dict[bytes, array[int]] = {}
        for key, raw in self._up("jobs"):
            number = number_of(key)
            for beginning in rows.history_of(*model.history_fields(raw)):
                lists.setdefault(beginning, array("Q")).append(number)
        with self._cursor("history") as cursor:
            for beginning in sorted(lists):
                cursor.putmulti(((beginning + id_key(number), b"") for number in lists[beginning]), append=True)
        for number in list(self.listed(List.FAILED)):
            if job := self.job(number):
                self._move(set(), {row for row in rows.of_job(job) if row[0] == "lists"})

    # What belongs to jobs.

    def save_token(self, token: str, number: int) -> None:
        """Note the unique token of a job or schedule."""
        self._put("tokens", rows.token_key(token), id_key(number))

    def save_run(self, run: str, number: int) -> None:
        """Note the run of a job that was published by hand."""
        self._put("direct", run.encode(), id_key(number))

    def save_progress(self, number: int, progress: JobProgress | None) -> None:
        """Note how far a running job is; None if it does not run any more."""
        if progress is None:
            self._delete("live", id_key(number))
        else:
            self._put("live", id_key(number), pack(progress))

    def withdraw(self, job: Job, now: int) -> None:
        """Note that the message of a job must be dropped; it is still in some queue."""
        self._put("withdrawn", lane_key(job.lane, job.id), pack((job.attempt, now)))

    def drop_withdrawn(self, lane: str, number: int) -> None:
        """Note that the message of a withdrawn job is gone."""
        self._delete("withdrawn", lane_key(lane, number))

    # The catalog.

    def save_catalog(self, catalog: NodeCatalog) -> None:
        """Note the scripts of a node, instead of those it had."""
        node = catalog.node.encode()
        self.remove_catalog(catalog.node)  # which forgets what was looked up
        for row in catalog.rows:
            key = _script_key(row["path"], row.get("kind") == "helper") + node
            columns = {name: row.get(name) for name in _COLUMNS}
            columns |= {name: row[name] for name in _MORE_COLUMNS if name in row}  # type: ignore[literal-required]
            self._put("scripts", key, pack(columns))
        self._put("catalogs", node, catalog.digest.encode())

    def remove_catalog(self, node: str) -> None:
        """Forget the scripts of a node."""
        self._having.clear()
        end = b"\0" + node.encode()
        for key in [key for key, _ in self._up("scripts") if key.endswith(end)]:
            self._delete("scripts", key)
        self._delete("catalogs", node.encode())

    # Rows that follow from others.

    def _move(self, old: Rows, new: Rows) -> None:
        for table, key in old - new:
            if self._delete(table, key):
                self._count(table, key, -1)
        for table, key in new - old:
            if self._put(table, key, b"", overwrite=False):
                self._count(table, key, 1)

    def _count(self, table: str, key: bytes, change: int) -> None:
        if table == "lists":
            self._add(b"count:" + key[:1], change)
        elif table == "waiting" and key[:1] != b":":  # only those of nodes are ever asked for
            self._add(b"lane:" + key[:-9], change)

    def _add(self, counter: bytes, change: int) -> int:
        number = self._number("meta", counter) + change
        self._counters[counter] = max(0, number)
        return number

    def _number(self, table: str, key: bytes) -> int:
        if table == "meta" and (number := self._counters.get(key)) is not None:
            return number
        return super()._number(table, key)


class Ledger:
    """The LMDB files of jobs and schedules. One per process and path; never used across a fork."""

    def __init__(self, directory: Path, write: bool = False, map_size: int = MAP_BYTES) -> None:
        """Open the files in `directory`; `map_size` in bytes. Raises `IndexUnusable`."""
        self._environment = Environment(directory, map_size, _CONTENTS, write)
        if write:
            try:
                with self.write() as tables:
                    tables.take_over()
            except IndexUnusable:
                self.close()
                raise

    def room(self) -> Room:
        """How much of the file is in use."""
        return self._environment.room()

    def copy(self, directory: Path) -> None:
        """Write a copy of this moment into an empty directory, see `Environment.copy`; any thread may call this."""
        self._environment.copy(directory)

    def close(self) -> None:
        """Close the files."""
        self._environment.close()

    def read(self) -> LedgerView:
        """A transaction that reads."""
        return LedgerView(self._environment)

    def write(self) -> LedgerTables:
        """A transaction that writes."""
        return LedgerTables(self._environment)


def _script(path: str, raw: bytes) -> CatalogRow:
    row: CatalogRow = {"path": path}
    row.update(msgpack.unpackb(raw))
    return row


def _script_key(path: str, helper: bool = False) -> bytes:
    return (_HELPER if helper else b"") + path.encode() + b"\0"
