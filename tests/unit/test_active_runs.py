"""The runs that go on: handed to the runner with what they need, and ended when that is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.errors import SettingsError
from broker.messages.jobs import Options, Order
from broker.messages.runs import Claimed, Finished, Progress, RunEnd, RunState, Withdraw
from node.jobs import active_runs as module
from node.jobs import inputs
from node.jobs.active_runs import ActiveRuns
from node.jobs.artifacts import ArtifactStore
from node.jobs.completion import Completion
from node.jobs.service import Jobs
from node.jobs.slots import Slots
from node.runs.model import Outcome, Run, RunProgress
from tests.support import decode
from tests.unit.jobs_thread import RUNS, JobsThread


class FakeRunner:
    """Takes runs; a test says how they end."""

    def __init__(self, *_: Any, on_end: Any, on_progress: Any, **options: Any) -> None:
        self.runs: list[Run] = []
        self.cancelled: list[tuple[str, str]] = []
        self.options = options
        self.on_end: Callable[[Outcome], None] = on_end
        self.on_progress: Callable[[RunProgress], None] = on_progress
        self.gate = threading.Event()  # for the end of `stop`

    def run(self, run: Run) -> None:
        self.runs.append(run)

    def cancel(self, run: str, reason: str) -> None:
        self.cancelled.append((run, reason))

    def stop(self) -> None:
        self.gate.wait(10)


class Parts(JobsThread):
    """Active runs and what they work with."""

    def __init__(self, directory: Path, **variables: str) -> None:
        super().__init__(directory, **variables)
        completion = Completion(self.context, ArtifactStore("node-1", self.context.config), self.store_values)
        self.slots = Slots(self.link, "node-1", 2, lambda _: None)  # type: ignore[arg-type]
        self.slots.open(True)
        self.active = ActiveRuns(self.context, completion, self.slots)
        self.runner: FakeRunner = self.active._runner  # type: ignore[assignment]

    def take(self, count: int) -> None:
        """So many messages take their slots."""
        for tag in range(count):
            self.link.puller.deliver(tag)

    @property
    def wanted(self) -> int:
        """Messages that the node wants."""
        self.slots.take_ahead(0)
        self.slots.work()
        return self.link.puller.wanted

    def end(self, number: int, seconds: float = 1.0) -> None:
        """The runner says that a run has ended."""
        run = self.runner.runs[number]
        self.runner.on_end(Outcome(run, RunEnd(RunState.COMPLETED, "", 1_000, 1_000 + int(seconds * 1000))))
        self.turn()

    def ends(self) -> list[tuple[str, RunState, str]]:
        """Run, state and reason of the reports since the last call."""
        return [(one.run, one.end.state, one.end.reason) for one in self.told() if isinstance(one, Finished)]


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parts]:
    monkeypatch.setattr(module, "Runner", FakeRunner)
    made = Parts(tmp_path, PULZAR_JOBS_TIMEOUT="100", PULZAR_JOBS_MEMORY="1000000")
    yield made
    made.runner.gate.set()


def test_a_run_has_the_limits_of_its_job_or_those_of_the_node(parts: Parts) -> None:
    parts.active.begin(parts.claim(0), Order("a/b", {"n": 1}))
    options = Options(timeout=5, memory_mb=3, argv=("x",))
    parts.active.begin(parts.claim(1, attempt=2), Order("a/c", {}, options))
    first, second = parts.runner.runs
    assert first == Run(RUNS[0], 1, 1, "a/b", {"n": 1}, timeout=100.0, memory=1_000_000)
    assert second == Run(RUNS[1], 2, 2, "a/c", {}, timeout=5, memory=3 << 20, argv=("x",))


def test_a_run_that_ends_frees_its_slot_and_is_reported(parts: Parts) -> None:
    parts.take(2)
    for number in range(2):
        parts.active.begin(parts.claim(number), Order("a/b", {}))
    assert (parts.wanted, parts.active.free) == (0, 0)
    parts.end(1)
    assert (parts.wanted, parts.active.free) == (1, 1)
    assert parts.ends() == [(RUNS[1], RunState.COMPLETED, "")]


def test_the_end_of_a_run_that_nobody_wants_is_not_reported(parts: Parts) -> None:
    claim = parts.claim(0, job=0)
    parts.active.begin(claim, Order("a/b", {}))
    parts.claims.drop(claim)
    parts.end(0)
    assert (parts.ends(), parts.active.free) == ([], 2)


def test_short_runs_have_jobs_taken_ahead_and_one_that_is_given_back_ends_that(parts: Parts) -> None:
    parts.take(1)
    for number in range(100):
        claim = parts.claim(0, job=1_000 + number)
        parts.active.begin(claim, Order("a/b", {}))
        parts.runner.on_end(Outcome(parts.runner.runs[-1], RunEnd(RunState.COMPLETED, "", 1_000, 1_001)))
        parts.turn()
        parts.link.confirm()
    parts.slots.work()
    assert parts.link.puller.ahead > 0
    parts.active.gave_back()
    parts.slots.work()
    assert parts.link.puller.ahead == 0


@pytest.mark.parametrize(
    ("message", "cancelled"),
    [
        (Withdraw(7, 2, "", "no"), [0, 1]),
        (Withdraw(7, 1, "", "no"), [0]),
        (Withdraw(0, 1, RUNS[2], "no"), [2]),
        (Withdraw(7, 2, RUNS[1], "no"), [1]),
        (Withdraw(8, 9, "", "no"), []),
        (Withdraw(0, 9, "", "no"), []),
    ],
)
def test_runs_are_withdrawn_by_job_and_attempt_or_by_name(
    parts: Parts, message: Withdraw, cancelled: list[int]
) -> None:
    for number, (job, attempt) in enumerate([(7, 1), (7, 2), (0, 1)]):
        parts.active.begin(parts.claim(number, job, attempt), Order("a/b", {}))
    parts.active.withdraw(message)
    assert parts.runner.cancelled == [(RUNS[number], "no") for number in cancelled]


def test_a_run_whose_input_can_not_be_had_has_failed(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "PATIENCE_SECS", 0.0)
    parts.take(1)
    parts.active.begin(parts.claim(0), Order("a/b", {}, data="in/a"))
    parts.turn_until(lambda: parts.active.free == 2)
    ((run, state, reason),) = parts.ends()
    assert (run, state, reason[:25]) == (RUNS[0], RunState.FAILED, "in/a can't be fetched: ht")
    assert (parts.runner.runs, parts.wanted) == ([], 2)


def test_a_run_waits_for_its_input_and_gives_it_back(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[Path] = []
    monkeypatch.setattr(inputs.Inputs, "fetch", lambda *_: Path("/copy"))
    monkeypatch.setattr(inputs.Inputs, "release", lambda _, path: released.append(path))
    parts.active.begin(parts.claim(0), Order("a/b", {}, data="in/a"))
    parts.turn_until(lambda: parts.runner.runs)
    assert (parts.runner.runs[0].data_path, parts.runner.runs[0].data_key, released) == ("/copy", "in/a", [])
    parts.end(0)
    assert released == [Path("/copy")]


def test_a_run_that_is_withdrawn_while_it_waits_for_its_input_never_begins(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, released = threading.Event(), list[Path]()
    wanted: list[Callable[[], bool]] = []

    def fetch(_inputs: object, _key: str, asked: Callable[[], bool], _token: str = "") -> Path:
        wanted.append(asked)
        gate.wait(10)
        return Path("/copy")

    monkeypatch.setattr(inputs.Inputs, "fetch", fetch)
    monkeypatch.setattr(inputs.Inputs, "release", lambda _, path: released.append(path))
    parts.active.begin(parts.claim(0), Order("a/b", {}, data="in/a"))
    parts.turn_until(lambda: wanted)
    assert wanted[0]()
    parts.active.withdraw(Withdraw(1, 1, "", "cancelled"))
    assert not wanted[0]()
    parts.turn()
    assert parts.ends() == [(RUNS[0], RunState.CANCELLED, "cancelled")]
    gate.set()
    parts.turn_until(lambda: released)
    assert (parts.runner.runs, parts.runner.cancelled, parts.active.free) == ([], [], 2)


def test_what_still_runs_when_the_node_stops_is_lost(parts: Parts) -> None:
    parts.active.begin(parts.claim(0), Order("a/b", {}))
    assert not parts.active.stop(0.01)
    parts.runner.gate.set()
    assert parts.active.stop(10)
    parts.active.lose("the node was stopped")
    parts.turn()
    assert parts.ends() == [(RUNS[0], RunState.LOST, "the node was stopped")]
    assert parts.active.free == 2


def test_progress_is_told_of_jobs_that_have_an_id(parts: Parts) -> None:
    for number in range(2):
        parts.active.begin(parts.claim(number, job=number), Order("a/b", {}))
    for run in parts.runner.runs:
        parts.runner.on_progress(RunProgress(run, 1.0, 2.0, "half", b"log", 3))
    assert [decode(body, Progress) for body in parts.link.sent] == [
        Progress("node-1", RUNS[1], 1, 1, 1.0, 2.0, "half", b"log", 3)
    ]


def test_a_file_of_secrets_that_others_may_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Runner", FakeRunner)
    file = tmp_path / "secrets"
    file.write_text("[a]\nname = value\n")
    file.chmod(0o644)
    with pytest.raises(SettingsError, match=r"\[jobs\] secrets: "):
        Parts(tmp_path, PULZAR_JOBS_SECRETS=str(file))


def test_an_event_that_fails_is_logged_by_its_name_and_stops_no_other(
    parts: Parts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = Jobs(parts.context.config, "node-1", parts.link, parts.store_values)  # type: ignore[arg-type]
    claim = parts.claim(0)
    jobs._events.put(jobs._completion.report, claim)  # it has no result yet
    jobs._events.put(jobs._reports.add, Claimed(RUNS[0], 1, 1, 5, b""))
    jobs._events.put(jobs._end, False)
    jobs._work()
    (record,) = [record for record in caplog.records if record.message == "job event failed"]
    assert record.__dict__["fields"] == {"handler": "Completion.report"}
    assert parts.told() == [Claimed(RUNS[0], 1, 1, 5, b"")]
