"""RabbitMQ goes away, stands still, closes connections, loses queues."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import quote

import pytest

from broker import topology
from ops.cluster import Cluster
from tests.faults.load import FILE_BYTES, LARGE_BYTES, Client, Load, check
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

AWAY_SECS = 20.0
PUT_TIMEOUT_SECS = 4.0
AGAIN_SECS = 10.0  # until everything flows again, once the broker is there: backoff reaches 6.5 s
BETWEEN = 100  # PUTs


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Clusters) -> Cluster:
    settings = {"PULZAR_SERVER_WORKERS": "2", "PULZAR_SERVER_PUT_TIMEOUT": str(PUT_TIMEOUT_SECS)}
    return make_shared_cluster(env=settings, own_broker=True)


def test_what_was_acknowledged_is_there_after_kills_of_the_broker(cluster: Cluster) -> None:
    rabbit = cluster.rabbit
    assert rabbit
    # Given sixteen clients that write
    with Load(cluster.master_url, prefix="broker killed") as load:
        load.wait_stored(BETWEEN)
        # When the broker is killed several times and started again
        for _ in range(2):
            rabbit.kill()
            rabbit.start()
            load.wait_stored(BETWEEN)
    # Then everything is as the clients were told
    settle(cluster)
    check(load)
    # And an index filled anew from the nodes' logs says the same
    cluster.stop_master()
    wipe_index(cluster)
    cluster.start_master()
    settle(cluster)
    check(load)
    assert not tracebacks(cluster)


@contextmanager
def killed(cluster: Cluster) -> Iterator[None]:
    assert cluster.rabbit
    cluster.rabbit.kill()
    yield
    cluster.rabbit.start()


@contextmanager
def frozen(cluster: Cluster) -> Iterator[None]:
    assert cluster.rabbit
    cluster.rabbit.process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        cluster.rabbit.process.signal(signal.SIGCONT)
    cluster.rabbit.wait_ready()


@pytest.mark.parametrize("away", [killed, frozen])
def test_without_a_broker_reads_go_on_and_writes_are_refused_in_time(away, cluster: Cluster) -> None:  # type: ignore[no-untyped-def]
    with (
        closing(Client(cluster.master_url)) as client,
        Load(cluster.master_url, prefix=f"broker {away.__name__}", threads=4, pause=0.2) as load,
    ):
        # Given values that the master keeps itself, and values that only a node has
        values = {f"{away.__name__}/{size}": bytes([size % 251]) * size for size in (100, FILE_BYTES, LARGE_BYTES)}
        for key, value in values.items():
            assert client.put(key, value).status == 201
        load.wait_stored(10)
        problems: list[str] = []
        with away(cluster):
            # When the broker is away
            until = time.monotonic() + AWAY_SECS
            number = 0
            while time.monotonic() < until:
                number += 1
                # Then every value can be read
                for key, value in values.items():
                    answer = client.get(key)
                    if answer.status != 200 or answer.body != value:
                        problems.append(f"{until - time.monotonic():.1f} s before the end GET {key}: {answer}"[:300])
                # And writes are answered 503 in time, with a word on when to try again
                size = (100, FILE_BYTES, LARGE_BYTES)[number % 3]
                for what, answer in (
                    (f"PUT of {size} bytes", client.put(f"{away.__name__}/new/{number}", bytes(size))),
                    ("DELETE", client.delete(f"{away.__name__}/100")),
                ):
                    if (
                        answer.status != 503
                        or "retry-after" not in answer.headers
                        or answer.seconds > PUT_TIMEOUT_SECS + 1
                    ):
                        problems.append(f"{what}: {answer}"[:300])
        # And when it is back everything flows again by itself
        load.wait_stored(20, AGAIN_SECS)
    settle(cluster)
    assert not problems, f"{len(problems)} answers are wrong; the first ones:\n" + "\n".join(problems[:10])
    check(load)
    # The value of a DELETE that was refused may be there or not; all others are.
    with closing(Client(cluster.master_url)) as client:
        for key, value in list(values.items())[1:]:
            assert client.get(key).body == value


def test_every_connection_closed_from_the_console_is_made_again(cluster: Cluster) -> None:
    # Given one connection for each process that has one
    wait_for(lambda: len(connections(cluster)) >= 5, 20, "connections of 2 workers, the controller and 2 agents")
    with Load(cluster.master_url, prefix="closed") as load:
        load.wait_stored(BETWEEN)
        for name, title in connections(cluster).items():
            # When a person closes it in the console
            api(cluster, "DELETE", f"connections/{quote(name, safe='')}")
            # Then its owner is there again
            wait_for(
                lambda name=name, title=title: name not in (now := connections(cluster)) and title in now.values(),  # type: ignore[misc]
                20,
                f"another connection of {title}",
            )
            load.wait_stored(BETWEEN // 4)
    settle(cluster)
    check(load)
    assert not tracebacks(cluster)


QUEUES = (topology.RESULTS, topology.HEARTBEATS, topology.node_queue("node-1"))


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("how", ["deleted", "purged"])
def test_a_queue_that_a_person_empties_or_deletes_is_no_harm(how: str, queue: str, cluster: Cluster) -> None:
    with Load(cluster.master_url, prefix=f"{how} {queue}") as load:
        load.wait_stored(BETWEEN // 2)
        # When a person does it in the console, in the middle of all
        for _ in range(3):
            if how == "deleted":
                wait_for(lambda: delete_queue(cluster, queue), 20, f"a queue {queue} to delete")
            else:
                api(cluster, "DELETE", f"queues/{{vhost}}/{queue}/contents")
            # Then it all flows on
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
        # Then the log names the queue and says what to do
        line = wait_logged(cluster.nodes[0].process, "ERROR", queue, "delete that queue")
        assert "other arguments" in line
        if queue == topology.RESULTS:
            wait_logged(cluster.master, "ERROR", queue, "delete that queue")
        # And it isn't flooded by it
        assert len(logged(cluster.nodes[0].process, queue, "delete that queue")) < 10
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
