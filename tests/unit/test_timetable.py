"""When backups are made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from broker.backups import timetable
from broker.clock import DAY_SECS

BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The local time of these tests, whatever the machine's is."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", BERLIN)
        time.tzset()
        yield
    time.tzset()


def utc(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=UTC).timestamp()


def times(at: str, after: str, count: int) -> list[str]:
    found, moment = [], utc(after)
    for _ in range(count):
        moment = timetable.following(at, moment)
        found.append(datetime.fromtimestamp(moment, UTC).strftime("%m-%d %H:%M"))
    return found


def test_a_time_of_the_day_comes_once_a_day_in_local_time() -> None:
    assert times("02:30", "2026-07-01 00:30", 2) == ["07-02 00:30", "07-03 00:30"]
    assert times("2:30", "2026-01-01 00:00", 2) == ["01-01 01:30", "01-02 01:30"]


def test_fields_of_cron_are_understood() -> None:
    assert times("0 3 * * 1-5", "2026-01-02 03:00", 3) == ["01-05 02:00", "01-06 02:00", "01-07 02:00"]
    assert times("*/30 * * * *", "2026-01-02 03:01", 2) == ["01-02 03:30", "01-02 04:00"]


def test_a_missing_hour_is_made_up_for_and_a_repeated_one_counts_once() -> None:
    # Clocks go from 2 to 3 on March 29th and from 3 to 2 on October 25th
    assert times("02:30", "2026-03-28 02:00", 3) == ["03-29 01:30", "03-30 00:30", "03-31 00:30"]
    assert times("02:30", "2026-10-24 02:00", 2) == ["10-25 00:30", "10-26 01:30"]
    assert times("02:30", "2026-10-25 01:10", 1) == ["10-26 01:30"]


def test_the_longest_pause_of_a_week_is_known() -> None:
    now = utc("2026-01-02 03:00")
    assert timetable.longest_pause("02:30", now) == DAY_SECS
    assert timetable.longest_pause("0 3 * * 1-5", now) == 3 * DAY_SECS
    assert timetable.longest_pause("0 * * * *", now) == 3600


@pytest.mark.parametrize("text", ["", "2.30", "24:00", "12:60", "noon", "* * * *", "a b c d e", "0 0 30 2 *"])
def test_what_is_no_timetable_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match='a time like "02:30", or five fields of cron'):
        timetable.parse(text)
