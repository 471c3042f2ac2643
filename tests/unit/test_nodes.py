"""Which nodes count as heard from, whatever is done to the clock."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from broker import keys
from broker.messages.store import Heartbeat
from broker.refusals import Unavailable
from master.cluster import nodes
from master.cluster.nodes import Nodes, missing, require_newest
from master.cluster.replicas import Replicas
from master.index.index import Node, Unsure

BEAT_SECS = 2.0
HOUR = 3600.0


class Tables:
    """A transaction of the index."""

    def __init__(self, world: World) -> None:
        nodes, lacking, draining = dict(world.nodes), world.lacking, list(world.draining)
        unsure = Unsure(list(world.unsure), 0)
        self.nodes = lambda: nodes
        self.incomplete = lambda: lacking
        self.draining = lambda: draining
        self.unsure = lambda: unsure


class World:
    """An index, and both clocks."""

    def __init__(self) -> None:
        self.wall, self.clock = 1_700_000_000.0, 5_000.0
        self.nodes: dict[str, Node] = {}
        self.lacking: list[str] | None = []
        self.draining: list[str] = []
        self.unsure: list[str] = []

    def beat(self, *names: str, zone: str = "", load: float = 0.1) -> None:
        for name in names:
            beat = Heartbeat(
                name, f"http://{name}:1", 0, "", "", 0, 0, 1 << 40, 1 << 39, False, 0.1, 10.0, 0, 2, [], ""
            )
            beat = beat._replace(zone=zone, load=load)
            self.nodes[name] = Node(beat, int(self.wall * 1000))

    def pass_secs(self, seconds: float) -> None:
        self.wall += seconds
        self.clock += seconds

    def read(self) -> nullcontext[Tables]:
        return nullcontext(Tables(self))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(nodes, "now_ms", lambda: int(world.wall * 1000))
    monkeypatch.setattr(nodes.time, "monotonic", lambda: world.clock)
    return world


def of(world: World) -> Nodes:
    return Nodes(world, BEAT_SECS)  # type: ignore[arg-type]


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_jumps_makes_no_node_silent(world: World, jump: float) -> None:
    # Given two nodes that are heard from
    seen = of(world)
    for _ in range(20):
        world.beat("n1", "n2")
        world.pass_secs(1)
        assert seen.choose(100) is not None
    # When the clock jumps, and after a moment one of them is heard
    world.wall += jump
    world.pass_secs(1)
    # Then nothing has changed
    assert (seen.alive("n1"), seen.alive("n2")) == (True, True)
    assert seen.choose(100) is not None
    world.beat("n1")
    world.pass_secs(0.5)
    assert (seen.gone("n1"), seen.gone("n2")) == (False, False)
    # And one that stays silent is out of synch in its time
    for _ in range(int(3 * BEAT_SECS)):
        world.pass_secs(1)
        world.beat("n1")
        seen.alive("n1")
    assert (seen.alive("n1"), seen.alive("n2")) == (True, False)
    assert seen.gone("n2")
    assert {row["node"]: row["synch"] for row in seen.describe()} == {"n1": True, "n2": False}


def test_a_worker_that_looks_seldom_does_not_take_an_old_heartbeat_for_a_new_one(world: World) -> None:
    seen = of(world)
    world.beat("n1")
    assert seen.alive("n1")
    world.pass_secs(1)
    world.beat("n1")
    world.pass_secs(60)
    assert not seen.alive("n1")
    assert seen.choose(100) is None


def test_what_a_new_worker_finds_is_as_old_as_the_clock_says(world: World) -> None:
    world.beat("old")
    world.pass_secs(30)
    world.beat("new")
    world.pass_secs(1)
    seen = of(world)
    assert (seen.alive("new"), seen.alive("old"), seen.alive("unknown")) == (True, False, False)
    assert seen.any_alive() == "new"
    assert seen.any_alive(["new"]) is None


def test_it_says_why_nothing_can_be_stored(world: World) -> None:
    seen = of(world)
    seen.connected()
    assert seen.objection() == "no node was heard from lately"
    world.beat("n1", "n2")
    world.pass_secs(0.5)
    assert seen.objection() == ""
    # Given that nobody has room
    for name, known in world.nodes.items():
        world.nodes[name] = known._replace(heartbeat=known.heartbeat._replace(full=True))
    world.pass_secs(0.5)
    assert seen.objection() == "no node has room"
    # Given a new index, and one that lacks keys
    world.beat("n1", "n2")
    world.pass_secs(0.5)
    world.lacking = None
    world.pass_secs(0.5)
    assert "the index is new" in seen.objection()
    assert seen.may_lack_keys()
    assert "it waits for a new index" in str(missing("key", seen))
    world.lacking = ["n1", "ghost"]
    world.pass_secs(0.5)
    assert "the log of node n1 is being applied" in seen.objection()
    assert "manage.py forget ghost" in seen.objection()
    assert seen.awaited() == ["n1", "ghost"]
    assert "it waits for n1, ghost" in str(missing("key", seen))
    world.lacking = []
    world.pass_secs(0.5)
    assert (seen.may_lack_keys(), seen.awaited()) == (False, [])
    assert str(missing("key", seen)) == "the key key is unknown"


def test_after_rabbitmq_was_away_a_node_must_be_heard_again(world: World) -> None:
    seen = of(world)
    seen.connected()
    world.beat("n1")
    world.pass_secs(1)
    assert seen.objection() == ""
    seen.connected()
    assert "RabbitMQ was away" in seen.objection()
    world.pass_secs(0.5)
    world.beat("n1")
    world.pass_secs(0.3)
    assert seen.objection() == ""


def test_copies_go_to_different_zones_while_there_are_any(world: World) -> None:
    world.beat("a1", "a2", zone="a")
    world.beat("b1", "b2", zone="b")
    network = of(world)
    for _ in range(10):
        assert {node[0] for node in network.choose_several(1, 2, (), ())} == {"a", "b"}
        assert network.choose_several(1, 1, (), ["a1"])[0][0] == "b"
        assert sorted(network.choose_several(1, 9, (), ())) == ["a1", "a2", "b1", "b2"]
    assert sorted(network.choose_several(1, 2, ["b1", "b2"], ["a1"])) == ["a2"]
    # Nodes without a zone share nothing
    world.beat("c", "d")
    world.pass_secs(1)
    assert len(network.choose_several(1, 2, ["a1", "a2", "b1", "b2"], ())) == 2


def test_a_reader_is_sent_to_a_holder_that_is_heard_and_has_little_to_do(world: World) -> None:
    network = of(world)
    world.beat("gone")
    world.pass_secs(10)
    world.beat("idle")
    world.beat("busy", load=5.0)
    world.beat("slow")
    network.doubt("slow")
    assert network.by_load(["gone", "slow", "busy", "idle", "unknown"])[:3] == ["idle", "busy", "slow"]
    assert network.by_load(["gone"]) == ["gone"]


def test_a_node_without_a_data_server_is_chosen_last_until_it_has_one(world: World) -> None:
    network = of(world)
    world.beat("a", "b")
    network.note_server("a", there=False)
    assert {network.choose(1) for _ in range(20)} == {"b"}
    assert network.choose_several(1, 2, (), ()) == ["b", "a"]
    assert {tuple(network.by_load(["a", "b"])) for _ in range(20)} == {("b", "a")}
    network.note_server("b", there=False)
    assert network.choose(1) in {"a", "b"}
    # A new value goes to one that is heard again, a reader only to one whose server is there
    world.pass_secs(1)
    world.beat("a")
    assert {network.choose(1) for _ in range(20)} == {"a"}
    network.note_server("b", there=True)
    assert {tuple(network.by_load(["a", "b"])) for _ in range(20)} == {("b", "a")}
    network.note_server("a", there=True)
    assert {network.choose(1) for _ in range(50)} == {"a", "b"}


@pytest.mark.parametrize(
    ("lacking", "wanted", "least", "trusted"),
    [
        (None, 2, 0, False),
        ([], 2, 0, True),
        (["a"], 2, 0, True),
        (["a"], 2, 1, False),
        (["a", "b"], 2, 0, False),
        (["a", "b"], 3, 0, True),
        (None, 1, 0, True),
    ],
)
def test_an_entry_is_trusted_when_all_logs_are_applied_but_fewer_than_the_copies_of_what_was_put(
    world: World, lacking: list[str] | None, wanted: int, least: int, trusted: bool
) -> None:
    world.beat("a", "b", "c")
    world.lacking = lacking
    replicas = Replicas([("", wanted), ("other/", 3)], least)
    with nullcontext() if trusted else pytest.raises(Unavailable, match="may not know the newest value"):
        require_newest(keys.encode("key"), replicas, of(world))


def test_a_drained_node_takes_nothing_new(world: World) -> None:
    world.beat("a", "b")
    world.draining = ["a"]
    network = of(world)
    assert {network.choose(1) for _ in range(5)} == {"b"}
    assert network.choose_several(1, 2, (), ()) == ["b"]
    assert (network.alive("a"), network.takes("a"), network.takes("b")) == (True, False, True)
    assert [row["draining"] for row in network.describe()] == [True, False]
    world.draining = ["a", "b"]
    assert of(world).objection() == "all nodes that are heard from are being drained"


def test_a_node_that_may_have_lost_its_copies_is_asked_last_of_those_that_are_heard(world: World) -> None:
    world.beat("a", "b", "c")
    world.unsure = ["a"]
    network = of(world)
    network.doubt("b")
    assert {tuple(network.by_load(["a", "b", "c"])) for _ in range(5)} == {("c", "b", "a")}
    assert [row["unsure"] for row in network.describe()] == [True, False, False]
