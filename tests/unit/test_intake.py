"""What comes from the queues of jobs is claimed, dropped, buried, or given back."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from broker.messages import jobs
from broker.messages.jobs import Options, Order
from broker.messages.runs import Claimed, Finished, Returned, RunEnd, RunState, Withdrawn
from node.jobs import intake as module
from node.jobs.catalog import Catalog
from node.jobs.claims import Claims
from node.jobs.intake import Intake
from tests.unit.jobs_thread import JobsThread

BY_HAND = b'{"job": "a/b"}'


class Parts(JobsThread):
    """An intake and what it works with; the node has the script a/b."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        (directory / "scripts" / "a").mkdir(parents=True)
        (directory / "scripts" / "a" / "b.py").write_text("")
        self.intake = Intake(self.context, Catalog(directory / "scripts"))
        self.intake.link_up()
        self.intake.withdrawn(Withdrawn([]))
        self.work()

    @property
    def done(self) -> list[tuple[str, int]]:
        """What became of messages, by their tags."""
        return self.link.puller.done

    def work(self) -> None:
        """A turn of the jobs thread, and one of the link's."""
        self.turn()
        self.intake.slots.work()

    def deliver(
        self, tag: int, job: str = "a/b", attempt: int = 1, options: Options | None = None, **fields: Any
    ) -> None:
        """A job of the master with the number of its tag comes."""
        body = jobs.write(Order(job, {}, options or Options(), id=tag, attempt=attempt))
        headers = jobs.seal(self.context.config.secret(), body)
        self.link.puller.deliver(tag, body, headers=headers, **fields)
        self.work()

    def deliver_by_hand(self, tag: int, body: bytes = BY_HAND, redelivered: bool = False) -> None:
        """A job that somebody has published by hand comes."""
        self.link.puller.deliver(tag, body, redelivered=redelivered)
        self.work()

    def claim_all(self, free: int = 2) -> list[tuple[int, str]]:
        """Claim what has come; id and run of the jobs to be run."""
        claimed = [(order.id, claim.run) for claim, order in self.intake.claim(free)]
        self.work()
        return claimed


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


def test_jobs_are_claimed_durably_then_acknowledged_and_reported(parts: Parts) -> None:
    parts.deliver(7, attempt=3)
    parts.deliver_by_hand(8)
    assert parts.done == []
    (job, run), (no_job, other) = parts.claim_all()
    assert (job, no_job) == (7, 0)
    assert parts.done == [("ack", 7), ("ack", 8)]
    claims = parts.claims.open
    assert parts.told() == [
        Claimed(run, 7, 3, claims[run].at, b""),
        Claimed(other, 0, 1, claims[other].at, BY_HAND),
    ]
    again = Claims(parts.directory / "runs")
    assert [(claim.id, claim.attempt) for claim in again.open.values()] == [(7, 3), (0, 1)]
    assert again.order(again.open[other]) == BY_HAND


def test_no_more_jobs_are_claimed_than_slots_are_free(parts: Parts) -> None:
    for number in (1, 2, 3):
        parts.deliver(number)
    assert [job for job, _ in parts.claim_all(2)] == [1, 2]
    assert parts.claim_all(0) == []
    assert [job for job, _ in parts.claim_all(1)] == [3]


def test_jobs_ahead_of_free_slots_are_given_back_when_they_have_waited(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.deliver(1)
    parts.deliver(2)
    parts.claim_all(1)
    assert not parts.intake.give_back_ahead()
    monkeypatch.setattr(module, "HOLD_SECS", 0.0)
    assert parts.intake.give_back_ahead()
    assert not parts.intake.give_back_ahead()
    parts.work()
    assert parts.done == [("ack", 1), ("back", 2)]
    assert parts.claim_all() == []


def test_what_is_no_job_is_buried(parts: Parts) -> None:
    parts.deliver_by_hand(1, b'{"job": 5}')
    forged = jobs.write(Order("a/b", {}, id=9))
    parts.deliver_by_hand(2, forged)
    assert [tag for tag, _ in parts.link.buried] == [1, 2]
    assert "5 is no job" in parts.link.buried[0][1]
    assert "has not the seal" in parts.link.buried[1][1]
    assert parts.done == [("ack", 1), ("ack", 2)]
    assert parts.claim_all() == []


@pytest.mark.parametrize(
    ("job", "options", "reason"),
    [
        ("a/c", Options(), "it has no script a/c"),
        ("a/b", Options(node="node-2"), "it is not node-2, which the job is for"),
    ],
)
@pytest.mark.parametrize("sent", [True, False])
def test_a_job_that_can_not_run_here_is_reported_and_only_then_gone(
    parts: Parts, job: str, options: Options, reason: str, sent: bool
) -> None:
    parts.deliver(1, job, options=options)
    (report,) = parts.told()
    assert isinstance(report, Returned)
    assert (json.loads(json.dumps(jobs.read(report.order, sealed=True).job)), report.reason) == (job, reason)
    assert parts.done == []
    parts.link.confirm(sent)
    parts.work()
    assert parts.done == [("ack" if sent else "back", 1)]


def test_a_withdrawn_job_is_dropped_whether_it_comes_before_or_after(parts: Parts) -> None:
    parts.intake.withdraw(1, 2)
    parts.deliver(1, attempt=2)
    parts.deliver(1, attempt=3)
    parts.deliver(2)
    parts.intake.withdraw(2, 1)
    parts.work()
    assert parts.done == [("ack", 1), ("ack", 2)]
    assert [job for job, _ in parts.claim_all()] == [1]


def test_a_job_that_comes_twice_runs_once(parts: Parts) -> None:
    parts.deliver(1)
    parts.deliver(1)
    assert parts.done == [("ack", 1)]
    ((_, run),) = parts.claim_all()
    parts.deliver(1, redelivered=True)
    assert parts.done == [("ack", 1)] * 3
    parts.told()
    # When it is over, that is reported once more
    finished = Finished(run, 1, 1, RunEnd(RunState.COMPLETED, "", 1, 2))
    parts.claims.report(finished)
    parts.deliver(1)
    assert parts.told() == [finished]
    assert parts.claim_all() == []


def test_a_message_without_an_id_is_known_again_if_the_broker_was_not_told(parts: Parts) -> None:
    parts.link.puller.connected = False
    parts.deliver_by_hand(1)
    ((_, run),) = parts.claim_all()
    parts.work()
    assert not parts.claims.open[run].acknowledged
    parts.link.puller.connected = True
    parts.deliver_by_hand(2, redelivered=True)
    assert parts.claim_all() == []
    # The same order once more is another job
    parts.deliver_by_hand(3, redelivered=True)
    ((_, other),) = parts.claim_all()
    parts.work()
    assert parts.claims.open[other].acknowledged


def test_a_claim_of_the_last_process_is_known_again(parts: Parts) -> None:
    parts.intake.expect_again(parts.claim(0, job=0, order=BY_HAND))
    parts.deliver_by_hand(1, redelivered=True)
    assert (parts.claim_all(), parts.done) == ([], [("ack", 1)])


def test_without_a_connection_what_was_not_claimed_is_forgotten(parts: Parts) -> None:
    parts.deliver(1)
    parts.intake.link_down()
    parts.intake.link_up()
    parts.work()
    assert parts.claim_all() == []
    assert (parts.done, parts.link.puller.wanted) == ([], 2)
    parts.deliver(1, redelivered=True)
    assert [job for job, _ in parts.claim_all()] == [1]


def test_a_disk_that_takes_no_claims_stops_the_intake_until_it_does(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRY_SECS", 0.0)
    for number in (1, 2, 3):
        parts.deliver(number)
    with monkeypatch.context() as broken:

        def fails(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        broken.setattr(os, "pwrite", fails)
        assert parts.claim_all() == []
        assert parts.done == [("back", 1), ("back", 2), ("back", 3)]
        parts.intake.tick()
        parts.intake.withdrawn(Withdrawn([]))
        parts.work()
        assert parts.link.puller.wanted == 0
    parts.intake.tick()
    parts.work()
    assert (parts.link.puller.wanted, parts.told()) == (2, [])
    parts.deliver(1)
    assert [job for job, _ in parts.claim_all()] == [1]


def test_jobs_are_taken_when_the_master_has_said_which_are_withdrawn_or_after_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for secs, wanted in ((60.0, 0), (0.0, 2)):
        monkeypatch.setattr(module, "WITHDRAWN_SECS", secs)
        thread = JobsThread(tmp_path)
        intake = Intake(thread.context, Catalog(tmp_path / "scripts"))
        intake.tick()
        intake.link_up()
        intake.tick()
        intake.slots.work()
        assert thread.link.puller.wanted == wanted
    monkeypatch.setattr(module, "WITHDRAWN_SECS", 60.0)
    thread = JobsThread(tmp_path)
    intake = Intake(thread.context, Catalog(tmp_path / "scripts"))
    intake.link_up()
    intake.withdrawn(Withdrawn([(1, 1)]))
    intake.slots.work()
    assert thread.link.puller.wanted == 2


def test_an_intake_that_is_closed_claims_nothing(parts: Parts) -> None:
    parts.deliver(1)
    parts.intake.close()
    parts.deliver(2)
    parts.intake.withdrawn(Withdrawn([]))
    parts.work()
    assert parts.claim_all() == []
    assert (parts.link.puller.wanted, parts.done, parts.claims.open) == (0, [], {})
