"""What a node reports of its runs, as messages."""

from __future__ import annotations

from broker.messages.runs import MAX_BODY, Claimed, Finished, Progress, Reports, Returned, RunEnd, RunState
from node.jobs.reports import MOST_ITEMS, Reporter
from node.runs.model import Run, RunProgress
from tests.support import decode
from tests.unit.jobs_thread import FakeLink

RUN = "ab" * 16


def test_reports_travel_in_messages_of_a_size_that_brokers_take() -> None:
    link = FakeLink()
    reports = [Returned(b"x" * MAX_BODY, "no", RUN), *[Claimed(RUN, 0, 1, 5, b"y" * MAX_BODY)] * 2]
    many = [Finished(RUN, number, 1, RunEnd(RunState.LOST, "r" * 3_000, 1, 2)) for number in range(MOST_ITEMS + 1)]
    Reporter("node-1", link).send([*reports, *many], lambda _some, _sent: None)  # type: ignore[arg-type]
    messages = [decode(body, Reports).items for body in link.sent]
    assert [len(items) for items in messages] == [2, MOST_ITEMS, 2]
    assert max(map(len, link.sent)) < 3 << 20
    assert [report.id for items in messages for report in items if isinstance(report, Finished)] == list(
        range(MOST_ITEMS + 1)
    )


def test_no_report_is_spoiled_by_its_text() -> None:
    link = FakeLink()
    reporter = Reporter("node-1", link)  # type: ignore[arg-type]
    reporter.send([Finished(RUN, 1, 1, RunEnd(RunState.FAILED, "half \ud800", 1, 2))], lambda _some, _sent: None)
    run = Run(RUN, 1, 1, "a/b", {})
    reporter.progress(1, RunProgress(run, None, float("inf"), "half \ud800", b"\xff", 3))
    reporter.progress(1, RunProgress(run, -1, 1 << 80, "t" * 5_000, b"", 3))
    told = decode(link.sent[0], Reports).items[0]
    assert isinstance(told, Finished)
    assert told.end.reason == "half ?"
    first, second = (decode(body, Progress) for body in link.sent[1:])
    assert (first.done, first.total, first.text, first.log) == (0.0, 0.0, "half ?", b"\xff")
    assert (second.done, second.total, len(second.text)) == (0.0, float(1 << 80), 1_000)
