"""What is declared about requests: values are read as their schemas say, and every operation has its declarations."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from broker.contract import document
from broker.contract.bodies import Body, Boolean, ListOf, OrNull, Record
from broker.contract.kinds import Choice, Day, Flag, Integer, Kind, OrEmpty, Span, Text, digits_up_to
from broker.messages import jobs
from broker.refusals import BadRequest
from master.web.flask_routes import contract
from master.web.jobs import launch_many, launch_schemas
from master.web.jobs.launch_request import launch_with

DOCUMENT: dict[str, Any] = contract.api()
OPERATIONS = {
    (method.upper(), path): operation for path, item in DOCUMENT["paths"].items() for method, operation in item.items()
}
KINDS: dict[str, Kind[Any]] = {
    "integer": Integer(1000),
    "flag": Flag(),
    "choice": Choice("tar", "zip"),
    "text": Text(5, "[a-c/]*"),
    "any text": Text(5),
    "time": Span(36_500 * 86_400_000, "never"),
    "day": Day(),
    "choice or nothing": OrEmpty(Choice("tar"), ""),
    "integer or nothing": OrEmpty(Integer(9), 0),
}
TEXTS = (
    *("", "0", "1", "-1", "7", "10", "1000", "1001", "0001", "1.0", " 1", "true", "TRUE", "False", "yes", "tar", "zip"),
    *("aab/", "aaaaaa", "d", "90s", "0s", "7d", "36500d", "36501d", "876000h", "876001h", "0000007d", "never", "7w"),
    *("52560000m", "52560001m", "3153600000s", "3153600001s", "0000000000001d", "2026-11-29", "2026-11-31", "26-1-1"),
)


def allows(schema: dict[str, Any], text: str) -> bool:
    """Whether a schema allows what a text in a query stands for."""
    value: object = text
    kinds = [schema, *schema.get("anyOf", [])]
    if any(one.get("type") == "integer" for one in kinds) and re.fullmatch("[0-9]{1,19}", text):
        value = int(text)
    return bool(Draft202012Validator(schema, format_checker=FormatChecker()).is_valid(value))


def reads(kind: Kind[Any], text: str) -> bool:
    try:
        kind.of_text(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_reads_what_its_schema_allows_and_nothing_else(name: str) -> None:
    kind = KINDS[name]
    assert any(reads(kind, text) for text in TEXTS)
    assert not all(reads(kind, text) for text in TEXTS)
    for text in TEXTS:
        assert reads(kind, text) == allows(kind.schema(), text), text


@settings(deadline=None, max_examples=200, derandomize=True)
@given(most=st.integers(1, 10**12), number=st.integers(0, 10**12))
def test_a_pattern_of_digits_ends_where_its_numbers_end(most: int, number: int) -> None:
    pattern = re.compile(digits_up_to(most))
    assert bool(pattern.fullmatch(str(number))) == (1 <= number <= most)
    assert pattern.fullmatch(str(most))
    assert not pattern.fullmatch(str(most + 1))


BODY = Body(
    Record(
        {
            "names": (ListOf(Text(3), 2), ""),
            "count": (OrNull(Integer(5, 0)), ""),
            "sure": (Boolean(), ""),
        },
        ["names"],
    ),
    '{"names": ["x"]}',
)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no JSON"),
        (b"[]", r"\[\] is no object; give {\"names\": \[\"x\"\]} as JSON"),
        (b"{}", "names is missing"),
        (b'{"names": []}', "names = a list of 0 was received; give 1 to 2"),
        (b'{"names": ["abcd"]}', "names = 'abcd'… has 4 characters"),
        (b'{"names": [5]}', "names = 5 is no text"),
        (b'{"names": 5}', "names = 5 is no list"),
        (b'{"names": ["a"], "count": 6}', "count = 6 is no integer from 0 to 5"),
        (b'{"names": ["a"], "count": true}', "count = True is no integer"),
        (b'{"names": ["a"], "sure": 1}', "sure = 1 is neither true nor false"),
        (b'{"names": ["a"], "more": 1}', "there is no field 'more' here; there are names, count, sure"),
        (b'{"names": NaN}', "NaN is no JSON"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"[" * 100_000, "too deep|no JSON"),
    ],
)
def test_a_body_that_is_not_as_declared_is_refused_with_what_was_received(body: bytes, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        BODY.read(body)


def test_a_body_as_declared_is_read_and_one_may_be_left_out() -> None:
    read = BODY.read(b'{"names": ["a", "b"], "count": null, "sure": true}')
    assert read == {"names": ["a", "b"], "count": None, "sure": True}
    optional = Body(Record({}), "{}", empty={"nothing": 1})
    assert optional.read(b"") == {"nothing": 1}
    assert not optional.described()["required"]
    assert BODY.described()["required"]


def test_every_operation_has_its_declarations() -> None:
    """An operation of openapi.json has a row in `contract.PARAMETERS`, though an empty one, and no own parameters."""
    assert set(OPERATIONS) == set(contract.PARAMETERS)
    for (method, path), operation in OPERATIONS.items():
        declared = [one.name for one in contract.PARAMETERS[method, path]]
        assert [one["name"] for one in operation.get("parameters", [])] == declared, path
        in_path = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
        assert in_path == set(re.findall(r"\{([^}]*)\}", path)), path


def test_every_status_that_any_request_can_have_is_in_every_operation() -> None:
    for (method, path), operation in OPERATIONS.items():
        assert set(document.ANY) <= set(operation["responses"]), path
        if operation.get("security") != []:
            assert {"401", "403"} <= set(operation["responses"]), path
        if method in ("PUT", "POST"):
            assert {"403", "408", "411"} <= set(operation["responses"]), path
        if method == "HEAD":
            assert not any("content" in one or "$ref" in one for one in operation["responses"].values()), path


def test_a_master_tells_its_own_address_and_whether_tokens_are_needed() -> None:
    told = document.at(DOCUMENT, "http://m:1", tokens=True)
    assert told["servers"] == [{"url": "http://m:1", "description": "The master"}]
    assert {} not in told["security"]  # type: ignore[operator]
    assert {} in document.at(DOCUMENT, "http://m:1", tokens=False)["security"]  # type: ignore[operator]


LAUNCH = Draft202012Validator(
    {"$ref": "#/components/schemas/Launch", "components": {"schemas": launch_schemas.SCHEMAS}}
)
LAUNCHES: list[tuple[dict[str, object], bool]] = [
    ({}, True),
    ({"number": 5, "list": [1, {"a": None}]}, True),
    ({"number": 2**64 - 1}, True),
    ({"number": -(2**63)}, True),
    ({"pulzar_data": "a/b"}, True),
    ({"pulzar_data": ""}, True),
    ({"pulzar_data": "a//b"}, False),
    ({"pulzar_data": 5}, False),
    *(
        ({"pulzar_options": {name: value}}, good)
        for name, value, good in (
            ("timeout", 0, True),
            ("timeout", jobs.MAX_SECS, True),
            ("timeout", jobs.MAX_SECS + 1, False),
            ("timeout", True, False),
            ("attempts", 100, True),
            ("attempts", 101, False),
            ("attempts", "1", False),
            ("retry_delay", 0.5, True),
            ("retry_delay", -1, False),
            ("priority", "low", True),
            ("priority", "", False),
            ("memory_mb", jobs.MAX_MEMORY_MB, True),
            ("memory_mb", jobs.MAX_MEMORY_MB + 1, False),
            ("node", "", True),
            ("node", "node-1", True),
            ("node", "-", False),
            ("unique", "x" * 200, True),
            ("unique", "x" * 201, False),
            ("argv", [], True),
            ("argv", ["a\0"], False),
            ("argv", "a", False),
            ("other", 1, False),
        )
    ),
    *(
        ({"scheduled": given}, good)
        for given, good in (
            ({"interval": "weeks", "time_unit": 5214, "repeat": 0}, True),
            ({"interval": "weeks", "time_unit": 5215, "repeat": 0}, False),
            ({"interval": "minutes", "time_unit": 5215, "repeat": 1}, True),
            ({"interval": "minutes", "time_unit": 0, "repeat": 1}, False),
            ({"interval": "years", "time_unit": 1, "repeat": 1}, False),
            ({"interval": "days", "time_unit": 1}, False),
            ({"interval": "days", "time_unit": 1, "repeat": 2}, False),
            ({"interval": "days", "time_unit": 1, "repeat": 1, "cron": "* * * * *"}, False),
            ({"cron": "0 9 * * 1"}, True),
            ({"cron": "0 9 * * 1", "zone": "Europe/Vienna", "repeat": 0}, True),
            ({"cron": "0 9 * * 1", "interval": "days"}, False),
            ({"cron": 5}, False),
            ([], False),
        )
    ),
]


@pytest.mark.parametrize(("body", "good"), LAUNCHES)
def test_a_launch_is_read_when_its_schema_allows_it(body: dict[str, object], good: bool) -> None:
    assert LAUNCH.is_valid(body) is good
    if good:
        assert launch_with("a/b", body).order.job == "a/b"
    else:
        with pytest.raises(BadRequest):
            launch_with("a/b", body)


def test_the_schema_of_many_launches_has_the_fields_and_limits_that_are_read() -> None:
    item = launch_schemas.SCHEMAS["LaunchItem"]["properties"]
    assert isinstance(item, dict)
    assert set(item) == {"job", "arguments", "options"}
    many: Any = launch_schemas.SCHEMAS["LaunchMany"]["properties"]
    assert many["jobs"]["maxItems"] == launch_many.MOST
