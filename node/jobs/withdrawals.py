"""Jobs that must not run here when they are pulled: the master has said so, or they run already."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable

KEPT = 100_000  # withdrawn jobs


class Withdrawals:
    """What is withdrawn. Used on the jobs thread."""

    def __init__(self) -> None:
        self._attempts: OrderedDict[int, int] = OrderedDict()  # id → attempt
        self._expected: Counter[bytes] = Counter()

    def add(self, entries: Iterable[tuple[int, int]]) -> None:
        """Withdraw jobs (id, attempt) up to that attempt."""
        for job, attempt in entries:
            self._attempts[job] = max(attempt, self._attempts.pop(job, 0))
        while len(self._attempts) > KEPT:
            self._attempts.popitem(last=False)

    def covers(self, job: int, attempt: int) -> bool:
        """Whether this attempt at a job is withdrawn."""
        return attempt <= self._attempts.get(job, 0)

    def expect(self, order: bytes) -> None:
        """Expect the message of a job that was published by hand once more, though it is claimed here."""
        self._expected[hashlib.sha256(order).digest()] += 1

    def expected(self, order: bytes) -> bool:
        """Whether this message was expected; each is expected as often as `expect` was called."""
        if not self._expected:
            return False
        digest = hashlib.sha256(order).digest()
        if not self._expected[digest]:
            del self._expected[digest]
            return False
        self._expected[digest] -= 1
        return True
