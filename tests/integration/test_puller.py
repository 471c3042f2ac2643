"""How jobs reach free slots: one at a time, in the order of the queues, none kept from others."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pika
import pytest

from broker import topology
from broker.link import Delivery, Link
from broker.topology import Declaration, Queue
from ops.cluster import Rabbit
from tests.support import unique, wait_for


class Taker:
    """A link that pulls from two queues, and what it was handed."""

    def __init__(self, url: str, name: str) -> None:
        self.queues = (f"{name}.first", f"{name}.second")
        self.taken: list[Delivery] = []
        self.link = Link(url, name, self._topology)
        self.puller = self.link.pull(self.queues, self.taken.append)
        self._todo: list[tuple[str, tuple[Any, ...]]] = []
        self.link.on_wake.append(self._work)

    def _topology(self) -> list[Declaration]:
        return [Queue(queue, {"x-queue-type": "quorum", "x-delivery-limit": 20}) for queue in self.queues]

    def start(self) -> Taker:
        self.link.start()
        assert self.link.wait(30)
        return self

    def want(self, free: int, ahead: int = 0) -> None:
        self._do("want", free, ahead, ahead)

    def ack(self, delivery: Delivery, soon: bool = False) -> None:
        self._do("ack", delivery, soon)

    def give_back(self, delivery: Delivery) -> None:
        self._do("give_back", delivery)

    def _do(self, what: str, *arguments: Any) -> None:
        self._todo.append((what, arguments))
        self.link.wake()

    def _work(self) -> None:
        while self._todo:
            what, arguments = self._todo.pop(0)
            getattr(self.puller, what)(*arguments)

    def put(self, queue: int, *bodies: bytes) -> None:
        confirmed = threading.Semaphore(0)
        for body in bodies:
            self.link.publish(self.queues[queue], body, durable=True, done=lambda _: confirmed.release())
        for _ in bodies:
            assert confirmed.acquire(timeout=30)

    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.taken]

    def idle(self) -> bool:
        return bool(self.puller._tags)

    def depths(self) -> dict[str, int]:
        found: list[dict[str, int]] = []
        self.link.count(self.queues, found.append)
        wait_for(lambda: bool(found), what="the depths of the queues")
        return found[0]


@pytest.fixture
def name() -> str:
    return unique("puller").replace("/", ".")


@pytest.fixture
def taker(rabbit: Rabbit, name: str) -> Iterator[Taker]:
    taker = Taker(rabbit.url(), name).start()
    yield taker
    taker.link.stop()


def test_no_more_is_taken_than_is_wanted_and_the_first_queue_comes_first(taker: Taker) -> None:
    taker.put(1, b"s1", b"s2")
    taker.put(0, b"f1", b"f2")
    taker.want(1)
    wait_for(lambda: taker.bodies() == [b"f1"], what="the first one")
    taker.ack(taker.taken[0])
    wait_for(lambda: sum(taker.depths().values()) == 3, what="the others to be left to others")
    for count in (2, 3, 4):
        taker.want(1)
        wait_for(lambda count=count: len(taker.taken) == count, what="one more")  # type: ignore[misc]
        taker.ack(taker.taken[-1])
    assert taker.bodies() == [b"f1", b"f2", b"s1", b"s2"]


def test_what_comes_later_is_handed_over_at_once_and_then_nothing_more(taker: Taker) -> None:
    taker.want(1)
    wait_for(taker.idle, what="all queues to be found empty")
    taker.put(1, b"one", b"two")
    wait_for(lambda: taker.bodies() == [b"one"], what="the first one")
    assert not taker.idle()
    taker.ack(taker.taken[0])
    wait_for(lambda: sum(taker.depths().values()) == 1, what="the other one to be left to others")
    assert taker.bodies() == [b"one"]


def test_an_idle_taker_gets_what_a_busy_one_has_no_slot_for(taker: Taker, rabbit: Rabbit, name: str) -> None:
    other = Taker(rabbit.url(), name).start()
    try:
        taker.want(1)
        wait_for(taker.idle, what="the first one to wait")
        taker.put(0, b"1", b"2", b"3")
        wait_for(lambda: len(taker.taken) == 1, what="a message")
        taker.ack(taker.taken[0])
        other.want(2)
        wait_for(lambda: len(other.taken) == 2, what="the other one to get the others")
        assert len(taker.taken) == 1
    finally:
        other.link.stop()


def test_a_message_not_acknowledged_comes_again_after_the_connection_was_lost(taker: Taker) -> None:
    taker.want(2)
    wait_for(taker.idle, what="it to wait")
    taker.put(0, b"1")
    wait_for(lambda: len(taker.taken) == 1, what="the message")
    first = taker.taken[0]
    taker.link._call(taker.link._connection.close)  # as an operator does in the console
    wait_for(lambda: len(taker.taken) == 2, what="the message again")
    assert taker.taken[1].body == b"1"
    taker.ack(first)  # an old tag means nothing
    taker.ack(taker.taken[1])
    taker.put(1, b"2")
    wait_for(lambda: taker.bodies() == [b"1", b"1"] or len(taker.taken) == 3, what="the next one")


def test_a_queue_that_is_missing_counts_as_empty(taker: Taker) -> None:
    taker.put(0, b"1", b"2")
    found: list[dict[str, int]] = []
    queues = (taker.queues[0], "no.such.queue", taker.queues[1])
    taker.link.count(queues, found.append)
    wait_for(lambda: bool(found), what="the depths")
    assert found == [{taker.queues[0]: 2, "no.such.queue": 0, taker.queues[1]: 0}]
    assert taker.link.ready


def test_many_are_taken_through_a_window_and_no_more_than_are_wanted(taker: Taker) -> None:
    bodies = [b"%d" % number for number in range(30)]
    taker.put(1, b"later")
    taker.put(0, *bodies)
    # When more are wanted than slots are free, then so many come that are not acknowledged, and the one asked for
    taker.want(2, 10)
    wait_for(lambda: len(taker.taken) == 11, what="a window of messages")
    assert sum(taker.depths().values()) == 20
    # When these are acknowledged, others come; when no more are wanted, they are left to others
    for delivery in taker.taken:
        taker.ack(delivery, soon=True)
    wait_for(lambda: len(taker.taken) == 12, what="as many as are wanted")
    taker.want(0)
    wait_for(lambda: sum(taker.depths().values()) == 19, what="the others to be left to others")

    acknowledged = 11

    def rest() -> bool:
        nonlocal acknowledged
        for delivery in taker.taken[acknowledged:]:
            taker.ack(delivery, soon=True)
            acknowledged += 1
        taker.want(0, 20)
        return len(taker.taken) == 31

    wait_for(rest, what="the rest, and the one in the second queue", pause=0.2)
    assert sorted(taker.bodies()) == sorted([*bodies, b"later"])
    assert taker.bodies()[-1] == b"later"
    assert not taker.idle()  # no slot is free: it waits for nothing
    taker.put(0, b"new")
    taker.want(1, 4)
    wait_for(lambda: len(taker.taken) == 32, what="the new one")


def test_a_window_stays_open_while_there_is_something_and_looks_at_the_queues_before(taker: Taker) -> None:
    taker.put(1, *(b"%d" % number for number in range(100)))
    taker.want(2, 10)
    wait_for(lambda: len(taker.taken) >= 10, what="a window of messages")
    asked = taker.puller._asked
    taker.put(0, b"urgent")
    done = 0

    def on() -> bool:
        nonlocal done
        for delivery in taker.taken[done:]:
            taker.ack(delivery, soon=True)
            done += 1
        taker.want(2, 10)
        return len(taker.taken) == 101

    wait_for(on, what="all", pause=0.005)
    assert taker.bodies().index(b"urgent") < 50
    assert taker.puller._asked <= asked + 2
    wait_for(lambda: taker.want(2, 10) or taker.idle(), what="it to find nothing more", pause=0.05)


def test_what_is_acknowledged_soon_does_not_come_again_and_all_else_does(taker: Taker) -> None:
    bodies = [b"%d" % number for number in range(8)]
    taker.put(0, *bodies)
    wait_for(lambda: taker.want(0, 8 - len(taker.taken)) or len(taker.taken) == 8, what="all", pause=0.2)
    kept = [delivery for delivery in taker.taken if delivery.body in (b"0", b"1", b"3", b"6")]
    for delivery in reversed(kept):
        taker.ack(delivery, soon=True)
    wait_for(lambda: not taker.puller._acks and len(taker.puller._unacknowledged) == 4, what="the broker to be told")
    taker.link._call(taker.link._connection.close)  # as an operator does in the console
    taker.want(8)
    wait_for(lambda: len(taker.taken) >= 12, what="the others again")
    wait_for(taker.idle, what="it to wait for more")
    assert sorted(taker.bodies()[8:]) == [b"2", b"4", b"5", b"7"]


def test_what_was_taken_ahead_and_given_back_goes_to_another(taker: Taker, rabbit: Rabbit, name: str) -> None:
    other = Taker(rabbit.url(), name).start()
    try:
        taker.put(0, *(b"%d" % number for number in range(6)))
        taker.want(1, 5)
        wait_for(lambda: len(taker.taken) == 6, what="all")
        other.want(2)
        wait_for(other.idle, what="the other one to find nothing")
        taker.want(0)
        for delivery in taker.taken[1:3]:
            taker.give_back(delivery)
        wait_for(lambda: len(other.taken) == 1, what="one of them")
        other.ack(other.taken[0])
        wait_for(lambda: len(other.taken) == 2, what="the next one")
        assert sorted(other.bodies()) == [b"1", b"2"]
    finally:
        other.link.stop()


def test_what_kills_its_taker_again_and_again_is_put_aside_and_what_is_given_back_is_not_lost(
    rabbit: Rabbit, name: str
) -> None:
    # Given messages in queues like those of jobs
    dead = f"{name}.dead"
    counted, returned = (
        queue._replace(name=f"{name}.{what}") for queue, what in zip(jobs_like(dead), ("a", "b"), strict=True)
    )

    def inside(queue: str) -> bool:
        with closing(pika.BlockingConnection(pika.URLParameters(rabbit.url()))) as connection:
            return bool(connection.channel().queue_declare(queue, passive=True).method.message_count)

    with closing(pika.BlockingConnection(pika.URLParameters(rabbit.url()))) as connection:
        channel = connection.channel()
        channel.queue_declare(dead, durable=True)
        for queue in (counted, returned):
            channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
            channel.basic_publish("", queue.name, queue.name.encode())
        # When whoever takes the one loses his channel each time
        for _ in range(topology.DELIVERIES + 1):
            taking = connection.channel()
            wait_for(lambda taking=taking: taking.basic_get(counted.name)[0] is not None, what="the message")
            taking.close()
        # Then it is put aside, on every version
        wait_for(lambda: inside(dead), what="the message among the dead")
        assert channel.basic_get(dead, auto_ack=True)[2] == counted.name.encode()
        # What is given back is there still, or put aside where that counts too
        for _ in range(2 * topology.DELIVERIES):
            method, _properties, _body = channel.basic_get(returned.name)
            if method is not None:
                channel.basic_nack(method.delivery_tag, requeue=True)
        wait_for(lambda: inside(dead) or inside(returned.name), what="the message that was given back")
        version = rabbit.api("GET", "overview")["rabbitmq_version"]
        uncounted = tuple(map(int, version.split(".")[:2])) >= (4, 3)
        assert inside(returned.name) == uncounted, version
        for queue in (dead, counted.name, returned.name):
            channel.queue_delete(queue)


def jobs_like(dead: str) -> list[Queue]:
    """The first two queues of jobs, with another place for what nobody could take."""
    queues = [one for one in topology.master() if isinstance(one, Queue) and "x-delivery-limit" in one.arguments]
    return [one._replace(arguments=dict(one.arguments) | {"x-dead-letter-routing-key": dead}) for one in queues[:2]]


@pytest.mark.parametrize("subscribed", [True, False])
def test_nothing_is_done_with_a_connection_that_is_being_closed(
    taker: Taker, rabbit: Rabbit, caplog: pytest.LogCaptureFixture, subscribed: bool
) -> None:
    # Given a RabbitMQ that answers no more, to a node that waits for jobs or asks for one
    if subscribed:
        taker.want(1)
        wait_for(taker.idle, what="it to wait")
    rabbit.process.signal(signal.SIGSTOP)
    try:
        taker.want(1)
        wait_for(lambda: not taker._todo, what="it to ask")
        # When something is wrong with the connection, and others go on as before
        closed: list[float] = []
        taker.link.on_down.append(lambda: closed.append(time.monotonic()))
        taker.link._call(lambda: taker.link._fail("a queue was deleted"))
        while not closed:
            taker.want(2)
            taker.link.count(taker.queues, lambda _: None)
            taker.link.declare(taker._topology(), lambda _: None)
            time.sleep(0.02)
    finally:
        rabbit.process.signal(signal.SIGCONT)
    # Then the link gives up once, without an error of its own
    wait_for(lambda: taker.link.up, 60, "another connection")
    assert len(closed) == 1
    assert [record.message for record in caplog.records if record.exc_info] == []
    taker.put(0, b"1")
    wait_for(lambda: taker.bodies() == [b"1"], what="a message")
