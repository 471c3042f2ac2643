"""What a PUT or DELETE asks for: its conditions, and what of it is signed into the address it is sent to."""

from __future__ import annotations

from typing import Any

import pytest

from broker.http import dates
from broker.refusals import BadRequest, ConditionFailed
from master.index.index import Entry
from master.store.writer import Check
from master.web.keys import parameters

CREATED = 784111777_123  # ms
ENTRY = Entry(1, "node", 1, 1, CREATED, 0, 5, "", b"\xab" * 32, None)
ETAG = f'"{"ab" * 32}"'
DATE, BEFORE = dates.write(CREATED // 1000), dates.write(CREATED // 1000 - 1)
NOTHING: dict[str, Any] = {"if_match": None, "if_none_match": None}


def holds(check: Check, entry: Entry | None = ENTRY) -> bool:
    try:
        check(entry)
    except ConditionFailed:
        return False
    return True


@pytest.mark.parametrize(
    ("if_match", "date", "good"),
    [(None, DATE, True), (None, BEFORE, False), (None, "no date", True), (ETAG, BEFORE, True), ('"x"', DATE, False)],
)
def test_a_date_is_a_condition_unless_there_is_an_if_match(if_match: str | None, date: str, good: bool) -> None:
    assert holds(parameters.check(if_match, None, date)) is good
    assert holds(parameters.check(None, None, date), None), "where nothing is, no date is compared"


def test_a_failed_date_says_what_was_received_and_what_is_there() -> None:
    with pytest.raises(ConditionFailed) as failed:
        parameters.check(None, None, BEFORE)(ENTRY)
    assert all(part in str(failed.value) for part in (BEFORE, ETAG, DATE))


@pytest.mark.parametrize(
    ("signed", "told", "good"),
    [
        ({}, {}, True),
        ({}, {"if_match": '"x"'}, False),
        ({"if_match": ETAG}, {}, True),
        ({"if_match": ETAG}, {"if_match": "*"}, True),
        ({"if_match": '"x"'}, {"if_match": "*"}, False),
        ({"if_match": ETAG}, {"if_match": '"x"'}, False),
        ({"overwrite": "1"}, {"if_none_match": "*"}, False),
        ({"overwrite": "1"}, {"if_unmodified_since": BEFORE}, False),
        ({"overwrite": "1"}, {"if_unmodified_since": DATE}, True),
    ],
)
def test_at_a_commit_both_conditions_must_hold(signed: dict[str, str], told: dict[str, Any], good: bool) -> None:
    assert holds(parameters.check_commit(signed, NOTHING | told)) is good


def test_length_and_if_match_of_a_put_are_signed() -> None:
    put = {"REQUEST_METHOD": "PUT"}
    assert parameters.signed(put) == (None, None)
    assert parameters.signed({**put, "CONTENT_LENGTH": "5", "HTTP_IF_MATCH": "*"}) == (5, "*")
    assert parameters.signed({**put, "CONTENT_LENGTH": "0"}) == (0, None)
    assert parameters.signed({**put, "CONTENT_LENGTH": "5", "HTTP_TRANSFER_ENCODING": "chunked"}) == (None, None)
    assert parameters.signed({"REQUEST_METHOD": "GET", "CONTENT_LENGTH": "0", "HTTP_IF_MATCH": "*"}) == (None, "*")
    with pytest.raises(BadRequest, match="If-Match has 4001 characters"):
        parameters.signed({**put, "HTTP_IF_MATCH": "x" * 4001})


def test_who_is_sent_on_is_told_what_to_do() -> None:
    assert parameters.sent_on({"PATH_INFO": "/add_key/a"}) == (
        "nothing is stored yet: this value is large, send it to data.node (curl: -L; httpx: follow_redirects=True)"
    )
    assert "large" not in parameters.sent_on({"PATH_INFO": "/get_node/a"})
