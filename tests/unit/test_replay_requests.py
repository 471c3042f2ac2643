"""What the master waits for: a new index, a log that is applied again, a node that is gone for good."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker import keys
from broker.errors import LinkDown
from broker.messages.store import Heartbeat, Kind, Replay, Result, Results, Status
from broker.refusals import Conflict
from master.index import replay_requests
from master.index.index import Index
from master.index.projection import Projection
from master.index.replay_requests import EMPTY_SECS, PATIENCE_SECS, SETTLE_SECS, ReplayRequests
from tests.support import decode

NOW = 1_700_000_000_000


class Link:
    """Takes what is asked of nodes."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Replay]] = []
        self.ready = True

    def publish(self, queue: str, body: bytes, **_more: Any) -> None:
        if not self.ready:
            raise LinkDown("gone")
        self.asked.append((queue.removeprefix("pulzar.node."), decode(body, Replay)))


class Desk:
    """The controller's part in this, with a clock of its own."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.clock = 1_000.0
        self.link = Link()
        self.begin()

    def begin(self) -> None:
        """A controller starts."""
        self.projection = Projection()
        self.replays = ReplayRequests(self.index, self.projection, self.link)  # type: ignore[arg-type]

    def beat(self, node: str, seq: int, epoch: str = "e1") -> None:
        beat = Heartbeat(node, "http://n:1", NOW, "", epoch, 1, seq, 1, 1, False, 0.0, 0.0, 0, 0, [], "")
        with self.index.write() as tables:
            tables.set_node(beat, NOW)
        self.replays.observe([], {node: beat}, set())

    def results(
        self, node: str, *names: bytes, after: int = 0, end: int = 0, request: str = "", epoch: str = "e1"
    ) -> None:
        """A stretch of a log: its epoch, and a value for each key."""
        items = [Result.of_epochs([(1, epoch)])]
        items += [
            Result(0, Status.DONE, "", after + place, Kind.PUT, encoded(name), 10, 1, 0, "", b"d" * 32, 1, b"x")
            for place, name in enumerate(names, 2 if after == 0 else 1)
        ]
        upto = items[-1].seq
        message = Results(node, "", request, after, upto, end or upto, bool(request), items)
        with self.index.write() as tables:
            applied = self.projection.apply(tables, [message], NOW)
        self.replays.observe([message], {}, applied.gaps)

    def answer(self, *names: bytes) -> None:
        """The node that was asked last sends its log."""
        node, request = self.link.asked[-1]
        self.results(node, *names, after=request.after, request=request.request)

    @property
    def incomplete(self) -> list[str] | None:
        with self.index.read() as tables:
            return tables.incomplete()

    def known(self, name: bytes) -> bool:
        return self.index.get(encoded(name)) is not None


def encoded(name: bytes) -> bytes:
    return keys.encode(name.decode())


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    index = Index(tmp_path / "index", 64 << 20, write=True)
    desk = Desk(index)
    monkeypatch.setattr(replay_requests.time, "monotonic", lambda: desk.clock)
    yield desk
    index.close()


def filled(desk: Desk, *nodes: str) -> None:
    """An index that has two keys of each node's log."""
    for node in nodes:
        desk.beat(node, 3)
        desk.answer(*(f"{node}-{number}".encode() for number in (1, 2)))
    desk.clock += SETTLE_SECS + 0.001
    desk.replays.settle()
    assert desk.incomplete == []


def test_a_new_index_whose_nodes_are_new_hardly_waits(desk: Desk) -> None:
    assert desk.replays.settles_in() == math.inf
    desk.beat("a", 1)
    desk.beat("b", 1)
    assert desk.replays.settles_in() == pytest.approx(EMPTY_SECS)
    desk.clock += EMPTY_SECS + 0.001
    desk.replays.settle()
    assert desk.incomplete == []
    assert desk.replays.settles_in() == math.inf


def test_a_new_index_waits_for_other_nodes_as_soon_as_one_has_a_log(desk: Desk) -> None:
    desk.beat("new", 1)
    desk.beat("old", 9)
    desk.clock += EMPTY_SECS + 0.001
    desk.replays.settle()
    assert desk.incomplete is None
    desk.clock += SETTLE_SECS + 0.001
    desk.replays.settle()
    assert desk.incomplete == ["old"]


def test_a_node_with_a_log_that_comes_after_a_new_one_is_waited_for(desk: Desk) -> None:
    desk.beat("new", 1)
    desk.clock += EMPTY_SECS + 0.001
    desk.replays.settle()
    desk.beat("old", 3)
    assert desk.incomplete == ["old"]
    desk.answer(b"x", b"y")
    assert desk.incomplete == []


def test_a_restore_lacks_nothing_and_a_second_one_says_how_far_it_is(desk: Desk) -> None:
    filled(desk, "a")
    desk.replays.restore("a")
    assert desk.incomplete == []
    for name in ("a", None):
        with pytest.raises(Conflict, match="log of a is being applied from the beginning already: 0 of 3 records"):
            desk.replays.restore(name)
    # A controller that starts meanwhile knows that, too
    desk.begin()
    desk.beat("a", 3)
    assert desk.incomplete == []
    with pytest.raises(Conflict):
        desk.replays.restore("a")
    desk.answer(b"a-1", b"a-2")
    desk.replays.tick()
    desk.replays.restore("a")


def test_what_follows_a_restore_is_done_by_a_controller_that_starts_after_it(desk: Desk) -> None:
    filled(desk, "a")
    desk.replays.restore("a")
    desk.answer(b"a-1")  # the other one is not in the log any more
    desk.results("a", b"a-3", after=2)
    desk.begin()
    for _ in range(2):
        desk.beat("a", 3)
    desk.replays.tick()
    assert [desk.known(key) for key in (b"a-1", b"a-2", b"a-3")] == [True, False, True]
    desk.replays.restore("a")


def test_another_log_than_before_lacks_keys_until_its_end(desk: Desk) -> None:
    filled(desk, "a")
    desk.beat("a", 5, "e2")
    desk.results("a", epoch="e2")
    desk.replays.tick()
    assert desk.incomplete == ["a"]


def test_a_node_that_never_sends_its_log_is_waited_for_until_it_is_forgotten(desk: Desk) -> None:
    filled(desk, "a")
    desk.beat("ghost", 1_000)
    assert desk.incomplete == ["ghost"]
    desk.replays.forget("ghost", False)
    assert desk.incomplete == []
    assert list(desk.index.read_nodes()) == ["a"]
    desk.beat("a", 3)
    assert desk.incomplete == []


def test_a_forgotten_node_takes_its_keys_along_even_if_the_controller_starts_again(desk: Desk) -> None:
    filled(desk, "a", "b")
    assert (desk.index.count_of("a").total, desk.index.count_of("b").total) == (2, 2)
    desk.replays.forget("a", True)
    assert desk.incomplete == []
    desk.begin()
    desk.replays.tick()
    assert (desk.index.count_of("a").total, desk.index.count_of("b").total) == (0, 2)
    with desk.index.read() as tables:
        assert tables.cursor("a") is None
    # And if it comes after all, its log is applied
    desk.beat("a", 3)
    assert desk.incomplete == ["a"]
    desk.answer(b"a-1", b"a-2")
    assert (desk.index.count_of("a").total, desk.incomplete) == (2, [])


def test_a_node_that_comes_back_while_its_keys_leave_keeps_them(desk: Desk) -> None:
    filled(desk, "a")
    desk.replays.forget("a", True)
    desk.beat("a", 3)
    desk.replays.tick()
    assert desk.index.count_of("a").total == 2
    assert desk.incomplete == ["a"]
    desk.answer(b"a-1", b"a-2")
    desk.replays.tick()
    assert (desk.index.count_of("a").total, desk.incomplete) == (2, [])


def test_keys_are_counted_over_many_stretches(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("master.index.index._STRETCH", 3)
    filled(desk, "a", "b")
    desk.results("a", *(b"more-%d" % number for number in range(10)), after=3)
    assert (desk.index.count_of("a").total, desk.index.count_of("b").total, desk.index.count_of("c").total) == (
        12,
        2,
        0,
    )


def asked(desk: Desk) -> list[tuple[str, int]]:
    """(node, seq behind which it was asked for) of the requests so far."""
    return [(node, request.after) for node, request in desk.link.asked]


def test_a_gap_has_the_node_asked_once_from_the_cursor(desk: Desk) -> None:
    filled(desk, "a")
    desk.results("a", b"late", after=9)
    desk.results("a", b"later", after=12)
    assert asked(desk)[1:] == [("a", 3)]


def test_a_result_that_was_lost_is_noticed_at_the_second_heartbeat_that_tells_of_it(desk: Desk) -> None:
    filled(desk, "a")
    desk.beat("a", 5)  # results of the last two records may be on their way
    assert len(asked(desk)) == 1
    desk.beat("a", 6)
    assert asked(desk)[1:] == [("a", 3)]


def test_what_still_moves_is_not_asked_for(desk: Desk) -> None:
    filled(desk, "a")
    desk.beat("a", 5)
    desk.results("a", b"x", after=3)
    desk.beat("a", 6)
    assert len(asked(desk)) == 1


def test_a_replay_that_gets_stuck_is_asked_for_again_and_the_first_one_counts_no_more(desk: Desk) -> None:
    desk.beat("a", 9)
    (_, first) = desk.link.asked[0]
    desk.clock += PATIENCE_SECS
    desk.replays.tick()
    assert len(asked(desk)) == 1
    desk.clock += 0.1
    desk.replays.tick()
    assert asked(desk) == [("a", 0), ("a", 0)]
    # The end of the first one ends nothing; that of the second one does
    desk.results("a", b"x", request=first.request, end=9)
    assert len(asked(desk)) == 2
    desk.answer(b"x")
    desk.clock += PATIENCE_SECS + 0.1
    desk.replays.tick()
    assert len(asked(desk)) == 2


def test_a_message_of_a_replay_gives_it_new_patience(desk: Desk) -> None:
    desk.beat("a", 9)
    _, request = desk.link.asked[0]
    desk.clock += PATIENCE_SECS
    message = Results("a", "", request.request, 0, 1, 9, False, [])
    desk.replays.observe([message], {}, set())
    desk.clock += PATIENCE_SECS
    desk.replays.tick()
    assert len(asked(desk)) == 1


def test_a_log_is_asked_for_a_stretch_at_a_time_until_its_end(desk: Desk) -> None:
    desk.beat("a", 7)
    assert asked(desk) == [("a", 0)]
    for after, last in ((0, 3), (3, 5), (5, 7)):
        node, request = desk.link.asked[-1]
        assert request.after == after
        names = [b"%d" % seq for seq in range(after + (2 if after == 0 else 1), last + 1)]
        desk.results(node, *names, after=after, end=7, request=request.request)
    assert len(asked(desk)) == 3


def test_without_rabbitmq_nothing_is_asked_and_the_next_heartbeat_asks(desk: Desk) -> None:
    desk.link.ready = False
    desk.beat("a", 9)
    assert asked(desk) == []
    desk.link.ready = True
    desk.beat("a", 9)
    assert asked(desk) == [("a", 0)]


def test_an_agent_that_started_again_is_asked_though_a_request_to_the_one_before_is_open(desk: Desk) -> None:
    desk.beat("a", 9)
    desk.beat("a", 10, "e2")
    assert asked(desk) == [("a", 0), ("a", 0)]
    assert desk.link.asked[0][1].request != desk.link.asked[1][1].request


def test_keys_that_a_log_lost_are_removed_some_at_a_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_requests, "PRUNE_BATCH", 2)
    desk.beat("a", 6)
    desk.answer(b"1", b"2", b"3", b"4", b"5")
    desk.replays.restore("a")
    desk.answer(b"1")
    counts = []
    for _ in range(3):
        desk.replays.tick()
        counts.append(desk.index.count_of("a").total)
    assert counts == [4, 2, 1]
    desk.replays.tick()
    with desk.index.read() as tables:
        cursor = tables.cursor("a")
    assert cursor is not None
    assert not cursor.prune


def test_a_node_whose_keys_were_lacking_lacks_them_until_a_new_controller_has_heard_it(desk: Desk) -> None:
    # Given an index that may lack keys of two nodes, of one of whose logs it knows a part
    desk.results("n1", b"a")
    with desk.index.write() as tables:
        tables.set_incomplete(["n1", "n2"])
    # When a controller starts and hears another node, then the first one, which has written more since
    desk.begin()
    desk.beat("n3", 1, "e3")
    assert desk.incomplete == ["n1", "n2"]
    desk.beat("n1", 3)
    # Then it asks for that at once, and the index lacks keys until it is there
    assert [(node, request.after) for node, request in desk.link.asked if node == "n1"] == [("n1", 2)]
    assert desk.incomplete == ["n1", "n2"]
    desk.answer(b"b")
    # And the other one goes on lacking them, whoever starts, until it is heard or forgotten
    assert desk.incomplete == ["n2"]
    desk.begin()
    desk.beat("n1", 3)
    assert desk.incomplete == ["n2"]
    desk.replays.forget("n2", entries=False)
    assert desk.incomplete == []


def unsure(desk: Desk) -> tuple[list[str], int]:
    with desk.index.read() as tables:
        return tables.unsure()


def test_a_node_whose_disk_may_be_another_one_is_unsure_from_its_first_heartbeat_to_the_end_of_the_pruning(
    desk: Desk,
) -> None:
    filled(desk, "a", "b")
    assert unsure(desk) == ([], 0)
    # When a node is heard with an agent that the index does not know
    desk.beat("a", 1, "wiped")
    assert unsure(desk) == (["a"], 1)
    # Then it stays so for a controller that starts meanwhile
    desk.begin()
    desk.beat("b", 3)
    assert unsure(desk) == (["a"], 1)
    desk.beat("a", 1, "wiped")
    # And until its whole log is applied, and what that lacks is gone from the index
    for _ in range(2):
        node, request = desk.link.asked[-1]
        desk.results(node, after=request.after, end=1, request=request.request, epoch="wiped")
        assert (unsure(desk), desk.known(b"a-1")) == ((["a"], 1), True)
    desk.replays.tick()
    assert (unsure(desk), desk.known(b"a-1")) == (([], 1), False)


def test_a_node_that_only_started_again_is_sure_when_it_has_said_so_and_a_new_one_always_is(desk: Desk) -> None:
    filled(desk, "a")
    desk.beat("a", 4, "e2")
    assert unsure(desk) == (["a"], 1)
    with desk.index.write() as tables:
        message = Results("a", "", "", 3, 4, 4, False, [Result.of_epochs([(1, "e1"), (4, "e2")])])
        desk.projection.apply(tables, [message], NOW)
    desk.beat("a", 4, "e2")
    desk.beat("new", 1)
    desk.replays.restore("a")
    assert unsure(desk) == ([], 1)
