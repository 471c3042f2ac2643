"""RabbitMQ goes away, closes connections, loses its queues of jobs, and has no patience."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import quote

import pytest

from broker import topology
from broker.link import Delivery, Link
from ops.cluster import Cluster
from tests.faults.jobs_tools import SLOTS, Field, Launching, empty, frozen
from tests.faults.load import Client
from tests.faults.test_broker import owner
from tests.faults.tools import api, connections, delete_queue, logged, settle, wait_logged
from tests.support import Clusters, wait_for

pytestmark = pytest.mark.usefixtures("nothing_left")

LEASE_SECS = 7.5  # more than a node's backoff
START_SECS = 2.0  # a broker needs more than this
TIMEOUT_SECS = 1.5  # the broker's, for an acknowledgement
TICK_SECS = 0.25  # between two looks of the broker for those that are over

# RabbitMQ looks once a minute unless it is told otherwise.
PATIENCE = f"[{{rabbit, [{{consumer_timeout, {TIMEOUT_SECS * 1000:.0f}}}, {{channel_tick_interval, {TICK_SECS * 1000:.0f}}}]}}].\n"


@pytest.fixture(scope="module")
def field(make_shared_cluster: Clusters, tmp_path_factory: pytest.TempPathFactory, mode: str) -> Iterator[Field]:
    field = Field(
        make_shared_cluster,
        tmp_path_factory.mktemp("field"),
        {"PULZAR_JOBS_LEASE": str(LEASE_SECS)},
        mode,
        own_broker=True,
        start=False,
    )
    rabbit = field.cluster.rabbit
    assert rabbit
    rabbit.directory.mkdir(parents=True)
    (rabbit.directory / "advanced.config").write_text(PATIENCE)
    field.cluster.start()
    field.wait_mode()
    yield field
    make_shared_cluster.close()


def test_a_job_may_run_for_longer_than_the_broker_waits_for_an_acknowledgement(field: Field, cluster: Cluster) -> None:
    # Given a broker that closes the channel of who does not acknowledge within some seconds
    seen: list[Delivery] = []
    link = Link(cluster.broker_url, "lazy", lambda: [topology.Queue("test.lazy", {"x-queue-type": "quorum"})])
    link.consume("test.lazy", seen.append, 1)
    link.start()
    assert link.wait(30)
    ups = {node.id: len(logged(node.process, "link up")) for node in cluster.nodes}
    try:
        link.publish("test.lazy", b"never acknowledged", durable=True)
        wait_for(lambda: seen, 30, "a message for who is lazy")
        # When jobs run for longer than that
        jobs = field.launch_many(2 * SLOTS, "long", seconds=2 * (TIMEOUT_SECS + TICK_SECS))
        # Then that one has lost its connection
        wait_for(lambda: len(seen) > 1, 4 * TIMEOUT_SECS, "the end of the broker's patience")
    finally:
        link.stop()
    # And the jobs are done, once, and no node has lost its own
    field.check(jobs, faults=0, attempts=1)
    assert ups == {node.id: len(logged(node.process, "link up")) for node in cluster.nodes}


@pytest.mark.parametrize("which", ["normal", "high", "low", "node"])
def test_a_queue_of_jobs_that_a_person_empties_and_deletes_costs_no_job(
    field: Field, cluster: Cluster, which: str
) -> None:
    node = cluster.nodes[0].id
    queue = topology.node_jobs_queue(node) if which == "node" else topology.jobs_queue(which)
    options = {"node": node} if which == "node" else {"priority": which}
    # Given jobs in the queue, and no free slot
    busy, others = field.spread(f"busy-{which}")
    jobs = field.launch_many(20, f"emptied-{which}", options=options)
    wait_for(lambda: depth(cluster, queue) == 20, 30, "the jobs in their queue")
    # When a person empties it in the console
    empty(cluster, queue)
    assert depth(cluster, queue) == 0
    # And deletes it when there are others in it
    jobs += field.launch_many(20, f"deleted-{which}", options=options)
    wait_for(lambda: depth(cluster, queue) == 20, 30, "the jobs in their queue")
    assert delete_queue(cluster, queue)
    field.open(f"busy-{which}-gate")
    # Then they are done nevertheless, and nothing is done twice
    field.check([*jobs, *busy, *others], faults=0, attempts=1)


def depth(cluster: Cluster, queue: str) -> int:
    """How many messages wait in a queue, at this moment."""
    found: list[dict[str, int]] = []
    link = Link(cluster.broker_url, "counts", list)
    link.start()
    try:
        assert link.wait(30)
        link.count([queue], found.append)
        return wait_for(lambda: found, 30, "a count")[0][queue]
    finally:
        link.stop()


def test_every_connection_closed_from_the_console_costs_no_job(field: Field, cluster: Cluster) -> None:
    # Given runs on some slots, and jobs that come all the time
    steady = field.launch_many(SLOTS, "steady", gate="steady-gate")
    field.wait_begun(steady)
    wait_for(lambda: len(connections(cluster)) >= 5, 30, "connections of 2 workers, the controller and 2 agents")
    titles = connections(cluster)
    with field.finals() as finals:
        with Launching(field, "closed", threads=4, pause=0.05) as launching:
            for name, title in titles.items():
                ups = len(logged(owner(cluster, title), "link up", f'"{title}"'))
                # When a person closes a connection in the console
                api(cluster, "DELETE", f"connections/{quote(name, safe='')}")
                # Then its owner is there again
                wait_logged(owner(cluster, title), "link up", f'"{title}"', more_than=ups)
                launching.wait_accepted(5)
        # And nothing is lost, and what ran has not noticed
        field.check_running(steady)
        field.open("steady-gate")
        field.check(steady, faults=0, attempts=1)
        jobs = launching.check()
        field.check(jobs, faults=len(titles), attempts=1)
        finals.check(jobs)


def test_a_broker_that_is_killed_has_nothing_run_twice(field: Field, cluster: Cluster) -> None:
    rabbit = cluster.rabbit
    assert rabbit
    # Given runs on all slots, of which the master and the broker have heard, and jobs that wait
    first, second = field.spread("broker")
    running = [*first, *second]
    for number in running:
        wait_for(lambda number=number: field.job(number)["progress"]["text"] == "begun", 30, "progress")  # type: ignore[misc]
    waiting = field.launch_many(20, "broker waiting")
    # When the broker is killed, and is away for longer than the leases
    rabbit.kill()
    killed = time.monotonic()
    wait_for(lambda: time.monotonic() >= killed + LEASE_SECS - START_SECS, 2 * LEASE_SECS)
    rabbit.start()
    assert time.monotonic() > killed + LEASE_SECS
    cluster.wait_healthy(30)
    # Then all that ran goes on
    field.check_running(running)
    field.open("broker-gate")
    # And everything is done, once
    field.check([*running, *waiting], faults=0, attempts=1)


def test_a_launch_that_the_broker_has_not_confirmed_is_202_and_runs_once_when_it_does(
    field: Field, cluster: Cluster
) -> None:
    rabbit = cluster.rabbit
    assert rabbit
    assert rabbit.process.pid
    body = json.dumps(field.arguments("unconfirmed", options={"unique": "unconfirmed"})).encode()
    with closing(Client(cluster.master_url)) as client:
        # Given a broker that stands still, its connections open
        with frozen([rabbit.process.pid]):
            # When a job is launched, and launched again with the same token
            answers = [client.request("POST", "/launch_job/fault/work", body) for _ in range(2)]
            # Then both are told after a while, with its id, that it is in the ledger
            told = [json.loads(answer.body) for answer in answers]
            assert [answer.status for answer in answers] == [202, 202]
            assert {one["status"] for one in told} == {"ok"}
            assert all("is in the ledger" in one["msg"] and "RabbitMQ" in one["msg"] for one in told)
            (number,) = {one["data"]["job_id"] for one in told}
            assert field.job(number)["state"] == "pending"
        # And it runs when the broker goes on, once
        settle(cluster)
        field.check([number], faults=0, attempts=1)
        # And is not unconfirmed any more
        assert client.request("POST", "/launch_job/fault/work", body).status == 200


def test_a_broker_that_stands_still_has_nothing_run_twice(field: Field, cluster: Cluster) -> None:
    rabbit = cluster.rabbit
    assert rabbit
    assert rabbit.process.pid
    # Given runs on all slots
    first, second = field.spread("still")
    # When the broker stands still, its connections open, for longer than the leases
    with frozen([rabbit.process.pid]):
        until = time.monotonic() + LEASE_SECS + 2
        wait_for(lambda: time.monotonic() >= until, 2 * LEASE_SECS)
    settle(cluster)
    # Then all that ran goes on
    field.check_running([*first, *second])
    field.open("still-gate")
    # And is done, once
    field.check([*first, *second], faults=0, attempts=1)
