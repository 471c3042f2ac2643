"""The checker of histories finds what must not be, and nothing else."""

from __future__ import annotations

import random

import pytest

from tests.faults.history import NEVER, History, Kind, Operation, linearizable


def put(value: int, called: float, returned: float) -> Operation:
    return Operation(Kind.PUT, called, returned, value)


def got(value: int, called: float, returned: float) -> Operation:
    return Operation(Kind.GET, called, returned, value)


def deleted(called: float, returned: float, refused: bool = False) -> Operation:
    return Operation(Kind.DELETE, called, returned, refused=refused)


def swapped(value: int, expected: int, called: float, returned: float, refused: bool = False) -> Operation:
    return Operation(Kind.SWAP, called, returned, value, expected, refused)


GOOD = {
    "one after the other": [put(1, 0, 1), got(1, 2, 3), deleted(4, 5), got(0, 6, 7), put(2, 8, 9), got(2, 10, 11)],
    "a read beside a put": [put(1, 0, 1), put(2, 2, 9), got(1, 3, 4), got(2, 5, 6)],
    "a put without an answer that is seen late": [put(1, 0, 1), put(2, 2, NEVER), got(1, 3, 4), got(2, 5, 6)],
    "a put without an answer that is never seen": [put(1, 0, 1), put(2, 2, NEVER), got(1, 3, 4), got(1, 5, 6)],
    "a deletion without an answer": [put(1, 0, 1), deleted(2, NEVER), got(1, 3, 4), got(0, 5, 6)],
    "conditions": [put(1, 0, 1), swapped(2, 1, 2, 3), swapped(3, 1, 4, 5, refused=True), got(2, 6, 7)],
    "a deletion of nothing": [deleted(0, 1, refused=True), put(1, 0.5, 2)],
}
MANY = [Operation(kind, 2, NEVER, value) for value in range(2, 60) for kind in (Kind.PUT, Kind.UNDO)]
GOOD["many without an answer"] = [put(1, 0, 1), *MANY, got(1, 3, 4), got(0, 5, 6), deleted(7, 8)]
BAD = {
    "back again after many without an answer": [put(1, 0, 1), *MANY, got(1, 3, 4), got(0, 5, 6), got(1, 7, 8)],
    "a stale read": [put(1, 0, 1), put(2, 2, 3), got(1, 4, 5)],
    "a deleted value": [put(1, 0, 1), deleted(2, 3), got(1, 4, 5)],
    "a lost value": [put(1, 0, 1), got(0, 2, 3)],
    "back and forth": [put(1, 0, 1), put(2, 2, 9), got(2, 3, 4), got(1, 5, 6)],
    "a value that nobody put": [put(1, 0, 1), got(7, 2, 3)],
    "two that replaced the same": [put(1, 0, 1), swapped(2, 1, 2, 3), swapped(3, 1, 2, 3)],
    "back to before a put without an answer": [put(1, 0, 1), put(2, 2, NEVER), got(2, 3, 4), got(1, 5, 6)],
}


@pytest.mark.parametrize("name", GOOD)
def test_what_can_have_happened_is_found_good(name: str) -> None:
    assert linearizable(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_what_must_not_be_is_found(name: str) -> None:
    assert not linearizable(BAD[name])


def test_a_put_without_an_answer_may_be_taken_back_by_the_master_but_no_other() -> None:
    history = History()
    for operation in (put(1, 0, NEVER), got(1, 1, 2), got(0, 3, 4)):
        history.note("key", operation)
    assert not history.faults()
    for operation in (put(1, 0, 1), got(1, 1, 2), got(0, 3, 4)):
        history.note("other", operation)
    assert [fault.partition("\n")[0] for fault in history.faults()] == ["other"]


@pytest.mark.parametrize("seed", range(5))
def test_a_long_history_of_one_copy_is_good_and_a_read_of_an_old_value_in_it_is_found(seed: int) -> None:
    chance = random.Random(seed)
    rows: list[Operation] = []
    state, clock, value = 0, 0.0, 0
    for _ in range(300):
        clock += 1
        # Each takes effect at `clock`, and overlaps with its neighbours
        span = clock - chance.random() * 3, clock + chance.random() * 3
        kind = chance.choice(list(Kind)[:4])
        if kind is Kind.PUT:
            value += 1
            lost = chance.random() < 0.03
            rows.append(put(value, span[0], NEVER if lost else span[1]))
            state = value if not lost or chance.random() < 0.5 else state
        elif kind is Kind.GET:
            rows.append(got(state, *span))
        elif kind is Kind.DELETE:
            rows.append(deleted(*span, refused=not state))
            state = 0
        else:
            value += 1
            rows.append(swapped(value, state, *span))
            state = value
    assert linearizable(rows)
    old = next(row.value for row in rows if row.kind is Kind.PUT and row.returned != NEVER)
    assert not linearizable([*rows, got(old, clock + 10, clock + 11)])
