"""Micro-batches: what travels together, when, and to which node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import pytest

from broker import keys
from broker.errors import LinkDown, Unsendable
from broker.messages.store import Commands, Delete, Status, Store
from master.store.dispatcher import MOST_POOLED, POOLED_SECS, Dispatcher, Failure, Ticket
from tests.support import decode

KEY = keys.encode("key")


class FakeLink:
    """Takes messages instead of RabbitMQ."""

    def __init__(self) -> None:
        self.ready = True
        self.problem = ""
        self.sent: list[tuple[str, bool, Commands]] = []
        self.timers: list[Callable[[], None]] = []

    def wake(self) -> None:
        pass

    def later(self, _seconds: float, function: Callable[[], None]) -> None:
        self.timers.append(function)

    def publish(self, queue: str, body: bytes, durable: bool = False, ttl_ms: int | None = None) -> None:
        if not self.ready:
            raise LinkDown("gone")
        self.sent.append((queue, durable, decode(body, Commands)))


class Bench:
    """A dispatcher on a fake link, with a clock of its own; `run` does what the link's thread would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.link = FakeLink()
        self.nodes = ["a", "b"]
        self.now = 100.0
        monkeypatch.setattr("master.store.dispatcher.time.monotonic", lambda: self.now)
        self.dispatcher = Dispatcher(self.link, "o", 1000, self._choose)  # type: ignore[arg-type]

    def _choose(self, _size: int, exclude: Collection[str]) -> str | None:
        return next((node for node in self.nodes if node not in exclude), None)

    def run(self) -> list[tuple[str, int]]:
        """(node, commands) of the batches sent by this."""
        before = len(self.link.sent)
        self.dispatcher.work()
        return [(queue.removeprefix("pulzar.node."), len(batch.items)) for queue, _, batch in self.link.sent[before:]]

    def put(self, count: int = 1, node: str | None = None, exclude: Collection[str] = ()) -> list[Ticket]:
        def make(ticket: int) -> Store:
            return Store(ticket, KEY, 1, 1, 0, "", b"d" * 32, 3, b"abc", "")

        return [self.dispatcher.send(make, node, exclude) for _ in range(count)]

    def answer(self, tickets: list[Ticket]) -> None:
        self.dispatcher.settle([(ticket.number, Status.DONE, "") for ticket in tickets])


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_a_lone_request_leaves_at_once(bench: Bench) -> None:
    bench.put()
    assert bench.run() == [("a", 1)]


def test_what_gathers_while_a_batch_is_under_way_goes_together_to_a_free_node(bench: Bench) -> None:
    bench.put()
    bench.run()
    bench.put(7)
    assert bench.run() == [("b", 7)]
    bench.put(5)
    assert bench.run() == []


def test_a_second_batch_is_on_its_way_while_the_first_one_is_flushed(bench: Bench) -> None:
    first = bench.put(node="a")
    assert bench.run() == [("a", 1)]
    second = bench.put(3, node="a")
    assert bench.run() == [("a", 3)]
    bench.put(3, node="a")
    assert bench.run() == []
    # A part of a batch makes no room, all of it does, whichever lands first
    bench.answer(second[:2])
    assert bench.run() == []
    bench.answer(second[2:])
    assert bench.run() == [("a", 3)]
    bench.put(3, node="a")
    assert bench.run() == []
    bench.answer(first)
    assert bench.run() == [("a", 3)]


def test_batches_under_way_hold_back_only_their_own_node(bench: Bench) -> None:
    for _ in range(2):
        bench.put(node="a")
        assert bench.run() == [("a", 1)]
    bench.put(3, node="a")
    assert bench.run() == []
    bench.put(node="b")
    assert bench.run() == [("b", 1)]


def test_the_next_batch_waits_for_as_many_as_the_last_one_had_but_not_for_long(bench: Bench) -> None:
    first = bench.put(8)
    bench.run()
    bench.answer(first)
    bench.put(3)
    assert bench.run() == []
    assert len(bench.link.timers) == 1
    bench.put(5)
    assert bench.run() == [("a", 8)]
    bench.put(2)
    assert bench.run() == []
    bench.now += 0.002
    assert bench.run() == [("b", 2)]


def test_a_pool_goes_to_an_idle_node_before_one_with_a_batch_under_way(bench: Bench) -> None:
    for node in ("a", "b", "a", "b"):
        bench.put()
        assert bench.run() == [(node, 1)]
    bench.put()
    assert bench.run() == []


def test_few_batches_of_the_pool_are_under_way_however_many_nodes_there_are(bench: Bench) -> None:
    bench.nodes = [str(number) for number in range(50)]
    tickets = []
    for number in range(MOST_POOLED):
        tickets.append(bench.put())
        assert bench.run() == [(str(number), 1)]
    bench.put(16)
    assert bench.run() == []
    bench.answer(tickets[1])
    assert bench.run() == [("1", 16)]


def test_slow_nodes_do_not_hold_back_the_pool_for_long(bench: Bench) -> None:
    bench.nodes = [str(number) for number in range(50)]
    for _ in range(MOST_POOLED):
        bench.put()
        bench.run()
    bench.put()
    assert bench.run() == []
    assert bench.link.timers  # nothing else would wake the link
    bench.now += 1.5 * POOLED_SECS
    bench.link.timers.pop()()
    assert bench.run() == [(str(MOST_POOLED), 1)]


def test_what_one_node_alone_can_take_does_not_wait_for_the_pool(bench: Bench) -> None:
    bench.nodes = [str(number) for number in range(50)]
    for _ in range(MOST_POOLED):
        bench.put()
        bench.run()
    bench.put(node="0")
    assert bench.run() == [("0", 1)]


def test_a_node_that_lets_a_batch_wait_gets_another_only_when_there_is_nobody_else(bench: Bench) -> None:
    bench.put()
    bench.run()
    bench.now += 2
    bench.put()
    assert bench.run() == [("b", 1)]
    bench.now += 2
    bench.put()
    assert bench.run() == [("a", 1)]


def test_answers_wake_whoever_waits(bench: Bench) -> None:
    (ticket,) = bench.put()
    bench.run()
    assert ticket.status is None
    bench.dispatcher.settle([(ticket.number, Status.FULL, "no room"), (999, Status.DONE, "")])
    assert ticket.status is Status.FULL
    assert (ticket.node, ticket.reason) == ("a", "no room")


def test_a_request_waits_for_its_answer_and_for_no_longer_than_it_has_patience() -> None:
    dispatcher = Dispatcher(FakeLink(), "o", 1000, lambda _size, _exclude: "a")  # type: ignore[arg-type]

    async def wait() -> None:
        ticket = dispatcher.send(lambda ticket: Delete(ticket, KEY, 1), "a")
        unanswered = dispatcher.send(lambda ticket: Delete(ticket, KEY, 1), "a")
        asyncio.get_running_loop().call_later(0.01, dispatcher.settle, [(ticket.number, Status.DONE, "")])
        assert await ticket.wait(10) is Status.DONE
        assert await unanswered.wait(0.01) is None

    asyncio.run(wait())


def test_an_abandoned_command_frees_its_node(bench: Bench) -> None:
    (ticket,) = bench.put(node="a")
    bench.run()
    bench.dispatcher.abandon(ticket)
    bench.put(node="a")
    assert bench.run() == [("a", 1)]


def test_without_a_node_everybody_is_told_at_once(bench: Bench) -> None:
    bench.nodes = []
    (ticket,) = bench.put()
    assert bench.run() == []
    assert ticket.status is Failure.NO_NODE
    assert ticket.reason == "no node that has room was heard from lately"


def test_a_command_that_was_tried_elsewhere_goes_to_another_node_or_is_told_that_there_is_none(bench: Bench) -> None:
    (ticket,) = bench.put(exclude=["a"])
    assert bench.run() == [("b", 1)]
    assert ticket.node == "b"
    (other,) = bench.put(exclude=["a", "b"])
    assert bench.run() == []
    assert (other.node, other.status) == (None, Failure.NO_NODE)


def test_a_lost_connection_is_told_to_whoever_waits_and_the_next_begins_anew(bench: Bench) -> None:
    (sent,) = bench.put()
    bench.run()
    (waiting,) = bench.put()
    bench.dispatcher.fail_all()
    assert (sent.status, sent.reason) == (Failure.LOST, "the connection to RabbitMQ was lost")
    assert (waiting.status, waiting.reason) == (Failure.LOST, "the connection to RabbitMQ was lost")
    bench.put()
    assert bench.run() == [("a", 1)]
    bench.link.ready = False
    with pytest.raises(LinkDown):
        bench.put()


def test_a_batch_is_not_durable_for_whoever_waits_is_its_retry_but_what_is_to_be_forgotten_is(bench: Bench) -> None:
    bench.put(node="a")
    bench.dispatcher.send(lambda ticket: Delete(ticket, KEY, 2), "b")
    bench.run()
    bench.dispatcher.forget("c", KEY, 3, purge=True)
    assert {queue[-1]: durable for queue, durable, _ in bench.link.sent} == {"a": False, "b": False, "c": True}


def test_a_batch_has_a_limit_of_bytes(bench: Bench) -> None:
    def make(ticket: int) -> Store:
        return Store(ticket, KEY, 1, 1, 0, "", b"d" * 32, 1 << 20, bytes(1 << 20), "")

    for _ in range(8):
        bench.dispatcher.send(make)
    assert bench.run() == [("a", 4), ("b", 4)]


def test_a_command_that_can_not_be_sent_fails_alone(bench: Bench) -> None:
    before = bench.put(3)

    def beyond(ticket: int) -> Store:
        return Store(ticket, KEY, 1, 1, 1 << 70, "", b"d" * 32, 3, b"abc", "")

    with pytest.raises(Unsendable):
        bench.dispatcher.send(beyond)
    bench.put(2)
    assert bench.run() == [("a", 5)]
    bench.answer(before)
    assert {ticket.status for ticket in before} == {Status.DONE}
