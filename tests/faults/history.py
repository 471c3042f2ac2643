"""What several clients did to some keys, and whether that can have happened one after the other.

Each value is put once, so a read says which put it saw. An operation takes effect at one moment between its call and
its return. One without an answer may take effect at any time after its call, or never. A PUT without an answer may
also be taken back: the master has the nodes forget what came to nothing.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

NEVER = float("inf")
UNREAD = -1  # any value that nobody has read
MOST_STATES = 2_000_000  # that are looked at before the check is given up


class Kind(Enum):
    """What a client asked for."""

    PUT = auto()  # whatever was there
    SWAP = auto()  # a PUT with If-Match
    DELETE = auto()
    GET = auto()
    UNDO = auto()  # of a PUT without an answer, by the master


_WRITES = (Kind.PUT, Kind.SWAP)


class Operation(NamedTuple):
    """One operation on a key. Values are numbers; 0: the key does not exist."""

    kind: Kind
    called: float
    returned: float  # `NEVER`: without an answer
    value: int = 0  # put, or read
    expected: int = 0  # of a SWAP: the value that it replaces
    refused: bool = False  # a SWAP whose condition did not hold, a DELETE of what was not there
    answer: str = ""  # for a person

    def __str__(self) -> str:
        value = f"{self.expected} -> {self.value}" if self.kind is Kind.SWAP else str(self.value or "")
        return f"{self.called:.3f} {self.returned:.3f} {self.kind.name} {value} {'refused' if self.refused else ''} {self.answer}"

    def apply(self, state: int) -> int | None:
        """The value after this operation on a key with the value `state`; None when it can't have had this outcome."""
        match self.kind:
            case Kind.PUT:
                return self.value
            case Kind.GET:
                return state if state == self.value else None
            case Kind.DELETE:
                return (state if not state else None) if self.refused else (0 if state else None)
            case Kind.UNDO:
                return 0 if state == self.value else None
        if self.refused:
            return state if state != self.expected else None
        return self.value if state == self.expected else None


@dataclass
class History:
    """The operations of all clients; thread-safe."""

    by_key: dict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def number(self) -> int:
        """A value that nobody has put yet."""
        with self._guard:
            return next(self._numbers)

    def note(self, key: str, operation: Operation) -> None:
        """Note an operation; what is put without an answer may be taken back."""
        with self._guard:
            self.by_key[key].append(operation)
            if operation.kind in (Kind.PUT, Kind.SWAP) and operation.returned == NEVER:
                self.by_key[key].append(operation._replace(kind=Kind.UNDO))

    def faults(self) -> list[str]:
        """The keys whose operations can't have happened one after the other, each with what was done."""
        return [
            "\n  ".join([key, *map(str, sorted(operations, key=lambda one: one.called))])
            for key, operations in self.by_key.items()
            if not linearizable(operations)
        ]


def linearizable(operations: list[Operation]) -> bool:
    """Whether there is an order of the operations, each at a moment of its own, in which all outcomes make sense."""
    rows = _alike(sorted(operations, key=lambda one: one.called))
    must = sum(1 << number for number, one in enumerate(rows) if one.returned != NEVER)
    # Of operations without an answer that are alike, the one that was called first is the first to take effect.
    before: dict[int, int] = {}  # number of such an operation → that of the one before it
    last: dict[Operation, int] = {}
    for number, one in enumerate(rows):
        if one.returned == NEVER:
            kind = one._replace(called=0.0, answer="")
            if kind in last:
                before[number] = last[kind]
            last[kind] = number
    seen: set[tuple[int, int]] = set()
    stack = [(0, 0)]  # which operations have taken effect, and the value then
    while stack:
        done, state = stack.pop()
        if done & must == must:
            return True
        if (done, state) in seen:
            continue
        seen.add((done, state))
        assert len(seen) < MOST_STATES, "the history has too many operations without an answer"
        first = min(one.returned for number, one in enumerate(rows) if not done >> number & 1)
        following = []
        for number, one in enumerate(rows):
            if one.called > first:
                break
            if done >> number & 1 or (number in before and not done >> before[number] & 1):
                continue
            if (after := one.apply(state)) is not None:
                following.append((one.returned, number, after))
        # The stack gives back the last one: what had to be over first is tried first.
        stack += [(done | 1 << number, after) for _, number, after in sorted(following, reverse=True)]
    return False


def _alike(rows: list[Operation]) -> list[Operation]:
    """The operations, where all values are one that nobody has read or expected, and that were put without an answer.

    It makes no difference which of these is there.
    """
    known = {one.value for one in rows if one.kind is Kind.GET} | {one.expected for one in rows}
    sure = {one.value for one in rows if one.kind in _WRITES and one.returned != NEVER}
    named = known | sure
    return [
        one._replace(value=UNREAD) if one.returned == NEVER and one.value and one.value not in named else one
        for one in rows
    ]


def now() -> float:
    """The clock of a history."""
    return time.monotonic()
