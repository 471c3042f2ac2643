"""The controller: a message is applied, or buried alone, and acknowledged; calls get their replies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import pytest

from broker import keys, settings, topology
from broker.link import Delivery
from broker.messages.codec import encode
from broker.messages.store import Commands, Heartbeat, Kind, Outcome, Replay, Result, Results, Status
from broker.refusals import Conflict, NotFound
from master.channel import Cancel, ControllerClient, Forget, Restore
from master.controller import Controller
from master.index.index import Index
from master.index.projection import Projection
from tests.support import decode, wait_for

BAD = keys.encode("bad")


class Link:
    """Takes what the controller does with RabbitMQ, and delivers to it."""

    def __init__(self, *_: object, **__: object) -> None:
        self.ready, self.problem = True, ""
        self.on_up: list[Callable[[], None]] = []
        self.on_down: list[Callable[[], None]] = []
        self.handlers: dict[str, Callable[[Delivery], None]] = {}
        self.sent: list[tuple[str, bytes]] = []
        self.acked: list[int] = []
        self.declared: list[object] = []
        self.buried: list[tuple[bytes, str]] = []
        links.append(self)

    def consume(self, queue: str, handler: Callable[[Delivery], None], _prefetch: int) -> None:
        self.handlers[queue] = handler

    def start(self) -> None:
        for listener in self.on_up:
            listener()

    def stop(self) -> None:
        self.ready = False

    def publish(self, queue: str, body: bytes, **_more: Any) -> None:
        self.sent.append((queue, body))

    def ack(self, delivery: Delivery) -> None:
        self.acked.append(delivery.tag)

    def bury(self, delivery: Delivery, reason: str) -> None:
        self.buried.append((delivery.body, reason))

    def declare(self, items: Sequence[object], done: Callable[[str], None]) -> None:
        self.declared += items
        done("")

    def expire_dead(self, _before: float, _most: int) -> None:
        pass

    def count(self, _queues: Sequence[str], _done: object) -> None:
        pass


links: list[Link] = []
indexes: list[Index] = []


def open_index(*arguments: Any, **options: Any) -> Index:
    """The index of a controller; LMDB files can't be opened twice in one process."""
    indexes.append(Index(*arguments, **options))
    return indexes[-1]


class Site:
    """A controller that runs, a web worker on its channel, and the index."""

    def __init__(self, directory: Path) -> None:
        self.controller = Controller(settings.load(None, {"PULZAR_SERVER_DIR": str(directory)}))
        self.link = links[-1]
        self.tags = 0
        self.outcomes: list[Outcome] = []
        self.thread = threading.Thread(target=self.controller.run)
        self.index = indexes[-1]
        self.worker = ControllerClient(
            directory / "controller.sock", "w", lambda rows: self.outcomes.extend(tuple(row) for row in rows)
        )

    def start(self) -> None:
        self.worker.start()
        self.thread.start()
        wait_for(lambda: self.worker.connected)

    def deliver(self, *bodies: bytes, queue: str = topology.RESULTS) -> None:
        """Deliver messages, and wait until they are acknowledged."""
        for body in bodies:
            self.tags += 1
            self.link.handlers[queue](Delivery(body, queue, self.tags, 1, {}, False))
        if self.thread.is_alive():
            self.wait()

    def wait(self) -> None:
        wait_for(lambda: sorted(self.link.acked) == list(range(1, self.tags + 1)), what="acknowledgements")

    def knows(self, *names: str) -> list[bool]:
        return [self.index.get(keys.encode(name)) is not None for name in names]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr("master.controller.Link", Link)
    monkeypatch.setattr("master.controller.Index", open_index)
    site = Site(tmp_path)
    yield site
    site.controller.stop()
    if site.thread.ident:
        site.thread.join(10)


def result(name: str, seq: int, version: int = 10, ticket: int = 0) -> Result:
    digest = bytes(32)
    return Result(ticket, Status.DONE, "", seq, Kind.PUT, keys.encode(name), version, 1, 0, "", digest, 1, b"x")


def results(*items: Result, after: int = 0) -> bytes:
    upto = items[-1].seq
    return encode(Results("n1", "w", "", after, upto, upto, False, list(items)))


def heartbeat(seq: int, at: int = 1) -> bytes:
    return encode(Heartbeat("n1", "http://n1:1", at, "", "e1", 1, seq, 1, 1, False, 0.0, 0.0, 0, 0, [], ""))


def test_results_become_entries_and_the_web_worker_that_waits_is_told(site: Site) -> None:
    site.start()
    site.deliver(results(result("a", 1, ticket=7), result("b", 2, version=11, ticket=8)))
    assert site.knows("a", "b", "c") == [True, True, False]
    wait_for(lambda: len(site.outcomes) == 2)
    assert site.outcomes == [(7, Status.DONE, ""), (8, Status.DONE, "")]
    assert not site.link.buried


def test_a_message_that_is_none_is_buried_with_the_reason_and_the_others_count(site: Site) -> None:
    # Given messages that came before the controller runs, so that it takes them together
    site.deliver(b"\xc1", encode(Replay("r", 0)), results(result("a", 1)))
    site.deliver(results(result("b", 2), after=1), queue=topology.HEARTBEATS)
    site.start()
    site.wait()
    assert site.knows("a", "b") == [True, False]
    reasons = [reason for _, reason in site.link.buried]
    assert len(reasons) == 3
    assert "a Replay message on pulzar.results" in reasons
    assert "a Results message on pulzar.heartbeats" in reasons


def test_a_result_from_the_future_is_buried_alone_and_its_place_in_the_log_counts(site: Site) -> None:
    site.start()
    site.deliver(results(result("a", 1), result("b", 2, version=(1 << 63) - 1), result("c", 3)))
    assert site.knows("a", "b", "c") == [True, False, True]
    ((body, reason),) = site.link.buried
    assert [item.key for item in decode(body, Results).items] == [keys.encode("b")]
    assert reason.startswith("result of n1: ")
    with site.index.read() as tables:
        cursor = tables.cursor("n1")
    assert cursor is not None
    assert cursor.seq == 3


def test_a_message_that_makes_the_batch_fail_is_found_and_buried(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = Projection.apply

    def failing(projection: Projection, tables: Any, messages: Sequence[Results], now: int) -> Any:
        if any(item.key == BAD for message in messages for item in message.items):
            raise ZeroDivisionError("what nobody has thought of")
        return apply(projection, tables, messages, now)

    monkeypatch.setattr(Projection, "apply", failing)
    site.deliver(results(result("a", 1)), results(result("bad", 2), after=1), results(result("c", 3), after=2))
    site.start()
    site.wait()
    assert site.knows("a", "bad", "c") == [True, False, True]
    ((_, reason),) = site.link.buried
    assert "could not be applied: ZeroDivisionError" in reason


@pytest.mark.parametrize("error", [lmdb.MapFullError("full"), OSError(28, "No space left on device")])
def test_while_the_index_can_not_be_written_nothing_is_buried_and_nothing_acknowledged(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    apply, seen = Projection.apply, []

    def failing_once(*arguments: Any) -> Any:
        seen.append(list(site.link.acked))
        if len(seen) == 1:
            raise error
        return apply(*arguments)

    monkeypatch.setattr(Projection, "apply", failing_once)
    site.start()
    site.deliver(results(result("a", 1, ticket=1)))
    assert seen == [[], []]
    assert not site.link.buried
    assert site.knows("a") == [True]


def test_a_heartbeat_is_noted_and_has_the_node_send_what_is_missing(site: Site) -> None:
    site.start()
    site.deliver(heartbeat(9), queue=topology.HEARTBEATS)
    assert site.index.read_nodes()["n1"].heartbeat.seq == 9
    asked = [
        decode(body, Replay) for queue, body in site.link.sent if queue == topology.node_queue("n1") and is_replay(body)
    ]
    assert [replay.after for replay in asked] == [0]
    site.deliver(heartbeat(9, at=1 << 62), queue=topology.HEARTBEATS)
    assert "heartbeat of n1" in site.link.buried[0][1]


def is_replay(body: bytes) -> bool:
    return bool(msgpack.unpackb(body)[1] == msgpack.unpackb(encode(Replay("r", 0)))[1])


def test_what_web_workers_ask_is_done_or_refused_with_the_reason(site: Site) -> None:
    site.start()
    site.deliver(results(result("a", 1)))
    site.deliver(heartbeat(1), queue=topology.HEARTBEATS)
    assert site.worker.call(Restore("n1")).result(10) is None
    assert isinstance(site.worker.call(Restore(None)).exception(10), Conflict)
    assert isinstance(site.worker.call(Cancel(5)).exception(10), NotFound)
    assert site.worker.call(Forget("n1", True)).result(10) is None
    assert site.index.read_nodes() == {}
    # And its entries leave with the next tick
    wait_for(lambda: site.knows("a") == [False])


def test_a_lifetime_that_has_ended_leaves_the_index_with_the_next_tick_and_its_node_is_told(site: Site) -> None:
    site.start()
    site.deliver(results(result("a", 1)._replace(expires=5)))
    wait_for(lambda: site.knows("a") == [False])
    told = wait_for(lambda: [body for queue, body in site.link.sent if queue == topology.node_queue("n1")])
    assert [item.key for item in decode(told[-1], Commands).items] == [keys.encode("a")]


def test_queues_of_jobs_are_made_for_a_node_that_is_a_user_of_its_own_and_once(site: Site) -> None:
    site.start()
    beat = heartbeat(1)
    # Then a node of a shared user makes its queues itself
    site.deliver(beat, queue=topology.HEARTBEATS)
    assert site.link.declared == []
    # And one of a user of its own gets them, once for many heartbeats
    for _ in range(3):
        site.tags += 1
        one = Delivery(beat, topology.HEARTBEATS, site.tags, 1, {}, False, topology.node_user("n1"))
        site.link.handlers[topology.HEARTBEATS](one)
        site.wait()
    assert site.link.declared == list(topology.node_jobs("n1"))


@pytest.mark.parametrize(
    ("user", "behalf", "believed"),
    [
        (topology.MASTER_USER, topology.node_user("n1"), True),
        (topology.MASTER_USER, topology.node_user("n2"), False),
        (topology.node_user("n2"), topology.node_user("n1"), False),
    ],
)
def test_the_master_alone_sends_again_on_behalf_of_a_node(
    site: Site, *, user: str, behalf: str, believed: bool
) -> None:
    site.start()
    site.tags += 1
    headers = {topology.ON_BEHALF: behalf}
    one = Delivery(heartbeat(1), topology.HEARTBEATS, site.tags, 1, headers, False, user)
    site.link.handlers[topology.HEARTBEATS](one)
    site.wait()
    with site.index.read() as tables:
        assert bool(tables.nodes()) == believed
    assert bool(site.link.buried) != believed


def test_a_user_that_is_a_node_speaks_for_no_other_one_even_if_the_master_shares_a_user(site: Site) -> None:
    site.start()
    site.tags += 1
    user = topology.node_user("n2")
    beat = heartbeat(1)
    site.link.handlers[topology.HEARTBEATS](Delivery(beat, topology.HEARTBEATS, site.tags, 1, {}, False, user))
    site.wait()
    (body, reason), *more = site.link.buried
    assert (body, more) == (beat, [])
    assert f"of node n1 from the user {user}" in reason
    with site.index.read() as tables:
        assert not tables.nodes()
