"""Which queue a job's message goes to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import keys, topology
from broker.messages.jobs import Options, Order
from broker.messages.runs import NodeCatalog
from master.index.index import Entry, Index
from master.jobs.ledger import Ledger
from master.jobs.routing import ANY_NODE, Load, Route, Router, choose, may_move

PLAIN = Order("a/b", {})
BOUND = Order("a/b", {}, Options(node="n2"))
DATA = Order("a/b", {}, data="key")
IDLE = Load(alive=True, slots=2, running=0)
BUSY = Load(alive=True, slots=2, running=2)
DEAD = Load(alive=False, slots=2, running=0)


def no_jobs(_node: str) -> int:
    return 0


@pytest.mark.parametrize(
    ("order", "possible", "loads", "holder", "chosen"),
    [
        (PLAIN, {"n1", "n2"}, {"n1": IDLE, "n2": IDLE}, None, ANY_NODE),
        (PLAIN, {"n1", "n2"}, {}, None, ANY_NODE),
        (PLAIN, set(), {"n1": IDLE}, None, None),
        (PLAIN, {"n1", "n2"}, {"n1": BUSY, "n2": IDLE, "n3": IDLE}, None, "n2"),
        (PLAIN, {"n1", "n2"}, {"n1": BUSY, "n2": DEAD, "n3": IDLE}, None, "n1"),
        (PLAIN, {"n1"}, {"n1": DEAD, "n3": IDLE}, None, "n1"),
        (PLAIN, {"n1"}, {"n3": IDLE}, None, "n1"),
        (BOUND, {"n1", "n2"}, {"n1": IDLE, "n2": DEAD}, None, "n2"),
        (BOUND, {"n1"}, {"n1": IDLE}, None, None),
        (DATA, {"n1", "n2"}, {"n1": BUSY, "n2": IDLE}, "n1", "n1"),
        (DATA, {"n1", "n2"}, {"n1": DEAD, "n2": IDLE}, "n1", ANY_NODE),
        (DATA, {"n2"}, {"n1": IDLE, "n2": IDLE}, "n1", "n2"),
    ],
)
def test_a_job_goes_to_all_nodes_if_each_can_run_it_else_to_the_one_with_the_least_to_do(
    order: Order, possible: set[str], loads: dict[str, Load], holder: str | None, chosen: str | None
) -> None:
    assert choose(order, possible, loads, no_jobs, [holder] if holder else []) == chosen


def test_of_several_holders_of_the_data_the_one_with_the_least_to_do_is_chosen() -> None:
    loads = {"n1": Load(True, 2, 2), "n2": Load(True, 2, 1), "n3": Load(True, 2, 0), "n4": Load(False, 2, 0)}
    every = {"n1", "n2", "n3", "n4"}
    assert choose(DATA, every, loads, no_jobs, ["n1", "n2", "n4"]) == "n2"
    assert choose(DATA, {"n1", "n3"}, loads, no_jobs, ["n1", "n2"]) == "n1"
    assert choose(DATA, every, loads, no_jobs, ["n4"]) == ANY_NODE


def test_jobs_that_wait_for_a_node_count_as_much_as_those_it_runs() -> None:
    loads = {"n1": Load(True, 4, 1), "n2": Load(True, 4, 2), "n3": IDLE}
    waiting = {"n1": 2, "n2": 0}
    assert choose(PLAIN, {"n1", "n2"}, loads, no_jobs, []) == "n1"
    assert choose(PLAIN, {"n1", "n2"}, loads, lambda node: waiting[node], []) == "n2"


def test_only_a_job_that_is_there_for_its_data_moves_on_and_only_if_every_living_node_can_run_it() -> None:
    loads = {"n1": IDLE, "n2": IDLE, "n3": DEAD}
    assert may_move(DATA, {"n1", "n2"}, loads)
    assert not may_move(DATA, {"n1"}, loads)
    assert not may_move(PLAIN, {"n1", "n2"}, loads)
    assert not may_move(DATA._replace(options=Options(node="n1")), {"n1", "n2"}, loads)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger", write=True, map_size=64 << 20)
    with ledger.write() as tables:
        for node in ("n1", "n2"):
            tables.save_catalog(NodeCatalog(node, "x", [{"path": "a/b", "kind": "script"}]))
    yield ledger
    ledger.close()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index", 64 << 20, write=True)
    with index.write() as tables:
        tables.put_entry(keys.encode("key"), None, Entry(1, "n1", 1, 1, 1, 0, 5, "", bytes(32), b"value"))
    yield index
    index.close()


def test_a_route_is_decided_once_with_the_time_after_which_the_message_moves_on(ledger: Ledger, index: Index) -> None:
    loads = {"n1": IDLE, "n2": IDLE}
    router = Router(index, lambda: loads, 2.5)
    with ledger.read() as view:
        low = PLAIN._replace(options=Options(priority="low"))
        assert router.choose(view, low) == Route(":low", topology.jobs_queue("low"))
        assert router.choose(view, BOUND) == Route("n2:", topology.node_jobs_queue("n2"))
        route = router.choose(view, DATA)
        assert route == Route("n1:", topology.node_data_queue("n1"), 2_500)
        assert router.choose(view, DATA, without="n1") == Route("n2:", topology.node_data_queue("n2"), 2_500)
        assert router.choose(view, DATA._replace(data="unknown")) == Route(":normal", topology.jobs_queue("normal"))
        assert router.choose(view, BOUND, without="n2") is None
        assert router.choose(view, PLAIN._replace(job="a/c")) is None
        # Once more, to the queue that the ledger has
        assert router.again(view, DATA, route.lane) == route
        assert router.again(view, BOUND, "n2:") == Route("n2:", topology.node_jobs_queue("n2"))
        assert router.again(view, low, ":low") == Route(":low", topology.jobs_queue("low"))
        # A node without the script has come: what moves on might end there
        loads["n3"] = IDLE
        assert router.again(view, DATA, route.lane) == Route("n1:", topology.node_jobs_queue("n1"))
