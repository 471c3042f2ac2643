"""Preconditions: lists of entity tags, dates, and which of them counts when."""

from __future__ import annotations

import time

import pytest

from broker.http import conditions, dates
from broker.http.conditions import Outcome

ETAG = '"abc"'
MODIFIED = 784111777  # Sun, 06 Nov 1994 08:49:37 GMT
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE = "Sun, 06 Nov 1994 08:49:36 GMT"
AFTER = "Sun, 06 Nov 1994 08:49:38 GMT"
GO_ON, NOT_MODIFIED, FAILED = Outcome.GO_ON, Outcome.NOT_MODIFIED, Outcome.FAILED


@pytest.mark.parametrize(
    ("header", "weak", "strong"),
    [
        ('"abc"', True, True),
        ('W/"abc"', True, False),
        ("*", True, True),
        (" * ", True, True),
        ('"x", "abc"', True, True),
        ('"abc","x"', True, True),
        (' "x" ,\t"abc" ', True, True),
        (',, "abc",', True, True),
        ('"x", W/"abc"', True, False),
        ('W/"abc", "abc"', True, True),
        ('"a,b", "abc"', True, True),  # a comma may stand in a tag
        ('"x"', False, False),
        ('"ABC"', False, False),
        ('"abc', False, False),
        ("abc", False, False),
        ("", False, False),
        (",", False, False),
        ('w/"abc"', False, False),
        ('"abc" "x"', False, False),
        ('"x" "abc"', False, False),
        ('"abc", *', False, False),
        ('"a b", "abc"', False, False),  # no space may
        ('"abc", x', False, False),  # half a list is no list
    ],
)
def test_an_entity_tag_is_found_in_a_list(header: str, weak: bool, strong: bool) -> None:
    assert conditions.matches(header, ETAG, strong=False) is weak
    assert conditions.matches(header, ETAG, strong=True) is strong


def test_a_weak_tag_of_the_value_matches_only_weakly() -> None:
    assert conditions.matches('"abc"', 'W/"abc"', strong=False)
    assert conditions.matches('W/"abc"', 'W/"abc"', strong=False)
    assert not conditions.matches('W/"abc"', 'W/"abc"', strong=True)


@pytest.mark.parametrize("header", ["*", '"abc"', "", 'W/"abc", "x"'])
def test_nothing_matches_where_nothing_is(header: str) -> None:
    assert not conditions.matches(header, None, strong=False)
    assert not conditions.matches(header, None, strong=True)


@pytest.mark.parametrize("header", [" " * 200_000 + "x", " ," * 100_000 + "x", '"a" ,' * 50_000 + "x", '"' * 200_000])
def test_a_hostile_list_takes_no_time(header: str) -> None:
    began = time.monotonic()
    assert not conditions.matches(header, ETAG, strong=False)
    assert time.monotonic() - began < 10  # where it takes time, that is minutes


@pytest.mark.parametrize(
    ("headers", "read", "write"),
    [
        ({}, GO_ON, GO_ON),
        ({"IF_MATCH": ETAG}, GO_ON, GO_ON),
        ({"IF_MATCH": "*"}, GO_ON, GO_ON),
        ({"IF_MATCH": '"x"'}, FAILED, FAILED),
        ({"IF_MATCH": 'W/"abc"'}, FAILED, FAILED),
        ({"IF_MATCH": ""}, FAILED, FAILED),
        ({"IF_NONE_MATCH": ETAG}, NOT_MODIFIED, FAILED),
        ({"IF_NONE_MATCH": 'W/"abc"'}, NOT_MODIFIED, FAILED),
        ({"IF_NONE_MATCH": "*"}, NOT_MODIFIED, FAILED),
        ({"IF_NONE_MATCH": '"x", "y"'}, GO_ON, GO_ON),
        ({"IF_MODIFIED_SINCE": DATE}, NOT_MODIFIED, GO_ON),
        ({"IF_MODIFIED_SINCE": AFTER}, NOT_MODIFIED, GO_ON),
        ({"IF_MODIFIED_SINCE": BEFORE}, GO_ON, GO_ON),
        ({"IF_MODIFIED_SINCE": f" {DATE} "}, NOT_MODIFIED, GO_ON),
        ({"IF_MODIFIED_SINCE": "yesterday"}, GO_ON, GO_ON),
        ({"IF_MODIFIED_SINCE": f"{DATE},{DATE}"}, GO_ON, GO_ON),
        ({"IF_UNMODIFIED_SINCE": DATE}, GO_ON, GO_ON),
        ({"IF_UNMODIFIED_SINCE": AFTER}, GO_ON, GO_ON),
        ({"IF_UNMODIFIED_SINCE": BEFORE}, FAILED, FAILED),
        ({"IF_UNMODIFIED_SINCE": "yesterday"}, GO_ON, GO_ON),
        # If-None-Match beats If-Modified-Since, whichever way they point.
        ({"IF_NONE_MATCH": '"x"', "IF_MODIFIED_SINCE": DATE}, GO_ON, GO_ON),
        ({"IF_NONE_MATCH": ETAG, "IF_MODIFIED_SINCE": BEFORE}, NOT_MODIFIED, FAILED),
        # If-Match beats If-Unmodified-Since.
        ({"IF_MATCH": ETAG, "IF_UNMODIFIED_SINCE": BEFORE}, GO_ON, GO_ON),
        ({"IF_MATCH": '"x"', "IF_UNMODIFIED_SINCE": AFTER}, FAILED, FAILED),
        # What must hold comes before what saves the transfer.
        ({"IF_MATCH": '"x"', "IF_NONE_MATCH": ETAG}, FAILED, FAILED),
        ({"IF_MATCH": ETAG, "IF_NONE_MATCH": ETAG}, NOT_MODIFIED, FAILED),
        ({"IF_UNMODIFIED_SINCE": BEFORE, "IF_MODIFIED_SINCE": DATE}, FAILED, FAILED),
        ({"IF_UNMODIFIED_SINCE": DATE, "IF_MODIFIED_SINCE": DATE}, NOT_MODIFIED, GO_ON),
    ],
)
def test_preconditions_count_in_their_order(headers: dict[str, str], read: Outcome, write: Outcome) -> None:
    environ = {f"HTTP_{name}": value for name, value in headers.items()}
    assert conditions.given(environ) is bool(headers)
    for method, outcome in (("GET", read), ("HEAD", read), ("PUT", write), ("DELETE", write)):
        assert conditions.evaluate({"REQUEST_METHOD": method, **environ}, ETAG, MODIFIED) is outcome, method


@pytest.mark.parametrize(
    ("headers", "outcome"),
    [
        ({"IF_MATCH": "*"}, FAILED),
        ({"IF_MATCH": ETAG}, FAILED),
        ({"IF_NONE_MATCH": "*"}, GO_ON),
        ({"IF_NONE_MATCH": ETAG}, GO_ON),
        ({"IF_UNMODIFIED_SINCE": BEFORE}, GO_ON),
        ({"IF_MODIFIED_SINCE": AFTER}, GO_ON),
    ],
)
def test_where_nothing_is_only_if_match_fails(headers: dict[str, str], outcome: Outcome) -> None:
    environ = {f"HTTP_{name}": value for name, value in headers.items()}
    assert conditions.evaluate({"REQUEST_METHOD": "PUT", **environ}, None, None) is outcome


@pytest.mark.parametrize(
    ("if_range", "wanted"),
    [
        (None, True),
        (ETAG, True),
        (f" {ETAG} ", True),
        (DATE, True),
        ("Sunday, 06-Nov-94 08:49:37 GMT", True),
        ('W/"abc"', False),
        ('"x"', False),
        ('"abc", "x"', False),
        (BEFORE, False),
        (AFTER, False),
        ("abc", False),
        ("", False),
        ("*", False),
    ],
)
def test_a_range_counts_only_with_the_very_tag_or_date(if_range: str | None, wanted: bool) -> None:
    assert conditions.wants_range(if_range, ETAG, MODIFIED, MODIFIED + 1) is wanted
    assert not conditions.wants_range('W/"abc"', 'W/"abc"', MODIFIED, MODIFIED + 1)


def test_a_date_says_nothing_for_sure_in_its_own_second() -> None:
    for now in (MODIFIED - 5, MODIFIED, MODIFIED + 0.999):
        assert not conditions.wants_range(DATE, ETAG, MODIFIED, now)
        assert conditions.wants_range(ETAG, ETAG, MODIFIED, now)
    assert conditions.wants_range(DATE, ETAG, MODIFIED, MODIFIED + 1.0)


@pytest.mark.parametrize("text", [DATE, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"])
def test_dates_are_read_in_all_three_forms(text: str) -> None:
    assert dates.read(text) == MODIFIED


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Wed, 29 Feb 2024 12:00:00 GMT", 1709208000),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1483228800),
        ("Tue Nov 24 08:49:37 2026", 1795510177),
    ],
)
def test_dates_are_read_exactly(text: str, seconds: int) -> None:
    assert dates.read(text) == seconds


def test_a_year_of_two_digits_is_never_more_than_50_years_ahead() -> None:
    this_year = time.gmtime().tm_year
    for ahead in (50, 51):
        read = dates.read(f"Monday, 01-Jun-{(this_year + ahead) % 100:02} 00:00:00 GMT")
        assert read is not None
        assert time.gmtime(read).tm_year == this_year + ahead - (100 if ahead > 50 else 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "784111777",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "sun, 06 nov 1994 08:49:37 gmt",
        "Sun, 31 Feb 2024 00:00:00 GMT",
        "Thu, 30 Feb 2024 00:00:00 GMT",
        "Wed, 29 Feb 2023 00:00:00 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:00 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        "1994-11-06T08:49:37Z",
        "Sun, 0٦ Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT\n",
    ],
)
def test_what_is_no_date_is_not_read(text: str) -> None:
    assert dates.read(text) is None


def test_dates_are_written_as_they_are_read() -> None:
    assert dates.write(MODIFIED) == DATE
    for seconds in range(0, 2**32, 97_654_321):
        assert dates.read(dates.write(seconds)) == seconds
