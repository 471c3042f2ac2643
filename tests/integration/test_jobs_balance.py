"""Load balancing: from the records of runs, no slot is idle while jobs wait that it could take."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ops.cluster import Rabbit
from tests.integration.jobs_tools import Console, Desk, Gate, at_once, make
from tests.support import Clusters, wait_for

SLOTS = (1, 3)
# Seconds between the end of one run and the start of the next one in its slot. It is some ms, but the machine may be busy,
# and one flush on a disk that others use may take a second or two.
TURN_MOST, TURN_MEAN = 3.0, 0.15


class Span(NamedTuple):
    """When a run began and ended, by the clock that all processes of this machine share."""

    node: str
    started: float
    ended: float


@pytest.fixture(scope="module")
def desk(rabbit: Rabbit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    clusters = Clusters(tmp_path_factory.mktemp("balance"), lambda: rabbit)
    try:
        yield make(clusters, tmp_path_factory.mktemp("jobs-scripts"), SLOTS)
    finally:
        clusters.close()


def over(desk: Desk, jobs: list[int], timeout: float = 30.0) -> list[dict[str, Any]]:
    """Wait until jobs are completed; their rows."""

    def found() -> list[dict[str, Any]] | None:
        rows = [row for row in desk.read("/admin/all_jobs?limit=1000") if row["job_id"] in set(jobs)]
        assert not [row for row in rows if row["state"] in ("failed", "cancelled")]
        return rows if len(rows) == len(jobs) and all(row["state"] == "completed" for row in rows) else None

    return wait_for(found, timeout, "the end of all jobs", pause=0.1) or []


def slots_of(spans: list[Span]) -> list[list[Span]]:
    """The runs of one node by slot: each run in a slot that is free at its start, the one that was free last."""
    slots: list[list[Span]] = []
    for span in sorted(spans, key=lambda span: span.started):
        free = [slot for slot in slots if slot[-1].ended <= span.started]
        if free:
            max(free, key=lambda slot: slot[-1].ended).append(span)
        else:
            slots.append([span])
    return slots


def test_slots_are_found_in_the_records_of_runs() -> None:
    spans = [Span("n", 0, 2), Span("n", 0.5, 1), Span("n", 1.5, 3), Span("n", 2.1, 4)]
    assert slots_of(spans) == [[spans[0], spans[3]], [spans[1], spans[2]]]


def test_no_slot_is_idle_while_jobs_wait(rabbit: Rabbit, desk: Desk) -> None:
    # Given a mixed load: short and long, by REST and by hand, of every priority, some bound to a node
    chance = random.Random(5)
    lengths = [chance.choice((0.01, 0.05, 0.1, 0.3, 0.6)) for _ in range(90)]
    console = Console(rabbit, desk.cluster.vhost)

    def by_rest(number: int) -> None:
        options = {"priority": chance.choice(("high", "normal", "low"))}
        if number % 10 == 0:
            options["node"] = desk.cluster.nodes[number // 10 % 2].id
        desk.launch("test/sleep", {"seconds": lengths[number]}, **options)

    def by_hand(number: int) -> None:
        console.publish(json.dumps({"job": "test/sleep", "arguments": {"seconds": lengths[number]}}))

    before = desk.read("/admin/all_jobs?limit=1")
    last = before[0]["job_id"] if before else 0
    # When it comes all at once
    at_once(
        lambda: [by_rest(number) for number in range(60)],
        lambda: [by_hand(number) for number in range(60, 90)],
    )

    def all_listed() -> list[int] | None:
        jobs = [row["job_id"] for row in desk.read("/admin/all_jobs?limit=1000") if row["job_id"] > last]
        return jobs if len(jobs) == len(lengths) else None

    jobs = wait_for(all_listed, 30, "all jobs to be listed") or []
    rows = over(desk, jobs)
    # Then until the last job was taken every slot was busy, but for the time it takes to begin the next run.
    spans = [Span(row["node"], row["started"], row["ended"]) for row in rows]
    first, last_start = min(span.started for span in spans), max(span.started for span in spans)
    turns: list[float] = []
    for node, count in zip(desk.cluster.nodes, SLOTS, strict=True):
        slots = slots_of([span for span in spans if span.node == node.id])
        assert len(slots) == count, f"{node.id} has {count} slots, and {len(slots)} runs at once"
        for slot in slots:
            ends = [first, *(span.ended for span in slot)]
            begins = [*(span.started for span in slot), last_start]
            # The last one may begin much later than this slot became free: then it was the only one left.
            turns += [max(0.0, begin - end) for end, begin in zip(ends, begins, strict=True)]
    assert max(turns) < TURN_MOST, sorted(turns)[-5:]
    assert sum(turns) / len(turns) < TURN_MEAN, sorted(turns)[-10:]
    # Each has done about what its slots can.
    busy = {
        node.id: sum(span.ended - span.started for span in spans if span.node == node.id) for node in desk.cluster.nodes
    }
    assert busy["node-2"] > 2 * busy["node-1"]


def test_a_node_whose_slots_are_taken_collects_no_jobs_of_its_own(desk: Desk, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    slow = desk.launch("test/gate", {"gate": str(gate.path)}, node="node-1")
    desk.until(slow, "running")
    jobs = desk.launch_many("test/noop", [{}] * 40)
    rows = over(desk, jobs)
    assert {row["node"] for row in rows} == {"node-2"}
    assert desk.job(slow)["state"] == "running"
    gate.open()
    desk.done(slow)


def test_what_was_taken_ahead_does_not_wait_behind_a_long_run(desk: Desk, tmp_path: Path) -> None:
    def given_back() -> bool:
        return any("jobs taken ahead are given back" in node.process.log.read_text() for node in desk.cluster.nodes)

    for attempt in range(10):
        # Given nodes that take jobs ahead, since all runs were short
        over(desk, desk.launch_many("test/noop", [{}] * 250))
        # When a few of those that follow are long
        gate = Gate(tmp_path / f"gate{attempt}")
        short = desk.launch_many("test/noop", [{}] * 40)
        slow = [desk.launch("test/gate", {"gate": str(gate.path)}) for _ in range(3)]
        short += desk.launch_many("test/noop", [{}] * 60)
        # Then the short ones end all the same, on the slot that is left, wherever they were
        over(desk, short)
        for job in slow:
            desk.until(job, "running")
        gate.open()
        over(desk, slow)
        if given_back():
            return
    pytest.fail("no job was given back, so none was ever taken ahead")


def test_a_job_that_comes_to_an_idle_cluster_begins_at_once(desk: Desk) -> None:
    waited = []
    for _ in range(20):
        asked = time.time()
        waited.append(desk.done(desk.launch("test/noop"))["started"] - asked)
    assert sorted(waited)[10] < 0.1, waited
    assert max(waited) < TURN_MOST
