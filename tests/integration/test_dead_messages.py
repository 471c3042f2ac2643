"""Old messages leave `pulzar.dead`, and nothing else does."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from typing import Any

import pytest

from broker import topology
from broker.link import Link
from ops.cluster import Rabbit
from tests.support import wait_for

DAY = 86_400


class Patient(Link):
    """A link that tells when it has dropped old messages.

    Whoever reads the queue meanwhile holds messages back, so that others find it empty.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, "test", topology.master)
        self._dropped: queue.Queue[int] = queue.Queue()

    def drop(self, before: float, most: int) -> int:
        """Drop messages that were buried before a time; their number."""
        self.expire_dead(before, most)
        return self._dropped.get(timeout=30)

    def _expired(self, count: int) -> None:
        super()._expired(count)
        self._dropped.put(count)


@pytest.fixture
def link(rabbit: Rabbit) -> Iterator[Patient]:
    """A link to a virtual host of its own."""
    rabbit.create_vhost("dead")
    made = Patient(rabbit.url("dead"))
    made.start()
    assert made.wait(30)
    yield made
    made.stop()
    rabbit.delete_vhost("dead")


def messages(rabbit: Rabbit) -> list[tuple[str, dict[str, Any]]]:
    """The messages in the queue, the oldest first, which stay there."""
    asked = {"count": 1000, "ackmode": "ack_requeue_true", "encoding": "auto"}
    rows = rabbit.api("POST", f"queues/dead/{topology.DEAD}/get", asked)
    return [(row["payload"], row["properties"].get("headers", {})) for row in rows]


def publish(link: Link, body: str, age: float | None) -> None:
    headers = {"reason": "a test"} | ({} if age is None else {"at": int(time.time() - age)})
    link.publish(topology.DEAD, body.encode(), durable=True, headers=headers)


def test_messages_older_than_a_time_are_dropped(rabbit: Rabbit, link: Patient) -> None:
    # Given messages of three days, one without its time, and one that RabbitMQ has moved there
    for day in (3, 2, 1):
        publish(link, f"{day} days", day * DAY)
    publish(link, "no time", None)
    publish(link, "new", 0)
    wait_for(lambda: len(messages(rabbit)) == 5, what="all messages")
    # When those older than one and a half days are dropped, one at a time
    before = time.time() - 1.5 * DAY
    wait_for(lambda: link.drop(before, 1) == 1, what="the first to go")
    wait_for(lambda: [body for body, _ in messages(rabbit)] == ["2 days", "1 days", "no time", "new"])
    wait_for(lambda: link.drop(before, 100) == 1, what="the second to go")
    # Then the others are as they were
    wait_for(lambda: [body for body, _ in messages(rabbit)] == ["1 days", "no time", "new"])
    assert all(headers["reason"] == "a test" for _, headers in messages(rabbit))
    # And one that does not say when it came gets a time
    wait_for(lambda: link.drop(time.time() - DAY / 2, 100) == 1, what="the third to go")

    def rest() -> dict[str, float | None]:
        return {body: headers.get("at") for body, headers in messages(rabbit)}

    # It goes, and comes again behind the other
    wait_for(lambda: set(now := rest()) == {"no time", "new"} and all(now.values()), what="its time")
    assert (rest()["no time"] or 0) >= time.time() - 60


def test_what_rabbitmq_has_moved_there_says_when(rabbit: Rabbit, link: Patient) -> None:
    # Given a message that no node could take
    rabbit.api(
        "PUT",
        "queues/dead/short",
        {
            "durable": True,
            "arguments": {"x-message-ttl": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": topology.DEAD},
        },
    )
    link.publish("short", b"moved", durable=True)
    wait_for(lambda: [body for body, _ in messages(rabbit)] == ["moved"], what="the message")
    # Then it stays while it is young, and goes when it is old
    publish(link, "behind it", 0)
    wait_for(lambda: [body for body, _ in messages(rabbit)] == ["moved", "behind it"], what="both messages")
    assert link.drop(time.time() - 3600, 10) == 0
    wait_for(lambda: [body for body, _ in messages(rabbit)] == ["moved", "behind it"])
    wait_for(lambda: link.drop(time.time() + 3600, 10) >= 0 and not messages(rabbit), what="the end of both")
