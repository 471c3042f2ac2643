"""A connection that is lost, or answers that are, while the dispatcher of a web worker waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from broker import keys
from broker.messages.store import Commands, Status, Store
from master.store.dispatcher import STALLED_SECS, Dispatcher, Ticket
from tests.support import decode

LINGER_SECS = 0.1  # long enough for a busy machine to do several things in it


class Thread:
    """Stands in for a link and its I/O thread, whose timers end with the connection."""

    ready = up = True
    problem = ""
    dispatcher: Dispatcher

    def __init__(self) -> None:
        self.published: list[list[Any]] = []
        self._timers: list[tuple[float, Callable[[], None]]] = []

    def publish(self, _queue: str, body: bytes, **_more: Any) -> None:
        self.published.append(decode(body, Commands).items)

    def wake(self) -> None:
        self.dispatcher.work()

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        self._timers.append((time.monotonic() + seconds, function))

    def lose(self) -> None:
        """The connection is lost, and there is another one."""
        self._timers.clear()
        self.dispatcher.fail_all()

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            due = [timer for timer in self._timers if timer[0] <= time.monotonic()]
            self._timers = [timer for timer in self._timers if timer not in due]
            for _, function in due:
                function()
            time.sleep(0.001)


@pytest.fixture(autouse=True)
def linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("master.store.dispatcher.LINGER_SECS", LINGER_SECS)


@pytest.fixture
def link() -> Thread:
    return Thread()


@pytest.fixture
def dispatcher(link: Thread) -> Dispatcher:
    def choose(_size: int, exclude: Any) -> str | None:
        return None if "node-1" in exclude else "node-1"

    link.dispatcher = Dispatcher(link, "test", 1000, choose)  # type: ignore[arg-type]
    return link.dispatcher


def send(dispatcher: Dispatcher) -> Ticket:
    def store(ticket: int) -> Store:
        return Store(ticket, keys.encode("key"), 1, 1, 0, "", bytes(32), 1, b"1", "")

    return dispatcher.send(store)


def send_one_after_several(link: Thread, dispatcher: Dispatcher) -> None:
    """Send a batch of several, answer it, and send one more: that one waits a moment for as many."""
    first = [send(dispatcher) for _ in range(2)]
    more = [send(dispatcher) for _ in range(3)]
    dispatcher.settle([(ticket.number, Status.DONE, "") for ticket in first])
    assert [len(batch) for batch in link.published[-3:]] == [1, 1, 3]
    dispatcher.settle([(ticket.number, Status.DONE, "") for ticket in more])
    send(dispatcher)


def test_a_connection_lost_while_commands_gather_holds_nothing_back_later(link: Thread, dispatcher: Dispatcher) -> None:
    # Given a command that waits a moment for others
    send_one_after_several(link, dispatcher)
    assert len(link.published) == 3
    # When the connection is lost in that moment
    link.lose()
    # Then those that wait like that later leave, though nobody comes
    send_one_after_several(link, dispatcher)
    assert len(link.published) == 6
    link.run(5 * LINGER_SECS)
    assert len(link.published) == 7


def test_a_command_behind_one_that_is_never_answered_leaves_after_a_while(link: Thread, dispatcher: Dispatcher) -> None:
    # Given commands whose answers never come
    send(dispatcher)
    send(dispatcher)
    assert len(link.published) == 2
    # When another one is sent, and nothing else happens
    send(dispatcher)
    assert len(link.published) == 2
    link.run(STALLED_SECS + 0.2)
    # Then it is not held back for ever
    assert len(link.published) == 3


def test_what_was_given_up_while_it_waited_is_not_sent_and_holds_nothing_back(
    link: Thread, dispatcher: Dispatcher
) -> None:
    # Given a command that waits behind others, and is given up before it was sent
    first = [send(dispatcher) for _ in range(2)]
    last = send(dispatcher)
    dispatcher.abandon(last)
    # When the first ones are answered
    dispatcher.settle([(ticket.number, Status.DONE, "") for ticket in first])
    link.run(2 * LINGER_SECS)
    # Then the last one is not sent, and the next one leaves at once
    assert len(link.published) == 2
    send(dispatcher)
    link.run(2 * LINGER_SECS)
    assert len(link.published) == 3
