"""The ledger: rows, lists and everything that follows from a row."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.messages.jobs import Options
from broker.messages.runs import RunEnd, RunState
from master.errors import IndexUnusable
from master.jobs.ledger import Ledger, List
from master.jobs.model import MAY_FOLLOW, Attempt, Job, JobProgress, JobState, Schedule, ScheduleState, lane

DERIVED = ("lists", "executions", "due", "open", "waiting", "closed")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger", write=True, map_size=64 << 20)
    yield ledger
    ledger.close()


def job(number: int, schedule: int = 0, unique: str = "") -> Job:
    return Job(number, "example/job", '{"a":"é"}', Options(unique=unique), "", "rest", schedule, 1_000)


def test_ids_rise_by_one_from_one_also_after_a_restart(ledger: Ledger, tmp_path: Path) -> None:
    with ledger.begin(write=True) as txn:
        assert [ledger.next_id(txn) for _ in range(3)] == [1, 2, 3]
    ledger.close()
    again = Ledger(tmp_path / "ledger", write=True, map_size=64 << 20)
    with again.begin(write=True) as txn:
        assert again.next_id(txn) == 4
    again.close()


def test_an_id_given_in_a_transaction_that_is_aborted_is_given_again(ledger: Ledger) -> None:
    txn = ledger.begin(write=True)
    ledger.next_id(txn)
    txn.abort()
    with ledger.begin(write=True) as txn:
        assert ledger.next_id(txn) == 1


def test_a_job_comes_back_as_it_was_written(ledger: Ledger) -> None:
    attempt = Attempt(1, "n1", "ab", RunEnd(RunState.LOST, "gone", 5, 6), True)
    written = job(1)._replace(attempts=(attempt,), progress=(1.0, 2.0, "half"), cancelling=True, closed=7)
    with ledger.begin(write=True) as txn:
        ledger.save(txn, None, written)
        assert ledger.job(txn, 1) == written
        read = ledger.job(txn, 1)
    assert read
    assert isinstance(read.state, JobState)
    assert isinstance(read.options, Options)
    assert isinstance(read.attempts[0], Attempt)
    assert isinstance(read.attempts[0].end.state, RunState)


def test_every_row_follows_the_job_through_its_states(ledger: Ledger) -> None:
    steps = [
        job(1, schedule=9)._replace(lane=lane("", "normal")),
        job(1, schedule=9)._replace(lane=lane("", "normal"), confirmed=5),
        job(1, schedule=9)._replace(state=JobState.RUNNING),
        job(1, schedule=9)._replace(due=77, attempt=2),
        job(1, schedule=9)._replace(lane=lane("n1", "normal"), attempt=2),
        job(1, schedule=9)._replace(state=JobState.RUNNING, attempt=2),
        job(1, schedule=9)._replace(state=JobState.COMPLETED, closed=99),
    ]
    sizes = []
    with ledger.begin(write=True) as txn:
        for old, new in itertools.pairwise([None, *steps]):
            assert new
            ledger.save(txn, old, new)
            sizes.append({name: len(list(ledger.up(txn, name))) for name in DERIVED})
            assert ledger.waiting_on(txn, "n1") == (new.lane == "n1:")
    assert [tuple(size.values()) for size in sizes] == [
        # lists, executions, due, open, waiting, closed
        (1, 2, 0, 1, 1, 0),
        (1, 2, 0, 0, 1, 0),
        (2, 2, 0, 0, 0, 0),
        (1, 2, 1, 0, 0, 0),
        (1, 2, 0, 1, 1, 0),
        (2, 2, 0, 0, 0, 0),
        (1, 4, 0, 0, 0, 1),
    ]


def test_a_final_state_can_not_be_left(ledger: Ledger) -> None:
    for state in JobState:
        assert state.final == (state in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED))
        for other in set(JobState) - MAY_FOLLOW[state] - {state}:
            with ledger.begin(write=True) as txn, pytest.raises(ValueError, match="can't become"):
                ledger.save(txn, job(1)._replace(state=state), job(1)._replace(state=other))


def test_lists_are_newest_first_and_go_on_before_an_id(ledger: Ledger) -> None:
    with ledger.begin(write=True) as txn:
        for number in range(1, 300):
            state = JobState.COMPLETED if number % 3 == 0 else JobState.PENDING
            ledger.save(txn, None, job(number)._replace(state=state))
    with ledger.begin() as txn:
        assert list(itertools.islice(ledger.listed(txn, List.READY), 3)) == [297, 294, 291]
        assert list(itertools.islice(ledger.listed(txn, List.READY, before=291), 2)) == [288, 285]
        assert list(itertools.islice(ledger.listed(txn, List.READY, before=290), 1)) == [288]
        assert list(ledger.listed(txn, List.READY, before=3)) == []
        assert list(ledger.listed(txn, List.FAILED)) == []
        assert [found.id for found in itertools.islice(ledger.jobs(txn), 2)] == [299, 298]
        assert [found.id for found in ledger.jobs(txn, before=3)] == [2, 1]
        assert ledger.count(txn, List.READY) == 99
        assert ledger.count(txn, List.PENDINGS) == 200


def test_executions_are_listed_by_schedule_and_outcome(ledger: Ledger) -> None:
    outcomes = {3: JobState.COMPLETED, 4: JobState.FAILED, 5: JobState.CANCELLED, 6: JobState.PENDING}
    with ledger.begin(write=True) as txn:
        for number, state in outcomes.items():
            ledger.save(txn, None, job(number, schedule=1 + number % 2)._replace(state=state))
        assert list(ledger.executions(txn, List.ALL)) == [6, 5, 4, 3]
        assert list(ledger.executions(txn, List.ALL, schedule=1)) == [6, 4]
        assert list(ledger.executions(txn, List.READY)) == [3]
        assert list(ledger.executions(txn, List.FAILED)) == [5, 4]
        assert list(ledger.executions(txn, List.FAILED, schedule=2)) == [5]
        assert list(ledger.executions(txn, List.FAILED, before=5)) == [4]


def test_nothing_stays_behind_when_a_job_is_removed(ledger: Ledger) -> None:
    attempt = Attempt(1, "n1", "ab", RunEnd(RunState.FAILED, "", 1, 2), False)
    with ledger.begin(write=True) as txn:
        done = job(1, schedule=5, unique="t")._replace(state=JobState.FAILED, closed=9, run="cd", attempts=(attempt,))
        ledger.save(txn, None, done)
        ledger.keep_token(txn, "t", 1)
        for run in ("ab", "cd"):
            ledger.keep_run(txn, run, 1)
        ledger.save_live(txn, 1, JobProgress("cd", (0.0, 0.0, ""), b"", 0))
        ledger.withdraw(txn, done._replace(lane=":normal"), 1)
        ledger.remove(txn, 1)
        ledger.remove(txn, 1)
        left = {name: list(ledger.up(txn, name)) for name in ledger.db if name != "meta"}
        assert not any(left.values()), left
        assert ledger.count(txn, List.FAILED) == 0


def test_a_schedule_leaves_the_list_of_active_ones_when_it_ends(ledger: Ledger) -> None:
    row = Schedule(1, "example/job", "{}", Options(), "", "minutes", 5, True, 1, 2)
    with ledger.begin(write=True) as txn:
        ledger.save_schedule(txn, None, row)
        assert ledger.schedule(txn, 1) == row
        assert list(ledger.listed(txn, List.SCHEDULED)) == [1]
        ledger.save_schedule(txn, row, row._replace(state=ScheduleState.CANCELLED, closed=3))
        assert list(ledger.listed(txn, List.SCHEDULED)) == []
        assert list(ledger.listed(txn, List.SCHEDULES)) == [1]
        assert len(list(ledger.up(txn, "closed"))) == 1
        ledger.remove(txn, 1)
        assert ledger.schedule(txn, 1) is None


def test_tokens_of_any_length_and_alphabet_are_kept_apart(ledger: Ledger) -> None:
    with ledger.begin(write=True) as txn:
        ledger.keep_token(txn, "é" * 200, 1)
        ledger.keep_token(txn, "é" * 199, 2)
        assert [ledger.by_token(txn, "é" * length) for length in (200, 199, 198)] == [1, 2, 0]


def test_web_workers_read_while_the_controller_writes(ledger: Ledger) -> None:
    # In another process: one environment per process and path is the rule.
    with ledger.begin(write=True) as txn:
        ledger.save(txn, None, job(1))
    code = (
        "import sys; from pathlib import Path; from master.jobs.ledger import Ledger, List\n"
        "ledger = Ledger(Path(sys.argv[1]), map_size=64 << 20)\n"
        "with ledger.begin() as txn: print(list(ledger.listed(txn, List.PENDINGS)), ledger.job(txn, 1).path)\n"
    )
    path = ledger.env.path()
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1] example/job"


def test_a_ledger_that_is_not_there_or_damaged_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(IndexUnusable, match="ledger"):
        Ledger(tmp_path / "none")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "data.mdb").write_bytes(b"x" * 9000)
    with pytest.raises(IndexUnusable, match="put back a copy"):
        Ledger(tmp_path / "bad", write=True)
