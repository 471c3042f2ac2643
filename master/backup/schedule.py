"""Orders backups: at their time, again after a failure, and when somebody asks. One member at a time.

For the controller's thread alone. The ledger is a member, too, and this process carries out its orders.
"""

from __future__ import annotations

import queue
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from broker import logs, topology
from broker.backoff import pause_after
from broker.backups import timetable
from broker.backups.worker import BackupWorker
from broker.clock import DAY_MS
from broker.errors import LinkDown
from broker.link import Link
from broker.messages.backups import MASTER, BackupState, MakeBackup, Outcome, Work
from broker.messages.codec import encode
from broker.refusals import BadRequest, Conflict, NotFound
from broker.settings import Settings
from master.backup import plan
from master.backup.ledger_snapshots import LedgerSnapshots
from master.backup.plan import Current, Member, Task
from master.index.events import OF_BACKUPS, Event
from master.index.index import Index, Node
from master.jobs.ledger import Ledger

log = logs.get(__name__)

RETRY_FIRST_SECS = 60.0
RETRY_MOST_SECS = 3600.0
SILENT_SECS = 60.0  # without a heartbeat: the node is not there
ASK_SECS = 20.0  # without a word about its order, a node gets it once more, and answers with its state
MUTE_SECS = 180.0  # the same: it has failed
VERIFY_EVERY_MS = 7 * DAY_MS
_SAVED_SECS = 5.0  # between two plans that differ in progress only


class BackupSchedule:
    """Decides which member does what. Its times are those of `now`, in ms since the epoch."""

    def __init__(self, config: Settings, index: Index, link: Link, ledger: Ledger) -> None:
        self._settings = config.backup
        self._directory = Path(config.server.dir)
        self._index = index
        self._link = link
        self.events: list[Event] = []  # that the index has not told yet; whoever takes them clears this
        read = plan.read(self._directory)
        self._plan = plan.Plan(dict(read.members), list(read.waiting), read.current, read.due)
        self._started = 0  # when the first tick was
        self._spoken = 0  # when something was heard of the current order, or it was sent
        self._asked = 0
        self._saved = 0
        self._namesake = False  # a node of the ledger's name was told
        self._told: queue.SimpleQueue[BackupState] = queue.SimpleQueue()
        snapshots = LedgerSnapshots(ledger, self._directory)
        self._worker = BackupWorker(MASTER, self._directory, config.backup.verify, snapshots, self._told.put)
        self._worker.start()

    def close(self) -> None:
        """End what this process does."""
        self._worker.stop()

    def observe(self, states: Sequence[BackupState], now: int) -> None:
        """Take in what members say."""
        for state in states:
            self._take(state, now)

    def start(self, member: str | None, target: str, now: int) -> list[str]:
        """Back up one member, or all for None, to the target in the settings or another one; returns their names.

        Raises `BadRequest` without a target, `Conflict` while there is something to do, `NotFound`.
        """
        if not target and not (self._settings.type and self._settings.address):
            raise BadRequest("no target is set: give [backup] type and address in the configuration, or a target")
        if self._plan.current or self._plan.waiting:
            task = self._plan.current.task if self._plan.current else self._plan.waiting[0]
            raise Conflict(f"a backup is on its way, of {task.member} just now; GET /admin/backup tells how far it is")
        names = self._names()
        if member is not None and member not in names:
            raise NotFound(f"no node is called {member!r}; GET /admin/network lists them, and master is the ledger")
        chosen = names if member is None else [member]
        self._plan.waiting += [Task(name, Work.SEND, target) for name in chosen]
        self._next(now)
        self._save(now)
        return chosen

    def forget(self, node: str) -> None:
        """A node is gone for good."""
        self._plan.members.pop(node, None)
        self._plan.waiting = [task for task in self._plan.waiting if task.member != node]

    def tick(self, now: int) -> None:
        """Do what time brings."""
        while not self._told.empty():
            self._take(self._told.get(), now)
        self._started = self._started or now
        before = self._shape()
        for name in self._names():
            self._member(name, now)
        if self._settings.active:
            self._timetable(now)
            self._retries(now)
            self._verifications(now)
        self._watch(now)
        self._next(now)
        if before != self._shape():
            self._save(now)

    def _shape(self) -> tuple[object, ...]:
        """What must be durable at once when it changes."""
        return len(self._plan.waiting), self._plan.current, self._plan.due, len(self._plan.members)

    # What is to be done.

    def _timetable(self, now: int) -> None:
        if not self._plan.due:
            self._plan.due = now  # the first time comes after this
        if timetable.following(self._settings.at, self._plan.due / 1000) * 1000 > now:
            return
        self._plan.due = now
        names = self._names()
        log.info("backups are due", members=len(names))
        for name in names:
            self._want(Task(name, Work.SEND))

    def _retries(self, now: int) -> None:
        for name, member in self._plan.members.items():
            if 0 < member.retry_at <= now:
                self._want(Task(name, Work.SEND))

    def _verifications(self, now: int) -> None:
        for name, member in self._plan.members.items():
            good = member.state.good_at and not member.failures
            if self._settings.verify and good and member.verify_at <= now:
                self._want(Task(name, Work.VERIFY))

    def _want(self, task: Task) -> None:
        doing = self._plan.current.task if self._plan.current else None
        if task != doing and task not in self._plan.waiting:
            self._plan.waiting.append(task)

    def _next(self, now: int) -> None:
        """Begin the next task, when none is being carried out."""
        while self._plan.current is None and self._plan.waiting:
            task = self._plan.waiting[0]
            objection = self._objection(task.member, now)
            if objection and now - self._started < SILENT_SECS * 1000:
                return  # this process has just started, and may not have heard of it yet
            del self._plan.waiting[0]
            self._plan.current = Current(task, secrets.token_hex(16), now)
            self._spoken = now
            if objection:
                self._failed(objection, now)
            else:
                self._order(now)

    def _objection(self, name: str, now: int) -> str:
        """Why a member can't be told; "" when it can."""
        if name == MASTER:
            return ""
        node = self._nodes().get(name)
        if node is None:
            return "the node is not known"
        if not self._link.ready:
            return f"there is no connection to RabbitMQ: {self._link.problem}"
        silent = (now - node.received) / 1000
        return f"the node was not heard from for {silent:.0f} s" if silent > SILENT_SECS else ""

    def _order(self, now: int) -> None:
        assert self._plan.current is not None
        task, order, _ = self._plan.current
        self._asked = now
        message = MakeBackup(order, task.work, task.target)
        if task.member == MASTER:
            self._worker.take(message)
            return
        try:
            self._link.publish(topology.node_queue(task.member), encode(message), ttl_ms=int(ASK_SECS * 1000))
        except LinkDown as error:
            log.debug("order not sent; it is sent again", member=task.member, reason=error)

    def _watch(self, now: int) -> None:
        """See to it that the current task ends."""
        current = self._plan.current
        if current is None:
            return
        if self._spoken == 0 or not (self._link.ready or current.task.member == MASTER):
            # This process has started, and the order is an older one's; or nobody can be heard.
            self._spoken = now
        quiet = (now - self._spoken) / 1000
        if quiet > SILENT_SECS and (objection := self._objection(current.task.member, now)):
            self._failed(objection, now)
        elif quiet > MUTE_SECS:
            self._failed(f"the node said nothing of it for {quiet:.0f} s", now)
        elif quiet > ASK_SECS and (now - self._asked) / 1000 > ASK_SECS:
            self._order(now)

    # What came of it.

    def _take(self, state: BackupState, now: int) -> None:
        member = self._member(state.member, now)
        self._plan.members[state.member] = member._replace(state=state)
        current = self._plan.current
        if current is None or state.order != current.order:
            self._save(now)
            return
        self._spoken = now
        if state.outcome is Outcome.NONE:
            self._save(now, durable=False)
        elif state.outcome is Outcome.FAILED:
            self._failed(state.reason, now)
        else:
            self._good(now)

    def _good(self, now: int) -> None:
        assert self._plan.current is not None
        task = self._plan.current.task
        member = self._plan.members[task.member]
        if task.work is Work.VERIFY:
            member = member._replace(fault="", fault_at=0, verify_at=now + VERIFY_EVERY_MS)
        elif not task.target:
            member = member._replace(error="", error_at=0, failures=0, retry_at=0)
            if not self._settings.verify:
                member = member._replace(fault="", fault_at=0)
            elif member.fault:  # the backup may have mended it
                member = member._replace(verify_at=now)
        self._ended(task, member, now, "")

    def _failed(self, reason: str, now: int) -> None:
        assert self._plan.current is not None
        task = self._plan.current.task
        member = self._member(task.member, now)
        if task.work is Work.VERIFY:
            member = member._replace(fault=reason, fault_at=now, verify_at=now + DAY_MS)
        else:
            member = member._replace(error=reason, error_at=now)
        if task.work is not Work.VERIFY and not task.target:
            failures = member.failures + 1
            pause = pause_after(failures, RETRY_FIRST_SECS, RETRY_MOST_SECS)
            member = member._replace(failures=failures, retry_at=now + int(pause * 1000))
        self._ended(task, member, now, reason)

    def _ended(self, task: Task, member: Member, now: int, reason: str) -> None:
        self._plan.members[task.member] = member
        self._plan.current = None
        if reason:
            log.error("backup failed", member=task.member, work=task.work, reason=reason, failures=member.failures)
        else:
            log.info("backup is good", member=task.member, work=task.work, snapshot=member.state.snapshot)
        self.events.append(_event(task, member.state, reason, now))
        self._save(now)

    # Members.

    def _nodes(self) -> Mapping[str, Node]:
        nodes = self._index.read_nodes()
        if nodes.pop(MASTER, None) is not None and not self._namesake:
            self._namesake = True
            log.error("a node has the ledger's name and is not backed up; give it another one", node=MASTER)
        return nodes

    def _names(self) -> list[str]:
        return [*sorted(self._nodes()), MASTER]

    def _member(self, name: str, now: int) -> Member:
        if name not in self._plan.members:
            self._plan.members[name] = Member(BackupState(name), now)
        return self._plan.members[name]

    def _save(self, now: int, *, durable: bool = True) -> None:
        if not durable and now - self._saved < _SAVED_SECS * 1000:
            return
        self._saved = now
        try:
            plan.write(self._directory, self._plan, durable=durable)
        except OSError as error:
            log.error("the plan of backups can't be written", reason=error)


def _event(task: Task, state: BackupState, reason: str, now: int) -> Event:
    """The event that a backup or its verification has ended; `reason`: why it failed, "" when it is good."""
    fields: dict[str, object] = {"member": task.member, "work": task.work, "target": task.target or None}
    fields |= {"reason": reason} if reason else {"snapshot": state.snapshot, "size": state.size}
    return Event(OF_BACKUPS[bool(reason)], now, task.member, fields)
