"""A link on an event loop that others use, too: it publishes and consumes there, and comes back after whatever fails."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator

import pytest
import uvloop

from broker.link import Delivery, Link
from broker.link.guarded_loop import GuardedLoop
from broker.link.link import CLOSE_SECS
from broker.topology import Declaration, Queue
from ops.cluster import Rabbit
from tests.support import unique, wait_for


class Site:
    """A loop on a thread, and a link on it with a queue of its own."""

    def __init__(self, url: str, name: str) -> None:
        self.queue = name
        self.received: list[bytes] = []
        self.threads: set[int] = set()
        self.faults: list[Exception] = []  # to be raised by listeners
        self.loop = uvloop.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.link = Link(url, name, self._topology)
        self.link.consume(name, self._take, 10)
        self.link.on_wake.append(self._work)
        self.ups = 0
        self.downs = 0
        self.link.on_up.append(self._up)
        self.link.on_down.append(self._down)

    def _topology(self) -> list[Declaration]:
        return [Queue(self.queue, {"x-queue-type": "classic"})]

    def _up(self) -> None:
        self.ups += 1

    def _down(self) -> None:
        self.downs += 1

    def _work(self) -> None:
        self.threads.add(threading.get_ident())
        if self.faults:
            raise self.faults.pop()

    def _take(self, delivery: Delivery) -> None:
        self.received.append(delivery.body)
        self.link.ack(delivery)

    def start(self) -> None:
        self.thread.start()
        self.link.start(self.loop)
        assert asyncio.run_coroutine_threadsafe(self.link.opened(30), self.loop).result(40)

    def stop(self) -> None:
        self.link.stop()
        wait_for(lambda: not self.link.up, what="the link to close")
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def send(self, body: bytes) -> list[bool]:
        told: list[bool] = []
        self.link.publish(self.queue, body, durable=True, done=told.append)
        return told


@pytest.fixture
def site(rabbit: Rabbit) -> Iterator[Site]:
    site = Site(rabbit.url(), unique("loop").replace("/", "."))
    site.start()
    yield site
    site.stop()


def test_it_publishes_and_consumes_on_the_thread_of_the_loop(site: Site) -> None:
    # When another thread publishes, and the loop itself
    told = site.send(b"from another thread")
    site.loop.call_soon_threadsafe(site.send, b"from the loop")
    # Then both are confirmed and come back
    wait_for(lambda: sorted(site.received) == [b"from another thread", b"from the loop"], what="both messages")
    wait_for(lambda: told == [True], what="a confirm")
    # And nothing of it was done elsewhere
    assert site.threads == {site.thread.ident}


def test_it_comes_back_when_the_connection_is_lost(site: Site) -> None:
    # When the connection is cut
    def cut() -> None:
        site.link._io._transport.abort()  # type: ignore[attr-defined]

    site.loop.call_soon_threadsafe(cut)
    wait_for(lambda: site.downs == 1, what="the link to notice")
    told = site.send(b"later")
    # Then there is another one, and what was published meanwhile arrives
    wait_for(lambda: site.ups == 2, 30, "another connection")
    wait_for(lambda: site.received == [b"later"], what="the message")
    wait_for(lambda: told == [True], what="its confirm")


def test_it_comes_back_when_rabbitmq_does_not_agree_to_the_end_of_a_connection(site: Site, rabbit: Rabbit) -> None:
    # Given a RabbitMQ that answers nothing, as a channel does that waits for a queue without a leader
    rabbit.process.signal(signal.SIGSTOP)
    try:
        # When something is wrong with the connection
        site.loop.call_soon_threadsafe(site.link._fail, "a queue was deleted")
        # Then it is given up
        wait_for(lambda: site.downs == 1, CLOSE_SECS + 20, what="the link to give up")
    finally:
        rabbit.process.signal(signal.SIGCONT)
    wait_for(lambda: site.ups == 2, 60, "another connection")
    site.send(b"later")
    wait_for(lambda: site.received == [b"later"], what="the message")


def test_an_error_in_a_listener_costs_the_connection_and_no_more(site: Site) -> None:
    for number in range(3):
        # When a listener fails on the loop
        site.faults.append(ValueError("a fault"))
        site.link.wake()
        # Then there is another connection, which works
        wait_for(lambda expected=number + 2: site.ups == expected, 30, "another connection")  # type: ignore[misc]
        site.send(b"%d" % number)
        wait_for(lambda expected=b"%d" % number: expected in site.received, what="the message")  # type: ignore[misc]
    assert site.downs == 3


def test_it_is_patient_while_there_is_no_rabbitmq() -> None:
    # Given a link to an address where nobody listens, on a loop
    async def try_it() -> tuple[bool, str]:
        link = Link("amqp://nobody:nothing@127.0.0.1:1/v", "test", list)
        link.start(asyncio.get_running_loop())
        up = await link.opened(0.5)
        link.stop(0.1)
        return up, link.problem

    up, problem = asyncio.run(try_it())
    assert not up
    assert problem != "not connected yet"


def test_a_closed_view_of_a_loop_calls_nothing_any_more() -> None:
    async def try_it() -> list[str]:
        called: list[str] = []
        view = GuardedLoop(asyncio.get_running_loop(), lambda error: called.append(f"told of {error}"))
        view.call_soon(called.append, "soon")
        view.call_later(0.0, [].pop)
        await asyncio.sleep(0.01)
        view.call_soon(called.append, "after it was closed")
        view.call_later(0.0, called.append, "after it was closed")
        view.close()
        await asyncio.sleep(0.01)
        return called

    assert asyncio.run(try_it()) == ["soon", "told of pop from empty list"]
