"""RabbitMQ goes away, stands still, closes connections, loses queues."""

from __future__ import annotations

import signal
import time
from collections import Counter
from contextlib import closing, suppress
from functools import partial
from urllib.parse import quote

import pytest

from broker import topology
from ops.cluster import Cluster, ClusterError
from ops.cluster.processes import Child
from tests.faults.load import FILE_BYTES, LARGE_BYTES, Answer, Client, Load, check
from tests.faults.tools import (
    api,
    connections,
    delete_queue,
    log_text,
    logged,
    settle,
    tracebacks,
    wait_logged,
    wipe_index,
)
from tests.support import Clusters, wait_for

AWAY_SECS = 14.0  # seven times what a PUT waits
PUT_TIMEOUT_SECS = 2.0
AGAIN_SECS = 30.0  # until everything flows again, once the broker is there: backoff reaches 6.5 s
SLACK_SECS = 5.0  # the machine may be busy with others
BETWEEN = 100  # PUTs


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Clusters) -> Cluster:
    settings = {"PULZAR_SERVER_WORKERS": "2", "PULZAR_SERVER_PUT_TIMEOUT": str(PUT_TIMEOUT_SECS)}
    return make_shared_cluster(env=settings, own_broker=True)


class Probe:
    """One client that looks, while the broker is away, at what the store still does."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name
        self._number = 0
        # Values that the master keeps itself, and values that only a node has.
        self.values = {f"{name}/{size}": bytes([size % 251]) * size for size in (100, FILE_BYTES, LARGE_BYTES)}
        self.wrong: Counter[str] = Counter()

    def store(self) -> None:
        """Store the values that must be readable."""
        for key, value in {**self.values, f"{self._name}/doomed": b"doomed"}.items():
            stored = partial(self._client.put, key, value, "overwrite=1")
            wait_for(lambda stored=stored: stored().status == 201, AGAIN_SECS, f"PUT of {key}")  # type: ignore[misc]

    def look(self, seconds: float) -> None:
        """For so long, read, write and delete; notes what is not as it should be."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._number += 1
            self.read()
            size = (100, FILE_BYTES, LARGE_BYTES)[self._number % 3]
            self._refused("PUT", self._client.put(f"{self._name}/new/{self._number}", bytes(size)))
            self._refused("DELETE", self._client.delete(f"{self._name}/doomed"))

    def read(self) -> None:
        """Every value can be read."""
        for key, value in self.values.items():
            answer = self._client.get(key)
            if answer.status != 200 or answer.body != value:
                self.wrong[f"GET of {len(value)} bytes: {answer.status} {answer.body[:150]!r}"] += 1

    def _refused(self, method: str, answer: Answer) -> None:
        """It was answered 503, in time, with a word on when to try again."""
        if answer.status != 503 or "retry-after" not in answer.headers:
            self.wrong[f"{method}: {answer.status} {answer.body[:150]!r}"] += 1
        if answer.seconds > PUT_TIMEOUT_SECS + SLACK_SECS:
            self.wrong[f"{method} took longer than {PUT_TIMEOUT_SECS + SLACK_SECS:g} s"] += 1


def test_health_is_what_a_put_would_be_while_the_broker_is_away_and_when_it_is_back(cluster: Cluster) -> None:
    rabbit = cluster.rabbit
    assert rabbit
    wrong: Counter[str] = Counter()
    with closing(Client(cluster.master_url)) as client:

        def look(number: int) -> int:
            health = client.request("GET", "/health")
            if health.status == 200:
                put = client.put(f"health/{time.monotonic_ns()}/{number}", b"value")
                # The broker may go between the two.
                if put.status != 201 and client.request("GET", "/health").status == 200:
                    wrong[f"PUT {put.status} {put.body[:100]!r}"] += 1
            elif health.status == 503:
                if b"not ready: " not in health.body or b'"ready":false' not in health.body.replace(b" ", b""):
                    wrong[f"{health.body[:200]!r}"] += 1
            else:
                wrong[f"/health: {health.status}"] += 1
            return health.status

        wait_for(lambda: look(0) == 200, AGAIN_SECS)
        for turn in range(2):
            # When the broker is killed
            rabbit.kill()
            # Then it is said at once, for as long as it is away
            wait_for(lambda: look(1) == 503, 2, "503 of /health")
            until = time.monotonic() + 3 + 4 * turn
            while time.monotonic() < until:
                assert look(2) == 503
                assert client.request("GET", "/health?live=1").status == 200
                time.sleep(0.02)
            # And when it is back, a PUT is stored as soon as it is said to be
            rabbit.start()
            wait_for(lambda: look(3) == 200, AGAIN_SECS + 5, "200 of /health")
            for _ in range(30):
                look(4)
    assert not wrong, wrong


def test_a_broker_that_is_killed_costs_nothing_acknowledged_and_no_reads(cluster: Cluster) -> None:
    rabbit = cluster.rabbit
    assert rabbit
    with (
        closing(Client(cluster.master_url)) as client,
        # Given sixteen clients that write
        Load(cluster.master_url, prefix="broker killed") as load,
    ):
        probe = Probe(client, "killed")
        probe.store()
        load.wait_stored(BETWEEN)
        # When the broker is killed and started again, then it all flows on
        rabbit.kill()
        rabbit.start()
        load.wait_stored(BETWEEN, AGAIN_SECS)
        # When it is killed and away for a while, then reads go on, and writes are refused in time
        load.pause = 0.25
        rabbit.kill()
        probe.look(AWAY_SECS)
        # And when it is back everything flows again by itself
        rabbit.start()
        load.wait_stored(BETWEEN // 4, AGAIN_SECS)
        probe.read()
    assert not probe.wrong, probe.wrong
    # And everything is as the clients were told
    settle(cluster)
    check(load)
    # And an index filled anew from the nodes' logs says the same
    cluster.stop_master()
    wipe_index(cluster)
    cluster.start_master()
    settle(cluster)
    check(load)
    assert not tracebacks(cluster)


def test_a_broker_that_stands_still_stops_no_reads_and_writes_are_refused_in_time(cluster: Cluster) -> None:
    rabbit = cluster.rabbit
    assert rabbit
    with (
        closing(Client(cluster.master_url)) as client,
        Load(cluster.master_url, prefix="broker frozen", pause=0.25) as load,
    ):
        probe = Probe(client, "frozen")
        probe.store()
        load.wait_stored(BETWEEN // 4)
        # When the broker stands still, its connections open
        rabbit.process.signal(signal.SIGSTOP)
        try:
            # Then reads go on, and writes are refused in time
            probe.look(AWAY_SECS)
        finally:
            rabbit.process.signal(signal.SIGCONT)
        # And when it goes on everything flows again by itself
        load.wait_stored(BETWEEN // 4, AGAIN_SECS)
        probe.read()
    assert not probe.wrong, probe.wrong
    assert load.slowest < PUT_TIMEOUT_SECS + SLACK_SECS, load
    settle(cluster)
    check(load)
    assert not tracebacks(cluster)


def owner(cluster: Cluster, title: str) -> Child:
    """The process that has the connection of this name."""
    return next((node.process for node in cluster.nodes if title.endswith(node.id)), cluster.master)


def test_every_connection_closed_from_the_console_is_made_again(cluster: Cluster) -> None:
    # Given one connection for each process that has one
    wait_for(lambda: len(connections(cluster)) >= 5, 30, "connections of 2 workers, the controller and 2 agents")
    with Load(cluster.master_url, prefix="closed") as load:
        load.wait_stored(BETWEEN)
        for name, title in connections(cluster).items():
            ups = len(logged(owner(cluster, title), "link up", f'"{title}"'))
            # When a person closes it in the console
            with suppress(ClusterError):  # the console may take long to answer; that it was closed shows below
                api(cluster, "DELETE", f"connections/{quote(name, safe='')}")
            # Then its owner is there again
            wait_logged(owner(cluster, title), "link up", f'"{title}"', more_than=ups)
            load.wait_stored(BETWEEN // 4)
    settle(cluster)
    # And one client alone is answered promptly by every worker, as if nothing had been
    for number in range(10):
        with closing(Client(cluster.master_url)) as client:
            for answer in (client.put(f"closed/alone/{number}", b"alone"), client.delete(f"closed/alone/{number}")):
                assert answer.status in (200, 201), answer
                assert answer.seconds < PUT_TIMEOUT_SECS, answer
    check(load)
    assert not tracebacks(cluster)


@pytest.mark.parametrize("queue", [topology.RESULTS, topology.HEARTBEATS, topology.node_queue("node-1")])
def test_a_queue_that_a_person_empties_and_deletes_is_no_harm(queue: str, cluster: Cluster) -> None:
    with Load(cluster.master_url, prefix=f"gone {queue}") as load:
        load.wait_stored(BETWEEN // 2)
        # When a person empties a queue in the console, in the middle of all
        for _ in range(5):
            api(cluster, "DELETE", f"queues/{{vhost}}/{queue}/contents")
        # Then it all flows on
        load.wait_stored(BETWEEN // 2)
        # And when it is deleted as well
        wait_for(lambda: delete_queue(cluster, queue), 30, f"a queue {queue} to delete")
        load.wait_stored(BETWEEN // 2)
    settle(cluster)
    check(load)
    assert not tracebacks(cluster)


@pytest.mark.parametrize("queue", [topology.RESULTS, topology.node_queue("node-1")])
def test_a_queue_with_other_arguments_is_named_in_the_log_with_the_remedy(queue: str, cluster: Cluster) -> None:
    # Given that somebody made the queue before, in another way
    for number in range(2):
        cluster.stop_node(number)
    cluster.stop_master()
    delete_queue(cluster, queue)
    other = {"durable": True, "arguments": {"x-queue-type": "classic", "x-max-length": 7}}
    api(cluster, "PUT", f"queues/{{vhost}}/{queue}", other)
    try:
        # When master and nodes start
        cluster.start_master()
        cluster.start_node(0)
        cluster.start_node(1)
        # Then the log of who makes it names the queue and says what to do
        maker = cluster.master if queue == topology.RESULTS else cluster.nodes[0].process
        line = wait_logged(maker, "ERROR", queue, "delete that queue")
        assert "other arguments" in line
        # And it isn't flooded by it
        assert len(logged(maker, queue, "delete that queue")) < 30
    finally:
        delete_queue(cluster, queue)
    # And when that is done everything flows by itself
    cluster.wait_healthy(AGAIN_SECS + 5)
    with Load(cluster.master_url, prefix=f"other {queue}", threads=4) as load:
        load.wait_stored(20)
    settle(cluster)
    check(load)


def test_no_log_has_a_secret(cluster: Cluster) -> None:
    assert cluster.rabbit
    for child in (cluster.master, *(node.process for node in cluster.nodes)):
        text = log_text(child)
        assert text
        assert cluster.rabbit.password not in text
        assert cluster.secret not in text
