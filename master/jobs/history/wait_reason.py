"""Why a pending job waits, in words."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

from broker.messages.jobs import PRIORITIES
from master.jobs import script_catalog
from master.jobs.ledger import LedgerView
from master.jobs.model import Job, JobState, lane
from master.jobs.routing import Load, Loads

MOST_BEFORE = 1_000  # jobs that are counted
_UNHEARD = Load(False, 0, 0)


class Cause(StrEnum):
    """What a pending job waits for."""

    RETRY = "retry"  # the delay before its next attempt
    BROKER = "broker"  # RabbitMQ has not confirmed its message
    NODE = "node"  # a node that is out of synch
    SLOT = "slot"  # a free slot
    PICKUP = "pickup"  # nothing: a free node takes it within moments


class WaitReason(NamedTuple):
    """Why a job waits."""

    cause: Cause
    text: str  # a sentence
    until: int = 0  # when it goes on, in ms; 0: that is not known
    before: int = 0  # jobs that come first, counted up to `MOST_BEFORE`


def of_job(view: LedgerView, job: Job, loads: Loads, data_wait: float) -> WaitReason | None:
    """Why a job waits; None when it is not pending. `data_wait`: seconds, see `master.jobs.routing.Router`."""
    if job.state is not JobState.PENDING:
        return None
    if job.due:
        said = f"; the last one: {job.reason}" if job.reason else ""
        return WaitReason(Cause.RETRY, f"attempt {job.attempt} begins after the delay between attempts{said}", job.due)
    if not job.confirmed:
        return WaitReason(Cause.BROKER, "RabbitMQ has not confirmed its message yet; it gets it as soon as it can")
    node = job.lane.partition(":")[0]
    before = _before(view, job, node)
    if node:
        return _on_node(job, node, loads.get(node, _UNHEARD), before, data_wait)
    having = view.nodes_with(job.path)
    heard = [name for name in having if loads.get(name, _UNHEARD).alive]
    if not heard:
        return WaitReason(Cause.NODE, _silent(view, job.path, having), before=before)
    slots = sum(loads[name].slots for name in heard)
    busy = sum(min(loads[name].running, loads[name].slots) for name in heard)
    return _for_slot(slots, busy, before, f"{len(heard)} node{'s' * (len(heard) > 1)}")


def _on_node(job: Job, node: str, load: Load, before: int, data_wait: float) -> WaitReason:
    """Why a job waits whose message is in a node's own queue."""
    if load.alive:
        return _for_slot(load.slots, load.running, before, f"node {node}")
    if job.options.node:
        what = f"node {node}, which it is bound to, is out of synch; it begins when that node is heard again"
        return WaitReason(Cause.NODE, what, before=before)
    if job.data:
        what = f"node {node}, which has its data, is out of synch; any other may take it after {data_wait:g} s"
        return WaitReason(Cause.NODE, what, job.confirmed + int(data_wait * 1000), before)
    what = f"node {node} is out of synch; it goes to another one that has the script, or begins when that one is back"
    return WaitReason(Cause.NODE, what, before=before)


def _for_slot(slots: int, busy: int, before: int, where: str) -> WaitReason:
    if slots > busy and before < slots - busy:
        return WaitReason(Cause.PICKUP, f"there is a free slot on {where}; it begins within moments", before=before)
    some = f"more than {MOST_BEFORE}" if before >= MOST_BEFORE else str(before)
    queue = f"{some} job{'s' * (before != 1)} before it" if before else "it is the next one"
    if slots <= busy:
        return WaitReason(Cause.SLOT, f"no free slot: all {slots} of {where} are busy; {queue}", before=before)
    return WaitReason(Cause.SLOT, f"{slots - busy} of {slots} slots of {where} are free; {queue}", before=before)


def _silent(view: LedgerView, path: str, having: Collection[str]) -> str:
    if not having:
        return script_catalog.lacking(view, path)
    names = ", ".join(sorted(having)[:5]) + (" …" if len(having) > 5 else "")
    return f"no node with the script {path} is heard: {names}; it begins when one of them is back"


def _before(view: LedgerView, job: Job, node: str) -> int:
    """How many jobs come before one, in its queue and in those that are emptied first."""
    first = [] if node else [lane("", name) for name in PRIORITIES[: PRIORITIES.index(job.options.priority)]]
    number = sum(1 for name in first for _ in islice(view.waiting(name), MOST_BEFORE))
    for before in islice(view.waiting(job.lane), MOST_BEFORE):
        if before >= job.id:
            break
        number += 1
    return min(number, MOST_BEFORE)
