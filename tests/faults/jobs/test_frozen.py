"""Something stands still (SIGSTOP), for longer than a lease, and then goes on as if nothing had been."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from ops.cluster import Cluster, Node
from tests.faults.jobs_tools import LEASE_SECS, SLOTS, Field, frozen, run_processes, whole_node
from tests.faults.tools import COMPANION, family, living, processes, settle
from tests.support import wait_for

pytestmark = pytest.mark.usefixtures("nothing_left")


def agent(node: Node) -> list[int]:
    """The agent alone: its zygote and its runs go on."""
    return processes(node.process, COMPANION)


@pytest.mark.parametrize("part", [whole_node, agent])
def test_a_late_result_changes_nothing(part: Callable[[Node], list[int]], field: Field, cluster: Cluster) -> None:
    name = part.__name__
    with field.finals() as finals:
        # Given jobs on both nodes
        late, others = field.spread(name)
        # When one of them stands still for longer than its lease
        with frozen(part(cluster.nodes[0])):
            field.open(f"{name}-gate")
            # Then the other one does all of it
            field.wait_ended([*late, *others])
            rows, jobs = field.rows(), {number: field.job(number) for number in late}
            assert {(job["node"], job["output"]["attempt"]) for job in jobs.values()} == {(cluster.nodes[1].id, 2)}
        # And when it goes on, what it says is kept as late
        for number in late:
            wait_for(
                lambda number=number: any(row["late"] for row in field.job(number)["attempts"]),  # type: ignore[misc]
                15,
                f"a late attempt at job {number}",
            )
        # And changes nothing
        settle(cluster)
        assert {number: field.rows()[number] for number in rows} == rows
        for number, job in jobs.items():
            found = field.job(number)
            assert found | {"attempts": found["attempts"][:2]} == job
        field.check(late, faults=1, attempts=2)
        field.check(others, faults=0, attempts=1)
        finals.check([*late, *others])
    # And the node takes jobs as before
    field.check(
        field.launch_many(2 * SLOTS, f"{name} after", options={"node": cluster.nodes[0].id}), faults=0, attempts=1
    )


def test_runs_of_a_node_that_goes_on_end_when_others_are_at_it(field: Field, cluster: Cluster) -> None:
    # Given jobs on both nodes, each with a child that got away from it
    late, others = field.spread("superseded", child=True)
    gate = field.directory / "superseded-gate"
    before = [process.pid for process in run_processes(cluster)]
    with frozen(whole_node(cluster.nodes[0])):
        # When one of them stands still, and the other one has slots, then that one is at its jobs
        field.open(gate.name)
        field.wait_ended(others)
        gate.unlink()
        field.wait_begun(late, attempt=2)
    # And when it goes on, its runs end, with all that belongs to them
    wait_for(lambda: not living(before), 30, "the end of the runs that do not count any more")
    rows = field.rows()
    assert {(rows[number]["state"], rows[number]["attempt"]) for number in late} == {("running", 2)}
    # And the others go on to their end
    field.open(gate.name)
    field.check(late, faults=1, attempts=2)
    field.check(others, faults=0, attempts=1)
    assert field.counts("through", late) == dict.fromkeys(late, 1)


def test_a_node_that_stands_still_keeps_no_job_from_the_others(field: Field, cluster: Cluster) -> None:
    # Given a node that has nothing to do, so that the broker hands it the next job that comes
    with frozen(whole_node(cluster.nodes[0])):
        # When it stands still, then the other one does all that comes
        jobs = field.launch_many(3 * SLOTS, "kept")
        field.wait_ended(jobs)
    settle(cluster)
    field.check(jobs, faults=1, attempts=1)
    field.check_alone(jobs)


def test_a_master_that_stands_still_for_longer_than_a_lease_loses_no_run(field: Field, cluster: Cluster) -> None:
    # Given runs on all slots
    jobs = [job for half in field.spread("master") for job in half]
    assert cluster.master.pid
    # When the master stands still for longer than their leases
    with frozen([cluster.master.pid, *family(cluster.master)]):
        until = time.monotonic() + 2 * LEASE_SECS
        wait_for(lambda: time.monotonic() >= until, 3 * LEASE_SECS)
    settle(cluster)
    # Then it counts on them as before
    field.check_running(jobs)
    field.open("master-gate")
    field.check(jobs, faults=0, attempts=1)
