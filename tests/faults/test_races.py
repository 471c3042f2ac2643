"""Two clients and one key; a node that stands still and answers late."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from contextlib import closing

import pytest

from ops.cluster import Cluster
from tests.faults.load import Answer, Client, Load, check, make_body
from tests.faults.test_copies import put_on, statuses
from tests.faults.tools import WORKER, kill_part, network, settle, tracebacks, wait_silent, wipe_index
from tests.support import Clusters, wait_for

ROUNDS = 200
PUT_TIMEOUT_SECS = 2.0
SLACK_SECS = 5.0  # the machine may be busy with others


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Clusters) -> Cluster:
    return make_shared_cluster(
        env={"PULZAR_SERVER_WORKERS": "2", "PULZAR_SERVER_PUT_TIMEOUT": str(PUT_TIMEOUT_SECS)},
    )


def test_of_two_clients_that_add_one_key_never_both_are_told_that_they_did(cluster: Cluster) -> None:
    # Given two clients that put one new key at the same moment, again and again
    barrier = threading.Barrier(2)
    answers: list[list[Answer]] = [[], []]
    bodies: list[list[bytes]] = [[], []]

    def compete(number: int) -> None:
        chance = random.Random(number)
        for count in range(ROUNDS):
            key = f"race/{count:03}"
            # Connections of their own, so that they come to different workers
            with closing(Client(cluster.master_url)) as client:
                bodies[number].append(make_body(key, number, 500, chance))
                barrier.wait(60)
                answers[number].append(client.put(key, bodies[number][-1]))
                if not answers[number][-1].status:
                    # Nobody may be there for a moment; what is tested are requests that somebody takes.
                    wait_for(lambda: client.request("GET", "/health").status, 30, "a web worker")

    clients = [threading.Thread(target=compete, args=(number,)) for number in range(2)]
    for client in clients:
        client.start()
    # When web workers are killed in between
    for kill in (50, 120):
        wait_for(lambda kill=kill: len(answers[0]) >= kill, 60, f"{kill} rounds")  # type: ignore[misc]
        kill_part(cluster.master, WORKER)
    for client in clients:
        client.join()
    settle(cluster)
    # Then never both have won, and the key has the winner's value
    outcomes: Counter[tuple[int, int]] = Counter()
    wrong = []
    with closing(Client(cluster.master_url)) as client:
        for count in range(ROUNDS):
            pair = (answers[0][count], answers[1][count])
            sent = (bodies[0][count], bodies[1][count])
            outcomes[pair[0].status, pair[1].status] += 1
            now = client.get(f"race/{count:03}")
            winners = [number for number in (0, 1) if pair[number].status == 201]
            if (
                len(winners) > 1
                or (winners and now.body != sent[winners[0]])
                or (not winners and now.status != 404 and now.body not in sent)
            ):
                wrong.append((count, pair[0].status, pair[1].status, now.status))
    assert not wrong, wrong
    # And one has won and the other was told so, but for requests that a kill has hit or that came too early
    decided = outcomes[201, 409] + outcomes[409, 201]
    assert decided == sum(times for pair, times in outcomes.items() if not {0, 503} & set(pair)), outcomes
    assert decided >= ROUNDS / 2, outcomes


def test_another_node_takes_over_from_one_that_stands_still(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    # Given clients that write
    settle(cluster)
    with Load(cluster.master_url, prefix="frozen", large=False) as load:
        load.wait_stored(200)
        # When a whole node stands still
        assert node.process.pid
        os.killpg(node.process.pid, signal.SIGSTOP)
        try:
            # Then the other one takes over
            load.wait_stored(200, PUT_TIMEOUT_SECS + 3)
            wait_silent(cluster, node)
            load.wait_stored(200)
        finally:
            os.killpg(node.process.pid, signal.SIGCONT)
        # And what the node says late changes nothing
        wait_for(lambda: network(cluster)[node.id]["synch"], 30, "the node in synch again")
        load.wait_stored(200)
    assert load.slowest < PUT_TIMEOUT_SECS + SLACK_SECS, load
    settle(cluster)
    check(load)
    # And neither does it after both have started anew, and the index is filled anew
    cluster.stop_node(0)
    cluster.stop_master()
    wipe_index(cluster)
    cluster.start_master()
    cluster.start_node(0)
    settle(cluster)
    check(load)
    assert not tracebacks(cluster)


def test_a_put_that_a_still_node_kept_waiting_succeeds_elsewhere(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    settle(cluster)
    put_on(cluster, 0, "still/warm", 1)
    assert node.process.pid
    # Given a node that has just been stopped, which nobody knows yet
    os.killpg(node.process.pid, signal.SIGSTOP)
    try:
        with closing(Client(cluster.master_url)) as client:
            # When keys are put
            values = {f"still/{number}": b"%d" % number * 100 for number in range(4)}
            for key, value in values.items():
                answer = client.put(key, value)
                # Then every one is stored in time
                assert answer.status == 201, answer
                assert answer.seconds < PUT_TIMEOUT_SECS
        assert statuses(cluster, values) == {200}
    finally:
        os.killpg(node.process.pid, signal.SIGCONT)
    # And the late ones change nothing
    settle(cluster)
    assert statuses(cluster, values) == {200}


def test_nodes_that_all_stood_still_leave_no_request_waiting_afterwards(cluster: Cluster) -> None:
    settle(cluster)
    pids = [node.process.pid for node in cluster.nodes if node.process.pid]
    assert len(pids) == len(cluster.nodes)
    with Load(cluster.master_url, prefix="all still", large=False) as load:
        load.wait_stored(50)
        # Given that all nodes stand still for longer than a request waits
        for pid in pids:
            os.killpg(pid, signal.SIGSTOP)
        try:
            wait_for(lambda: load.statuses["PUT", 503] >= 20, 3 * PUT_TIMEOUT_SECS, "answers that say so")
        finally:
            for pid in pids:
                os.killpg(pid, signal.SIGCONT)
        # When they go on, then all clients are served again
        load.wait_stored(100)
    assert load.slowest < PUT_TIMEOUT_SECS + SLACK_SECS, load
    settle(cluster)
    # And one client alone is answered promptly by every worker, as if nothing had been
    for number in range(20):
        with closing(Client(cluster.master_url)) as client:
            for answer in (client.put(f"all still/alone/{number}", b"1"), client.delete(f"all still/alone/{number}")):
                assert answer.status in (200, 201), answer
                assert answer.seconds < PUT_TIMEOUT_SECS, answer
    check(load)
