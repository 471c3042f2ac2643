"""What arrives on the queues from elsewhere: nonsense is buried with its reason, what comes twice changes nothing."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgpack
import pytest

from broker import keys, topology
from broker.link import Delivery, Link
from broker.messages.codec import PROTOCOL, Message, decode_any, encode
from broker.messages.store import Announce, Commands, Delete, Heartbeat, Kind, Replay, Result, Results, Status, Store
from ops.cluster import Cluster, Rabbit
from tests.integration.wire import Client, good, payload, refused
from tests.support import Clusters, unique, wait_for


@pytest.fixture(scope="module")
def cluster(rabbit: Rabbit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for this module alone: what is published here could harm the one that tests share."""
    clusters = Clusters(tmp_path_factory.mktemp("messages"), lambda: rabbit)
    try:
        yield clusters()
    finally:
        clusters.close()


class Console:
    """The broker's HTTP API, on the virtual host of the shared cluster."""

    def __init__(self, rabbit: Rabbit, cluster: Cluster) -> None:
        self._rabbit = rabbit
        self._vhost = quote(cluster.vhost, safe="")
        self._seen: list[dict[str, Any]] = []  # dead messages

    def publish(self, queue: str, body: bytes, exchange: str = "amq.default") -> None:
        """Publish as a person does from the console's form."""
        answer = self._rabbit.api(
            "POST",
            f"exchanges/{self._vhost}/{exchange}/publish",
            {
                "properties": {},
                "routing_key": queue,
                "payload": base64.b64encode(body).decode(),
                "payload_encoding": "base64",
            },
        )
        assert answer == {"routed": True}

    def dead(self) -> list[dict[str, Any]]:
        """All dead messages, which are taken out: their headers, and their bytes as `body`."""
        messages = self._rabbit.api(
            "POST",
            f"queues/{self._vhost}/{topology.DEAD}/get",
            {"count": 100, "ackmode": "ack_requeue_false", "encoding": "base64"},
        )
        return [
            {**message["properties"]["headers"], "body": base64.b64decode(message["payload"])} for message in messages
        ]

    def buried(self, body: bytes) -> dict[str, Any]:
        """The dead message with these bytes; waits for it."""

        def found() -> dict[str, Any] | None:
            self._seen.extend(self.dead())
            return next((message for message in self._seen if message["body"] == body), None)

        return wait_for(found, what=f"{body[:80]!r} in {topology.DEAD}") or {}

    def empty(self, queue: str) -> bool:
        """Whether nothing waits in a queue, nor was taken and not acknowledged."""
        messages = self._rabbit.api(
            "POST",
            f"queues/{self._vhost}/{queue}/get",
            {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"},
        )
        return not messages


@pytest.fixture
def console(rabbit: Rabbit, cluster: Cluster) -> Console:
    console = Console(rabbit, cluster)
    console.dead()
    return console


def future(message: Message) -> bytes:
    """The message as a later version of Pulzar might send it."""
    return bytes(msgpack.packb([PROTOCOL + 1, *msgpack.unpackb(encode(message))[1:], "a new field"]))


def heartbeat(node: str, **changes: Any) -> Heartbeat:
    beat = Heartbeat(node, "http://127.0.0.1:1", 0, "0", "e", 1, 1, 1, 1, False, 0.0, 0.0, 0, 0, [], "")
    return beat._replace(**changes)


def spoiled(message: Message, at: int, value: Any) -> bytes:
    """The message with another value in a field."""
    fields = msgpack.unpackb(encode(message))
    fields[at] = value
    return bytes(msgpack.packb(fields))


NONSENSE: dict[str, bytes] = {
    "nothing": b"",
    "text": b"hello",
    "JSON": b'{"job": "example/factorial", "arguments": {"number": 5}}',
    "a number": msgpack.packb(7),
    "a map": msgpack.packb({"protocol": 1}),
    "an empty array": msgpack.packb([]),
    "an unknown code": msgpack.packb([PROTOCOL, 99, "x"]),
    "a code that is none": msgpack.packb([PROTOCOL, [], "x"]),
    "too few fields": msgpack.packb([PROTOCOL, 4, "node-1"]),
    "cut off": encode(heartbeat("x"))[:-3],
    "with more behind it": encode(heartbeat("x")) + b"x",
    "deeply nested": b"\x91" * 100_000,
    "a length that lies": b"\xdd\xff\xff\xff\xff",
}


def queue_of(cluster: Cluster, kind: str) -> str:
    """The queue of that kind."""
    return {
        "node": topology.node_queue(cluster.nodes[0].id),
        "results": topology.RESULTS,
        "heartbeats": topology.HEARTBEATS,
    }[kind]


@pytest.fixture(autouse=True)
def _undisturbed(cluster: Cluster, master: Client, console: Console) -> Any:
    """Whatever is published: values stay what they were, new ones are stored, on both nodes, and no queue is stuck."""
    before = {unique(): payload(6_000, number) for number in range(4)}
    for key, value in before.items():
        good(master.put(key, value), 201)
    began = time.time()
    yield
    for key, value in before.items():
        assert master.get(key).body == value
        good(master.delete(key))
    for number in range(4):
        key = unique()
        good(master.put(key, payload(6_000, number)), 201)
        assert master.get(key).body == payload(6_000, number)

    def fresh_heartbeats() -> bool:
        rows = good(master.request("GET", "/admin/network"))
        ours = [row for row in rows if row["node"] in [node.id for node in cluster.nodes]]
        return len(ours) == 2 and all(row["synch"] and row["sent"] > began for row in ours)

    console.publish("", encode(Announce("a test has ended")), exchange=topology.CONTROL)
    wait_for(fresh_heartbeats, what="heartbeats after it")
    for kind in ("node", "results", "heartbeats"):
        wait_for(lambda kind=kind: console.empty(queue_of(cluster, kind)), what=f"{kind} handled")
    for child in cluster.processes:
        child.check()


@pytest.mark.parametrize("kind", ["node", "results", "heartbeats"])
def test_nonsense_is_buried_with_the_reason(cluster: Cluster, console: Console, kind: str) -> None:
    for body in NONSENSE.values():
        console.publish(queue_of(cluster, kind), body)
    for what, body in NONSENSE.items():
        message = console.buried(body)
        assert message["reason"], what
        assert message["queue"] == queue_of(cluster, kind)
        assert "pulzar" in message["by"]


@pytest.mark.parametrize("kind", ["node", "results", "heartbeats"])
def test_a_message_from_the_future_is_buried_with_the_reason(cluster: Cluster, console: Console, kind: str) -> None:
    messages: dict[str, Message] = {
        "node": Commands("", [Delete(0, keys.encode("k"), 1)]),
        "results": Results(cluster.nodes[0].id, "", "", 0, 0, 0, False, []),
        "heartbeats": heartbeat(cluster.nodes[0].id),
    }
    body = future(messages[kind])
    console.publish(queue_of(cluster, kind), body)
    reason = console.buried(body)["reason"]
    assert f"protocol {PROTOCOL + 1}" in reason


@pytest.mark.parametrize("kind", ["node", "results", "heartbeats"])
def test_a_message_that_belongs_elsewhere_is_buried_with_the_reason(
    cluster: Cluster, console: Console, kind: str
) -> None:
    wrong: dict[str, list[Message]] = {
        "node": [heartbeat("x"), Announce("x"), Results("x", "", "", 0, 0, 0, False, [])],
        "results": [heartbeat("x"), Commands("", []), Replay("r", 0)],
        "heartbeats": [Announce("x"), Commands("", []), Results("x", "", "", 0, 0, 0, False, [])],
    }
    for message in wrong[kind]:
        body = encode(message)
        console.publish(queue_of(cluster, kind), body)
        assert type(message).__name__ in console.buried(body)["reason"]


def store(key: str, version: int, value: bytes) -> Store:
    """A command to keep a value."""
    digest = hashlib.sha256(value).digest()
    return Store(0, keys.encode(key), version, int(time.time() * 1000), 0, "", digest, len(value), value, "")


def test_a_bad_message_does_not_hold_up_the_good_ones_around_it(
    cluster: Cluster, console: Console, master: Client
) -> None:
    key = unique()
    queue = topology.node_queue(cluster.nodes[0].id)
    version = newest_version()
    for turn in range(5):
        console.publish(queue, b"nonsense %d" % turn)
        console.publish(queue, encode(Commands("", [store(f"{key}/{turn}", version, b"value")])))
    for turn in range(5):
        wait_for(lambda turn=turn: master.get(f"{key}/{turn}").status == 200)
    assert len({message["body"] for message in console.dead()} & {b"nonsense %d" % turn for turn in range(5)}) == 5


def test_a_control_message_that_is_none_is_buried_by_every_node(
    cluster: Cluster, rabbit: Rabbit, console: Console
) -> None:
    console.publish("", b"nonsense for all", exchange=topology.CONTROL)
    buried: list[dict[str, Any]] = []

    def both() -> bool:
        buried.extend(message for message in console.dead() if message["body"] == b"nonsense for all")
        return len(buried) == 2

    wait_for(both)
    assert {message["by"] for message in buried} == {f"pulzar node {node.id}" for node in cluster.nodes}


# What comes twice, or late


def newest_version() -> int:
    """A version as the master would choose it now."""
    return time.time_ns() // 1000 * 4096 + 4095


def seq_of(master: Client, cluster: Cluster, number: int) -> int:
    seq: int = good(master.request("GET", f"/admin/network/{cluster.nodes[number].id}"))["seq"]
    return seq


def applied(master: Client, cluster: Cluster, number: int) -> int:
    """How far the index has followed the node's log."""
    rows = good(master.request("GET", "/internal/restore"))["nodes"]
    seq: int = next(row["applied"] for row in rows if row["node"] == cluster.nodes[number].id)
    return seq


def handled(console: Console, cluster: Cluster, master: Client) -> None:
    """Wait until what was published to the first node is applied by it and by the controller."""
    marker = unique("marker")
    console.publish(
        topology.node_queue(cluster.nodes[0].id), encode(Commands("", [store(marker, newest_version(), b"m")]))
    )
    wait_for(lambda: master.get(marker).status == 200, what="what was published before")


def figures(master: Client) -> tuple[int, int]:
    data = good(master.request("GET", "/admin/status"))
    return data["keys"], data["bytes"]


def test_a_command_delivered_twice_changes_nothing(cluster: Cluster, console: Console, master: Client) -> None:
    key, value = unique(), payload(5_000)
    queue = topology.node_queue(cluster.nodes[0].id)
    body = encode(Commands("", [store(key, newest_version(), value)]))
    console.publish(queue, body)
    wait_for(lambda: master.get(key).body == value)
    handled(console, cluster, master)
    before = master.get(key)
    count = figures(master)
    for _ in range(3):
        console.publish(queue, body)
    handled(console, cluster, master)
    after = master.get(key)
    assert after.body == value
    assert after.headers["last-modified"] == before.headers["last-modified"]
    assert figures(master) == (count[0] + 1, count[1] + 1), "the marker alone was added"


def test_commands_that_arrive_in_the_wrong_order_leave_the_newest_version(
    cluster: Cluster, console: Console, master: Client
) -> None:
    key = unique()
    queue = topology.node_queue(cluster.nodes[0].id)
    first = newest_version()
    commands = [store(key, first + step, b"value %d" % step) for step in range(4)]
    for number in (2, 0, 3, 1, 2, 0, 3):
        console.publish(queue, encode(Commands("", [commands[number]])))
    handled(console, cluster, master)
    assert master.get(key).body == b"value 3"
    console.publish(queue, encode(Commands("", [commands[1], commands[3], commands[2], commands[3], commands[0]])))
    handled(console, cluster, master)
    assert master.get(key).body == b"value 3"
    good(master.delete(key))


def test_a_store_that_arrives_after_the_deletion_does_not_bring_the_key_back(
    cluster: Cluster, console: Console, master: Client
) -> None:
    key = unique()
    first = newest_version()
    bodies = [encode(Commands("", [store(key, first, payload(size))])) for size in (5_000, 100_000)]
    for number in (0, 1):
        console.publish(topology.node_queue(cluster.nodes[number].id), bodies[number])
    wait_for(lambda: master.get(key).status == 200)
    wait_for(lambda: master.delete(key).status == 200)
    for number in (0, 1):
        for _ in range(2):
            console.publish(topology.node_queue(cluster.nodes[number].id), bodies[number])
    handled(console, cluster, master)
    refused(master.get(key), 404)
    good(master.put(key, b"new"), 201)
    for body in bodies:
        console.publish(topology.node_queue(cluster.nodes[0].id), body)
    handled(console, cluster, master)
    assert master.get(key).body == b"new"


def test_a_deletion_that_arrives_late_or_twice_kills_only_what_is_older(
    cluster: Cluster, console: Console, master: Client
) -> None:
    key = unique()
    before = newest_version()
    url = good(master.put(key, payload(5_000)), 201)["url"]
    number = next(number for number, node in enumerate(cluster.nodes) if url.startswith(node.url))
    console.publish(
        topology.node_queue(cluster.nodes[number].id), encode(Commands("", [Delete(0, keys.encode(key), before - 1)]))
    )
    handled(console, cluster, master)
    assert master.get(key).body == payload(5_000)
    body = encode(Commands("", [Delete(0, keys.encode(key), newest_version())]))
    for _ in range(3):
        console.publish(topology.node_queue(cluster.nodes[number].id), body)
    wait_for(lambda: master.get(key).status == 404)
    handled(console, cluster, master)
    good(master.put(key, b"again"), 201)
    assert master.get(key).body == b"again"


def test_results_delivered_twice_and_in_the_wrong_order_change_nothing(
    cluster: Cluster, console: Console, master: Client
) -> None:
    key = unique()
    good(master.put(key, b"first"), 201)
    good(master.put(key, b"second", "?overwrite=1"), 201)
    row = good(master.request("GET", f"/keys?prefix={key}"))["keys"][0]
    node = row["nodes"][0]
    number = next(number for number, known in enumerate(cluster.nodes) if known.id == node)
    wait_for(lambda: applied(master, cluster, number) == seq_of(master, cluster, number))
    seq = applied(master, cluster, number)
    count = figures(master)

    created = int(row["created"] * 1000)
    old = Result(
        0,
        Status.DONE,
        "",
        1,
        Kind.PUT,
        keys.encode(key),
        (created - 5_000) * 1000 * 4096,
        created - 5_000,
        0,
        "",
        hashlib.sha256(b"older").digest(),
        5,
        b"older",
    )
    tomb = Result(0, Status.DONE, "", 2, Kind.DELETE, keys.encode(key), old.version - 1, 0, 0, "", b"", 0, None)
    for items in ([old], [tomb], [tomb, old], [old, tomb, old]):
        body = encode(Results(node, "nobody", "", 0, 2, seq, False, items))
        console.publish(topology.RESULTS, body)
        console.publish(topology.RESULTS, body)
    handled(console, cluster, master)

    assert master.get(key).body == b"second"
    assert good(master.request("GET", f"/keys?prefix={key}"))["keys"] == [row]
    assert applied(master, cluster, number) >= seq
    assert figures(master)[0] == count[0] + 1, "the marker alone was added"


def test_results_of_a_node_that_is_not_there_make_no_value_out_of_nothing(
    cluster: Cluster, console: Console, master: Client
) -> None:
    """A gap in the log of a node is asked for again, and the cursor is where it should be afterwards."""
    node = cluster.nodes[0].id
    wait_for(lambda: applied(master, cluster, 0) == seq_of(master, cluster, 0))
    seq = applied(master, cluster, 0)
    console.publish(topology.RESULTS, encode(Results(node, "", "", seq + 50, seq + 51, seq + 51, False, [])))
    handled(console, cluster, master)
    wait_for(lambda: applied(master, cluster, 0) >= seq_of(master, cluster, 0))


def test_a_replay_asked_for_twice_changes_nothing(cluster: Cluster, console: Console, master: Client) -> None:
    written = {unique(): payload(size) for size in (10, 5_000, 100_000)}
    for key, value in written.items():
        good(master.put(key, value), 201)
    count = figures(master)
    for _ in range(2):
        for node in cluster.nodes:
            console.publish(topology.node_queue(node.id), encode(Replay("by hand", 0)))
    handled(console, cluster, master)
    for key, value in written.items():
        assert master.get(key).body == value
    assert figures(master) == (count[0] + 1, count[1] + 1)


def test_a_heartbeat_that_is_asked_for_by_hand_comes(cluster: Cluster, console: Console, master: Client) -> None:
    before = good(master.request("GET", "/admin/network"))
    console.publish("", encode(Announce("by hand")), exchange=topology.CONTROL)
    wait_for(
        lambda: all(
            now["last_seen"] > then["last_seen"]
            for now, then in zip(good(master.request("GET", "/admin/network")), before, strict=True)
        )
    )


def test_a_queue_has_the_arguments_that_mean_the_same_on_every_broker(
    cluster: Cluster, rabbit: Rabbit, console: Console
) -> None:
    rows = rabbit.api("GET", f"queues/{quote(cluster.vhost, safe='')}")
    shared = [row for row in rows if not row["exclusive"]]
    jobs = {queue for node in cluster.nodes for queue in topology.job_queues(node.id)}
    assert {row["name"] for row in shared} == {
        topology.RESULTS,
        topology.PROGRESS,
        topology.HEARTBEATS,
        topology.DEAD,
        *(topology.node_queue(node.id) for node in cluster.nodes),
        *jobs,
    }
    for row in shared:
        assert row["durable"]
        # What is published by hand is not persistent, and only a quorum queue keeps it nevertheless.
        assert row["arguments"]["x-queue-type"] == ("quorum" if row["name"] in jobs else "classic")
        assert not {"x-queue-mode", "x-max-priority"} & set(row["arguments"])


# Messages that look right and are not


KEY = keys.encode("tests/spoiled")
RESULT = Result(0, Status.DONE, "", 1, Kind.PUT, KEY, 1, 1, 0, "", b"\0" * 32, 1, b"x")
RESULTS = Results("node-1", "", "", 0, 0, 0, False, [])


def with_store(**changes: Any) -> tuple[str, bytes]:
    return "node", encode(Commands("", [store("tests/spoiled", 1, b"x")._replace(**changes)]))


def with_result(**changes: Any) -> tuple[str, bytes]:
    return "results", encode(RESULTS._replace(items=[RESULT._replace(**changes)]))


def with_heartbeat(**changes: Any) -> tuple[str, bytes]:
    return "heartbeats", encode(heartbeat("spoiled")._replace(**changes))


SPOILED: dict[str, tuple[str, bytes]] = {
    "a command of no kind": ("node", spoiled(Commands("", []), 3, [[9, 0, b"k", 1]])),
    "a command that is none": ("node", spoiled(Commands("", []), 3, ["x"])),
    "a command of no fields": ("node", spoiled(Commands("", []), 3, [[]])),
    "commands that are none": ("node", spoiled(Commands("", []), 3, "xyz")),
    "commands of a number": ("node", spoiled(Commands("", []), 3, 7)),
    "a deletion without a version": ("node", spoiled(Commands("", []), 3, [[2, 0, KEY, None]])),
    "a deletion of text": ("node", spoiled(Commands("", []), 3, [[2, 0, "text", 1]])),
    "a deletion with a ticket of text": ("node", spoiled(Commands("", []), 3, [[2, "x", KEY, 1]])),
    "a deletion of a key that is no key": ("node", spoiled(Commands("", []), 3, [[2, 0, b"\xff\xfe", 1]])),
    "a deletion with a negative version": ("node", spoiled(Commands("", []), 3, [[2, 0, KEY, -1]])),
    "a replay from text": ("node", spoiled(Replay("r", 0), 3, "0")),
    "a store with a key of text": with_store(key="text"),
    "a store with a key that is no key": with_store(key=b"\xff\xfe"),
    "a store with a key of bad segments": with_store(key=keys.encode("../../etc/passwd")),
    "a store with a key of no bytes": with_store(key=b""),
    "a store with a key too long": with_store(key=b"k" * 513),
    "a store with a version of text": with_store(version="1"),
    "a store with a negative version": with_store(version=-1),
    "a store with a creation of text": with_store(created="now"),
    "a store with a ticket of text": with_store(ticket="now"),
    "a store with a lifetime of text": with_store(expires="1"),
    "a store with a size of text": with_store(size="1"),
    "a store with a negative size": with_store(size=-1),
    "a store of nothing": with_store(value=None),
    "a store of text": with_store(value="x"),
    "a store of a staged number": with_store(staged=7),
    "results of a number": ("results", spoiled(RESULTS, 2, 7)),
    "results with a place of text": ("results", spoiled(RESULTS, 5, "0")),
    "results that are none": ("results", spoiled(RESULTS, 9, "xyz")),
    "results of a number of items": ("results", spoiled(RESULTS, 9, 7)),
    "results of nobody": ("results", encode(RESULTS._replace(node=""))),
    "results with a name too long": ("results", encode(RESULTS._replace(node="n" * 600))),
    "a result with a key of text": with_result(key="text"),
    "a result with a size of text": with_result(size="1"),
    "a result with a digest of text": with_result(digest="1"),
    "a result with a lifetime of text": with_result(expires="1"),
    "a result with a creation of text": with_result(created="1"),
    "a result with a ticket of text": with_result(ticket="1"),
    "a result with a value of text": with_result(value="x"),
    "a result with a status there is not": with_result(status=77),
    "a result of a kind there is not": with_result(kind=77),
    "a result with a key that is no key": with_result(key=b"\xff\xfe"),
    "a result with a key of no bytes": with_result(key=b""),
    "a result with a key too long for the index": with_result(key=b"k" * 600),
    "a result with a negative version": with_result(version=-1),
    "an epoch that is no chain": with_result(kind=Kind.EPOCH),
    "an epoch that is a chain of text": with_result(kind=Kind.EPOCH, value=msgpack.packb(["x", "y"])),
    "a heartbeat with a load of text": with_heartbeat(load="high"),
    "a heartbeat with a load that is no number": with_heartbeat(load=float("nan")),
    "a heartbeat with negative disks": with_heartbeat(disk_total=-1),
    "a heartbeat with runs of text": with_heartbeat(running=["x"]),
    "a heartbeat of nobody": with_heartbeat(node=""),
    "a heartbeat with a name too long for the index": with_heartbeat(node="n" * 600),
    "a heartbeat with a name that is none": with_heartbeat(node="a/b c"),
}


@pytest.mark.parametrize("kind", ["node", "results", "heartbeats"])
def test_a_message_with_a_bad_field_is_buried_with_the_reason(cluster: Cluster, console: Console, kind: str) -> None:
    bodies = {what: body for what, (goes_to, body) in SPOILED.items() if goes_to == kind}
    for what, body in bodies.items():
        console.publish(queue_of(cluster, kind), body)
        assert console.buried(body)["reason"], what


# From the future

FUTURE = (1 << 63) - 1
DAY_MS = 86_400_000


def ahead(days: float) -> int:
    """A version that a clock so many days ahead would have made."""
    return newest_version() + int(days * DAY_MS) * 1000 * 4096


@pytest.mark.parametrize("version", [FUTURE, 2])
def test_a_deletion_from_the_future_is_buried_and_its_key_goes_on(
    cluster: Cluster, console: Console, master: Client, version: int
) -> None:
    version = version if version == FUTURE else ahead(version)
    there, new = unique("there"), unique("new")
    url = good(master.put(there, b"value"), 201)["url"]
    for number, node in enumerate(cluster.nodes):
        for key in (there, new):
            body = encode(Commands("", [Delete(0, keys.encode(key), version)]))
            console.publish(topology.node_queue(node.id), body)
            assert "days ahead of this machine's clock" in console.buried(body)["reason"], (number, url)
    assert master.get(there).body == b"value"
    for key in (there, new):
        good(master.put(key, b"again", "?overwrite=1"), 201)
        good(master.delete(key))
        good(master.put(key, b"once more"), 201)


def test_a_command_from_the_future_is_buried_alone(make_cluster: Clusters, rabbit: Rabbit) -> None:
    # Given a cluster of its own: versions rise, so those of its master are ahead of the clock for ever after
    cluster = make_cluster()
    with Client(cluster.master_url) as master:
        check_a_command_from_the_future(cluster, Console(rabbit, cluster), master)


def check_a_command_from_the_future(cluster: Cluster, console: Console, master: Client) -> None:
    # And a batch in which one command is bad
    key, queue = unique(), topology.node_queue(cluster.nodes[0].id)
    late = int(time.time() * 1000) + 2 * DAY_MS
    for bad in (
        store(f"{key}/bad", ahead(2), b"b"),
        store(f"{key}/late", newest_version(), b"b")._replace(created=late),
    ):
        items = [store(f"{key}/1", newest_version(), b"1"), bad, store(f"{key}/2", ahead(0.9), b"2")]
        # When it comes
        console.publish(queue, encode(Commands("", items)))
        # Then that one is buried, and the others are carried out
        assert "days ahead" in console.buried(encode(Commands("", [bad])))["reason"]
        for name in ("1", "2"):
            wait_for(lambda name=name: master.get(f"{key}/{name}").status == 200)
        refused(master.get(keys.decode(bad.key)), 404)
    # And what a clock that is not a day ahead has made can be replaced and deleted
    good(master.put(f"{key}/2", b"new", "?overwrite=1"), 201)
    good(master.delete(f"{key}/2"))


def test_a_sender_whose_clock_is_ahead_is_told_so(cluster: Cluster, rabbit: Rabbit, console: Console) -> None:
    command = store(unique(), ahead(3), b"x")._replace(ticket=5)
    told: list[Result] = []

    def received(delivery: Delivery) -> None:
        message = decode_any(delivery.body)
        told.extend(message.items if isinstance(message, Results) and message.origin == "somebody" else [])

    # A second consumer of the results takes some of them from the controller; until it has seen this one.
    link = Link(rabbit.url(cluster.vhost), "somebody", topology.master)
    link.consume(topology.RESULTS, received, 1_000)
    link.start()
    try:
        assert link.wait(30)

        def answered() -> bool:
            console.publish(topology.node_queue(cluster.nodes[0].id), encode(Commands("somebody", [command])))
            return bool(told)

        wait_for(answered, pause=0.3)
    finally:
        link.stop()
    assert (told[0].ticket, told[0].status) == (5, Status.FAILED)
    assert "3.0 days ahead" in told[0].reason


def test_a_result_from_the_future_is_buried_alone_and_its_key_goes_on(
    cluster: Cluster, console: Console, master: Client
) -> None:
    node = cluster.nodes[0].id
    wait_for(lambda: applied(master, cluster, 0) == seq_of(master, cluster, 0))
    key = unique()
    good(master.put(key, b"value"), 201)
    value = RESULT._replace(key=keys.encode(key), version=ahead(2))
    late = RESULT._replace(key=keys.encode(key), created=FUTURE)
    tomb = Result(0, Status.DONE, "", 1, Kind.DELETE, keys.encode(key), FUTURE, 0, 0, "", b"", 0, None)
    fine = RESULT._replace(key=keys.encode(f"{key}/fine"), version=newest_version())
    for bad in (value, late, tomb):
        console.publish(topology.RESULTS, encode(RESULTS._replace(node=node, items=[bad, fine])))
        assert "days ahead" in console.buried(encode(RESULTS._replace(node=node, items=[bad])))["reason"]
    wait_for(lambda: master.head(f"{key}/fine").status == 200)
    assert master.get(key).body == b"value"
    good(master.put(key, b"new", "?overwrite=1"), 201)
    good(master.delete(key))
    good(master.put(key, b"once more"), 201)


def test_a_heartbeat_from_the_future_is_buried(console: Console, master: Client) -> None:
    for at in (FUTURE, int(time.time() * 1000) + 2 * DAY_MS):
        body = encode(heartbeat("from-the-future", at=at, seq=1_000))
        console.publish(topology.HEARTBEATS, body)
        assert "days ahead" in console.buried(body)["reason"]
    refused(master.request("GET", "/admin/network/from-the-future"), 404)
    good(master.put(unique(), b"value"), 201)


def test_a_node_that_is_not_there_is_named_and_can_be_forgotten(console: Console, master: Client) -> None:
    # Given a heartbeat of a node that never sends its log
    console.publish(topology.HEARTBEATS, encode(heartbeat("ghost", at=int(time.time() * 1000), seq=1_000)))
    wait_for(lambda: master.request("GET", "/admin/network/ghost").status == 200)
    # Then it is said whom the index waits for
    wait_for(lambda: "manage.py forget ghost" in master.request("GET", "/health").json["msg"])
    assert "ghost" in refused(master.request("GET", "/health"), 503)
    assert good(master.request("GET", "/health?live=1"))["restoring"] == ["ghost"]
    assert good(master.request("GET", "/admin/status"))["restoring"] == ["ghost"]
    assert "it waits for ghost" in refused(master.put(unique(), b"value"), 503)
    # When it is forgotten, new keys can be added
    wait_for(lambda: master.request("DELETE", "/admin/network/ghost").status == 200, what="a node that is not heard")
    wait_for(lambda: master.request("GET", "/health").status == 200)
    good(master.put(unique(), b"value"), 201)
    wait_for(lambda: master.request("GET", "/admin/network/ghost").status == 404)
