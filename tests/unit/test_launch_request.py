"""What a request to launch a job asks for, and what it is told when that can't be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.messages.jobs import Options, Order
from broker.refusals import BadRequest
from master.jobs.model import Rhythm
from master.web.jobs.launch_request import launch_of


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize("path", ["example/factorial", "example/factorial.py"])
def test_the_body_is_the_arguments(path: str) -> None:
    order, rhythm, _ = launch_of(path, body(number=5, deep={"list": [1, None, "é"]}))
    assert order == Order("example/factorial", {"number": 5, "deep": {"list": [1, None, "é"]}})
    assert rhythm is None


@pytest.mark.parametrize("empty", [b"", b" \n", b"{}"])
def test_an_empty_body_is_no_arguments(empty: bytes) -> None:
    assert launch_of("a/b", empty)[0] == Order("a/b", {})


def test_reserved_keys_are_no_arguments() -> None:
    given = body(
        n=1,
        pulzar_data="folder/file.csv",
        pulzar_options={"timeout": 2.5, "attempts": 3, "priority": "high", "node": "n1", "unique": "t"},
        scheduled={"interval": "hours", "time_unit": 6, "repeat": 1},
    )
    order, rhythm, _ = launch_of("a/b", given)
    options = Options(timeout=2.5, attempts=3, priority="high", node="n1", unique="t")
    assert order == Order("a/b", {"n": 1}, options, "folder/file.csv")
    assert rhythm == Rhythm("hours", 6, True)


@pytest.mark.parametrize("interval", ["minutes", "hours", "days", "weeks"])
@pytest.mark.parametrize("repeat", [0, 1])
def test_every_rhythm_can_be_asked_for(interval: str, repeat: int) -> None:
    given = body(scheduled={"interval": interval, "time_unit": 1, "repeat": repeat})
    assert launch_of("a/b", given)[1] == Rhythm(interval, 1, bool(repeat))


def test_overlap_is_an_option_of_schedules() -> None:
    scheduled = {"interval": "days", "time_unit": 1, "repeat": 1}
    assert launch_of("a/b", body(scheduled=scheduled, pulzar_options={"overlap": 1}))[0].options.overlap == 1


GOOD = {"interval": "minutes", "time_unit": 5, "repeat": 1}


@pytest.mark.parametrize(
    ("path", "given", "message"),
    [
        ("factorial", b"", "no job; give folder/script"),
        ("a/b/c", b"", "no job"),
        ("../b", b"", "no job"),
        ("a/b c", b"", "no job"),
        ("a/" + "b" * 65, b"", "no job"),
        ("a/b", b"[1]", r"the body is \[1\]; give an object"),
        ("a/b", b'"text"', "give an object"),
        ("a/b", b"5", "give an object"),
        ("a/b", b"null", "give an object"),
        ("a/b", b"number=5", "is no JSON in UTF-8: .* it begins with b'number=5'"),
        ("a/b", b"\xff{}", "is no JSON in UTF-8"),
        ("a/b", b"\xef\xbb\xbf{}", "byte order mark"),
        ("a/b", b'{"a": NaN}', "NaN is no JSON"),
        ("a/b", b'{"a": 1e999}', "inf"),
        ("a/b", b"[" * 100_000, "too deep"),
        ("a/b", b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "more than 32"),
        ("a/b", b'{"a": "' + b"x" * (1 << 20) + b'"}', "1048576 is the limit"),
        ("a/b", b'{"a": 123456789012345678901234567890}', "more than 64 bits"),
        ("a/b", b'{"a": "\\ud800"}', "half of a character"),
        ("a/b", body(a=[0.1] * 150_000), "the job makes a message of 1350[0-9]{3} bytes"),
        ("a/b", body(pulzar_data="../x"), "pulzar_data = '../x' is no key"),
        ("a/b", body(pulzar_data=5), "pulzar_data = 5 is no key"),
        ("a/b", body(pulzar_options=[]), "pulzar_options: options = .* is no object"),
        ("a/b", body(pulzar_options={"tries": 1}), "pulzar_options: there is no option 'tries'"),
        ("a/b", body(pulzar_options={"timeout": -1}), "timeout"),
        ("a/b", body(pulzar_options={"attempts": True}), "attempts"),
        ("a/b", body(pulzar_options={"priority": "urgent"}), "none of high, normal, low"),
        ("a/b", body(pulzar_options={"overlap": 1}), "overlap is for scheduled jobs"),
        ("a/b", body(scheduled=None), "scheduled = null is no object"),
        ("a/b", body(scheduled={"interval": "minutes", "time_unit": 5}), "has no repeat"),
        ("a/b", body(scheduled=GOOD | {"at": "noon"}), "'at', which is not known"),
        ("a/b", body(scheduled=GOOD | {"interval": "seconds"}), "interval = 'seconds' is none of minutes, hours"),
        ("a/b", body(scheduled=GOOD | {"interval": []}), "is none of minutes"),
        ("a/b", body(scheduled=GOOD | {"time_unit": "5"}), "time_unit = '5' is no integer from 1 on"),
        ("a/b", body(scheduled=GOOD | {"time_unit": 0}), "time_unit = 0"),
        ("a/b", body(scheduled=GOOD | {"time_unit": 1.0}), "time_unit = 1.0"),
        ("a/b", body(scheduled=GOOD | {"time_unit": True}), "time_unit = true"),
        ("a/b", body(scheduled=GOOD | {"time_unit": 10**30}), "more than 36500 days"),
        ("a/b", body(scheduled=GOOD | {"interval": "weeks", "time_unit": 5215}), "more than 36500 days"),
        ("a/b", body(scheduled=GOOD | {"repeat": 2}), "repeat = 2 is neither 0"),
        ("a/b", body(scheduled=GOOD | {"repeat": False}), "repeat = false is neither 0"),
    ],
)
def test_what_can_not_be_launched_is_told_why(path: str, given: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        launch_of(path, given)
