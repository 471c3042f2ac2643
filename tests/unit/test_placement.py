"""Which node gets the next value."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from master.cluster.placement import Candidate, Placement

GB = 1 << 30


def node(name: str, free: int = 50 * GB, total: int = 100 * GB, load: float = 0.0, full: bool = False) -> Candidate:
    return Candidate(name, total, free, load, full, at=1)


def spread(candidates: list[Candidate], values: int = 1000, size: int = 1024) -> Counter[str | None]:
    placement = Placement()
    return Counter(placement.choose(candidates, size) for _ in range(values))


def test_equal_nodes_get_equal_shares() -> None:
    assert spread([node("a"), node("b")]) == {"a": 500, "b": 500}


def test_values_take_turns_instead_of_coming_in_runs() -> None:
    placement = Placement()
    chosen = "".join(placement.choose([node("a"), node("b")], 1) or "" for _ in range(100))
    assert "aaa" not in chosen
    assert "bbb" not in chosen


def test_more_room_gets_more_and_less_room_still_gets_some() -> None:
    shares = spread([node("a", free=90 * GB), node("b", free=10 * GB)])
    assert shares["a"] > 8 * shares["b"] > 0


def test_a_busy_node_gets_less_but_is_not_left_out() -> None:
    shares = spread([node("idle"), node("busy", load=8.0)])
    assert shares["idle"] > 3 * shares["busy"] > 0


def test_a_full_node_and_one_without_room_for_the_value_get_nothing() -> None:
    assert spread([node("a", full=True), node("b")]) == {"b": 1000}
    assert spread([node("a", free=100), node("b")]) == {"b": 1000}
    assert spread([node("a", full=True)]) == {None: 1000}
    assert Placement().choose([], 1) is None


def test_what_was_sent_since_the_heartbeat_counts_as_used() -> None:
    placement = Placement()
    small = [node("a", free=10_000)]
    assert [placement.choose(small, 4_000) for _ in range(3)] == ["a", "a", None]
    assert placement.choose([replace(small[0], at=2)], 4_000) == "a"


def test_an_excluded_node_is_not_chosen() -> None:
    assert Placement().choose([node("a"), node("b")], 1, exclude={"a"}) == "b"
    assert Placement().choose([node("a")], 1, exclude={"a"}) is None
