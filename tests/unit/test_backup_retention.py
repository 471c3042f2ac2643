"""Which backups stay."""

from __future__ import annotations

import pytest

from backup import retention
from broker import snapshot_files
from broker.backups import keep_rule
from broker.backups.keep_rule import KeepRule

NOON = 1_796_040_000.0  # 2026-11-30T12:00:00Z, a Monday
DAY = 86_400


def days(*ago: float) -> list[str]:
    return [snapshot_files.name_of(NOON - one * DAY) for one in ago]


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        ("7 daily, 4 weekly, 6 monthly", KeepRule(daily=7, weekly=4, monthly=6)),
        ("3 last", KeepRule(last=3)),
        (" 2yearly ,1  last", KeepRule(last=1, yearly=2)),
    ],
)
def test_a_rule_is_read_and_shown(raw: str, rule: KeepRule) -> None:
    assert keep_rule.parse(raw) == rule
    assert keep_rule.parse(str(rule)) == rule
    assert keep_rule.text(raw) == str(rule)


@pytest.mark.parametrize(
    "raw", ["", "daily", "7", "7 days", "7 daily 4 weekly", "7 daily, 3 daily", "0 daily", "-1 last"]
)
def test_what_is_no_rule_is_refused(raw: str) -> None:
    with pytest.raises(ValueError, match="like 7 daily, 4 weekly, 6 monthly"):
        keep_rule.parse(raw)


def test_the_newest_of_each_day_stays() -> None:
    names = days(0, 0.1, 1, 1.2, 2, 3)
    assert retention.stay(names, KeepRule(daily=3)) == set(days(0, 1, 2))


def test_days_without_a_backup_do_not_count() -> None:
    names = days(0, 10, 20, 30)
    assert retention.stay(names, KeepRule(daily=3)) == set(days(0, 10, 20))


def test_weeks_begin_on_monday_and_months_on_the_first() -> None:
    # Monday the 30th, Sunday the 29th, Saturday the 28th; 31 days before it is October
    names = days(0, 1, 2, 8, 31)
    assert retention.stay(names, KeepRule(weekly=2)) == set(days(0, 1))
    assert retention.stay(names, KeepRule(monthly=2)) == set(days(0, 31))
    assert retention.stay(names, KeepRule(yearly=9)) == set(days(0))


def test_rules_add_up() -> None:
    names = days(*range(400))
    kept = retention.stay(names, KeepRule(daily=7, weekly=4, monthly=6))
    assert {*days(*range(7))} <= kept
    assert 7 + 3 + 5 - 2 <= len(kept) <= 17


def test_the_newest_stays_whatever_the_rule() -> None:
    assert retention.stay(days(5, 3, 9), KeepRule()) == set(days(3))
    assert retention.stay([], KeepRule(daily=7)) == set()


def test_several_of_one_second_are_ordered_by_their_number() -> None:
    first = snapshot_files.name_of(NOON)
    names = [first, f"{first}-2", f"{first}-10"]
    assert retention.stay(names, KeepRule(daily=1)) == {f"{first}-10"}
    assert retention.stay(names, KeepRule(last=2)) == {f"{first}-2", f"{first}-10"}
