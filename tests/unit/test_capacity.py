"""How many jobs and schedules may wait, counted exactly whatever happens to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.messages.jobs import Options, Order
from broker.messages.runs import Returned, RunState
from broker.refusals import Unavailable
from master.jobs.capacity import Capacity, CapacityLimits
from master.jobs.ledger import Ledger, LedgerView
from master.jobs.model import Rhythm, arguments_text
from tests.unit.desk import Desk, published, token

HOURLY = Rhythm("hours", 1, True)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.ledger.close()


def pending(desk: Desk) -> tuple[int, int]:
    return desk.read(LedgerView.pending)


def scheduled(desk: Desk) -> tuple[int, int]:
    return desk.read(LedgerView.scheduled)


def limit(desk: Desk, **limits: int) -> Capacity:
    desk.capacity = Capacity(CapacityLimits(**limits))
    desk.restart()
    return desk.capacity


def schedule(desk: Desk, text: str = "", repeat: bool = True, **options: int) -> int:
    order = Order("example/job", {"text": text}, Options(**options))  # type: ignore[arg-type]
    rhythm = HOURLY._replace(repeat=repeat)
    return desk.write(lambda tables: desk.schedules.add(tables, order, rhythm, desk.now))


def test_pending_jobs_are_counted_through_all_their_states(desk: Desk) -> None:
    size = len('{"text":"é"}'.encode())
    jobs = [desk.launched(Options(attempts=2, retry_delay=5), text="é") for _ in range(3)]
    assert pending(desk) == (3, 3 * size)
    desk.claim(jobs[0])
    desk.claim(jobs[1], run=2)
    assert pending(desk) == (1, size)
    desk.finish(jobs[0], RunState.FAILED)
    assert pending(desk) == (2, 2 * size), "it waits for its retry"
    desk.finish(jobs[1], RunState.COMPLETED, run=2)
    desk.cancel(jobs[2])
    assert pending(desk) == (1, size)
    desk.now += 60_000
    desk.tick()
    assert pending(desk) == (1, size)
    desk.nodes = []
    order = Order("example/job", {"text": "é"})
    desk.launch(order)  # fails at once
    assert pending(desk) == (1, size)
    desk.write(lambda tables: tables.remove(jobs[2]))
    desk.write(lambda tables: tables.remove(jobs[0]))
    assert pending(desk) == (0, 0)


def test_a_job_by_hand_counts_only_when_the_master_has_to_publish_it(desk: Desk) -> None:
    body = b'{"job": "a/b", "arguments": {"n": 1}}'
    desk.claim(0, order=body)
    assert pending(desk) == (0, 0)
    desk.write(lambda tables: desk.transitions.returned(tables, "n1", Returned(body, "no script", token(7)), desk.now))
    assert pending(desk) == (1, len('{"n":1}'))


def test_what_an_aborted_transaction_counted_does_not_count(desk: Desk) -> None:
    desk.aborted(lambda tables: desk.transitions.launch(tables, Order("a/b", {"n": 1}), "rest", desk.now))
    assert pending(desk) == (0, 0)


def test_active_schedules_are_counted(desk: Desk) -> None:
    first, second, once = schedule(desk), schedule(desk, "12345"), schedule(desk, repeat=False)
    size = len('{"text":""}')
    assert scheduled(desk) == (3, 3 * size + 5)
    row = desk.read(lambda tables: tables.schedule(second))
    assert row
    desk.write(lambda tables: desk.schedules.cancel(tables, row, desk.now))
    assert scheduled(desk) == (2, 2 * size)
    desk.now += 3_600_000
    assert len(published(desk.tick())) == 2
    assert scheduled(desk) == (1, size), f"{once} was to run once"
    desk.write(lambda tables: tables.remove(first))
    desk.write(lambda tables: tables.remove(second))
    assert scheduled(desk) == (0, 0)


def test_the_counts_are_the_same_after_a_restart(desk: Desk, tmp_path: Path) -> None:
    desk.launched(text="123")
    desk.claim(desk.launched(text="12345"))
    schedule(desk)
    before = pending(desk), scheduled(desk)
    desk.ledger.close()
    desk.ledger = Ledger(tmp_path / "ledger", write=True, map_size=256 << 20)
    assert (pending(desk), scheduled(desk)) == before == ((1, len('{"text":"123"}')), (1, len('{"text":""}')))


def test_a_ledger_that_did_not_count_bytes_yet_counts_them_once(desk: Desk, tmp_path: Path) -> None:
    desk.launched(text="123")
    desk.claim(desk.launched(text="12345"))
    schedule(desk)
    before = pending(desk), scheduled(desk)
    desk.write(lambda tables: [tables._delete("meta", name) for name in (b"bytes:p", b"bytes:s", b"format")])
    assert pending(desk) == (1, 0)
    desk.ledger.close()
    desk.ledger = Ledger(tmp_path / "ledger", write=True, map_size=256 << 20)
    assert (pending(desk), scheduled(desk)) == before


def test_one_job_more_than_the_limit_is_refused_and_says_why(desk: Desk) -> None:
    room = limit(desk, jobs=2)
    order = Order("a/b", {})
    for _ in range(2):
        desk.read(lambda tables: room.check_job(tables, "{}"))
        desk.launch(order)
    with pytest.raises(Unavailable, match=r"2 pending jobs, and \[jobs\] max_pending is 2; nothing was launched"):
        desk.read(lambda tables: room.check_job(tables, "{}"))
    desk.claim(1)
    desk.read(lambda tables: room.check_job(tables, "{}"))


def test_arguments_beyond_the_limit_are_refused_to_the_byte(desk: Desk) -> None:
    room = limit(desk, size=2 * len('{"text":"123"}'))
    desk.launched(text="123")
    desk.read(lambda tables: room.check_job(tables, arguments_text({"text": "123"})))
    with pytest.raises(Unavailable, match="max_pending_bytes is 28"):
        desk.read(lambda tables: room.check_job(tables, arguments_text({"text": "1234"})))
    assert not desk.read(room.full)


def test_one_schedule_more_than_the_limit_is_refused(desk: Desk) -> None:
    limit(desk, schedules=2, size=100)
    schedule(desk)
    with pytest.raises(Unavailable, match="max_pending_bytes is 100"):
        schedule(desk, "x" * 100)
    schedule(desk)
    with pytest.raises(Unavailable, match=r"2 schedules, and \[jobs\] max_schedules is 2"):
        schedule(desk)
    assert scheduled(desk)[0] == 2


def test_an_execution_that_overlaps_is_left_out_when_there_is_no_room_others_are_not(desk: Desk) -> None:
    overlapping, single, once = schedule(desk, overlap=1), schedule(desk), schedule(desk, repeat=False)
    limit(desk, jobs=1)
    desk.launched()
    desk.now += 3_600_000
    assert len(published(desk.tick())) == 3, "each has one at most, and is not forgotten"
    desk.now += 3_600_000
    assert published(desk.tick()) == []
    rows = [desk.read(lambda tables, number=number: tables.schedule(number)) for number in (overlapping, single)]
    assert [(row.executions, row.skipped) for row in rows if row] == [(1, 1), (1, 1)]
    assert once
    limit(desk, jobs=100)
    desk.now += 3_600_000
    assert len(published(desk.tick())) == 1
