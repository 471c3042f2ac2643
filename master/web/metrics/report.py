"""The figures of the master as a text: what is counted, and what is looked up."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from broker import VERSION, topology
from broker.clock import now_ms
from broker.metrics import exposition
from broker.metrics.exposition import Text
from broker.metrics.reading import read
from broker.settings import Settings
from master.backup import overview, plan
from master.cluster.nodes import Nodes
from master.cluster.queue_depths import Depths
from master.index.environment import Room
from master.index.index import Index
from master.index.projection import cursor_of
from master.jobs.ledger import Ledger, LedgerView
from master.jobs.model import lane
from master.jobs.rows import List
from master.metrics import figures
from master.web.metrics.nodes import NodeFigures, write_nodes


@dataclass(frozen=True)
class Sources:
    """What the figures are read from."""

    settings: Settings
    index: Index
    ledger: Ledger
    network: Nodes
    depths: Depths


def report(sources: Sources, certificates: Mapping[str, float], *, ready: bool) -> Text:
    """All figures of this moment. `certificates`: their ends by whose they are, 0 for none. Raises `OSError`."""
    text = Text()
    exposition.info(text, "pulzar_info", "The master and its version.", {"version": VERSION})
    text.gauge("pulzar_ready", "1: a PUT of a new key would be stored.", ready)
    names = _nodes(text, sources)
    _queues(text, sources.depths.of(names))
    with sources.ledger.read() as view:
        _jobs(text, view, names)
    _files(text, {"index": sources.index.room(), "ledger": sources.ledger.room()})
    _backups(text, sources.settings, names)
    ends = [((name,), end) for name, end in certificates.items() if end]
    text.gauges("pulzar_certificate_end_seconds", "When a certificate ends, since the epoch.", ("of",), ends)
    text.reading(figures.LAYOUT, read(figures.LAYOUT, Path(sources.settings.server.dir)))
    return text


def _nodes(text: Text, sources: Sources) -> list[str]:
    """Figures of nodes, keys and copies. Returns the names of all nodes."""
    rows = sources.network.describe()
    with sources.index.read() as tables:
        usage, repair, incomplete = tables.usage(), tables.repair(), tables.incomplete()
        known = [NodeFigures(row, row["seq"] - cursor_of(tables, row["node"]).complete_to) for row in rows]
    text.gauge("pulzar_keys", "Keys in the index.", usage.keys)
    text.gauge("pulzar_value_bytes", "Bytes of their values.", usage.size)
    awaited = 1 if incomplete is None else len(incomplete)
    about = "Nodes whose keys the index may lack: keys that it does not know are 503. A new index counts as one."
    text.gauge("pulzar_index_awaited_nodes", about, awaited)
    write_nodes(text, known, time.time())
    text.gauge("pulzar_replicas_lacking", "Values that lacked copies in the last look at all.", repair.lacking)
    text.gauge("pulzar_replicas_under_way", "Copies that nodes are making.", repair.under_way)
    about = "Copies that repair has made since the controller started."
    text.gauge("pulzar_replicas_copied_total", about, repair.copies, "counter")
    about = "Nodes that count as lost: values with no other copy on a living node can't be read."
    text.gauge("pulzar_nodes_lost", about, len(repair.lost))
    return [row["node"] for row in rows]


def _queues(text: Text, depths: Mapping[str, int]) -> None:
    about = "Messages that wait in a queue, without those on their way to a consumer; of the scrape before, at most."
    rows = [((queue,), depth) for queue, depth in depths.items()]
    text.gauges("pulzar_queue_messages", about, ("queue",), rows)


def _jobs(text: Text, view: LedgerView, nodes: Iterable[str]) -> None:
    running = view.count(List.RUNNING)
    states = {
        "pending": view.count(List.PENDINGS) - running,
        "running": running,
        "completed": view.count(List.READY),
        "failed": view.count(List.BROKEN),
        "cancelled": view.count(List.CANCELLED),
    }
    rows = [((state,), number) for state, number in states.items()]
    text.gauges("pulzar_jobs", "Jobs in the ledger; those that ended are forgotten after a while.", ("state",), rows)
    text.gauge("pulzar_schedules", "Schedules that are not over.", view.count(List.SCHEDULED))
    now = now_ms()
    about = "For how long the job has waited that waits longest in a queue."
    text.gauge("pulzar_job_oldest_wait_seconds", about, max(0, now - _oldest(view, nodes, now)) / 1000)
    about = "For how long the retry or execution is due that is overdue longest."
    text.gauge("pulzar_timer_overdue_seconds", about, max(0, now - _due(view, now)) / 1000)


def _oldest(view: LedgerView, nodes: Iterable[str], now: int) -> int:
    """When the oldest of the jobs in queues was launched, in ms; `now` when there is none."""
    shared = [lane("", priority) for priority in topology.PRIORITIES]
    lanes = [*shared, *(lane(node, "") for node in nodes)]
    first = [next(view.waiting(name), 0) for name in lanes]
    jobs = [view.job(number) for number in first if number]
    return min((job.created for job in jobs if job), default=now)


def _due(view: LedgerView, now: int) -> int:
    """When the timer was due that is overdue longest, in ms; `now` when none is."""
    number = next(view.due(now), 0)
    job, schedule = view.job(number), view.schedule(number)
    return job.due if job else schedule.next if schedule else now


def _files(text: Text, rooms: Mapping[str, Room]) -> None:
    used = [((name,), room.used) for name, room in rooms.items()]
    most = [((name,), room.most) for name, room in rooms.items()]
    text.gauges("pulzar_file_used_bytes", "Bytes of the master's files up to their last page.", ("file",), used)
    text.gauges("pulzar_file_most_bytes", "Bytes that the master's files may have.", ("file",), most)


def _backups(text: Text, settings: Settings, nodes: Iterable[str]) -> None:
    text.gauge("pulzar_backup_active", "1: backups are made at their time.", settings.backup.active)
    about = "Members whose last good backup is too old, or whose last verification failed."
    text.gauge("pulzar_backup_warnings", about, len(overview.warnings(settings, nodes)))
    members = plan.read(Path(settings.server.dir)).members
    now = time.time()
    ages = [((name,), now - member.state.good_at / 1000) for name, member in members.items() if member.state.good_at]
    text.gauges("pulzar_backup_age_seconds", "Since the last good backup began.", ("member",), ages)
    failures = [((name,), member.failures) for name, member in members.items()]
    text.gauges("pulzar_backup_failures", "Backups that failed since the last good one.", ("member",), failures)
