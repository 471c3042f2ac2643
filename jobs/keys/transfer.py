"""Copies or moves all keys below a prefix, over the master's REST API. `POST /copy/{folder}/` launches it."""

import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from jobs import Job, KeyExists, KeyMissing, StoreError

THREADS = 8
AHEAD = 4 * THREADS  # keys under way or waiting for a thread
TRIES = 5  # of a key, when the master or a node is away
MOST_NAMED = 1_000  # of the keys that could not be done; the log has all
SAME = ("etag", "content_type", "content_encoding")  # what a key and its copy have in common
DONE, ALREADY, GONE = "done", "already", "gone"


class Transfer(Job):
    """Begun again, it goes on: what was copied already, byte for byte, counts as done."""

    def execute(self) -> None:
        """Description: Copies the keys that begin with a prefix; the copies begin with "to" instead. Values stay
        on their nodes. With "move": true the old keys are deleted.
        Arguments: {"prefix": "str", "to": "str", "move": "bool, optional", "overwrite": "bool, optional",
        "ttl": "str, optional"}
        Category: keys
        Author: Pulzar
        """
        prefix, to = self._text("prefix"), self._text("to")
        move, self._overwrite = self._flag("move"), self._flag("overwrite")
        self._ttl = self._text("ttl") if "ttl" in self.arguments else None
        if to.startswith(prefix):
            raise ValueError(f"to = {to!r} begins with the prefix {prefix!r}: what is copied would be copied again")
        again = prefix + prefix.removeprefix(to)  # to/x is below the prefix again for the keys that begin so
        if prefix.startswith(to) and next(self.keys(again), None):
            raise ValueError(f"the keys below {again!r} would come into {prefix!r} itself; take them elsewhere first")
        self._move = move
        self._transfer = self.client.move if move else self.client.copy
        total = sum(1 for _ in self.keys(prefix))
        counts = dict.fromkeys((DONE, ALREADY, GONE), 0)
        failed: list[dict[str, str]] = []
        failures = 0
        for looked, (key, outcome) in enumerate(self._outcomes(prefix, to), 1):
            if isinstance(outcome, StoreError):
                failures += 1
                self.log(f"{key}: {outcome}")
                if failures <= MOST_NAMED:
                    failed.append({"key": key, "reason": str(outcome)})
            else:
                counts[outcome] += 1
            self.progress(looked, max(total, looked), "keys")
        self.output({"keys": sum(counts.values()) + failures, **counts, "failures": failures, "failed": failed})
        if failures:
            what = "moved" if move else "copied"
            raise StoreError(0, f"{failures} keys could not be {what}; the output names them. Launch it again to go on")

    def _outcomes(self, prefix: str, to: str) -> Iterator[tuple[str, str | StoreError]]:
        """What became of each key, as they end; several are under way at once."""
        waiting: dict[Future[str], str] = {}
        with ThreadPoolExecutor(THREADS) as pool:
            for entry in self.keys(prefix):
                waiting[pool.submit(self._one, entry, to + entry["key"].removeprefix(prefix))] = entry["key"]
                if len(waiting) >= AHEAD:
                    yield from _ended(waiting)
            while waiting:
                yield from _ended(waiting)

    def _one(self, entry: dict[str, Any], target: str) -> str:
        """Copy or move one key; raises `StoreError`."""
        for left in reversed(range(TRIES)):
            try:
                self._transfer(entry["key"], target, self._ttl, self._overwrite)
                return DONE
            except KeyMissing:
                return GONE
            except KeyExists:
                # Of a move the master itself knows what an earlier one has left.
                if self._move or not self._copied_before(entry, target):
                    raise
                return ALREADY
            except StoreError as error:
                if not left or error.status not in (0, 503):
                    raise
            time.sleep(1)
        raise AssertionError("the last try returns or raises")

    def _copied_before(self, entry: dict[str, Any], target: str) -> bool:
        """Whether the target is such a copy as this job makes."""
        there = next(iter(self.client.keys(target)), None)
        if not there or there["key"] != target or any(there[name] != entry[name] for name in SAME):
            return False
        return bool(there["expires"]) if self._ttl else there["expires"] == entry["expires"]

    def _text(self, name: str) -> str:
        given = self.arguments.get(name)
        if not isinstance(given, str) or not given.removeprefix("/"):
            raise ValueError(f"{name} = {given!r}: give a text, so that it can't mean all keys")
        return given.removeprefix("/")

    def _flag(self, name: str) -> bool:
        given = self.arguments.get(name, False)
        if not isinstance(given, bool):
            raise ValueError(f"{name} = {given!r} is neither true nor false")
        return given


def _ended(waiting: dict[Future[str], str]) -> Iterator[tuple[str, str | StoreError]]:
    """Wait for one, and take away all that have ended."""
    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
        key = waiting.pop(future)
        error = future.exception()
        if error is not None and not isinstance(error, StoreError):
            raise error
        yield key, error if isinstance(error, StoreError) else future.result()
