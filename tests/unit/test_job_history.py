"""The history: pages by filter, numbers by state, runs of a script, why a job waits."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.messages.jobs import Options
from broker.messages.runs import CatalogRow, NodeCatalog, RunState
from master.jobs.history import pages, script_runs, wait_reason
from master.jobs.history.pages import SOURCES, STATES, HistoryFilter, HistoryPage
from master.jobs.history.wait_reason import MOST_BEFORE, Cause, WaitReason
from master.jobs.ledger import Ledger
from master.jobs.model import Job, JobState, lane
from master.jobs.routing import Load
from tests.unit.desk import NOW, Desk

EVER = 60.0  # s


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger", write=True, map_size=64 << 20)
    yield ledger
    ledger.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.ledger.close()


def job(number: int, path: str = "a/b", **fields: object) -> Job:
    made = Job(number, path, "{}", Options(), "", "rest", 0, NOW + number)
    return made._replace(**fields)  # type: ignore[arg-type]


def save(ledger: Ledger, *jobs: Job) -> None:
    with ledger.write() as tables:
        for one in jobs:
            tables.save(None, one)


def asked(ledger: Ledger, before: int = 0, limit: int = 1_000, secs: float = EVER, **fields: object) -> HistoryPage:
    with ledger.read() as view:
        wanted = HistoryFilter(**fields)  # type: ignore[arg-type]
        return pages.page(view, wanted, before, limit, shown=lambda found: found, secs=secs)


def ids(page: HistoryPage) -> list[int]:
    return [found.id for found in page.jobs]


def some_jobs(seed: int, number: int) -> list[Job]:
    choose = random.Random(seed)
    made = []
    for one in range(1, number + 1):
        source = choose.choice(SOURCES)
        made.append(
            job(
                one,
                choose.choice(("a/b", "a/bc", "z/z")),
                state=choose.choice(list(JobState)),
                node=choose.choice(("", "n1", "n2")),
                source=source,
                schedule=choose.choice((7, 8)) if source == "schedule" else 0,
                by=choose.choice(("", "ci")),
                arguments=choose.choice(('{"text":"Needle"}', '{"text":"hay"}', '{"text":"é"}')),
            )
        )
    return made


def test_every_filter_and_every_two_of_them_give_what_a_look_at_all_jobs_gives(ledger: Ledger) -> None:
    jobs = some_jobs(1, 150)
    save(ledger, *jobs)
    single: list[tuple[str, object]] = [
        *(("state", state) for state in STATES),
        *(("source", source) for source in SOURCES),
        *(("script", path) for path in ("a/b", "a/bc", "a/")),
        *(("node", node) for node in ("n1", "n3")),
        *(("schedule", schedule) for schedule in (7, 9)),
        ("by", "ci"),
        ("text", "nEEdle"),
    ]
    for chosen in [(), *((one,) for one in single), *itertools.combinations(single, 2)]:
        given = dict(chosen)
        if len(given) < len(chosen):
            continue

        def matches(found: Job, given: dict[str, object] = given) -> bool:
            fields = found._asdict() | {"state": found.state.name.lower(), "script": found.path}
            return all(
                "Needle" in found.arguments if name == "text" else fields[name] == value
                for name, value in given.items()
            )

        expected = [found.id for found in reversed(jobs) if matches(found)]
        assert ids(asked(ledger, **given)) == expected, given
        with ledger.read() as view:
            numbers = pages.counts(view, HistoryFilter(**given), secs=EVER)  # type: ignore[arg-type]
        assert numbers.exact
        rest = {name: value for name, value in given.items() if name not in ("state", "text")}
        assert numbers.by_state == {
            state: sum(matches(found, rest | {"state": state}) for found in jobs) for state in STATES
        }


def test_pages_follow_each_other_by_cursor_without_gap_or_repetition(ledger: Ledger) -> None:
    save(ledger, *(job(number, "a/b" if number % 3 else "z/z") for number in range(1, 101)))
    seen: list[int] = []
    cursor = 0
    while True:
        page = asked(ledger, cursor, 7, script="z/z")
        seen += ids(page)
        assert not page.early
        if not (cursor := page.cursor):
            break
    assert seen == list(range(99, 0, -3))
    assert asked(ledger, 0, 33, script="z/z").cursor == 0  # the last page says that it is the last


def test_a_page_that_takes_too_long_ends_early_and_the_next_goes_on_behind_it(ledger: Ledger) -> None:
    # The two lists have nothing in common, and no page may find all of that out.
    save(
        ledger,
        *(job(number, "a/b" if number % 2 else "z/z", node="n1" if number % 2 else "") for number in range(1, 400)),
    )
    turns, cursor = 0, 0
    while True:
        page = asked(ledger, cursor, 10, secs=-1.0, script="z/z", node="n1")
        assert not page.jobs
        assert page.early == bool(page.cursor)
        if not page.cursor:
            break
        assert not cursor or page.cursor < cursor
        cursor = page.cursor
        turns += 1
    assert turns > 3
    # The same for a text, with each job that has it found once
    save(ledger, job(500, arguments='{"x":"rare"}'), *(job(number) for number in range(501, 600)))
    found, cursor = [], 0
    while True:
        page = asked(ledger, cursor, 10, secs=-1.0, text="rare")
        found += ids(page)
        if not (cursor := page.cursor):
            break
    assert found == [500]


def test_a_text_is_looked_for_in_what_the_reader_may_see_alone(ledger: Ledger) -> None:
    save(ledger, job(1, arguments='{"password":"sesame"}'), job(2, reason="sesame was burnt"))

    def shown(found: Job) -> Job:
        return found._replace(arguments=found.arguments.replace("sesame", "***"))

    with ledger.read() as view:
        page = pages.page(view, HistoryFilter(text="SESAME"), 0, 10, shown=shown)
    assert ids(page) == [2]


def test_lists_follow_a_job_to_another_node_and_go_with_it(desk: Desk) -> None:
    number = desk.launched(Options(attempts=2))
    desk.claim(number)
    assert ids(asked(desk.ledger, node="n1", state="running", script="example/job", source="rest")) == [number]
    desk.finish(number, RunState.LOST)
    desk.claim(number, attempt=2, run=2, node="n2")
    assert ids(asked(desk.ledger, node="n1")) == []
    assert ids(asked(desk.ledger, node="n2")) == [number]
    desk.finish(number, RunState.FAILED, attempt=2, run=2, node="n2")
    assert ids(asked(desk.ledger, state="failed", node="n2")) == [number]
    with desk.ledger.read() as view:
        assert pages.counts(view, HistoryFilter()).by_state == dict.fromkeys(STATES, 0) | {"failed": 1}
    desk.write(lambda tables: tables.remove(number))
    assert desk.keys("history") == desk.keys("lists") == []
    with desk.ledger.read() as view:
        assert pages.counts(view, HistoryFilter()).by_state == dict.fromkeys(STATES, 0)


def ended(number: int, secs: float, **fields: object) -> Job:
    times = {"started": NOW, "ended": NOW + int(secs * 1000), "state": JobState.COMPLETED}
    return job(number, **(times | fields))


def test_the_last_runs_of_a_script_say_how_long_it_takes(ledger: Ledger) -> None:
    save(
        ledger,
        *(ended(number, number) for number in range(1, 10)),
        ended(10, 99, state=JobState.FAILED),
        job(11, state=JobState.FAILED),  # never begun
        ended(12, 99, path="z/z"),
        job(13),
        running := job(14, state=JobState.RUNNING, started=NOW),
    )
    with ledger.read() as view:
        assert [found.id for found in script_runs.last(view, "a/b", 3)] == [10, 9, 8]
        assert script_runs.typical(view, "a/b") == (5.0, 9.0, 9)
        assert script_runs.typical(view, "z/z") is None
        assert script_runs.expected_end(view, running) == NOW + 5_000
        assert script_runs.expected_end(view, running._replace(path="z/z")) is None
        assert script_runs.expected_end(view, job(13)) is None


def why(ledger: Ledger, found: Job, data_wait: float = 30, **loads: Load) -> WaitReason | None:
    with ledger.read() as view:
        return wait_reason.of_job(view, found, loads, data_wait)


def pending(number: int, node: str = "", **fields: object) -> Job:
    return job(number, lane=lane(node, "normal"), confirmed=NOW, **fields)


@pytest.fixture
def queues(ledger: Ledger) -> Ledger:
    """Jobs 1 to 3 in the queue of all, 4 in the one before it, 5 and 6 on n1; both nodes have the script."""
    rows: list[CatalogRow] = [{"path": "a/b"}]
    with ledger.write() as tables:
        for node in ("n1", "n2"):
            tables.save_catalog(NodeCatalog(node, "digest", rows))
    urgent = job(4, lane=lane("", "high"), confirmed=NOW, options=Options(priority="high"))
    save(ledger, *map(pending, (1, 2, 3)), urgent, pending(5, "n1"), pending(6, "n1"))
    return ledger


FREE, BUSY, SILENT = Load(True, 2, 0), Load(True, 2, 2), Load(False, 2, 0)


def test_a_job_waits_for_a_free_slot_behind_others(queues: Ledger) -> None:
    found = why(queues, pending(3), n1=BUSY, n2=BUSY)
    assert found == (Cause.SLOT, "no free slot: all 4 of 2 nodes are busy; 3 jobs before it", 0, 3)
    found = why(queues, pending(1), n1=BUSY, n2=SILENT)
    assert found == (Cause.SLOT, "no free slot: all 2 of 1 node are busy; 1 job before it", 0, 1)
    found = why(queues, pending(5, "n1"), n1=BUSY)
    assert found == (Cause.SLOT, "no free slot: all 2 of node n1 are busy; it is the next one", 0, 0)
    found = why(queues, pending(3), n1=FREE, n2=BUSY)
    assert found == (Cause.SLOT, "2 of 4 slots of 2 nodes are free; 3 jobs before it", 0, 3)
    found = why(queues, pending(1), n1=FREE, n2=FREE)
    assert found == (Cause.PICKUP, "there is a free slot on 2 nodes; it begins within moments", 0, 1)


def test_a_job_waits_for_nodes_that_are_silent(queues: Ledger) -> None:
    found = why(queues, pending(1), n1=SILENT)
    assert found
    assert found.cause is Cause.NODE
    assert found.text.startswith("no node with the script a/b is heard: n1, n2;")
    found = why(queues, pending(6, "n1", options=Options(node="n1")))
    assert found
    assert "node n1, which it is bound to, is out of synch" in found.text
    found = why(queues, pending(6, "n1", data="in/a"), data_wait=20)
    assert found == (
        Cause.NODE,
        "node n1, which has its data, is out of synch; any other may take it after 20 s",
        NOW + 20_000,
        1,
    )
    found = why(queues, pending(6, "n1"), n1=SILENT)
    assert found
    assert "goes to another one" in found.text
    found = why(queues, pending(7, path="gone/gone"), n1=FREE)
    assert found
    assert found.text == "no node has the script gone/gone"


def test_a_job_waits_for_its_next_attempt_or_for_the_broker(queues: Ledger) -> None:
    found = why(queues, job(9, attempt=2, due=NOW + 5, reason="it broke"))
    assert found == (
        Cause.RETRY,
        "attempt 2 begins after the delay between attempts; the last one: it broke",
        NOW + 5,
        0,
    )
    found = why(queues, pending(9)._replace(confirmed=0))
    assert found
    assert found.cause is Cause.BROKER
    assert why(queues, job(9, state=JobState.RUNNING)) is None


def test_jobs_before_one_are_counted_up_to_a_number(queues: Ledger) -> None:
    save(queues, *map(pending, range(10, 10 + MOST_BEFORE + 5)))
    found = why(queues, pending(2_000), n1=BUSY, n2=BUSY)
    assert found
    assert found.text.endswith(f"more than {MOST_BEFORE} jobs before it")
