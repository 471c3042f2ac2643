"""The ledger: rows, lists and everything that follows from a row."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from broker.messages.jobs import Options
from broker.messages.runs import RunEnd, RunState
from master.errors import IndexUnusable
from master.index.environment import Environment
from master.jobs import ledger as ledger_module
from master.jobs.ledger import FORMAT, Ledger, LedgerTables
from master.jobs.model import MAY_FOLLOW, Attempt, Job, JobProgress, JobState, Schedule, ScheduleState, lane
from master.jobs.rows import List

DERIVED = ("lists", "executions", "owned", "history", "due", "open", "waiting", "closed")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger", write=True, map_size=64 << 20)
    yield ledger
    ledger.close()


def job(number: int, schedule: int = 0, unique: str = "") -> Job:
    return Job(number, "example/job", '{"a":"é"}', Options(unique=unique), "", "rest", schedule, 1_000)


def test_ids_rise_by_one_from_one_also_after_a_restart(ledger: Ledger, tmp_path: Path) -> None:
    with ledger.write() as tables:
        assert [tables.next_id() for _ in range(3)] == [1, 2, 3]
    ledger.close()
    again = Ledger(tmp_path / "ledger", write=True, map_size=64 << 20)
    with again.write() as tables:
        assert tables.next_id() == 4
    again.close()


def test_an_id_given_in_a_transaction_that_is_aborted_is_given_again(ledger: Ledger) -> None:
    with suppress(OSError), ledger.write() as tables:
        tables.next_id()
        raise OSError("no space")
    with ledger.write() as tables:
        assert tables.next_id() == 1


def test_a_job_comes_back_as_it_was_written(ledger: Ledger) -> None:
    attempt = Attempt(1, "n1", "ab", RunEnd(RunState.LOST, "gone", 5, 6), True)
    written = job(1)._replace(attempts=(attempt,), progress=(1.0, 2.0, "half"), cancelling=True, closed=7)
    with ledger.write() as tables:
        tables.save(None, written)
        assert tables.job(1) == written
        read = tables.job(1)
    assert read
    assert isinstance(read.state, JobState)
    assert isinstance(read.options, Options)
    assert isinstance(read.attempts[0], Attempt)
    assert isinstance(read.attempts[0].end.state, RunState)


@pytest.mark.parametrize("by", ["", "ci"])
def test_every_row_follows_the_job_through_its_states(ledger: Ledger, by: str) -> None:
    steps = [
        job(1, schedule=9)._replace(lane=lane("", "normal")),
        job(1, schedule=9)._replace(lane=lane("", "normal"), confirmed=5),
        job(1, schedule=9)._replace(state=JobState.RUNNING, node="n2"),
        job(1, schedule=9)._replace(due=77, attempt=2, node="n2"),
        job(1, schedule=9)._replace(lane=lane("n1", "normal"), attempt=2, node="n2"),
        job(1, schedule=9)._replace(state=JobState.RUNNING, attempt=2, node="n1"),
        job(1, schedule=9)._replace(state=JobState.COMPLETED, closed=99, node="n1"),
    ]
    steps = [step._replace(by=by) for step in steps]
    own = bool(by)
    sizes = []
    with ledger.write() as tables:
        for old, new in itertools.pairwise([None, *steps]):
            assert new
            tables.save(old, new)
            sizes.append({name: len(list(tables._up(name))) for name in DERIVED})
            assert tables.waiting_on("n1") == (new.lane == "n1:")
    assert [tuple(size.values()) for size in sizes] == [
        # lists, executions, owned, history, due, open, waiting, closed
        (1, 2, 2 * own, 2, 0, 1, 1, 0),
        (1, 2, 2 * own, 2, 0, 0, 1, 0),
        (2, 2, 3 * own, 3, 0, 0, 0, 0),
        (1, 2, 2 * own, 3, 1, 0, 0, 0),
        (1, 2, 2 * own, 3, 0, 1, 1, 0),
        (2, 2, 3 * own, 3, 0, 0, 0, 0),
        (1, 4, 3 * own, 3, 0, 0, 0, 1),
    ]


def test_a_final_state_can_not_be_left(ledger: Ledger) -> None:
    for state in JobState:
        assert state.final == (state in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED))
        for other in set(JobState) - MAY_FOLLOW[state] - {state}:
            with ledger.write() as tables, pytest.raises(ValueError, match="can't become"):
                tables.save(job(1)._replace(state=state), job(1)._replace(state=other))


def test_lists_are_newest_first_and_go_on_before_an_id(ledger: Ledger) -> None:
    with ledger.write() as tables:
        for number in range(1, 300):
            state = JobState.COMPLETED if number % 3 == 0 else JobState.PENDING
            tables.save(None, job(number)._replace(state=state))
    with ledger.read() as tables:
        assert list(itertools.islice(tables.listed(List.READY), 3)) == [297, 294, 291]
        assert list(itertools.islice(tables.listed(List.READY, before=291), 2)) == [288, 285]
        assert list(itertools.islice(tables.listed(List.READY, before=290), 1)) == [288]
        assert list(tables.listed(List.READY, before=3)) == []
        assert list(tables.listed(List.FAILED)) == []
        assert [found.id for found in itertools.islice(tables.jobs(), 2)] == [299, 298]
        assert [found.id for found in tables.jobs(before=3)] == [2, 1]
        assert tables.count(List.READY) == 99
        assert tables.count(List.PENDINGS) == 200


def test_executions_are_listed_by_schedule_and_outcome(ledger: Ledger) -> None:
    outcomes = {3: JobState.COMPLETED, 4: JobState.FAILED, 5: JobState.CANCELLED, 6: JobState.PENDING}
    with ledger.write() as tables:
        for number, state in outcomes.items():
            tables.save(None, job(number, schedule=1 + number % 2)._replace(state=state))
        assert list(tables.executions(List.ALL)) == [6, 5, 4, 3]
        assert list(tables.executions(List.ALL, schedule=1)) == [6, 4]
        assert list(tables.executions(List.READY)) == [3]
        assert list(tables.executions(List.FAILED)) == [5, 4]
        assert list(tables.executions(List.FAILED, schedule=2)) == [5]
        assert list(tables.executions(List.FAILED, before=5)) == [4]


def test_nothing_stays_behind_when_a_job_is_removed(ledger: Ledger) -> None:
    attempt = Attempt(1, "n1", "ab", RunEnd(RunState.FAILED, "", 1, 2), False)
    with ledger.write() as tables:
        done = job(1, schedule=5, unique="t")._replace(state=JobState.FAILED, closed=9, run="cd", attempts=(attempt,))
        tables.save(None, done)
        tables.save_token("t", 1)
        for run in ("ab", "cd"):
            tables.save_run(run, 1)
        tables.save_progress(1, JobProgress("cd", (0.0, 0.0, ""), b"", 0))
        tables.withdraw(done._replace(lane=":normal"), 1)
        tables.remove(1)
        tables.remove(1)
        tables.drop_events(tables.newest_event())  # the index has them
        left = {name: list(tables._up(name)) for name in ledger._environment.databases if name != "meta"}
        assert not any(left.values()), left
        assert tables.count(List.FAILED) == 0


def test_a_schedule_leaves_the_list_of_active_ones_when_it_ends(ledger: Ledger) -> None:
    row = Schedule(1, "example/job", "{}", Options(), "", "minutes", 5, True, 1, 2)
    with ledger.write() as tables:
        tables.save_schedule(None, row)
        assert tables.schedule(1) == row
        assert list(tables.listed(List.SCHEDULED)) == [1]
        tables.save_schedule(row, row._replace(state=ScheduleState.CANCELLED, closed=3))
        assert list(tables.listed(List.SCHEDULED)) == []
        assert list(tables.listed(List.SCHEDULES)) == [1]
        assert len(list(tables._up("closed"))) == 1
        tables.remove(1)
        assert tables.schedule(1) is None


def test_tokens_of_any_length_and_alphabet_are_kept_apart(ledger: Ledger) -> None:
    with ledger.write() as tables:
        tables.save_token("é" * 200, 1)
        tables.save_token("é" * 199, 2)
        assert [tables.by_token("é" * length) for length in (200, 199, 198)] == [1, 2, 0]


def test_web_workers_read_while_the_controller_writes(ledger: Ledger, tmp_path: Path) -> None:
    # In another process: one environment per process and path is the rule.
    with ledger.write() as tables:
        tables.save(None, job(1))
    code = (
        "import sys; from pathlib import Path; from master.jobs.ledger import Ledger\n"
        "from master.jobs.rows import List\n"
        "ledger = Ledger(Path(sys.argv[1]), map_size=64 << 20)\n"
        "with ledger.read() as tables: print(list(tables.listed(List.PENDINGS)), tables.job(1).path)\n"
    )
    path = tmp_path / "ledger"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1] example/job"


def test_a_ledger_that_is_not_there_or_damaged_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(IndexUnusable, match="ledger"):
        Ledger(tmp_path / "none")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "data.mdb").write_bytes(b"x" * 9000)
    with pytest.raises(IndexUnusable, match="put back a copy"):
        Ledger(tmp_path / "bad", write=True)


def test_what_a_token_has_launched_is_listed_for_it_alone(ledger: Ledger) -> None:
    with ledger.write() as tables:
        tables.save(None, job(1)._replace(by="a"))
        old = tables.save(None, job(2, schedule=9)._replace(by="b"))
        running = tables.save(old, old._replace(state=JobState.RUNNING))
        tables.save(running, running._replace(state=JobState.COMPLETED, closed=5))
        tables.save(None, job(3))
        tables.save(None, job(4)._replace(by="a"))
        timing = Schedule(9, "a/b", "{}", Options(), "", "weeks", 1, True, 1, 2, by="b")
        tables.save_schedule(None, timing)
    with ledger.read() as view:
        assert list(view.owned("a", List.PENDINGS)) == list(view.owned("a", List.ALL)) == [4, 1]
        assert list(view.owned("a", List.ALL, before=4)) == [1]
        assert list(view.owned("b", List.READY)) == list(view.owned("b", List.READY, executions=True)) == [2]
        assert list(view.owned("b", List.SCHEDULED)) == list(view.owned("b", List.SCHEDULES)) == [9]
        for by in ("", "c", "a\0"):
            assert not [number for which in List for number in view.owned(by, which)]
    with ledger.write() as tables:
        tables.save_schedule(timing, timing._replace(state=ScheduleState.ENDED))
        tables.remove(2)
    with ledger.read() as view:
        assert not [number for which in (List.READY, List.SCHEDULED, List.ALL) for number in view.owned("b", which)]


def test_a_ledger_of_a_later_version_is_refused_and_one_of_an_earlier_is_completed(
    ledger: Ledger, tmp_path: Path
) -> None:
    with ledger.write() as tables:
        tables._put("meta", b"format", (FORMAT + 1).to_bytes(8))
    ledger.close()
    for _ in range(2):
        with pytest.raises(IndexUnusable, match=rf"format {FORMAT + 1}, and .* knows those up to {FORMAT}: .* later"):
            Ledger(tmp_path / "ledger", write=True, map_size=64 << 20)
    # One of before there was a number, whose jobs had no rows for who launched them
    environment = Environment(tmp_path / "ledger", 64 << 20, ledger_module._CONTENTS, write=True)
    with LedgerTables(environment) as tables:
        tables._delete("meta", b"format")
        tables.save(None, job(1)._replace(by="a"))
        for key in [key for key, _ in tables._up("owned")]:
            tables._delete("owned", key)
        before = tables.count(List.PENDINGS)
    environment.close()
    again = Ledger(tmp_path / "ledger", write=True, map_size=64 << 20)
    with again.read() as view:
        assert list(view.owned("a", List.PENDINGS)) == [1]
        assert view.count(List.PENDINGS) == before
        assert view._number("meta", b"format") == FORMAT
    again.close()


def test_a_ledger_without_the_lists_of_the_history_gets_them(ledger: Ledger, tmp_path: Path) -> None:
    states = [*JobState, JobState.FAILED]
    with ledger.write() as tables:
        for number, state in enumerate(states, 1):
            tables.save(None, job(number)._replace(state=state, node="n1" if number % 2 else "", closed=5))
        tables.save(None, job(9, schedule=3)._replace(source="schedule", path="example/other"))
    with ledger.read() as view:
        before = {name: list(view._up(name)) for name in ledger._environment.databases}
    ledger.close()
    # As the version before wrote it
    environment = Environment(tmp_path / "ledger", 64 << 20, ledger_module._CONTENTS, write=True)
    with LedgerTables(environment) as tables:
        tables._put("meta", b"format", (2).to_bytes(8))
        for key in [key for key, _ in tables._up("history")]:
            tables._delete("history", key)
        for which in (List.BROKEN, List.CANCELLED):
            tables._delete("meta", b"count:" + which.value)
            for key in [key for key, _ in tables._up("lists", which.value)]:
                tables._delete("lists", key)
    environment.close()
    again = Ledger(tmp_path / "ledger", write=True, map_size=64 << 20)
    with again.read() as view:
        assert {name: list(view._up(name)) for name in again._environment.databases} == before
    again.close()
