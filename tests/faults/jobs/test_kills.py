"""kill -9, of everything that has a part in jobs, while they run and while they are launched."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from broker import topology
from broker.link import Link
from ops.cluster import Cluster
from tests.faults.jobs_tools import (
    END_SECS,
    MANY_ATTEMPTS,
    SLOTS,
    Field,
    Launching,
    LaunchingMany,
    run_processes,
)
from tests.faults.load import Client
from tests.faults.tools import COMPANION, kill_part, living, settle
from tests.support import http_request, wait_for

pytestmark = pytest.mark.usefixtures("nothing_left")

KILLS = 4  # a companion that dies again and again is started again later and later


@pytest.mark.every_mode
def test_the_runs_of_a_node_that_is_killed_are_taken_over_by_another_one(field: Field, cluster: Cluster) -> None:
    with field.finals() as finals:
        # Given jobs on both nodes, each with a child that got away from it
        doomed, others = field.spread("taken", child=True)
        assert len(doomed) == len(others) == SLOTS
        # When one of them is killed and stays away
        cluster.kill_node(0)
        field.open("taken-gate")
        # Then the other one does all of it
        field.check(doomed, faults=1, attempts=2)
        field.check(others, faults=0, attempts=1)
        for number in doomed:
            job = field.job(number)
            assert (job["node"], job["output"]["attempt"]) == (cluster.nodes[1].id, 2)
            assert [attempt["state"] for attempt in job["attempts"]] == ["lost", "completed"]
        # And when the node is back that is still so
        rows = field.rows()
        cluster.start_node(0)
        settle(cluster)
        tail = field.launch_many(2 * SLOTS, "taken after", options={"node": cluster.nodes[0].id})
        field.check(tail, faults=0, attempts=1)
        assert {number: row for number, row in field.rows().items() if number in rows} == rows
        finals.check([*doomed, *others])
    field.check_alone([*doomed, *others])


def test_a_node_that_is_killed_again_and_again_costs_no_job(field: Field, cluster: Cluster) -> None:
    # Given jobs that come all the time
    times = 3
    with field.finals() as finals:
        with Launching(field, "killed", threads=4, pause=0.05, seconds=0.1, options=MANY_ATTEMPTS) as launching:
            for _ in range(times):
                launching.wait_accepted(20)
                # When a node is killed in the middle of it, and started again
                cluster.kill_node(0)
                cluster.start_node(0)
        # Then each of them is completed
        jobs = launching.check()
        field.check(jobs, faults=times)
        # And has got that state once
        finals.check(jobs)
    assert launching.again == 0


@pytest.mark.every_mode
def test_the_runs_of_an_agent_that_is_killed_end_before_they_are_tried_again(field: Field, cluster: Cluster) -> None:
    with field.finals() as finals:
        # Given jobs on both nodes, each with a child that got away from it
        doomed, others = field.spread("orphans", child=True)
        pids = [process.pid for process in run_processes(cluster)]
        assert len(pids) == 2 * 2 * SLOTS, pids
        # When the agent of one is killed, and nothing else
        kill_part(cluster.nodes[0].process, COMPANION)
        # Then its runs are tried again when nothing of them is there any more, and those of the other go on
        field.wait_begun(doomed, attempt=2)
        field.check_alone()
        assert len(living(pids)) == len(pids) - 2 * len(doomed)
        field.open("orphans-gate")
        field.check(doomed, faults=1, attempts=2)
        field.check(others, faults=0, attempts=1)
        finals.check([*doomed, *others])
    # And what waited for the gate is done once
    assert field.counts("through", doomed) == dict.fromkeys(doomed, 1)
    assert {field.job(number)["attempts"][0]["state"] for number in doomed} == {"lost"}


def kill_controller(cluster: Cluster) -> None:
    kill_part(cluster.master, COMPANION)


def kill_master(cluster: Cluster) -> None:
    cluster.kill_master()
    cluster.start_master()
    cluster.wait_healthy(30)


@pytest.mark.parametrize("kill", [kill_controller, kill_master])
def test_every_step_of_a_launch_may_be_the_last_one_of(
    kill: Callable[[Cluster], None], field: Field, cluster: Cluster
) -> None:
    # Given runs that go on for all the time
    steady = field.launch_many(SLOTS, f"steady {kill.__name__}", gate=f"{kill.__name__}-gate")
    field.wait_begun(steady)
    # And clients that launch as fast as they can
    with Launching(field, kill.__name__) as launching:
        for _ in range(KILLS):
            launching.wait_accepted(10)
            # When the master, or its controller, is killed at whatever it does just now
            time.sleep(random.uniform(0, 0.02))
            kill(cluster)
        launching.wait_accepted(10)
    assert launching.again, "no launch was cut off; this has tested nothing"
    # Then those that run have not noticed
    field.check_running(steady)
    field.open(f"{kill.__name__}-gate")
    field.check(steady, faults=0, attempts=1)
    # And what was accepted is there once, what was not at most once, and all of it is completed
    field.check(launching.check(), faults=KILLS, attempts=1)


def test_many_launched_by_one_request_are_there_once_after_a_kill_at_any_step(field: Field, cluster: Cluster) -> None:
    # Given requests that launch several jobs each, and are sent again until they have a good answer
    launching = LaunchingMany(field, "together", size=15)
    with launching:
        for _ in range(KILLS - 1):
            launching.wait_accepted(3)
            # When the controller is killed at whatever it does just now
            time.sleep(random.uniform(0, 0.02))
            kill_controller(cluster)
        launching.wait_accepted(3)
    assert launching.again, "no request was cut off; this has tested nothing"
    # Then each job of theirs is in the ledger once, under the id that was told, and completed
    field.check(launching.check(), faults=KILLS, attempts=1)


def test_jobs_published_by_hand_survive_kills_too(field: Field, cluster: Cluster) -> None:
    # Given jobs that come all the time without the master, each with a unique token
    link = Link(cluster.broker_url, "hand", list)
    link.start()
    tags: list[str] = []
    times = 2

    def publish(count: int) -> None:
        for _ in range(count):
            tags.append(f"hand-{len(tags)}")
            job = {"job": "fault/work", "arguments": field.arguments(tags[-1], seconds=0.05)}
            options = {"unique": tags[-1], **MANY_ATTEMPTS}
            link.publish(topology.JOBS, json.dumps(job | {"options": options}).encode(), durable=True)

    def begun() -> Counter[str]:
        return Counter(effect.tag for effect in field.effects() if effect.what == "begun")

    def wait_most() -> None:
        wait_for(lambda: sum(tag in begun() for tag in tags) >= len(tags) - 10, 30, "most of the jobs")

    try:
        assert link.wait(30)
        # When an agent is killed, and the master, and a whole node, all of it several times
        for _ in range(times):
            publish(20)
            wait_most()
            kill_part(cluster.nodes[0].process, COMPANION)
            cluster.kill_master()
            publish(20)
            wait_most()
            cluster.kill_node(1)
            cluster.start_master()
            cluster.start_node(1)
        publish(20)
    finally:
        link.stop()
    cluster.wait_healthy(30)

    # Then each of them is in the ledger once, and completed
    def known() -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for number, row in field.rows().items():
            tag = json.loads(row["parameters"])["tag"]
            if tag in tags:
                assert row["source"] == "queue"
                found.setdefault(tag, []).append(number)
        return found if set(found) == set(tags) else {}

    jobs = wait_for(known, 30, "all jobs in the ledger")
    assert {tag: numbers for tag, numbers in jobs.items() if len(numbers) != 1} == {}
    field.check([numbers[0] for numbers in jobs.values()], faults=2 * times)
    assert max(begun()[tag] for tag in tags) <= 1 + 2 * times


def test_executions_now_happen_once_and_a_pause_stays_though_the_controller_is_killed(
    field: Field, cluster: Cluster
) -> None:
    # Given a schedule whose time does not come
    weekly = {"interval": "weeks", "time_unit": 1, "repeat": 1}
    schedule = field.launch("now", scheduled=weekly)
    tokens = [f"token-{number}" for number in range(12)]
    found: dict[str, int] = {}
    statuses: Counter[int] = Counter()

    def run_all() -> None:
        with closing(Client(cluster.master_url)) as client:
            for token in tokens:
                while token not in found:
                    answer = client.request("POST", f"/scheduled_jobs/{schedule}/run?unique={token}")
                    statuses[answer.status] += 1
                    if answer.status in (200, 202):
                        found[token] = json.loads(answer.body)["data"]["job_id"]
                    else:
                        time.sleep(0.02)

    # When it is run by one who asks until he is answered, while the controller is killed again and again
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(run_all)
        for killed in range(1, 4):
            wait_for(lambda killed=killed: asking.done() or len(found) >= 3 * killed, END_SECS, "executions")
            time.sleep(random.uniform(0, 0.02))
            kill_controller(cluster)
        asking.result()
    # Then each call has had one execution, and none began before the last one was over
    assert set(statuses) <= {200, 202, 409, 503}, statuses
    assert statuses[503], "no call was cut off; this has tested nothing"
    numbers = list(found.values())
    assert len(set(numbers)) == len(tokens)
    assert {row["state"] for row in field.wait_ended(numbers).values()} == {"completed"}
    assert field.counts("through", numbers) == dict.fromkeys(numbers, 1)
    field.check_alone(numbers)
    shown = http_request("GET", f"{cluster.master_url}/admin/scheduled_jobs/{schedule}").data
    assert shown["executions"] == len(tokens)
    assert {row["exec_id"] for row in shown["last_executions"]} == set(numbers)
    # And a pause that was answered is there after a kill, and so is its end
    for action, state in (("pause", "paused"), ("resume", "scheduled")):
        address = f"{cluster.master_url}/scheduled_jobs/{schedule}/{action}"
        wait_for(lambda address=address: http_request("POST", address).status == 200, END_SECS, action)
        kill_controller(cluster)
        shown = http_request("GET", f"{cluster.master_url}/admin/scheduled_jobs/{schedule}").data
        assert shown["state"] == state
    assert wait_for(
        lambda: http_request("POST", f"{cluster.master_url}/cancel_job/{schedule}").status == 200, END_SECS, "the end"
    )
