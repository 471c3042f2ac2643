"""What a request to the key routes asks for: parameters, conditions, and what an address for an upload permits."""

from __future__ import annotations

from typing import Any

import pytest

from broker.clock import DAY_MS
from broker.contract.kinds import Integer
from broker.contract.parameters import Parameter
from broker.http import dates
from broker.messages.upload import UploadCommit, UploadPermit
from broker.refusals import BadRequest, ConditionFailed
from master.index.index import Entry
from master.store.writer import Check
from master.web.keys import parameters

CREATED = 784111777_123  # ms
ENTRY = Entry(1, "node", 1, 1, CREATED, 0, 5, "", b"\xab" * 32, None)
ETAG = f'"{"ab" * 32}"'
DATE, BEFORE = dates.write(CREATED // 1000), dates.write(CREATED // 1000 - 1)
COMMIT = UploadCommit("node", "0" * 32, 5, b"\xab" * 32, "", None, None, None)
PUT = {"REQUEST_METHOD": "PUT"}


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
    permit = UploadPermit.read({"url": "m:1", **signed})
    assert holds(parameters.check_commit(permit, COMMIT._replace(**told))) is good


def permitted(environ: dict[str, str], query: str = "") -> UploadPermit:
    return parameters.permit("m:1", environ, parameters.parameters(query))


def test_a_permit_has_what_was_asked_for() -> None:
    assert permitted(PUT, "ttl=5s&overwrite=1") == UploadPermit("m:1", 5_000, True)
    assert permitted(PUT) == UploadPermit("m:1")
    assert permitted(PUT | {"CONTENT_LENGTH": "5", "HTTP_IF_MATCH": "*"}) == UploadPermit("m:1", length=5, if_match="*")
    assert permitted(PUT | {"CONTENT_LENGTH": "0"}).length == 0
    assert permitted(PUT | {"CONTENT_LENGTH": "5", "HTTP_TRANSFER_ENCODING": "chunked"}).length is None
    get = {"REQUEST_METHOD": "GET", "CONTENT_LENGTH": "0", "HTTP_IF_MATCH": "*"}
    assert permitted(get) == UploadPermit("m:1", if_match="*")
    with pytest.raises(BadRequest, match="If-Match has 4001 characters"):
        permitted(PUT | {"HTTP_IF_MATCH": "x" * 4001})


@pytest.mark.parametrize(
    ("query", "given"),
    [
        ("", {}),
        ("a=1&b=2", {"a": "1", "b": "2"}),
        ("a=1&a=2", {"a": "2"}),
        ("a=&b", {"a": "", "b": ""}),
        ("a=%31+2", {"a": "1 2"}),
    ],
)
def test_of_a_parameter_given_twice_the_last_counts(query: str, given: dict[str, str]) -> None:
    assert parameters.parameters(query) == given


@pytest.mark.parametrize(
    ("given", "milliseconds"),
    [
        ({}, 0),
        ({"temporal": "1"}, DAY_MS),
        ({"ttl": "90s"}, 90_000),
        ({"ttl": "15m"}, 900_000),
        ({"ttl": "12h"}, 43_200_000),
        ({"ttl": "7d"}, 7 * DAY_MS),
        ({"ttl": "36500d"}, 36_500 * DAY_MS),
    ],
)
def test_a_lifetime_is_in_milliseconds(given: dict[str, str], milliseconds: int) -> None:
    assert parameters.lifetime(given) == milliseconds


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temporal": "1", "ttl": "1d"}, "both given"),
        ({"temporal": ""}, "is no number of days"),
        ({"temporal": "1.5"}, "is no number of days"),
        ({"temporal": "-1"}, "is no number of days"),
        ({"temporal": "١"}, "is no number of days"),
        ({"ttl": "0s"}, "is no lifetime"),
        ({"ttl": "5"}, "is no lifetime"),
        ({"ttl": "5w"}, "is no lifetime"),
        ({"ttl": "36501d"}, "is no lifetime"),
        ({"ttl": "9999999999999s"}, "is no lifetime"),
        ({"ttl": "٣d"}, "is no lifetime"),
    ],
)
def test_what_is_no_lifetime_is_refused(given: dict[str, str], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        parameters.lifetime(given)


@pytest.mark.parametrize(
    ("given", "value"), [(None, False), ("", True), ("1", True), ("TRUE", True), ("0", False), ("false", False)]
)
def test_a_flag_is_one_or_zero(given: str | None, value: bool) -> None:
    assert parameters.OVERWRITE.read({} if given is None else {"overwrite": given}) is value


def test_what_is_no_flag_and_no_integer_is_refused_with_its_name() -> None:
    with pytest.raises(BadRequest, match="overwrite='yes' is neither 1 nor 0"):
        parameters.OVERWRITE.read({"overwrite": "yes"})
    limit = Parameter("limit", Integer(10), "Rows.", 7)
    assert limit.read({}) == 7
    assert limit.read({"limit": "10"}) == 10
    for given in ("0", "11", "x", ""):
        with pytest.raises(BadRequest, match=f"limit='{given}' is no integer from 1 to 10"):
            limit.read({"limit": given})


@pytest.mark.parametrize("header", ["x", "", "*, *", '"a', "W/*"])
def test_an_if_none_match_that_is_none_is_refused(header: str) -> None:
    with pytest.raises(BadRequest, match="neither \\* nor a list"):
        parameters.check_of({"HTTP_IF_NONE_MATCH": header})


@pytest.mark.parametrize(
    ("headers", "there", "absent"),
    [
        ({}, True, True),
        ({"HTTP_IF_MATCH": "*"}, True, False),
        ({"HTTP_IF_MATCH": ETAG}, True, False),
        ({"HTTP_IF_MATCH": f"W/{ETAG}"}, False, False),
        ({"HTTP_IF_NONE_MATCH": "*"}, False, True),
        ({"HTTP_IF_NONE_MATCH": f"W/{ETAG}"}, False, True),
        ({"HTTP_IF_NONE_MATCH": '"x"'}, True, True),
        ({"HTTP_IF_MATCH": ETAG, "HTTP_IF_NONE_MATCH": ETAG}, False, False),
        ({"HTTP_IF_UNMODIFIED_SINCE": BEFORE}, False, True),
    ],
)
def test_conditions_of_a_request_are_those_of_its_headers(headers: dict[str, str], there: bool, absent: bool) -> None:
    check = parameters.check_of(headers)
    assert (holds(check), holds(check, None)) == (there, absent)


def test_who_is_sent_on_is_told_what_to_do() -> None:
    assert parameters.sent_on({"PATH_INFO": "/add_key/a"}) == (
        "nothing is stored yet: this value is large, send it to data.node (curl: -L; httpx: follow_redirects=True)"
    )
    assert "large" not in parameters.sent_on({"PATH_INFO": "/get_node/a"})
