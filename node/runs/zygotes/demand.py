"""Which modules the runs of each script are to have loaded ahead: by its wish, and by how often it runs."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from node.runs.zygotes import wishes
from node.runs.zygotes.wishes import Wish

OFTEN_RUNS = 3
OFTEN_SECS = 600.0

Modules = tuple[str, ...]


class Demand:
    """The wishes of all scripts. Thread-safe."""

    def __init__(self, for_all: Sequence[str] = (), clock: Callable[[], float] = time.monotonic) -> None:
        """`for_all`: the words of `[jobs] preload`."""
        self._for_all = for_all
        self._clock = clock
        self._guard = threading.Lock()
        self._wishes: Mapping[str, Wish] = {}
        self._begun: dict[str, deque[float]] = {}  # when the last runs began, by script
        self._left_out: dict[str, str] = {}
        self.version = 0  # rises with each change of what is left out

    def wish(self, field: str, head: Iterable[str]) -> Wish:
        """The wish of a script, by its docstring and its imports."""
        return wishes.of(field, head, self._for_all)

    def catalog(self, found: Mapping[str, Wish]) -> None:
        """Take the wishes of all scripts."""
        with self._guard:
            self._wishes = found
            self._begun = {job: times for job, times in self._begun.items() if job in found}

    def begin(self, job: str) -> Modules:
        """The modules for a run of a script that begins now."""
        with self._guard:
            wish = self._wishes.get(job)
            if wish is None:
                return ()
            if wish.often == wish.modules:
                return wish.modules
            now = self._clock()
            times = self._begun.setdefault(job, deque(maxlen=OFTEN_RUNS))
            times.append(now)
            often = len(times) == OFTEN_RUNS and now - times[0] <= OFTEN_SECS
            return wish.often if often else wish.modules

    def ahead(self) -> list[Modules]:
        """The sets that are to be there before a run asks for them; those of most scripts first."""
        with self._guard:
            wanted = [wish.modules for wish in self._wishes.values() if wish.modules]
        return sorted(set(wanted), key=lambda modules: (-wanted.count(modules), modules))

    def leave_out(self, found: Mapping[str, str]) -> None:
        """Take the modules that can't be loaded ahead, with the reasons."""
        with self._guard:
            self._left_out = dict(found)
            self.version += 1

    def left_out(self, wish: Wish) -> dict[str, str]:
        """What of a wish is not loaded ahead, and why."""
        odd = dict.fromkeys(wish.odd, "this is no name of a module")
        with self._guard:
            return odd | {name: self._left_out[name] for name in wish.often if name in self._left_out}
