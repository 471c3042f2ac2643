"""Missing copies: found in the index, ordered with the most endangered first, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest

from broker import keys
from broker.clock import now_ms
from broker.http import content_types
from broker.messages.codec import decode_any
from broker.messages.store import Commands, Confirm, Confirmed, Fetch, Result, Status
from master.cluster import repair
from master.cluster.repair import Repair
from master.cluster.replicas import Replicas
from master.cluster.thinning import DROP_DELAY_MS
from master.index.index import Entry, Holder, Index, Unsure

OLD = now_ms() - 3_600_000


class Network:
    """Nodes, each heard at some time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.heard = dict.fromkeys("abcd", 0.0)
        self.full: set[str] = set()
        self.zones: dict[str, str] = {}
        self.free = dict.fromkeys("abcd", 1_000)

    def zone(self, node: str) -> str:
        return self.zones.get(node, "")

    def used(self, node: str) -> float:
        return "abcd".index(node) / 10

    def room(self) -> dict[str, int]:
        return {node: free for node, free in self.free.items() if self.takes(node)}

    def takes(self, node: str) -> bool:
        return self.alive(node)

    def names(self) -> list[str]:
        return sorted(self.heard)

    def heard_at(self, node: str) -> float:
        return self.heard[node]

    def alive(self, node: str) -> bool:
        return self.world.clock - self.heard.get(node, -100.0) < 6

    def by_load(self, nodes: Sequence[str]) -> list[str]:
        return list(nodes)

    def url(self, node: str) -> str:
        return f"http://{node}"

    def choose_several(self, _size: int, number: int, exclude: Collection[str], beside: Collection[str]) -> list[str]:
        passed = {*exclude, *beside, *self.full}
        return [node for node in self.names() if self.alive(node) and node not in passed][:number]


class World:
    """An index and what the repair asks of nodes."""

    def __init__(self, directory: Path, replicas: int = 2) -> None:
        self.clock = 1_000.0
        self.ready = True
        self.index = Index(directory, 64 << 20, write=True)
        with self.index.write() as tables:
            tables.set_incomplete([])
        self.network = Network(self)
        self.sent: list[tuple[str, bytes, int, list[str]]] = []  # node, key, version, sources
        self.asked: list[tuple[str, Confirm]] = []  # node, and what it is to confirm
        self.replicas = Replicas([("", replicas)])
        self.rebalance = False
        self.beat()
        self.start()

    def start(self) -> None:
        parts = self.index, self.network, self, self.replicas
        self.repair = Repair(*parts, secret=b"s", after=60, put_secs=10, rebalance=self.rebalance)  # type: ignore[arg-type]

    def beat(self, nodes: str = "abcd") -> None:
        self.network.heard |= dict.fromkeys(nodes, self.clock)

    def publish(self, queue: str, body: bytes, *, ttl_ms: int) -> None:
        assert ttl_ms >= 60_000
        node = queue.removeprefix("pulzar.node.")
        match decode_any(body):
            case Fetch(origin="", store=store, sources=sources):
                servers = [source.removeprefix("http://").partition("/")[0] for source in sources]
                self.sent.append((node, store.key, store.version, servers))
            case Confirm() as question:
                self.asked.append((node, question))
            case Commands(origin="", items=items):
                self.sent += [(node, item.key, item.version, []) for item in items]
            case other:
                raise AssertionError(other)

    def put(
        self,
        name: str,
        holders: str,
        *,
        size: int = 3,
        created: int = OLD,
        value: bytes | None = None,
        own: int = 0,
    ) -> bytes:
        key = keys.encode(name)
        first, *others = holders
        copies = tuple(Holder(node, 1) for node in others)
        media = content_types.with_replicas("", own)
        entry = Entry(10, first, 1, 1, created, 0, size, media, b"d" * 32, value, copies)
        with self.index.write() as tables:
            tables.put_entry(key, tables.entry(key), entry)
        return key

    def tick(self, secs: float = 1.0, beat: str = "abcd") -> list[tuple[str, bytes, int, list[str]]]:
        """What is sent in the next second, while these nodes are heard."""
        self.clock += secs
        self.beat(beat)
        self.sent.clear()
        self.repair.tick()
        return list(self.sent)

    def confirm(self, reason: str = "", but: str = "") -> set[str]:
        """Each node that was asked says that its copy is good, but for one with a reason; returns their names."""
        asked, self.asked = self.asked, []
        for node, question in asked:
            said = reason if not but or node == but else ""
            self.repair.thinning.observe(Confirmed(node, [(question.request, said)]))
        return {node for node, _ in asked}

    def holders(self, key: bytes) -> set[str]:
        with self.index.read() as tables:
            entry = tables.entry(key)
        return set(entry.nodes) if entry else set()

    def drops(self) -> list[tuple[str, bytes, int]]:
        """What the outbox has to tell nodes."""
        with self.index.read() as tables:
            rows = tables.due_discards(now_ms() + DROP_DELAY_MS, 1_000)
        assert all(discard.drop for _, discard in rows)
        return sorted((discard.node, discard.key, discard.version) for _, discard in rows)

    def state(self) -> dict[str, object]:
        with self.index.read() as tables:
            return vars(tables.repair())

    def doubts(self) -> list[str]:
        with self.index.read() as tables:
            return tables.doubts()

    def unsure(self, nodes: list[str], count: int) -> None:
        with self.index.write() as tables:
            tables.set_unsure(Unsure(nodes, count))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path)
    monkeypatch.setattr(repair.time, "monotonic", lambda: world.clock)
    world.start()
    yield world
    world.index.close()


def test_a_value_that_lacks_a_copy_is_fetched_from_a_holder_once(world: World) -> None:
    key = world.put("key", "b")
    world.put("whole", "ab")
    assert world.tick() == [("a", key, 10, ["b"])]
    assert world.tick() == []
    assert (world.state()["lacking"], world.state()["under_way"]) == (1, 1)
    # When the node has it
    world.put("key", "ba")
    world.tick(20)
    assert world.tick(20) == []
    assert (world.state()["lacking"], world.state()["under_way"], world.state()["copies"]) == (0, 0, 1)


def test_a_small_value_goes_along_with_the_command(world: World) -> None:
    key = world.put("key", "b", value=b"abc")
    assert world.tick() == [("a", key, 10, [])]


def test_where_values_are_on_one_node_nothing_is_looked_at(tmp_path: Path, world: World) -> None:
    world.replicas = Replicas()
    world.start()
    world.put("key", "b")
    assert (world.tick(), world.repair.idle) == ([], True)


def test_what_is_being_put_just_now_or_has_ended_is_left_alone(world: World) -> None:
    world.put("new", "b", created=now_ms())
    key = world.put("ended", "b")
    with world.index.write() as tables:
        entry = tables.entry(key)
        assert entry is not None
        tables.put_entry(key, entry, entry._replace(expires=OLD + 1))
    assert world.tick() == []


def test_a_node_is_lost_when_it_was_silent_long_enough_while_others_were_heard(world: World) -> None:
    key = world.put("key", "ab")
    for _ in range(7):
        assert world.tick(8, beat="bcd") == []
    assert world.tick(8, beat="bcd") == [("c", key, 10, ["b"])]
    assert world.state()["lost"] == ["a"]
    world.put("key", "abc")
    # When it is back, nothing is lost any more
    world.tick(3)
    assert world.state()["lost"] == []


def test_when_no_node_is_heard_none_is_lost(world: World) -> None:
    world.put("key", "ab")
    for _ in range(20):
        assert world.tick(10, beat="") == []
    assert world.tick(10, beat="bcd") == []
    assert world.state()["lost"] == []


def test_while_the_index_lacks_logs_nothing_is_copied_unless_their_nodes_are_lost(world: World) -> None:
    key = world.put("key", "b")
    with world.index.write() as tables:
        tables.set_incomplete(["a"])
    assert world.tick() == []
    for _ in range(7):
        assert world.tick(8, beat="bcd") == []
    assert world.tick(8, beat="bcd") == [("c", key, 10, ["b"])]


def test_the_most_endangered_come_first(tmp_path: Path, world: World) -> None:
    world.replicas = Replicas([("", 3)])
    world.start()
    world.put("a-two", "ab")
    one = world.put("b-one", "b")
    world.put("c-two", "bc")
    assert [key for _, key, *_ in world.tick()][:2] == [one, one]


def test_a_node_is_asked_for_a_bounded_number_and_gets_more_when_these_are_done(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "MOST_ORDERS", 3)
    names = [f"key-{number:02d}" for number in range(20)]
    for name in names:
        world.put(name, "b")
    done: set[bytes] = set()
    for _ in range(20):
        sent = world.tick(11)
        assert len(sent) <= 9
        for node, key, *_ in sent:
            assert key not in done
            done.add(key)
            world.put(keys.decode(key), "b" + node)
    assert done == {keys.encode(name) for name in names}
    assert world.state()["lacking"] == 0


def test_a_copy_that_can_not_be_made_is_told_of_and_tried_again_later(world: World) -> None:
    key = world.put("key", "b")
    ((node, *_),) = world.tick()
    with world.index.read() as tables:
        entry = tables.entry(key)
    assert entry is not None
    store = Fetch("", decode_store(key), []).result(Status.MISSING, "b has other bytes")
    world.repair.observe(node, [store])
    assert world.tick(5) == []
    assert world.state()["reasons"] == {"node a: b has other bytes": 1}
    assert world.tick(70) == [("a", key, 10, ["b"])]
    # And one that never comes is given up; what was told before is over by then
    world.tick(70)
    assert world.state()["reasons"] == {"node a has not made a copy in time": 1}


def decode_store(key: bytes) -> repair.Store:
    return repair.Store(0, key, 10, OLD, 0, "", b"d" * 32, 3, None, "")


def test_without_room_or_a_holder_it_is_said_why(world: World) -> None:
    world.put("key", "b")
    world.network.full = set("acd")
    world.tick()
    assert world.state()["reasons"] == {"no other node has room for a copy": 1}
    world.network.full = set()
    world.put("other", "a")
    world.clock += 150
    world.tick(1, beat="bcd")
    assert world.state()["reasons"] == {"no node with the value is heard": 1}


def test_a_drained_node_counts_for_nothing_and_says_how_much_is_left(tmp_path: Path, world: World) -> None:
    world.replicas = Replicas()
    world.start()
    key = world.put("key", "a")
    world.put("other", "b")
    assert world.tick() == []
    # When the only node with a value is drained
    world.repair.drain("a", begin=True)
    assert world.state()["draining"] == {"a": -1}
    world.network.full = {"a"}  # it is no candidate
    assert world.tick(3) == [("b", key, 10, ["a"])]
    assert world.state()["draining"] == {"a": 1}
    # Then a restart goes on with it
    world.start()
    assert world.tick(3) == [("b", key, 10, ["a"])]
    world.put("key", "ab")
    world.tick(3)
    world.tick(3)
    assert world.state()["draining"] == {"a": 0}
    # And when it is over, nothing is looked at any more
    world.repair.drain("a", begin=False)
    assert world.state()["draining"] == {}
    # Then the copy is one too many
    world.tick(3)
    assert world.state()["surplus"] == 1


def test_a_value_that_is_being_put_on_a_drained_node_is_left_over(world: World) -> None:
    world.replicas = Replicas()
    world.start()
    world.repair.drain("a", begin=True)
    world.put("key", "a", created=now_ms())
    assert world.tick(3) == []
    assert world.state()["draining"] == {"a": 1}


def test_what_lacks_copies_is_not_known_from_the_moment_a_node_is_unsure_to_the_end_of_a_whole_look(
    world: World,
) -> None:
    world.put("key", "ab")
    world.tick(3)
    assert world.doubts() == []
    # When a node is heard that may have lost its disk
    world.unsure(["a"], 1)
    assert "node a may have lost its copies" in world.doubts()[0]
    world.tick(3)
    assert len(world.doubts()) == 1
    # Then it is not enough that its copies are struck off
    key = world.put("key", "b")
    world.unsure([], 1)
    assert "looked through" in world.doubts()[0]
    # But all has to be looked at
    assert world.tick(3) == [("a", key, 10, ["b"])]
    assert (world.doubts(), world.state()["lacking"]) == ([], 1)


def test_a_look_during_which_a_node_became_unsure_or_a_value_was_young_is_no_whole_one(world: World) -> None:
    world.tick(3)
    world.put("key", "b", created=now_ms())
    world.unsure([], 1)
    for _ in range(3):
        world.tick(3)
        assert (len(world.doubts()), world.state()["lacking"]) == (1, 0)
    world.put("key", "ab")
    world.tick(3)
    assert world.doubts() == []
    # And a lost node, or a restart, begin from the start
    for _ in range(7):
        world.tick(8, beat="bcd")
    world.start()
    world.repair._look = lambda *_: None  # type: ignore[method-assign]
    world.tick(3, beat="bcd")
    assert len(world.doubts()) == 1


def test_where_no_value_is_on_several_nodes_nothing_is_doubted(world: World) -> None:
    world.replicas = Replicas()
    world.start()
    world.unsure(["a"], 1)
    world.tick(3)
    assert world.doubts() == []


def test_a_copy_that_is_too_many_goes_when_the_others_are_confirmed_and_not_before(world: World) -> None:
    key = world.put("key", "abc")
    world.tick(3)
    assert {node for node, _ in world.asked} == {"a", "b"}
    ((_, question), _) = world.asked
    assert (question.store.key, question.store.version, question.store.value) == (key, 10, None)
    assert question.source.startswith("http://a/")
    assert world.state()["surplus"] == 1
    # When one of two has answered, nothing happens
    (first, second), world.asked = world.asked, []
    for _ in range(2):
        world.repair.thinning.observe(Confirmed(first[0], [(first[1].request, "")]))
        world.tick(1)
    assert (world.holders(key), world.drops(), world.asked) == (set("abc"), [], [])
    # And when both have, the third is no holder, and is told so in the same transaction
    world.repair.thinning.observe(Confirmed(second[0], [(second[1].request, "")]))
    world.tick(1)
    assert (world.holders(key), world.drops()) == (set("ab"), [("c", key, 10)])
    world.tick(20)
    assert (world.asked, world.state()["surplus"], world.state()["removed"]) == ([], 0, 1)


def test_a_copy_that_is_not_confirmed_is_the_one_that_goes_if_enough_others_are(world: World) -> None:
    key = world.put("key", "abc")
    world.tick(3)
    assert world.confirm("the node has other bytes", but="a") == {"a", "b"}
    world.tick(11)
    assert (world.holders(key), world.confirm()) == (set("abc"), {"b", "c"})
    world.tick(1)
    assert (world.holders(key), world.drops()) == (set("bc"), [("a", key, 10)])
    # But never below the wanted number
    other = world.put("other", "ab")
    third = world.put("third", "abc")
    world.tick(11)
    world.confirm("damaged")
    world.tick(11)
    world.confirm("damaged")
    world.tick(11)
    assert (world.holders(other), world.holders(third), world.asked) == (set("ab"), set("abc"), [])


def test_what_has_changed_since_it_was_confirmed_stays(world: World) -> None:
    lost, fewer = world.put("lost", "abc"), world.put("fewer", "abc")
    world.tick(3)
    world.confirm()
    world.put("fewer", "ac")
    with world.index.write() as tables:
        entry = tables.entry(lost)
        assert entry is not None
        tables.put_entry(lost, entry, entry._replace(version=11))
    world.tick(1)
    assert (world.holders(lost), world.holders(fewer), world.drops()) == (set("abc"), set("ac"), [])


def test_while_copies_may_be_gone_or_a_controller_has_not_looked_nothing_is_removed(world: World) -> None:
    key = world.put("key", "abc")
    world.tick(3)
    world.unsure(["d"], 1)
    world.confirm()
    world.tick(3)
    assert world.holders(key) == set("abc")
    # Answers to the questions of a controller that has ended count for nothing
    world.unsure([], 1)
    world.tick(3)
    world.asked.clear()
    world.start()
    world.tick(3)
    world.repair.thinning.observe(Confirmed("a", [("another-0", "")]))
    assert world.confirm() == {"a", "b"}
    world.tick(1)
    assert world.holders(key) == set("ab")


def test_copies_stay_in_different_zones_on_nodes_that_are_heard_and_not_drained(world: World) -> None:
    world.network.zones = {"a": "rack", "b": "rack", "c": "other"}
    key = world.put("key", "abc")
    world.tick(3)
    assert world.confirm() == {"a", "c"}
    world.tick(1)
    assert world.holders(key) == set("ac")
    # A drained copy counts for nothing, so it is neither one too many nor one of those that stay
    drained = world.put("drained", "bcd")
    world.repair.drain("b", begin=True)
    world.tick(3)
    assert (world.asked, world.holders(drained)) == ([], set("bcd"))
    world.repair.drain("b", begin=False)
    # And while one of those that count is silent, the others are what stays
    for _ in range(3):
        world.tick(8, beat="abc")
    assert world.confirm() == {"b", "c"}


def test_a_question_that_is_not_answered_is_asked_again_and_few_are_asked_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("master.cluster.thinning.MOST_QUESTIONS", 2)
    values = [world.put(f"key-{number}", "abc") for number in range(5)]
    world.tick(3)
    assert len(world.asked) == 4
    world.asked.clear()
    world.tick(70)
    world.tick(11)
    for _ in range(6):
        world.confirm()
        world.tick(11)
    assert [world.holders(key) for key in values] == [set("ab")] * 5


def test_a_number_of_its_own_counts_for_a_value_whatever_its_folder_says(world: World) -> None:
    single, three = world.put("single", "a", own=1), world.put("three", "ab", own=3)
    assert world.tick(3) == [("c", three, 10, ["a", "b"])]
    world.put("three", "abc", own=3)
    more = world.put("more", "ab", own=1)
    world.tick(20)
    world.tick(3)
    assert world.confirm() == {"a"}
    world.tick(1)
    assert [world.holders(key) for key in (single, three, more)] == [set("a"), set("abc"), set("a")]


def test_where_all_values_are_on_one_node_a_number_of_its_own_is_noticed(world: World) -> None:
    world.replicas = Replicas()
    world.start()
    world.tick(3)
    assert world.repair.idle
    key = world.put("key", "a", own=2)
    with world.index.read() as tables:
        entry = tables.entry(key)
    assert entry is not None
    told = Result(0, Status.DONE, "", 1, 1, key, 10, OLD, 0, entry.content_type, b"", 3, None)  # type: ignore[arg-type]
    world.repair.observe("a", [told])
    assert not world.repair.idle
    assert world.tick(11) == [("b", key, 10, ["a"])]


def test_values_move_from_the_fullest_node_to_the_emptiest_until_both_are_as_full(world: World) -> None:
    world.rebalance, world.replicas = True, Replicas()
    world.network.free = dict.fromkeys("ab", 1_000)
    world.network.heard = dict.fromkeys("ab", world.clock)
    names = [f"key-{number:02d}" for number in range(10)]
    values = [world.put(name, "a", size=100) for name in names]
    world.start()
    moved: list[bytes] = []
    for turn in range(12):
        for node, key, *_ in world.tick(11, beat="ab"):
            assert node == "b"
            moved.append(key)
            world.put(keys.decode(key), "ab", size=100)
        assert world.confirm() <= {"b"}
        if turn in (2, 4):
            world.start()  # nothing is lost
    assert 3 <= len(moved) <= 5
    assert [world.holders(key) for key in values].count({"b"}) == len(moved)
    assert (world.state()["move"], world.state()["surplus"]) == (None, 0)


def test_no_value_moves_into_a_zone_that_has_it_or_while_the_difference_is_small(world: World) -> None:
    world.rebalance = True
    world.network.zones = {"a": "one", "b": "two", "c": "two", "d": "two"}
    for number in range(5):
        world.put(f"key-{number}", "ab", size=100)
    world.network.free = dict.fromkeys("abcd", 5_000)
    world.start()
    for _ in range(2):
        assert world.tick(11) == []
    assert world.state()["move"] is None
    world.network.free = dict.fromkeys("abcd", 1_000)
    for _ in range(4):
        assert world.tick(11) == []
    assert world.state()["move"] == ("a", "c", 200)
