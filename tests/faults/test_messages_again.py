"""Messages that come twice, in another order, from the future, or are no messages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import msgpack
import pytest

from broker import keys, topology
from broker.link import Link
from broker.messages.codec import PROTOCOL, Message, encode
from broker.messages.store import Commands, Delete, Kind, Result, Results, Status, Store
from master.index.index import Index
from ops.cluster import Cluster, Rabbit
from tests.faults.load import Client, check_usable
from tests.faults.test_copies import statuses
from tests.faults.tools import settle, tracebacks, wipe_index
from tests.support import Clusters, wait_for


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Clusters) -> Cluster:
    return make_shared_cluster()


@contextmanager
def publisher(cluster: Cluster) -> Iterator[Link]:
    link = Link(cluster.broker_url, "test publisher", lambda: ())
    link.start()
    try:
        wait_for(lambda: link.ready, 30, "a connection to RabbitMQ")
        yield link
    finally:
        link.stop()


def publish(link: Link, queue: str, bodies: list[bytes]) -> None:
    """Publish messages in this order, and wait until the broker has them."""
    left = threading.Semaphore(0)
    for body in bodies:
        link.publish(queue, body, durable=True, done=lambda _: left.release())
    for _ in bodies:
        assert left.acquire(timeout=30)


class Recorder:
    """Makes again, from what the index says, the messages that must have led to it."""

    def __init__(self, cluster: Cluster) -> None:
        self._index = Index(cluster.master_directory / "index", 1 << 38)
        self.commands: list[tuple[str, Store | Delete]] = []  # with the node that each went to
        self.results: list[Results] = []

    def note(self, key: str, value: bytes) -> None:
        """The last request stored this."""
        entry = self._index.get(keys.encode(key))
        assert entry
        assert entry.size == len(value)
        self.commands.append(
            (
                entry.node,
                Store(
                    0,
                    keys.encode(key),
                    entry.version,
                    entry.created,
                    entry.expires,
                    entry.content_type,
                    entry.digest,
                    entry.size,
                    value,
                    "",
                ),
            )
        )
        self._result(
            entry.node,
            Result(
                0,
                Status.DONE,
                "",
                entry.seq,
                Kind.PUT,
                keys.encode(key),
                entry.version,
                entry.created,
                entry.expires,
                entry.content_type,
                entry.digest,
                entry.size,
                entry.value,
            ),
        )

    def note_deleted(self, key: str, node: str) -> None:
        """The last request deleted this."""
        with self._index.read() as tables:
            entry, deletion = tables.entry(keys.encode(key)), tables.deletion(keys.encode(key))
        assert entry is None
        assert deletion
        version = deletion.version
        self.commands.append((node, Delete(0, keys.encode(key), version)))
        self._result(
            node,
            Result(0, Status.DONE, "", 1, Kind.DELETE, keys.encode(key), version, 0, 0, "", b"", 0, None),
        )

    def _result(self, node: str, item: Result) -> None:
        self.results.append(Results(node, "", "", item.seq - 1, item.seq, item.seq, False, [item]))

    def node(self, key: str) -> str:
        """Where a key is."""
        entry = self._index.get(keys.encode(key))
        assert entry
        return entry.node

    def close(self) -> None:
        self._index.close()


def test_messages_delivered_twice_and_in_any_order_end_in_the_same_state(cluster: Cluster) -> None:
    # Given keys that were stored, replaced, deleted and stored again, and the messages that did it
    values: dict[str, bytes] = {}
    deleted: dict[str, bytes] = {}
    with closing(Client(cluster.master_url)) as client, closing(Recorder(cluster)) as recorder:
        for number in range(12):
            key = f"twice/{number:02}"
            steps = ["put", "overwrite=1", "delete", "put"][: number % 4 + 1]
            for step, what in enumerate(steps):
                value = f"{key} {step} ".encode() * (10 if number % 2 else 1000)
                if what == "delete":
                    node = recorder.node(key)
                    assert client.delete(key).status == 200
                    recorder.note_deleted(key, node)
                    deleted[key] = values.pop(key)
                else:
                    assert client.put(key, value, "" if what == "put" else what).status == 201
                    recorder.note(key, value)
                    values[key] = value
                    deleted.pop(key, None)
    settle(cluster)
    commands, results = recorder.commands, recorder.results
    other = {"node-1": "node-2", "node-2": "node-1"}

    def hold() -> None:
        settle(cluster)
        assert statuses(cluster, values) == {200}
        assert statuses(cluster, deleted) == {404}

    with publisher(cluster) as link:
        for name, ordered, results_ordered in (
            ("again", commands, results),
            ("the other way round", commands[::-1], results[::-1]),
        ):
            # When the nodes get all commands again, one by one and as one batch; each node its own, and the other's
            for target in ("node-1", "node-2"):
                mine = [item for node, item in ordered if node == target]
                others = [item for node, item in ordered if node == other[target]]
                publish(link, topology.node_queue(target), [encode(Commands("", [item])) for item in mine])
                publish(link, topology.node_queue(target), [encode(Commands("", list(mine)))])
                publish(link, topology.node_queue(target), [encode(Commands("", list(others)))])
            # And the controller all results
            publish(link, topology.RESULTS, [encode(message) for message in results_ordered])
            # Then nothing has changed
            hold()
            for node in range(2):
                cluster.stop_node(node)
                cluster.start_node(node)
            hold()
            assert name
    # And an index filled anew says the same
    cluster.stop_master()
    wipe_index(cluster)
    cluster.start_master()
    hold()
    assert not tracebacks(cluster)


def bad_messages() -> dict[str, bytes]:
    """Messages that nobody here can handle."""
    good: Message = Commands("", [Delete(0, b"key", 1)])
    fields = msgpack.unpackb(encode(good))
    return {
        "from the future": msgpack.packb([PROTOCOL + 1, *fields[1:], "and more"]),
        "of an unknown kind": msgpack.packb([PROTOCOL, 99, 1]),
        "with a field too many": msgpack.packb([*fields, 1]),
        "with a wrong type": msgpack.packb([PROTOCOL, fields[1], 7, "no list"]),
        "with a bad item": msgpack.packb([PROTOCOL, fields[1], "", [[1, 2, 3]]]),
        "with a result of wrong types": msgpack.packb([PROTOCOL, 4, "n", "", "", 0, 1, 1, False, [[0] * 13]]),
        "as JSON": b'{"job": "example/factorial"}',
        "as a map": msgpack.packb({"a": 1}),
        "of nothing": b"",
        "of noise": b"\xc1" * 1000,
        "nested without end": b"\x91" * 100_000,
    }


@pytest.mark.parametrize(
    "queue", [topology.RESULTS, topology.HEARTBEATS, topology.node_queue("node-1"), topology.CONTROL]
)
def test_a_message_that_nobody_can_handle_is_put_aside_with_its_reason(
    queue: str, cluster: Cluster, rabbit: Rabbit
) -> None:
    vhost = cluster.vhost
    rabbit.api("DELETE", f"queues/{vhost}/{topology.DEAD}/contents")
    bad = bad_messages()
    # When messages come that are none, or of another version of this program
    with publisher(cluster) as link:
        for body in bad.values():
            if queue == topology.CONTROL:
                link.publish("", body, exchange=queue)
            else:
                publish(link, queue, [body])
    # Then each is on the queue for those, with the reason and where it came from
    copies = 2 if queue == topology.CONTROL else 1

    def dead() -> list[dict[str, object]]:
        return rabbit.api(  # type: ignore[no-any-return]
            "POST",
            f"queues/{vhost}/{topology.DEAD}/get",
            {"count": 100, "ackmode": "ack_requeue_true", "encoding": "base64"},
        )

    found = wait_for(lambda: rows if len(rows := dead()) >= copies * len(bad) else None, 30, "all of them put aside")
    assert found
    assert len(found) == copies * len(bad)
    reasons = []
    for row in found:
        headers = row["properties"]["headers"]  # type: ignore[index]
        reasons.append(headers["reason"])
        assert headers["reason"]
        assert headers["queue"].startswith(queue)
    assert any(f"protocol {PROTOCOL + 1}" in reason for reason in reasons)
    # And nothing else is disturbed
    settle(cluster)
    check_usable(cluster.master_url, f"bad/{queue}")
    assert not tracebacks(cluster)
