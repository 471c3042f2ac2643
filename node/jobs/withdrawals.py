"""Jobs that shall not run here when they are pulled: the master has said so, or they run already."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable

KEPT = 100_000  # withdrawn jobs


class Withdrawals:
    """Of one thread."""

    def __init__(self) -> None:
        self._attempts: OrderedDict[int, int] = OrderedDict()  # id → attempt
        self._doubtful: Counter[bytes] = Counter()

    def add(self, entries: Iterable[tuple[int, int]]) -> None:
        """These jobs (id, attempt) are withdrawn, up to that attempt."""
        for job, attempt in entries:
            self._attempts[job] = max(attempt, self._attempts.pop(job, 0))
        while len(self._attempts) > KEPT:
            self._attempts.popitem(last=False)

    def covers(self, job: int, attempt: int) -> bool:
        """Whether this attempt at a job is withdrawn."""
        return attempt <= self._attempts.get(job, 0)

    def expect(self, order: bytes) -> None:
        """The message of a job that was published by hand comes once more, though it is claimed here."""
        self._doubtful[hashlib.sha256(order).digest()] += 1

    def expected(self, order: bytes) -> bool:
        """Whether this is such a message; said once."""
        if not self._doubtful:
            return False
        digest = hashlib.sha256(order).digest()
        if not self._doubtful[digest]:
            del self._doubtful[digest]
            return False
        self._doubtful[digest] -= 1
        return True
