"""What follows the end of a run: artifacts become keys, then its report is sent until the broker has it."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest

from broker.messages.runs import NO_PROGRESS, Claimed, Finished, Named, Returned, RunEnd, RunState
from broker.messages.store import Status
from node.errors import StorageError
from node.jobs import completion as completion_module
from node.jobs import reports as reports_module
from node.jobs.artifacts import ArtifactStore
from node.jobs.claims import Claim, Claims, RunResult
from node.jobs.completion import Completion
from node.jobs.job_ids import JobIds
from node.runs.model import Outcome, Run
from tests.unit.jobs_thread import RUNS, JobsThread

FINE = RunEnd(RunState.COMPLETED, "", 1_000, 2_000)


class Parts(JobsThread):
    """A completion and what it works with."""

    def __init__(self, directory: Path, **variables: str) -> None:
        super().__init__(directory, **variables)
        artifacts = ArtifactStore("node-1", self.context.config)
        self.completion = Completion(self.context, artifacts, self.store_values)
        self.job_ids = JobIds(self.context, self.completion)

    def run_ended(self, claim: Claim, log: bytes = b"", output: bytes = b"", end: RunEnd = FINE) -> None:
        """The runner says so."""
        run = Run(claim.run, claim.id, claim.attempt, "a/b", {})
        self.completion.run_ended(claim, Outcome(run, end, log, output, (1, None, "half \ud800")))
        self.store_ended()

    def store_ended(self) -> None:
        self.completion.store()


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


def test_a_run_is_reported_when_its_artifacts_are_keys(parts: Parts) -> None:
    claim = parts.claim(0)
    parts.run_ended(claim, b"a log", b"5")
    parts.turn()
    assert parts.told() == []
    assert [store.value for stores, _ in parts.stores for store in stores] == [b"a log", b"5"]
    parts.stored()
    parts.turn()
    keys = ("jobs/1/1/log.txt", "jobs/1/1/output.json")
    assert parts.told() == [Finished(RUNS[0], 1, 1, FINE, *keys, (1.0, 0.0, "half ?"))]
    # Only now nothing is left to be done
    assert not parts.completion.idle
    assert claim.run in parts.claims.open
    parts.link.confirm()
    parts.turn()
    assert parts.completion.idle
    assert not parts.claims.open


def test_a_run_without_artifacts_is_reported_at_once(parts: Parts) -> None:
    parts.run_ended(parts.claim(0), end=RunEnd(RunState.FAILED, "x" * 5_000, 1_000, 2_000))
    parts.turn()
    (report,) = parts.told()
    assert isinstance(report, Finished)
    assert (report.end.state, report.end.reason) == (RunState.FAILED, "x" * 1_000)
    assert (report.log_key, report.output_key) == ("", "")


def test_an_artifact_that_the_storage_refuses_is_named_in_the_reason(parts: Parts) -> None:
    parts.run_ended(parts.claim(0), b"a log")
    parts.stored(Status.FULL, "no room")
    parts.turn()
    (report,) = parts.told()
    assert isinstance(report, Finished)
    assert (report.end.reason, report.log_key) == ("its log.txt could not be kept: no room", "")


def test_a_large_artifact_is_in_a_file_before_its_run_counts_as_ended(parts: Parts) -> None:
    claim = parts.claim(0)
    large = b"x" * 100_000
    parts.run_ended(claim, large, b"1")
    assert not parts.completion.idle
    parts.turn_until(lambda: claim.result)
    assert claim.result is not None
    ((stores, _),) = parts.stores
    assert (stores[0].value, stores[0].size) == (None, 100_000)
    assert large in (parts.directory / "staging" / stores[0].staged).read_bytes()
    assert stores[1].value == b"1"
    # and a start of the agent in between loses neither
    assert Claims(parts.directory / "runs").open[RUNS[0]].result == RunResult(FINE, progress=(1.0, 0.0, "half ?"))


def test_a_large_artifact_without_room_is_named_in_the_reason(tmp_path: Path) -> None:
    parts = Parts(tmp_path, PULZAR_VOLUME_RESERVE=str(1 << 40))
    parts.run_ended(parts.claim(0), b"x" * 100_000, b"1", RunEnd(RunState.FAILED, "exit status 3", 1_000, 2_000))
    parts.turn_until(lambda: parts.stores)
    parts.stored()
    parts.turn()
    (report,) = parts.told()
    assert isinstance(report, Finished)
    assert report.end.reason.startswith("exit status 3; its log could not be kept: ")
    assert (report.log_key, report.output_key) == ("", "jobs/1/1/output.json")


def test_a_report_that_found_no_queue_is_sent_again(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    parts.run_ended(parts.claim(0))
    parts.turn()
    first = parts.told()
    parts.link.confirm(sent=False)
    parts.turn()
    assert parts.told() == []
    monkeypatch.setattr(reports_module, "RESEND_SECS", 0.0)
    parts.context.reports.tick()
    parts.turn()
    assert parts.told() == first
    parts.link.confirm()
    parts.turn()
    assert not parts.claims.open


def test_a_run_nobody_saw_end_is_lost(parts: Parts) -> None:
    claim = parts.claim(0)
    parts.completion.lose(claim, "the node was stopped")
    parts.turn()
    (report,) = parts.told()
    assert isinstance(report, Finished)
    assert (report.end.state, report.end.reason, report.end.started) == (RunState.LOST, "the node was stopped", 1_000)
    assert report.end.ended > report.end.started


def test_a_job_without_an_id_waits_for_its_name(parts: Parts) -> None:
    claim = parts.claim(0, job=0)
    parts.run_ended(claim, b"a log")
    parts.turn()
    assert (parts.told(), parts.stores, parts.completion.idle) == ([], [], True)
    for message in (Named(RUNS[1], 5), Named(RUNS[0], 0)):  # of another run, and none
        parts.job_ids.named(message)
    assert not parts.stores
    parts.job_ids.named(Named(RUNS[0], 77))
    parts.job_ids.named(Named(RUNS[0], 78))  # the first one counts
    parts.store_ended()
    parts.stored()
    parts.turn()
    (report,) = parts.told()
    assert isinstance(report, Finished)
    assert (report.id, report.log_key) == (77, "jobs/77/1/log.txt")


def test_artifacts_that_can_not_be_read_any_more_are_named_in_the_reason(parts: Parts) -> None:
    claim = parts.claim(0, job=0)
    parts.run_ended(claim, b"a log")
    parts.turn()
    path = parts.directory / "runs" / "claims.log"
    path.write_bytes(path.read_bytes()[:-8] + b"damaged!")
    parts.job_ids.named(Named(RUNS[0], 77))
    parts.turn()
    (report,) = parts.told()
    assert isinstance(report, Finished)
    assert report.end.reason.startswith("its log and output could not be kept: claims.log is damaged")


def test_the_master_is_asked_for_ids_again_and_less_often(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    parts.claim(0, job=0)
    parts.claim(1)
    asked = []
    for _ in range(70):
        parts.job_ids.tick()
        parts.turn()
        asked += [(now, report) for report in parts.told()]
        now += 1
    assert [when for when, _ in asked] == [100.0, 110.0, 130.0]
    assert {report for _, report in asked} == {Claimed(RUNS[0], 0, 1, 1_000, b"order")}
    parts.job_ids.ask_now()
    parts.job_ids.tick()
    parts.turn()
    assert len(parts.told()) == 1


def test_a_job_whose_order_is_lost_does_not_keep_others_from_their_ids(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        parts.claim(number, job=0, order=json.dumps(number).encode())
    read = parts.claims.order

    def order(claim: Claim) -> bytes:
        if claim.run == RUNS[0]:
            raise StorageError("claims.log is damaged at byte 0")
        return read(claim)

    monkeypatch.setattr(parts.claims, "order", order)
    parts.job_ids.tick()
    parts.turn()
    assert parts.told() == [Claimed(RUNS[number], 0, 1, 1_000, b"%d" % number) for number in (1, 2)]
    assert list(parts.claims.open) == RUNS[1:3]


def test_what_ends_while_more_jobs_wait_is_stored_and_reported_together(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given runs that end one after the other
    claims = [parts.claim(number) for number in range(3)]
    for claim in claims:
        parts.completion.run_ended(
            claim, Outcome(Run(claim.run, claim.id, 1, "a/b", {}), FINE, b"log", b"", NO_PROGRESS)
        )
        # When more jobs wait for their slots, then nothing is stored yet
        parts.completion.store(more=True)
        assert not parts.stores
    # But by and by it is, all at once
    monkeypatch.setattr(completion_module, "GROUP_SECS", 0.0)
    parts.completion.store(more=True)
    ((stores, _),) = parts.stores
    assert len(stores) == 3
    parts.stored()
    parts.turn()
    reports = parts.told()
    assert [report.log_key for report in reports if isinstance(report, Finished)] == [
        f"jobs/{claim.id}/1/log.txt" for claim in claims
    ]


def test_reports_wait_for_each_other_while_more_jobs_wait_and_no_longer(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = parts.context.reports
    first, second = parts.claim(0), parts.claim(1)
    reports.add(first.report(b""))
    reports.send(more=True)
    assert (parts.told(), reports.due) != ([], math.inf)
    assert time.monotonic() < reports.due <= time.monotonic() + reports_module.GROUP_SECS
    # The end of a run says that it was claimed, unless nobody has given its job an id
    by_hand = parts.claim(2, job=0)
    reports.add(by_hand.report(b"order"))
    reports.add(second.report(b""))
    reports.add(Finished(first.run, first.id, 1, FINE))
    reports.add(Finished(by_hand.run, 0, 1, FINE))
    monkeypatch.setattr(reports_module, "GROUP_SECS", 0.0)
    reports.send(more=True)
    assert [(type(report), report.run) for report in parts.told() if not isinstance(report, Returned)] == [
        (Claimed, by_hand.run),
        (Claimed, second.run),
        (Finished, first.run),
        (Finished, by_hand.run),
    ]
    assert reports.due == math.inf
    # And at once when there are no more
    reports.add(first.report(b""))
    reports.send()
    assert len(parts.told()) == 1
