"""A message that can't be used is in its queue or in `pulzar.dead`, whatever is lost in between."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import pytest

from broker import topology
from broker.link import Delivery, Link
from ops.cluster import Rabbit
from tests.support import wait_for

VHOST = "burials"
WORK = "work"


@pytest.fixture
def vhost(rabbit: Rabbit) -> Iterator[Rabbit]:
    rabbit.create_vhost(VHOST)
    yield rabbit
    rabbit.delete_vhost(VHOST)


def refuse(rabbit: Rabbit, link: Link, wanted: bool) -> None:
    """Have RabbitMQ refuse what is published to `pulzar.dead`, or take it again."""
    path = f"policies/{VHOST}/full"
    if wanted:
        definition = {"max-length": 0, "overflow": "reject-publish"}
        rabbit.api("PUT", path, {"pattern": r"^pulzar\.dead$", "apply-to": "queues", "definition": definition})
    else:
        rabbit.api("DELETE", path)
    wait_for(lambda: takes(link) != wanted, what="the policy")
    rabbit.api("DELETE", f"queues/{VHOST}/{topology.DEAD}/contents")


def takes(link: Link) -> bool:
    """Whether `pulzar.dead` takes a message."""
    told: queue.Queue[bool] = queue.Queue()
    link.publish(topology.DEAD, b"a try", done=told.put)
    return told.get(timeout=30)


def bodies(rabbit: Rabbit, name: str) -> list[str]:
    return [row["payload"] for row in rows(rabbit, name)]


def rows(rabbit: Rabbit, name: str) -> list[dict[str, Any]]:
    asked = {"count": 100, "ackmode": "ack_requeue_true", "encoding": "auto"}
    found: list[dict[str, Any]] = rabbit.api("POST", f"queues/{VHOST}/{name}/get", asked)
    return found


def open_link(rabbit: Rabbit, handler: Any = None) -> Link:
    declared = [*topology.master(), topology.Queue(WORK, {"x-queue-type": "classic"})]
    link = Link(rabbit.url(VHOST), "test", lambda: declared)
    if handler is not None:
        link.consume(WORK, lambda delivery: handler(link, delivery), 10)
    link.start()
    assert link.wait(30)
    return link


def test_a_message_is_acknowledged_when_its_burial_is_confirmed(vhost: Rabbit) -> None:
    # Given a `pulzar.dead` that takes nothing, and a consumer that buries each message
    taken: queue.Queue[Delivery] = queue.Queue()

    def handle(link: Link, delivery: Delivery) -> None:
        link.bury(delivery, "a test")
        link.ack(delivery)
        taken.put(delivery)

    first = open_link(vhost, handle)
    other = open_link(vhost)
    refuse(vhost, other, True)
    first.publish(WORK, b"one", durable=True, headers={"seal": "x"})
    assert taken.get(timeout=30).body == b"one"
    # Then the message is its queue's, also when the process ends
    first.stop(1.2)
    wait_for(lambda: bodies(vhost, WORK) == ["one"], what="the message in its queue")
    assert bodies(vhost, topology.DEAD) == []
    # And one that can bury it moves it, with its own headers
    refuse(vhost, other, False)
    second = open_link(vhost, handle)
    wait_for(lambda: bodies(vhost, topology.DEAD) == ["one"], what="the message in pulzar.dead")
    wait_for(lambda: second._consumers.idle and second._burials.idle, what="its acknowledgement")
    second.stop()
    other.stop()
    assert bodies(vhost, WORK) == []
    (row,) = rows(vhost, topology.DEAD)
    headers = row["properties"]["headers"]
    assert (headers["reason"], headers["queue"], headers["headers"]) == ("a test", WORK, {"seal": "x"})


def test_a_burial_waits_for_a_queue_that_was_deleted(vhost: Rabbit) -> None:
    # Given that somebody has deleted `pulzar.dead`
    def handle(link: Link, delivery: Delivery) -> None:
        link.bury(delivery, "a test")
        link.ack(delivery)

    link = open_link(vhost, handle)
    vhost.api("DELETE", f"queues/{VHOST}/{topology.DEAD}")
    link.publish(WORK, b"one", durable=True)
    wait_for(lambda: not link._burials.idle, what="the burial")
    # When it is there again, the message comes into it
    other = open_link(vhost)
    wait_for(lambda: bodies(vhost, topology.DEAD) == ["one"], what="the message")
    wait_for(lambda: link._burials.idle and link._consumers.idle, what="its acknowledgement")
    link.stop()
    other.stop()
    assert bodies(vhost, WORK) == []


def test_a_message_without_its_time_is_kept_until_its_copy_is_confirmed(vhost: Rabbit) -> None:
    # Given one that says nothing of when it came, and a link that may publish nothing any more
    first = open_link(vhost)
    first.publish(topology.DEAD, b"no time", durable=True)
    wait_for(lambda: bodies(vhost, topology.DEAD) == ["no time"], what="the message")
    first.stop()
    link = open_link(vhost)
    permissions = {"configure": ".*", "read": ".*"}
    vhost.api("PUT", f"permissions/{VHOST}/{vhost.user}", permissions | {"write": "nothing"})
    # When old messages are looked for, and the process ends
    ended: queue.Queue[int] = queue.Queue()
    link._expired = ended.put  # type: ignore[method-assign]
    link.expire_dead(0.0, 10)
    assert ended.get(timeout=30) == 0
    link.stop(1.2)
    # Then it is there as it was
    vhost.api("PUT", f"permissions/{VHOST}/{vhost.user}", permissions | {"write": ".*"})
    wait_for(lambda: bodies(vhost, topology.DEAD) == ["no time"], what="the message")
    # And gets its time, once
    again = open_link(vhost)
    again.expire_dead(0.0, 1)
    wait_for(lambda: rows(vhost, topology.DEAD)[0]["properties"].get("headers", {}).get("at"), what="its time")
    again.stop()
    assert bodies(vhost, topology.DEAD) == ["no time"]
