"""Runs of many kinds, some cancelled and some out of time, by chance: each ends once and as it should, and leaves nothing.

`./ops/test -m soak` has 2,000 of them, the normal run some dozens. `PULZAR_TEST_SEED=N` repeats what a failure tells.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.runs.zygotes.workers import IDLE_SECS
from ops.cluster import Cluster, Node
from tests.faults.jobs.mixed import KINDS, scripts
from tests.faults.jobs_tools import Field, run_processes
from tests.faults.load import Client
from tests.faults.tools import family
from tests.support import wait_for
from tests.unit.runs import is_zygote, told

pytestmark = pytest.mark.usefixtures("nothing_left")

FEW, MANY = 60, 2000
SECS_OF_ONE = 1.5  # more than a run takes on a machine that is busy with others
QUIET_SECS = 60.0 + IDLE_SECS  # for what runs have left to be thrown away, and for warm processes to end


@dataclass
class Launched:
    """A run that was asked for, and how it may end."""

    kind: str
    tag: str
    timeout: float = 0.0
    cancel: str = ""  # waits: at once; runs: when it says so; later: at any time
    job: int = 0

    def fits(self, state: str, reason: str) -> bool:
        """Whether it may have ended so."""
        kind = KINDS[self.kind]
        if self.cancel == "runs":
            return state == "cancelled"
        ways = [(kind.state, kind.reason)]
        ways += [("failed", "ran longer than ")] if self.timeout else []
        ways += [("cancelled", "")] if self.cancel else []
        return any(state == way and re.search(pattern, reason or "") for way, pattern in ways)


class Mix:
    """Launches runs, and cancels some of them on a thread of its own."""

    def __init__(self, field: Field, seed: int) -> None:
        self._field = field
        self._chance = random.Random(seed)
        self._mark = f"mixed{os.getpid()}x{seed}"  # in the name of everything that they make
        self._weights = [kind.weight for kind in KINDS.values()]
        self._problems: list[BaseException] = []
        self.runs: list[Launched] = []

    def plan(self, count: int) -> list[Launched]:
        """One of every kind, if there can be, and others by chance, in random order."""
        chance = self._chance
        names = [*KINDS, *chance.choices(list(KINDS), self._weights, k=max(count - len(KINDS), 0))]
        chance.shuffle(names)
        plans = []
        for name in names:
            kind = KINDS[name]
            plan = Launched(name, f"{self._mark}n{len(self.runs) + len(plans)}", kind.timeout)
            luck = chance.random()
            if kind.held:
                plan.cancel = "runs"
            elif luck < 0.1:
                plan.cancel = "waits"
            elif luck < 0.2:
                plan.cancel = "later"
            elif luck < 0.3 and not kind.timeout:
                plan.timeout = chance.uniform(0.02, 0.6)
            plans.append(plan)
        return plans

    def run(self, plans: list[Launched]) -> None:
        """Launch them all, with the cancels; waits until all have ended."""
        self.runs += plans
        chance = random.Random(self._chance.random())
        canceller = threading.Thread(target=self._cancel_all, args=(plans, chance), name="cancels")
        with closing(Client(self._field.cluster.master_url)) as client:
            canceller.start()
            try:
                for plan in plans:
                    options = {"timeout": plan.timeout} if plan.timeout else {}
                    body = self._field.arguments(plan.tag, options=options)
                    answer = client.request("POST", f"/launch_job/mixed/{plan.kind}", json.dumps(body).encode())
                    assert answer.status in (200, 202), answer
                    plan.job = json.loads(answer.body)["data"]["job_id"]
                    if plan.cancel == "waits":
                        self._cancel(client, plan)
            finally:
                canceller.join()
        assert not self._problems, self._problems
        self._field.wait_ended([plan.job for plan in plans], SECS_OF_ONE * len(plans) + QUIET_SECS)

    def _cancel_all(self, plans: list[Launched], chance: random.Random) -> None:
        try:
            with closing(Client(self._field.cluster.master_url)) as client:
                waiting = [plan for plan in plans if plan.cancel in ("runs", "later")]
                until = time.monotonic() + SECS_OF_ONE * len(plans) + QUIET_SECS
                while waiting and time.monotonic() < until:
                    plan = chance.choice(waiting)
                    if plan.job and (plan.cancel == "later" or (self._field.directory / f"{plan.tag}.runs").exists()):
                        self._cancel(client, plan)
                        waiting.remove(plan)
                    time.sleep(0.005)
                assert not waiting, f"never cancelled: {waiting[:5]}"
        except BaseException as error:  # noqa: BLE001 - the test's thread raises it
            self._problems.append(error)

    @staticmethod
    def _cancel(client: Client, plan: Launched) -> None:
        answer = client.request("POST", f"/cancel_job/{plan.job}")
        assert answer.status in ((200,) if plan.cancel == "runs" else (200, 409)), (plan, answer)

    def check_ends(self) -> Counter[tuple[str, str]]:
        """Each has ended as it may; how many of each kind did in which way."""
        rows = self._field.rows()
        ends = [(plan, rows[plan.job]["state"], rows[plan.job]["reason"]) for plan in self.runs]
        wrong = [end for end in ends if not end[0].fits(*end[1:])]
        assert not wrong, f"{len(wrong)} of {len(ends)} ended as they should not: {wrong[:10]}"
        return Counter((plan.kind, state) for plan, state, _ in ends)

    def left_in(self, directory: Path) -> list[str]:
        """What the runs have made there."""
        return [name for name in os.listdir(directory) if self._mark in name]


def work(node: Node) -> list[str]:
    """What is in the directories of a node's runs."""
    place = node.directory / "runs" / "work"
    return [str(path) for name in ("scratch", "trash") for path in (place / name).iterdir()] + [
        str(path) for path in place.glob("trash.*")
    ]


def held(cluster: Cluster) -> dict[str, tuple[int, int, int]]:
    """By node: its processes, and the descriptors and threads of those that are there all the time."""
    found = {}
    for node in cluster.nodes:
        pids = family(node.process)
        # Those that wait for a run come and go.
        steady = [pid for pid in pids if b"node.runs.zygote" not in told(pid) or is_zygote(pid)]
        count = {what: sum(len(os.listdir(f"/proc/{pid}/{what}")) for pid in steady) for what in ("fd", "task")}
        found[node.id] = (len(pids), count["fd"], count["task"])
    return found


def no_more(now: dict[str, tuple[int, int, int]], before: dict[str, tuple[int, int, int]]) -> bool:
    """Whether no node holds more of anything than before."""
    return all(count <= was for node in now for count, was in zip(now[node], before[node], strict=True))


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(FEW, marks=pytest.mark.timeout(SECS_OF_ONE * 2 * FEW + 4 * QUIET_SECS, method="signal")),
        pytest.param(
            MANY,
            marks=[pytest.mark.soak, pytest.mark.timeout(SECS_OF_ONE * 2 * MANY + 4 * QUIET_SECS, method="signal")],
        ),
    ],
)
def test_runs_of_many_kinds_end_once_as_they_should_and_leave_nothing(
    count: int, field: Field, cluster: Cluster
) -> None:
    seed = int(os.environ.get("PULZAR_TEST_SEED") or random.SystemRandom().randrange(10**6))
    print(f"PULZAR_TEST_SEED={seed}")
    for name, text in scripts(field.mode).items():
        write(field, name, text)
    wait_for(lambda: known(cluster) >= set(KINDS), what="the scripts known")
    mix = Mix(field, seed)
    before = [set(os.listdir(place)) for place in PLACES]
    with field.finals() as finals:
        # Given nodes that have had a run of each kind
        mix.run(mix.plan(len(KINDS)))
        quiet(mix, cluster, before)
        was = held(cluster)
        # When many more come
        began = time.monotonic()
        mix.run(mix.plan(count - len(KINDS)))
        print(f"{count} runs: {time.monotonic() - began:.0f} s")
        # Then each of them has ended once, as it should
        ends = mix.check_ends()
        finals.check([plan.job for plan in mix.runs])
    print("\n".join(f"{kind:14} {state:10} {number}" for (kind, state), number in sorted(ends.items())))
    assert {state for _, state in ends} == {"completed", "failed", "cancelled"}
    # And nothing of them is left
    quiet(mix, cluster, before)
    wait_for(lambda: no_more(held(cluster), was), QUIET_SECS, f"nodes that hold what they held: {was}", pause=0.2)


PLACES = (Path("/dev/shm"), Path("/tmp"))


def quiet(mix: Mix, cluster: Cluster, before: list[set[str]]) -> None:
    """Wait until nothing of the runs is there any more: no process, no file, no semaphore."""
    wait_for(lambda: not run_processes(cluster), QUIET_SECS, "the end of every process of a run")
    for node in cluster.nodes:
        wait_for(lambda node=node: not work(node), QUIET_SECS, f"empty directories of runs, {node.id}")  # type: ignore[misc]
    for place in PLACES:
        assert mix.left_in(place) == []
    # Names that the libraries choose: those of tests beside this one come and go, too.
    for place, there in zip(PLACES, before, strict=True):
        wait_for(
            lambda place=place, there=there: not [name for name in os.listdir(place) if name not in there and BY_LIBRARIES.match(name)],  # type: ignore[misc]
            QUIET_SECS, f"no more semaphores and directories in {place}",
        )  # fmt: skip


BY_LIBRARIES = re.compile(r"sem\.mp-|psm_|pymp-|joblib_|loky-")


def write(field: Field, name: str, text: str) -> None:
    """Write a script."""
    file = field.directory / "scripts" / "mixed" / f"{name}.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)


def known(cluster: Cluster) -> set[str]:
    """The scripts that every node has said it has."""
    with closing(Client(cluster.master_url)) as client:
        rows = client.json("/admin/job_catalog")
    return {row["path"].removeprefix("mixed/") for row in rows if len(row["nodes"]) == len(cluster.nodes)}
