"""What launches, reports, cancels and lost leases do to jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.messages import jobs
from broker.messages.jobs import Options, Order
from broker.messages.runs import Claimed, Finished, Named, NodeCatalog, Progress, Returned, RunState
from master.jobs.effects import Bury, NodeMessage
from master.jobs.model import Job, JobState
from master.jobs.transitions import LOG_TAIL_BYTES, MAX_PUBLISHED, retry_delay
from tests.unit.desk import NOW, Desk, published, token, withdrawn

ORDER = Order("example/job", {"number": 5})


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.ledger.close()


# Launch.


def test_a_launched_job_is_open_until_the_broker_confirms_it(desk: Desk) -> None:
    (number,), actions = desk.launch(ORDER)
    assert number == 1
    assert published(actions) == [(1, 1, "")]
    job = desk.job(1)
    assert (job.state, job.source, json.loads(job.arguments)) == (JobState.PENDING, "rest", {"number": 5})
    assert len(desk.keys("open")) == 1
    desk.confirm(1)
    assert desk.keys("open") == []
    assert desk.keys("waiting") == [b":normal\0" + (1).to_bytes(8, "big")]


def test_what_is_published_is_what_was_launched_with_its_id(desk: Desk) -> None:
    order = Order("example/job", {"text": "é\n", "list": [1, {"a": None}]}, Options(timeout=2.5), "some/key")
    _, (action,) = desk.launch(order)
    assert action.order == order._replace(id=1)  # type: ignore[union-attr]
    assert desk.job(1).order() == order._replace(id=1)


def test_the_same_unique_token_gives_the_first_jobs_id_and_publishes_nothing(desk: Desk) -> None:
    order = Order("example/job", {}, Options(unique="once"))
    ids, actions = desk.launch(order, order)
    assert ids == [1, 1]
    assert len(published(actions)) == 1
    desk.claim(1)
    desk.finish(1, RunState.FAILED)
    assert desk.launch(order) == ([1], [])
    desk.write(lambda tables: tables.remove(1))
    assert desk.launch(order)[0] == [2]


def test_a_job_bound_to_a_node_or_of_a_priority_waits_in_that_queue(desk: Desk) -> None:
    _, actions = desk.launch(Order("a/b", {}, Options(node="n2")), Order("a/b", {}, Options(priority="high")))
    assert published(actions) == [(1, 1, "n2"), (2, 1, "")]
    assert [key[:-9] for key in desk.keys("waiting")] == [b":high", b"n2:"]
    assert desk.read(lambda tables: tables.waiting_on("n2")) == 1


def test_a_job_that_no_node_can_run_fails_and_says_so(desk: Desk) -> None:
    desk.nodes = []
    assert desk.launch(ORDER) == ([1], [])
    assert desk.ends(1) == ["job.failed"]
    assert desk.job(1).reason == "no node has the script example/job"


@pytest.mark.parametrize("bound", ["", "n2"])
def test_a_helper_that_is_launched_or_published_by_hand_is_said_to_be_one(desk: Desk, bound: str) -> None:
    row = {"path": "example/job", "kind": "helper", "error": "a helper of example/main, which imports it"}
    desk.write(lambda tables: tables.save_catalog(NodeCatalog("n1", "x", [row])))
    desk.nodes = []
    wanted = "example/job is no job; it is a helper of example/main, which imports it"
    desk.launch(ORDER)
    assert desk.job(1).reason == wanted
    order = jobs.write(Order("example/job", {}, Options(node=bound)))
    effects = desk.write(
        lambda tables: desk.transitions.returned(tables, "n1", Returned(order, "it has none", token(9)), NOW)
    )
    assert effects == [Bury(order, wanted)]


def test_a_late_confirm_of_an_older_attempt_confirms_nothing(desk: Desk) -> None:
    number = desk.launched()
    desk.claim(number)
    desk.finish(number, RunState.LOST)
    desk.confirm(number, attempt=1)
    assert len(desk.keys("open")) == 1
    desk.confirm(number, attempt=2)
    assert desk.keys("open") == []


# Claims and ends.


def test_a_job_is_claimed_and_completed(desk: Desk) -> None:
    number = desk.launched()
    assert desk.claim(number, node="n2") == []
    job = desk.job(number)
    assert (job.state, job.node, job.run, job.claimed, job.lane) == (JobState.RUNNING, "n2", token(1), NOW, "")
    assert desk.finish(number, RunState.COMPLETED, node="n2") == []
    job = desk.job(number)
    assert (job.state, job.ended, job.closed, job.log_key) == (JobState.COMPLETED, NOW + 1500, NOW, "log")
    assert [(attempt.attempt, attempt.node, attempt.end.state) for attempt in job.attempts] == [(1, "n2", 0)]
    told = [event for _, event in desk.read(lambda view: view.events())]
    assert [event.type for event in told] == ["job.pending", "job.running", "job.completed"]
    assert {event.subject for event in told} == {str(number)}
    assert told[-1].data["node"] == "n2"


@pytest.mark.parametrize("attempt", [0, 2, 3, 99])
def test_reports_of_attempts_that_do_not_exist_change_nothing(desk: Desk, attempt: int) -> None:
    # Given jobs that wait in a queue, that run, that wait for a retry, and that are over
    options = Options(attempts=2, retry_delay=60)
    waiting, running, retrying, over = (desk.launched(options) for _ in range(4))
    desk.claim(running, run=1)
    desk.claim(retrying, run=2)
    desk.finish(retrying, RunState.FAILED, run=2)
    desk.claim(over, run=3)
    desk.finish(over, RunState.COMPLETED, run=3)
    numbers = (waiting, running, retrying, over)
    before = [desk.job(number) for number in numbers]
    # When a node tells of an attempt that the master has not published
    for number in numbers:
        assert withdrawn(desk.claim(number, attempt, run=77)) == [(number, attempt, token(77))]
        for state in RunState:
            assert desk.finish(number, state, attempt, run=77) == []
    # Then they are as they were, their history, too
    assert [desk.job(number) for number in numbers] == before
    # And of a job that there never was nothing is made
    assert withdrawn(desk.claim(1_000, attempt, run=77)) == [(1_000, attempt, token(77))]
    assert desk.finish(1_000, RunState.COMPLETED, attempt, run=77) == []
    assert desk.read(lambda tables: [job.id for job in tables.jobs()]) == sorted(numbers, reverse=True)


def test_an_attempt_by_hand_is_the_first_one_whatever_its_message_says(desk: Desk) -> None:
    for fields in (b'"attempt": 5', b'"id": 1'):
        order = b'{"job": "a/b", ' + fields + b"}"
        assert withdrawn(desk.claim(0, run=5, order=order)) == [(0, 1, token(5))]
    assert desk.read(lambda tables: list(tables.jobs())) == []


def test_a_claim_told_twice_changes_nothing(desk: Desk) -> None:
    number = desk.launched()
    desk.claim(number)
    before = desk.job(number)
    desk.now += 1000
    assert desk.claim(number) == []
    assert desk.job(number) == before


def test_of_two_claims_of_one_attempt_the_first_counts_and_the_other_run_is_ended(desk: Desk) -> None:
    number = desk.launched()
    desk.claim(number, run=1, node="n1")
    assert withdrawn(desk.claim(number, run=2, node="n2")) == [(number, 1, token(2))]
    assert desk.finish(number, RunState.COMPLETED, run=2, node="n2") == []
    assert desk.job(number).state is JobState.RUNNING
    assert desk.job(number).attempts[0].late
    desk.finish(number, RunState.FAILED, run=1, reason="exit status 3")
    assert (desk.job(number).state, desk.job(number).reason) == (JobState.FAILED, "exit status 3")


def test_a_claim_of_a_job_that_has_ended_or_is_unknown_is_withdrawn(desk: Desk) -> None:
    number = desk.launched()
    desk.claim(number)
    desk.finish(number, RunState.COMPLETED)
    assert withdrawn(desk.claim(number, run=2)) == [(number, 1, token(2))]
    assert withdrawn(desk.claim(77, run=3)) == [(77, 1, token(3))]
    assert desk.finish(77, RunState.COMPLETED, run=3) == []
    assert desk.job(number).state is JobState.COMPLETED


def test_an_end_whose_claim_never_came_counts(desk: Desk) -> None:
    number = desk.launched()
    desk.finish(number, RunState.COMPLETED)
    assert desk.job(number).state is JobState.COMPLETED


def test_an_end_told_twice_is_told_once(desk: Desk) -> None:
    number = desk.launched()
    desk.claim(number)
    desk.finish(number, RunState.COMPLETED)
    before = desk.job(number)
    assert desk.finish(number, RunState.COMPLETED) == []
    assert desk.job(number) == before


# Attempts.


def test_a_failed_job_is_not_retried_unless_attempts_are_given(desk: Desk) -> None:
    number = desk.launched()
    desk.claim(number)
    assert desk.finish(number, RunState.FAILED, reason="ValueError") == []
    assert desk.ends(number) == ["job.failed"]
    assert desk.job(number).state is JobState.FAILED


def test_a_failed_job_is_retried_at_once_up_to_its_attempts(desk: Desk) -> None:
    number = desk.launched(Options(attempts=2))
    desk.claim(number)
    assert published(desk.finish(number, RunState.FAILED, reason="first")) == [(number, 2, "")]
    desk.claim(number, attempt=2, run=2)
    assert desk.finish(number, RunState.FAILED, attempt=2, run=2, reason="second") == []
    assert desk.ends(number) == ["job.failed"]
    job = desk.job(number)
    assert (job.reason, job.attempt, [attempt.end.reason for attempt in job.attempts]) == (
        "second",
        2,
        ["first", "second"],
    )


def test_the_delay_doubles_with_each_attempt_and_ends_at_an_hour() -> None:
    job = Job(1, "a/b", "{}", Options(retry_delay=10), "", "rest", 0, 0)
    delays = [retry_delay(job._replace(attempt=attempt)) for attempt in (1, 2, 3, 10, 100)]
    assert delays == [10, 20, 40, 3600, 3600]
    assert retry_delay(job._replace(options=Options(), attempt=5)) == 0


def test_a_retry_with_a_delay_is_published_when_it_is_due(desk: Desk) -> None:
    number = desk.launched(Options(attempts=3, retry_delay=10))
    desk.claim(number)
    assert desk.finish(number, RunState.FAILED) == []
    assert (desk.job(number).state, desk.job(number).due) == (JobState.PENDING, NOW + 10_000)
    desk.now += 9_999
    assert desk.tick() == []
    desk.now += 1
    assert published(desk.tick()) == [(number, 2, "")]
    assert desk.tick() == []


def test_a_lost_run_is_tried_again_at_once_three_times_in_all(desk: Desk) -> None:
    number = desk.launched(Options(retry_delay=60))
    for attempt in (1, 2):
        desk.claim(number, attempt, run=attempt)
        assert published(desk.finish(number, RunState.LOST, attempt, run=attempt)) == [(number, attempt + 1, "")]
    desk.claim(number, 3, run=3)
    desk.finish(number, RunState.LOST, 3, run=3, reason="the agent ended")
    assert (desk.job(number).state, desk.job(number).reason) == (JobState.FAILED, "the agent ended (attempt 3 of 3)")


def test_given_attempts_count_for_lost_runs_too(desk: Desk) -> None:
    number = desk.launched(Options(attempts=1))
    desk.claim(number)
    desk.finish(number, RunState.LOST, reason="gone")
    assert (desk.job(number).state, desk.job(number).reason) == (JobState.FAILED, "gone")


def test_a_result_of_an_attempt_that_was_given_up_is_kept_as_late_and_changes_nothing(desk: Desk) -> None:
    number = desk.launched()
    desk.claim(number)
    actions = desk.write(lambda tables: desk.transitions.lost(tables, desk.job(number), "frozen", NOW))
    assert withdrawn(actions) == [(number, 1, "")]
    desk.confirm(number, 2)
    desk.claim(number, attempt=2, run=2, node="n2")
    assert desk.finish(number, RunState.COMPLETED, attempt=1, run=1) == []
    assert desk.finish(number, RunState.COMPLETED, attempt=1, run=1) == []
    job = desk.job(number)
    assert (job.state, job.run) == (JobState.RUNNING, token(2))
    assert [(attempt.end.state, attempt.late) for attempt in job.attempts] == [(3, False), (0, True)]


def test_a_claim_of_an_older_attempt_does_not_run_for_the_one_that_is_pending(desk: Desk) -> None:
    number = desk.launched()
    desk.claim(number)
    desk.finish(number, RunState.LOST)
    assert withdrawn(desk.claim(number, attempt=1, run=2)) == [(number, 1, token(2))]
    assert desk.job(number).state is JobState.PENDING


# Cancel.


def test_a_pending_job_is_cancelled_at_once_and_its_message_withdrawn(desk: Desk) -> None:
    number = desk.launched()
    text, actions = desk.cancel(number)
    assert (desk.job(number).state, text) == (JobState.CANCELLED, f"Job {number} cancelled")
    assert withdrawn(actions) == [(number, 1, "")]
    assert desk.withdrawn("n2") == [(number, 1)]
    assert withdrawn(desk.claim(number)) == [(number, 1, token(1))]
    desk.finish(number, RunState.COMPLETED)
    assert desk.job(number).state is JobState.CANCELLED


def test_a_job_that_waits_for_its_retry_is_cancelled_and_there_is_no_message_to_withdraw(desk: Desk) -> None:
    number = desk.launched(Options(attempts=2, retry_delay=5))
    desk.claim(number)
    desk.finish(number, RunState.FAILED)
    _, actions = desk.cancel(number)
    assert (actions, desk.ends(number)) == ([], ["job.cancelled"])
    desk.now += 60_000
    assert desk.tick() == []


def test_a_running_job_is_cancelled_when_its_node_says_so(desk: Desk) -> None:
    number = desk.launched(Options(attempts=5))
    desk.claim(number)
    text, actions = desk.cancel(number)
    assert text == f"Job {number} is being stopped"
    assert withdrawn(actions) == [(number, 1, "")]
    assert (desk.job(number).state, desk.job(number).cancelling) == (JobState.RUNNING, True)
    desk.finish(number, RunState.CANCELLED)
    assert (desk.job(number).state, desk.job(number).cancelling) == (JobState.CANCELLED, False)


@pytest.mark.parametrize(
    ("attempts", "state", "final"),
    [
        (0, RunState.COMPLETED, JobState.COMPLETED),
        (0, RunState.FAILED, JobState.FAILED),
        (2, RunState.FAILED, JobState.CANCELLED),
        (0, RunState.LOST, JobState.CANCELLED),
        (1, RunState.LOST, JobState.CANCELLED),
    ],
)
def test_a_job_that_is_being_cancelled_is_not_tried_again(
    desk: Desk, attempts: int, state: RunState, final: JobState
) -> None:
    number = desk.launched(Options(attempts=attempts))
    desk.claim(number)
    desk.cancel(number)
    assert published(desk.finish(number, state)) == []
    assert desk.job(number).state is final


# Jobs published by hand.


def test_a_job_published_by_hand_gets_an_id_and_its_node_is_told(desk: Desk) -> None:
    raw = b'{"job": "example/job", "arguments": {"number": 5}, "options": {"attempts": 2}}'
    assert desk.claim(0, run=7, node="n2", order=raw) == [NodeMessage("n2", Named(token(7), 1))]
    assert desk.claim(0, run=7, node="n2", order=raw) == [NodeMessage("n2", Named(token(7), 1))]
    job = desk.job(1)
    assert (job.source, job.state, job.arguments) == ("queue", JobState.RUNNING, '{"number":5}')
    # The node may not know the id yet when the run has ended.
    assert published(desk.finish(0, RunState.FAILED, run=7, node="n2")) == [(1, 2, "")]
    assert desk.claim(0, run=7, node="n2", order=raw) == [NodeMessage("n2", Named(token(7), 1))]
    desk.claim(1, attempt=2, run=8)
    desk.finish(1, RunState.COMPLETED, attempt=2, run=8)
    assert desk.job(1).state is JobState.COMPLETED


def test_of_two_jobs_by_hand_with_one_unique_token_one_runs(desk: Desk) -> None:
    raw = b'{"job": "example/job", "options": {"unique": "t"}}'
    desk.claim(0, run=1, order=raw)
    assert withdrawn(desk.claim(0, run=2, order=raw)) == [(0, 1, token(2))]


@pytest.mark.parametrize(
    "raw", [b"", b"junk", b'{"job": 5}', b'{"job": "a/b", "arguments": {"x": 1' + b"0" * 30 + b"}}"]
)
def test_a_claim_of_what_is_no_job_is_withdrawn_and_writes_nothing(desk: Desk, raw: bytes) -> None:
    assert withdrawn(desk.claim(0, run=1, order=raw)) == [(0, 1, token(1))]
    assert desk.keys("jobs") == []


def test_a_job_given_back_goes_to_another_node_until_there_is_none(desk: Desk) -> None:
    number = desk.launched()
    order = jobs.write(desk.job(number).order())

    def give_back(node: str) -> list[tuple[int, int, str]]:
        return published(
            desk.write(
                lambda tables: desk.transitions.returned(
                    tables, node, Returned(order, "no such script", token(9)), desk.now
                )
            )
        )

    assert give_back("n1") == [(number, 1, "n2")]
    desk.nodes = ["n2"]
    assert give_back("n2") == []
    assert (desk.job(number).state, desk.job(number).reason) == (JobState.FAILED, "node n2: no such script")
    assert give_back("n2") == []


def test_a_job_by_hand_that_is_given_back_is_listed_and_goes_to_another_node(desk: Desk) -> None:
    def give_back(number: int) -> list[tuple[int, int, str]]:
        report = Returned(b'{"job": "example/job"}', "no such script", token(number))
        return published(desk.write(lambda tables: desk.transitions.returned(tables, "n1", report, NOW)))

    assert give_back(1) == [(1, 1, "n2")]
    assert desk.job(1).source == "queue"
    assert give_back(1) == []  # the same, told twice
    assert give_back(2) == [(2, 1, "n2")]


def test_a_job_that_is_given_back_again_and_again_fails(desk: Desk) -> None:
    number = desk.launched()
    order = jobs.write(desk.job(number).order())
    for turn in range(MAX_PUBLISHED + 3):
        node = f"n{1 + turn % 2}"
        desk.write(
            lambda tables, node=node: desk.transitions.returned(tables, node, Returned(order, "none", token(9)), NOW)
        )  # type: ignore[misc]
    assert desk.job(number).state is JobState.FAILED
    assert "given up" in desk.job(number).reason


# Progress.


def progress(desk: Desk, number: int, log: bytes, offset: int, run: int = 1, done: float = 1) -> None:
    report = Progress("n1", token(run), number, 1, done, 10, "going", log, offset)
    desk.write(lambda tables: desk.transitions.progress(tables, report))


def live_log(desk: Desk, number: int) -> bytes:
    live = desk.read(lambda tables: tables.progress(number))
    return live.log if live else b"-"


def test_the_end_of_the_log_grows_and_pieces_told_twice_or_missing_do_no_harm(desk: Desk) -> None:
    number = desk.launched()
    progress(desk, number, b"too early", 0)
    assert live_log(desk, number) == b"-"
    desk.claim(number)
    progress(desk, number, b"one ", 0)
    progress(desk, number, b"two ", 4)
    progress(desk, number, b"two ", 4)
    progress(desk, number, b"o three", 6)
    assert live_log(desk, number) == b"one two three"
    progress(desk, number, b"after a gap", 100)
    assert live_log(desk, number) == b"after a gap"
    progress(desk, number, b"x" * 100_000, 111)
    assert live_log(desk, number) == b"x" * LOG_TAIL_BYTES
    progress(desk, number, b"of another run", 0, run=2)
    assert live_log(desk, number) == b"x" * LOG_TAIL_BYTES


def test_the_last_progress_stays_with_the_job_and_the_live_log_goes(desk: Desk) -> None:
    number = desk.launched()
    desk.claim(number)
    progress(desk, number, b"log", 0, done=7)
    desk.finish(number, RunState.COMPLETED)
    assert desk.job(number).progress == (7, 10, "going")
    assert live_log(desk, number) == b"-"


def test_progress_of_a_job_by_hand_is_found_by_its_run(desk: Desk) -> None:
    desk.claim(0, run=1, order=b'{"job": "example/job"}')
    progress(desk, 0, b"log", 0)
    assert live_log(desk, 1) == b"log"


def test_messages_fit_their_codec() -> None:
    # The rules take these as they come off the wire.
    assert Claimed._fields == ("run", "id", "attempt", "at", "order")
    assert Finished._fields[:4] == ("run", "id", "attempt", "end")
