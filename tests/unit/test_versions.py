"""Versions rise, are believed, and are unique in the cluster."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from broker.messages.horizon import NUMBERS, Horizon
from broker.messages.versions import MASTER_NUMBERS, NODE_NUMBERS, VersionMaker, node_number
from master.store.versions import Versions

HOUR_NS, DAY_NS = 3_600 * 10**9, 86_400 * 10**9


def test_versions_rise_and_are_above_what_is_known_whatever_the_clock_says() -> None:
    versions = VersionMaker(7)
    made = [versions.next() for _ in range(1000)]
    assert made == sorted(set(made))
    future = made[-1] + (1 << 40)
    assert versions.next(future) > future
    assert versions.next() > future
    assert made[-1] < 1 << 63
    assert {version % NUMBERS for version in made} == {7}


def test_versions_rise_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = VersionMaker(7)
    first = versions.next()
    before = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: before - HOUR_NS)
    later = [versions.next() for _ in range(3)]
    assert sorted([first, *later]) == [first, *later]
    # What is more than a day ahead nobody would believe
    monkeypatch.setattr(time, "time_ns", lambda: before - 30 * DAY_NS)
    again = [versions.next() for _ in range(3)]
    assert sorted([*again, first]) == [*again, first]


def test_what_is_more_than_a_day_ahead_does_not_make_versions_that_nobody_believes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = VersionMaker(7)
    assert versions.next((1 << 63) - 1) <= Horizon.now().version
    # Given a clock that was a month ahead
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 30 * DAY_NS)
    wrong = versions.next()
    # When it is put right
    monkeypatch.undo()
    # Then versions go on with the clock
    assert not Horizon.now().objection(versions.next(), 0)
    assert "30.0 days ahead" in Horizon.now().objection(wrong, 0)


def test_master_and_nodes_have_numbers_of_their_own(tmp_path: Path) -> None:
    assert sorted([*MASTER_NUMBERS, *NODE_NUMBERS]) == list(range(NUMBERS))
    assert node_number("node-1") in NODE_NUMBERS
    assert node_number("node-1") != node_number("node-2")
    assert Versions(tmp_path).number in MASTER_NUMBERS


def test_a_node_keeps_its_number_for_ever() -> None:
    assert node_number("node-1") == 2634
