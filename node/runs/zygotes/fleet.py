"""The zygotes with modules loaded ahead: which there are, which one serves a run, when one is made and when it goes.

Nothing waits for them. A run whose modules are not loaded yet is forked from the plain zygote, and imports them itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from broker import logs
from node.runs.zygotes import imports, packages
from node.runs.zygotes.packages import Stamps

log = logs.get(__name__)

MOST = 64  # numbers of zygotes, from 1
READY_SECS = 300.0  # for one to load all of its modules
IDLE_SECS = 30.0  # without a run, before another one may take its place
LOOK_SECS = 2.0  # between two looks at the files of one
INSTALLATION_SECS = 5.0  # between two looks at what is installed
AGAIN_SECS = 5.0  # before the same set is tried again
GONE_SECS = 15.0  # for one to end
_NEVER = math.inf

Modules = tuple[str, ...]


class Client(Protocol):
    """A zygote, as the fleet uses it."""

    pid: int

    def leave(self) -> None:
        """Let it end."""

    def gone(self) -> bool:
        """Whether it has ended."""

    def kill(self) -> None:
        """End it at once."""


C = TypeVar("C", bound=Client)


class Limits(NamedTuple):
    """How many there may be."""

    zygotes: int = 4  # 0: none
    memory: int = 1 << 30  # bytes that they may hold together


class Member(Generic[C]):
    """One zygote."""

    def __init__(self, client: C, number: int, modules: Modules, now: float) -> None:
        self.client = client
        self.number = number
        self.modules = modules
        self.ready = False
        self.leaves = False  # it gets no more runs
        self.trying = ""  # the module that it loads
        self.runs = 0
        self.used = self.began = now
        self.sizes: Sequence[tuple[str, int]] = ()  # bytes that it holds after each module
        self.memory = 0  # bytes in all
        self.stamps: Stamps = {}
        self.looked = now


class Fleet(Generic[C]):
    """All of them. Used on the runner's thread."""

    def __init__(
        self,
        limits: Limits,
        *,
        start: Callable[[int, Modules], C],
        stop: Callable[[C], None],
        left_out: Callable[[Mapping[str, str]], None],
    ) -> None:
        """`start` makes one with a number from 1; it may raise `OSError`. `stop`: no more is heard of that one.

        `left_out` is called with all modules that can't be loaded ahead, and why, when these change.
        """
        self._limits = limits
        self._start, self._stop, self._tell_left_out = start, stop, left_out
        self._members: list[Member[C]] = []
        self._ending: list[tuple[C, float, int]] = []  # when each is killed, and its number
        self._number = 0  # given last
        self._expected: list[Modules] = []
        self._asked: dict[Modules, float] = {}  # when a run had use for this set, since the last turn that saw it
        self._not_before: dict[Modules, float] = {}
        self._left_out: dict[str, str] = {}
        self._installation: Stamps = packages.installation() if limits.zygotes else {}
        self._looked = time.monotonic()

    def expect(self, sets: Sequence[Modules]) -> None:
        """Make zygotes with these sets of modules, the first ones first, as many as there may be."""
        self._expected = list(sets)

    def of(self, wanted: Modules, now: float) -> Member[C] | None:
        """The zygote for a run with these modules, None: the plain one."""
        if not wanted or not self._limits.zygotes:
            return None
        self._look(now)
        needed = self._without_left_out(wanted)
        if not needed:
            return None
        ready = [member for member in self._members if member.ready and not member.leaves]
        best = _best(set(needed), ready)
        if best and self._is_changed(best, now):
            self._retire(best, "an installed package has changed")
            return self.of(wanted, now)
        if not best or set(needed) - set(best.modules):
            self._asked[needed] = now
        if best:
            best.used = now
        return best

    def turn(self, now: float) -> float:
        """Start and end what is due; when something is due again."""
        if not self._limits.zygotes:
            return _NEVER
        if now - self._looked >= INSTALLATION_SECS and (self._members or self._left_out):
            self._look(now)
        for member in list(self._members):
            if not member.ready and now >= member.began + READY_SECS:
                member.client.kill()
        for ending in list(self._ending):
            client, until, _ = ending
            if client.gone():
                self._ending.remove(ending)
            elif now >= until:
                client.kill()
        if not any(not member.ready for member in self._members):
            self._make(now)
        return self._due(now)

    def _due(self, now: float) -> float:
        due = [member.began + READY_SECS for member in self._members if not member.ready]
        due += [now + 0.05 for _ in self._ending]
        if self._members or self._left_out:
            due.append(self._looked + INSTALLATION_SECS)
        if self._wanted():
            due += [max(now + 0.5, at) for at in self._not_before.values()]
        return min(due, default=_NEVER)

    def _wanted(self) -> list[Modules]:
        """The sets that no zygote has or will have, without what is left out; those that runs asked for come first."""
        there = [set(member.modules) for member in self._members if not member.leaves]
        asked = sorted(self._asked, key=self._asked.__getitem__, reverse=True)
        sets = dict.fromkeys(filter(None, map(self._without_left_out, [*asked, *self._expected])))
        return [modules for modules in sets if not any(set(modules) <= other for other in there)]

    def _without_left_out(self, modules: Modules) -> Modules:
        return tuple(name for name in modules if name not in self._left_out)

    def _make(self, now: float) -> None:
        """Start the next one, if there is one to start and room for it."""
        wanted = self._wanted()
        self._asked = {asked: at for asked, at in self._asked.items() if self._without_left_out(asked) in wanted}
        modules = next((each for each in wanted if now >= self._not_before.get(each, 0.0)), None)
        if not modules:
            return
        staying = [member for member in self._members if not member.leaves]
        if len(staying) >= self._limits.zygotes:
            if modules in map(self._without_left_out, self._asked):
                self._make_room(staying, now)
            return
        self._not_before[modules] = now + AGAIN_SECS
        taken = {member.number for member in self._members} | {number for *_, number in self._ending}
        self._number = next(each for at in range(MOST) if (each := (self._number + at) % MOST + 1) not in taken)
        try:
            client = self._start(self._number, modules)
        except OSError as error:
            log.error("a zygote with modules can't be started", modules=" ".join(modules), reason=error)
            return
        self._members.append(Member(client, self._number, modules, now))

    def _make_room(self, staying: list[Member[C]], now: float) -> None:
        idle = [member for member in staying if not member.runs and now - member.used >= IDLE_SECS]
        if idle:
            self._retire(min(idle, key=lambda member: member.used), "another one is needed more")

    # What they tell.

    def trying(self, client: C, module: str) -> None:
        """Note what a zygote loads now."""
        self._member(client).trying = module

    def failed(self, client: C, module: str, reason: str) -> None:
        """Note that a module can't be loaded ahead."""
        member = self._member(client)
        member.modules = tuple(name for name in member.modules if name != module)
        self._leave_out(module, reason)

    def loaded(self, client: C, sizes: Sequence[tuple[str, int]], files: list[str]) -> None:
        """Note what a zygote has loaded. `sizes`: bytes that it holds after each module. `files`: those of modules."""
        member = self._member(client)
        member.trying = ""
        member.sizes = sizes
        member.memory = sizes[-1][1] if sizes else 0
        member.stamps = packages.stamps(files)

    def is_ready(self, client: C) -> None:
        """Note that a zygote takes runs from now on."""
        member = self._member(client)
        if member.ready:
            return
        member.ready, member.used = True, time.monotonic()
        sizes = member.sizes
        log.info("zygote with modules ready", pid=client.pid, modules=" ".join(member.modules), bytes=member.memory)
        if not member.modules:
            self._retire(member, "none of its modules can be loaded ahead")
        others = sorted((each for each in self._members if each is not member), key=lambda each: each.used)
        while sum(each.memory for each in self._members if not each.leaves) > self._limits.memory:
            other = next((each for each in others if not each.leaves), None)
            if other:
                self._not_before[other.modules] = time.monotonic() + 2 * IDLE_SECS
                self._expected = [each for each in self._expected if not set(each) <= set(other.modules)]
                self._retire(other, "the others need its memory")
                continue
            before = [0, *(size for _, size in sizes)]
            largest, size = max(
                ((name, size - before[at]) for at, (name, size) in enumerate(sizes)), key=lambda each: each[1]
            )
            self._leave_out(
                largest, f"it takes {size >> 20} MiB, and [jobs] preload_memory is {self._limits.memory >> 20} MiB"
            )
            self._retire(member, f"{largest} takes too much memory")
            break

    def ended(self, client: C, how: str) -> None:
        """Note that a zygote has ended by itself."""
        member = self._member(client)
        self._members.remove(member)
        if member.leaves:
            return
        if not member.ready and member.trying and member.trying in member.modules:
            late = f"it took longer than {imports.IMPORT_SECS} s"
            self._leave_out(member.trying, f"its import did not end: {late if 'SIGALRM' in how else how}")
        log.warning("a zygote with modules ended", modules=" ".join(member.modules), how=how, loading=member.trying)

    def run_began(self, member: Member[C]) -> None:
        """Count a run of a zygote."""
        member.runs += 1

    def run_ended(self, member: Member[C]) -> None:
        """Count the end of that run."""
        member.runs -= 1
        member.used = time.monotonic()
        if member.leaves:
            self._dismiss(member)

    def members(self) -> list[Member[C]]:
        """All of them."""
        return list(self._members)

    def member_of(self, client: C | None) -> Member[C] | None:
        """The member with this client, None when it is the plain zygote's."""
        return next((member for member in self._members if member.client is client), None)

    def close(self) -> None:
        """End all, and wait for that."""
        clients = [member.client for member in self._members] + [client for client, *_ in self._ending]
        for member in self._members:
            self._stop(member.client)
            member.client.leave()
            if not member.ready:
                member.client.kill()
        self._members.clear()
        self._ending.clear()
        until = time.monotonic() + GONE_SECS
        while left := [client for client in clients if not client.gone()]:
            if time.monotonic() >= until:
                for client in left:
                    client.kill()
            time.sleep(0.002)

    def _member(self, client: C) -> Member[C]:
        return next(member for member in self._members if member.client is client)

    def _leave_out(self, module: str, reason: str) -> None:
        log.warning("module can't be loaded ahead", module=module, reason=reason)
        self._left_out[module] = reason
        self._tell_left_out(self._left_out)

    def _retire(self, member: Member[C], reason: str) -> None:
        """Give a zygote no more runs; it ends with its last one."""
        if not member.leaves:
            log.info("zygote with modules ends", pid=member.client.pid, modules=" ".join(member.modules), reason=reason)
            member.leaves = True
            self._dismiss(member)

    def _dismiss(self, member: Member[C]) -> None:
        if not member.runs and member in self._members:
            self._members.remove(member)
            self._stop(member.client)
            member.client.leave()
            if not member.ready:
                member.client.kill()
            self._ending.append((member.client, time.monotonic() + GONE_SECS, member.number))

    # What is installed.

    def _look(self, now: float) -> None:
        """Begin again with everything when something was installed or removed."""
        if now - self._looked < LOOK_SECS:
            return
        self._looked = now
        found = packages.installation()
        if found != self._installation:
            self._installation = found
            self._not_before.clear()
            for member in list(self._members):
                self._retire(member, "the installed packages have changed")
            if self._left_out:
                self._left_out = {}
                self._tell_left_out({})

    def _is_changed(self, member: Member[C], now: float) -> bool:
        """Whether a file that a zygote has loaded is another one by now."""
        if now - member.looked < LOOK_SECS:
            return False
        member.looked = now
        return packages.stamps(list(member.stamps)) != member.stamps


def _best(needed: set[str], ready: Sequence[Member[C]]) -> Member[C] | None:
    """The smallest zygote with all modules that are needed, else the one with most of them; None: none has any."""
    whole = [member for member in ready if needed <= set(member.modules)]
    if whole:
        return min(whole, key=lambda member: len(member.modules))
    some = [member for member in ready if needed & set(member.modules)]
    return max(some, key=lambda member: (len(needed & set(member.modules)), -len(member.modules)), default=None)
