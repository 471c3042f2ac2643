"""The calendar of a week of schedules."""

from __future__ import annotations

from datetime import date

import pytest

from broker.messages.jobs import Options
from master.jobs.model import Gap, Job, JobState, Rhythm, Schedule, ScheduleState
from master.web.ui.jobs import calendar_week
from master.web.ui.jobs.calendar_week import Day

HOUR = 3_600_000
MONDAY = date(2026, 11, 30)
BEGIN = calendar_week.begin_of(MONDAY)
NOW = BEGIN + 36 * HOUR  # noon of Tuesday


def schedule(rhythm: Rhythm, created: int, **fields: object) -> Schedule:
    made = Schedule(1, "a/report", "{}", Options(), "", *rhythm[:3], created=created, next=rhythm.first(created))
    return made._replace(cron=rhythm.cron, zone=rhythm.zone, **fields)  # type: ignore[arg-type]


def execution(number: int, at: int, state: JobState) -> Job:
    return Job(number, "a/report", "{}", Options(), "", "schedule", 1, at, state)


def said(day: Day) -> list[tuple[str, str, str]]:
    return [(entry.text, entry.kind, entry.said) for entry in day.entries]


def test_a_week_has_what_has_run_what_was_left_out_and_what_will_run() -> None:
    daily = schedule(Rhythm("days", 1, True), BEGIN - 15 * HOUR)  # at 09:00
    daily = daily._replace(next=BEGIN + 57 * HOUR, gaps=(Gap(BEGIN + 33 * HOUR, 1, "missed"),))
    days = calendar_week.week(MONDAY, [daily], [execution(7, BEGIN + 9 * HOUR, JobState.FAILED)], NOW)
    assert [day.date for day in days] == [date(2026, 11, 30), *(date(2026, 12, number) for number in range(1, 7))]
    assert [day.today for day in days] == [False, True, False, False, False, False, False]
    assert said(days[0]) == [("09:00", "bad", "failed")]
    assert days[0].entries[0].job == 7
    assert said(days[1]) == [("09:00", "warn", "missed: the master did not run")]
    assert [said(day) for day in days[2:]] == [[("09:00", "plain", "to come")]] * 5


def test_many_times_of_a_day_are_one_line_with_their_number() -> None:
    often = schedule(Rhythm("minutes", 30, True), BEGIN, next=NOW + HOUR // 2, gaps=(Gap(BEGIN, 3, "overlap"),))
    done = [execution(9 - number, BEGIN + number * HOUR, JobState.COMPLETED) for number in range(9)]
    days = calendar_week.week(MONDAY, [often], [*done, execution(10, BEGIN + 9 * HOUR, JobState.FAILED)], NOW)
    assert sorted(said(days[0])) == [
        ("10 ×", "bad", "10 executions, 1 failed"),
        ("3 ×", "warn", "left out: the last one still ran"),
    ]
    # The rest of this day, without midnight, which is the next one's
    assert said(days[1]) == [("23 ×", "plain", "23 to come")]
    assert said(days[2]) == [("48 ×", "plain", "48 to come")]


def test_a_paused_schedule_and_one_that_runs_once() -> None:
    paused = schedule(Rhythm("days", 1, True), BEGIN, state=ScheduleState.PAUSED)
    once = schedule(Rhythm("cron", 0, False, "0 9 * * 4", "Europe/Vienna"), BEGIN)
    days = calendar_week.week(MONDAY, [paused, once], [], NOW)
    assert [said(day) for day in days] == [[], [], [], [("08:00", "plain", "to come")], [], [], []]
    # A time that is over while the controller is about to launch it
    late = once._replace(next=NOW - 1_000)
    assert said(calendar_week.week(MONDAY, [late], [], NOW)[1]) == [("11:59", "plain", "to come")]


def test_a_week_begins_the_day_before_or_with_the_day_that_is_asked_for() -> None:
    assert calendar_week.first_day("2026-11-30", 0) == calendar_week.first_day("", NOW) == MONDAY
    for text in ("soon", "2026-13-01", "0001-01-01", "9999-12-31"):
        with pytest.raises(ValueError, match=r"year|format|month"):
            calendar_week.first_day(text, NOW)
