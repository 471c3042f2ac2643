"""Messages in `pulzar.dead` are listed without being taken, sent again, edited and dropped; none is lost or doubled."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from broker import topology
from broker.link import Delivery, Link
from broker.messages.codec import encode
from broker.messages.store import Announce
from broker.refusals import BadRequest, Conflict, NotFound
from master.dead_letters import letter
from master.dead_letters.desk import DeadLetters
from master.dead_letters.journal import FILE
from ops.cluster import Rabbit
from tests.integration.wire import Client, good
from tests.support import wait_for

VHOST = "letters"
JOB = b'{"job": "example/nobody"}'


@pytest.fixture(scope="module")
def shared(rabbit: Rabbit) -> Iterator[Link]:
    """A link to a virtual host of its own."""
    rabbit.create_vhost(VHOST)
    made = Link(rabbit.url(VHOST), "test", topology.master)
    made.start()
    assert made.wait(30)
    yield made
    made.stop()
    rabbit.delete_vhost(VHOST)


@pytest.fixture
def link(shared: Link, rabbit: Rabbit) -> Link:
    for name in (topology.DEAD, topology.JOBS, topology.RESULTS):
        # What somebody looks at just now is not there to be removed.
        wait_for(lambda name=name: empty(rabbit, name), what="an empty queue")  # type: ignore[misc]
    return shared


@pytest.fixture
def desk(link: Link, tmp_path: Path) -> DeadLetters:
    return DeadLetters(link, tmp_path, apart=False)


def empty(rabbit: Rabbit, name: str) -> bool:
    rabbit.api("DELETE", f"queues/{VHOST}/{name}/contents")
    return not bodies(rabbit, name)


def bury(link: Link, *bodies: bytes, of: str = topology.JOBS, headers: dict[str, object] | None = None) -> None:
    """Put messages into `pulzar.dead`, as a process does that can't use them."""
    there: queue.Queue[None] = queue.Queue()
    for body in bodies:
        delivery = Delivery(body, of, tag=0, connection=0, headers=headers or {}, redelivered=False)
        link.bury(delivery, "a test", lambda: there.put(None))
    for _ in bodies:
        there.get(timeout=30)


def put(link: Link, name: str, *bodies: bytes, headers: dict[str, object] | None = None) -> None:
    there: queue.Queue[bool] = queue.Queue()
    for body in bodies:
        link.publish(name, body, durable=True, headers=headers, done=there.put)
    assert all(there.get(timeout=30) for _ in bodies)


def messages(rabbit: Rabbit, name: str, vhost: str = VHOST) -> list[dict[str, Any]]:
    asked = {"count": 1000, "ackmode": "ack_requeue_true", "encoding": "auto"}
    found: list[dict[str, Any]] = rabbit.api("POST", f"queues/{vhost}/{name}/get", asked)
    return found


def bodies(rabbit: Rabbit, name: str) -> list[str]:
    return [row["payload"] for row in messages(rabbit, name)]


def ids(desk: DeadLetters) -> list[str]:
    return [each.id for each in desk.page(500).letters]


def test_a_look_takes_nothing_and_keeps_the_order(rabbit: Rabbit, link: Link, desk: DeadLetters) -> None:
    # Given more messages than come at once
    wanted = [b'{"n": %d}' % number for number in range(150)]
    bury(link, *wanted)
    # When they are looked at in pages
    found: list[bytes] = []
    after = ""
    for size in (50, 50, 50):
        page = desk.page(size, after)
        assert (page.total, len(page.letters)) == (150, size)
        found += [each.body for each in page.letters]
        after = page.following
    # Then each is there once, in order, and still in the queue
    assert found == wanted
    assert after == ""
    assert [body.encode() for body in bodies(rabbit, topology.DEAD)] == wanted
    assert desk.one(page.letters[-1].id).body == wanted[-1]
    with pytest.raises(Conflict, match="begin with the first page"):
        desk.page(1, "nobody")
    with pytest.raises(NotFound, match="no dead message nobody"):
        desk.one("nobody")


def test_what_a_letter_says(rabbit: Rabbit, link: Link, desk: DeadLetters) -> None:
    bury(link, JOB, headers={"pulzar-seal": "x", "when": 5})
    bury(link, encode(Announce("hello")), b"\xff\x00" * 50_000, of=topology.RESULTS)
    put(link, topology.DEAD, b"by hand", headers={"other": "y"})
    job, message, large, foreign = desk.page(10).letters
    assert (job.reason, job.queue, job.by, job.headers) == (
        "a test",
        topology.JOBS,
        "test",
        {"pulzar-seal": "x", "when": 5},
    )
    assert time.time() - 60 < (job.at or 0) <= time.time()
    assert letter.show(job.body, job.size, 1000) == ("json", JOB.decode(), True, True)
    shown = letter.show(message.body, message.size, 1000)
    assert (shown.format, shown.editable) == ("message", False)
    assert '"reason": "hello"' in shown.text
    shown = letter.show(large.body, large.size, 1000)
    assert (large.size, shown.format, shown.whole, shown.editable) == (100_000, "binary", False, False)
    assert (foreign.queue, foreign.headers, foreign.at) == ("", {"other": "y"}, None)
    assert len(desk.one(large.id).body) == 100_000


def test_a_message_that_rabbitmq_has_moved_is_known_by_what_it_is(
    rabbit: Rabbit, link: Link, desk: DeadLetters
) -> None:
    # Given two equal messages that RabbitMQ has moved there, and another one
    moved = {"x-message-ttl": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": topology.DEAD}
    rabbit.api("PUT", f"queues/{VHOST}/{topology.node_queue('n')}", {"durable": True, "arguments": moved})
    put(link, topology.node_queue("n"), b"same", b"same", b"other")
    wait_for(lambda: len(bodies(rabbit, topology.DEAD)) == 3, what="all three")
    found = desk.page(10).letters
    assert [(each.body, each.queue, each.by) for each in found if each.body == b"other"] == [
        (b"other", topology.node_queue("n"), "RabbitMQ")
    ]
    assert sum(len(each.held) for each in found if each.body == b"same") == 2
    assert [each.id for each in desk.page(10).letters] == [each.id for each in found]
    # When they are sent to where jobs are, then both go, once each
    done = desk.send([each.id for each in found if each.body == b"same"], topology.JOBS)
    assert not done.failed
    assert bodies(rabbit, topology.JOBS) == ["same", "same"]
    assert bodies(rabbit, topology.DEAD) == ["other"]
    assert "x-death" not in messages(rabbit, topology.JOBS)[0]["properties"]["headers"]
    rabbit.api("DELETE", f"queues/{VHOST}/{topology.node_queue('n')}")


def test_messages_are_sent_again_with_their_headers_and_others_stay(
    rabbit: Rabbit, link: Link, desk: DeadLetters, tmp_path: Path
) -> None:
    bury(link, b"0", b"1", b"2", b"3", headers={"pulzar-seal": "x"})
    names = ids(desk)
    done = desk.send([names[1], names[3], "nobody"])
    assert done.done == [names[1], names[3]]
    assert [each.id for each in done.failed] == ["nobody"]
    assert bodies(rabbit, topology.DEAD) == ["0", "2"]
    rows = messages(rabbit, topology.JOBS)
    assert [row["payload"] for row in rows] == ["1", "3"]
    assert rows[0]["properties"]["headers"]["pulzar-seal"] == "x"
    assert rows[0]["properties"]["delivery_mode"] == 2
    assert json.loads((tmp_path / FILE).read_text()) == {}
    # Another body goes alone
    with pytest.raises(BadRequest, match="for one message"):
        desk.send([names[0], names[2]], body=b"new")
    assert desk.send([names[2]], body=b"new").done == [names[2]]
    assert bodies(rabbit, topology.JOBS) == ["1", "3", "new"]
    assert desk.drop([names[0], names[1]]).done == [names[0]]
    assert bodies(rabbit, topology.DEAD) == []


@pytest.mark.parametrize(
    ("of", "to", "reason"),
    [
        (topology.node_queue("gone"), "", "RabbitMQ has no queue pulzar.node.gone"),
        (topology.HEARTBEATS, "", "out of date"),
        ("theirs", "", "no queue of Pulzar"),
        (topology.JOBS, topology.DEAD, "no queue of Pulzar"),
        ("", "", "give one"),
    ],
)
def test_what_can_not_be_sent_stays(
    rabbit: Rabbit, link: Link, desk: DeadLetters, tmp_path: Path, *, of: str, to: str, reason: str
) -> None:
    bury(link, b"one", of=of)
    (name,) = ids(desk)
    (failure,) = desk.send([name], to).failed
    assert reason in failure.reason
    assert bodies(rabbit, topology.DEAD) == ["one"]
    assert not desk.page(1).letters[0].unsure


def test_a_letter_that_a_node_has_made_up_is_not_sent_as_the_masters(link: Link, tmp_path: Path) -> None:
    apart = DeadLetters(link, tmp_path, apart=True)
    bury(link, b"one", of=topology.node_queue("other"))
    (name,) = ids(apart)
    (failure,) = apart.send([name]).failed
    assert "it may be forged" in failure.reason


def test_two_at_once_send_a_message_once(rabbit: Rabbit, link: Link, desk: DeadLetters, tmp_path: Path) -> None:
    # Given two workers that are told the same at the same time
    bury(link, *(b"%d" % number for number in range(20)))
    other = DeadLetters(link, tmp_path, apart=False)
    names = ids(desk)
    results: list[Any] = []

    def send(of: DeadLetters, wanted: Sequence[str]) -> None:
        results.append(of.send(wanted))

    threads = [threading.Thread(target=send, args=(of, names)) for of in (desk, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Then one of them has sent each, and the other is told
    assert sorted(len(each.done) for each in results) == [0, 20]
    assert "somebody has sent or dropped it" in next(each for each in results if not each.done).failed[0].reason
    assert bodies(rabbit, topology.JOBS) == [f"{number}" for number in range(20)]
    assert bodies(rabbit, topology.DEAD) == []


def test_what_was_sent_and_came_again_is_removed_and_what_may_have_been_is_marked(
    rabbit: Rabbit, link: Link, desk: DeadLetters, tmp_path: Path
) -> None:
    # Given a master that was killed with one message sent, and one on its way
    bury(link, b"sent", b"perhaps", b"rest")
    sent, perhaps, _ = ids(desk)
    (tmp_path / FILE).write_text(json.dumps({sent: ["sent", 1, time.time()], perhaps: ["sending", 0, time.time()]}))
    # Then the first goes for good, and the other one is for people to decide
    first, second = desk.page(10).letters
    assert (first.body, first.unsure, second.body, second.unsure) == (b"perhaps", True, b"rest", False)
    wait_for(lambda: bodies(rabbit, topology.DEAD) == ["perhaps", "rest"])
    assert desk.send([sent]).failed
    assert bodies(rabbit, topology.JOBS) == []
    assert desk.drop([perhaps]).done == [perhaps]
    assert perhaps not in json.loads((tmp_path / FILE).read_text())


def test_the_routes(cluster: Any, master: Client) -> None:
    # Given a job by hand that no node can read
    link = Link(cluster.broker_url, "test", list)
    link.start()
    assert link.wait(30)
    put(link, topology.JOBS, b'{"job": "nothing at all"}')

    def mine() -> list[dict[str, Any]]:
        rows = good(master.request("GET", "/admin/dead?limit=500"))["messages"]
        return [row for row in rows if "nothing at all" in row["body"]]

    def jobs() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = good(master.request("GET", "/admin/all_jobs?limit=100"))
        return found

    (row,) = wait_for(mine, what="the message")
    assert "is no job" in row["reason"]
    assert (row["queue"], row["format"], row["editable"]) == (topology.JOBS, "json", True)
    assert good(master.request("GET", f"/admin/dead/{row['id']}")) == row
    # When it is put right and sent, it runs
    audit = cluster.master_directory / "audit.log"
    order = {"ids": [row["id"]], "body": '{"job": "example/factorial", "arguments": {"number": 3}}'}
    answer = master.request("POST", "/admin/dead/send", json.dumps(order).encode())
    assert (good(answer), answer.json["msg"]) == ({"sent": [row["id"]], "failed": []}, "sent 1 message")
    assert not mine()
    wait_for(lambda: [job for job in jobs() if json.loads(job["parameters"]) == {"number": 3}], what="the job")
    answer = master.request("POST", "/admin/dead/drop", json.dumps({"ids": [row["id"]]}).encode())
    assert answer.status == 404
    assert "it is not there any more" in answer.json["msg"]
    line = next(line for line in audit.read_text().splitlines() if "/admin/dead" in line and row["id"] in line)
    assert '"about": "' + row["id"] in line
    link.stop()


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("GET", "/admin/dead?limit=0", None, "no integer from 1 to 500"),
        ("POST", "/admin/dead/send", b"[]", "as JSON"),
        ("POST", "/admin/dead/send", b'{"ids": [5]}', "as JSON"),
        ("POST", "/admin/dead/send", b'{"ids": []}', "a list of 0 was received; give 1 to 1000"),
        ("POST", "/admin/dead/send", b'{"ids": ["a"], "body": 5}', "body = 5 is no text"),
        ("POST", "/admin/dead/drop", b'{"ids": ["a"], "queue": "x"}', "no field 'queue' here"),
    ],
)
def test_bad_requests(master: Client, method: str, path: str, body: bytes | None, said: str) -> None:
    answer = master.request(method, path, body or b"")
    assert answer.status == 400
    assert said in answer.json["msg"]
