"""What outputs are written as: `jobs/plain.py`."""

from __future__ import annotations

import base64
import collections
import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from jobs import plain
from jobs.channel import encode_output
from jobs.errors import BadOutput

NUMBER = UUID("12345678-1234-5678-1234-567812345678")


class Colour(Enum):
    RED = "red"
    SINCE = date(2026, 1, 2)


class Level(IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Row:
    when: date
    tags: set[str]


class Model:
    """As pydantic has it."""

    def model_dump(self) -> dict[str, Any]:
        return {"row": Row(date(2026, 1, 2), {"b", "a"})}


class Scalar:
    """As numpy has it."""

    shape = ()

    def __init__(self, value: object) -> None:
        self._value = value

    def tolist(self) -> object:
        return self._value


class Huge:
    shape = (1_000_000_000, 1000)

    def tolist(self) -> object:
        raise AssertionError("a list of it would take all memory")


class Nasty:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Broken:
    def model_dump(self) -> dict[str, Any]:
        raise RuntimeError("no such thing")


def written(value: object, limit: int = 1 << 20) -> tuple[Any, list[str]]:
    notes: list[str] = []
    return json.loads(encode_output(value, limit, notes.append)), notes


@pytest.mark.parametrize(
    ("value", "as_json"),
    [
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, 4, 5, 6), "2026-01-02T03:04:05.000006"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        (datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))), "2026-01-02T00:00:00+02:00"),
        (time(3, 4), "03:04:00"),
        (timedelta(days=1, seconds=3723, microseconds=500_000), "P1DT1H2M3.5S"),
        (timedelta(seconds=-90), "-P0DT0H1M30S"),
        (Decimal("1.10"), "1.10"),
        (Fraction(1, 3), "1/3"),
        (NUMBER, str(NUMBER)),
        (Path("/tmp/a"), "/tmp/a"),
        (ip_address("::1"), "::1"),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        ({date(2026, 1, 2), date(2025, 1, 2)}, ["2025-01-02", "2026-01-02"]),
        ({"a", 10, 2.5, None}, [2.5, 10, "a", None]),
        ({frozenset({2, 1}), frozenset({1})}, [[1, 2], [1]]),
        (collections.deque([1, {2}]), [1, [2]]),
        (range(3), [0, 1, 2]),
        ({"a": {1}}.values(), [[1]]),
        ({"a": 1}.keys(), ["a"]),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (Colour.RED, "red"),
        (Colour.SINCE, "2026-01-02"),
        ([Level.HIGH, {1}], [3, [1]]),
        ([Point(1, 2), {1}], [[1, 2], [1]]),
        (Row(date(2026, 1, 2), {"b", "a"}), {"when": "2026-01-02", "tags": ["a", "b"]}),
        (Model(), {"row": {"when": "2026-01-02", "tags": ["a", "b"]}}),
        (Scalar(5), 5),
        ([Scalar(True), Scalar([1, {2}])], [True, [1, [2]]]),
        (["\ud800", {1}], ["\ud800", [1]]),
        (10**4000, 10**4000),
    ],
)
def test_what_scripts_have_at_their_end_is_written(value: object, as_json: object) -> None:
    assert written(value) == (as_json, [])
    assert written({"inside": [value]}) == ({"inside": [as_json]}, [])


def test_a_number_that_json_has_not_is_null_and_said() -> None:
    value, notes = written({"a": [1.5, float("nan")], "b": float("-inf"), "c": Decimal("NaN")})
    assert value == {"a": [1.5, None], "b": None, "c": None}
    assert notes == [
        "output.a[1]: nan, written as null",
        "output.b: -inf, written as null",
        "output.c: nan, written as null",
    ]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_written_as_base64_and_said(kind: type) -> None:
    value, notes = written({"digest": kind(b"\x00\xff\x10")})
    assert base64.b64decode(value["digest"]) == b"\x00\xff\x10"
    assert notes == ["output.digest: 3 bytes, written as base64"]


def test_of_many_notes_the_first_are_said_and_how_many_more_there_are() -> None:
    _, notes = written([float("nan")] * 1000)
    assert len(notes) == 21
    assert notes[0] == "output[0]: nan, written as null"
    assert notes[-1] == "output: 980 more like these"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (1, "1"),
        (1.5, "1.5"),
        (True, "true"),
        (None, "null"),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
        (date(2026, 1, 2), "2026-01-02"),
        (NUMBER, str(NUMBER)),
        (Decimal("1.10"), "1.10"),
        (Colour.RED, "red"),
        (Level.HIGH, "3"),
        (Scalar(7), "7"),
    ],
)
def test_a_key_that_is_no_text_becomes_one(key: object, name: str) -> None:
    assert written({key: {1}})[0] == {name: [1]}
    # As the quick way does it, where that can.
    try:
        quick = json.dumps({key: 1})
    except TypeError:
        return
    assert json.loads(quick) == {name: 1}


def loop() -> list[Any]:
    holder: list[Any] = [1, {}]
    holder[1]["again"] = holder
    return holder


def deep() -> list[Any]:
    value: list[Any] = [{1}]
    for _ in range(5000):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"rows": [1, 2, 3, {"when": object()}]}, "output.rows[3].when is an object, which JSON has not"),
        ({"a b": {"x" * 100: 1j}}, f"output['a b']['{'x' * 40}…'] is a complex, which JSON has not"),
        ({"a": Row}, "output.a is the class Row, which JSON has not"),
        (print, "output is a builtin_function_or_method, which JSON has not"),
        ({"a": (n for n in ())}, "output.a is a generator, which JSON has not; give list(…) of it"),
        ({"a": {(1, 2): 3}}, "output.a has the key (1, 2), a tuple, which can be no name in JSON; give a text"),
        ({"a": {b"k": 3}}, "output.a has the key b'k', a bytes, which can be no name in JSON; give a text"),
        ({"1": {1}, 1: 2}, "output has two keys that are both '1' as text"),
        (loop(), "output[1].again holds itself"),
        (deep(), "is inside more than 100 lists or objects in each other"),
        ({"n": [10**5000]}, "output.n[0] is an integer of 16610 bits; give it as text"),
        ([Broken()], "output[0] can't be converted: RuntimeError: no such thing"),
    ],
)
def test_what_is_left_is_refused_with_the_path_to_it(value: object, reason: str) -> None:
    with pytest.raises(BadOutput) as refused:
        written(value)
    assert str(refused.value).startswith("the output can't be written as JSON: output")
    assert str(refused.value).endswith(reason)


def test_what_is_refused_stands_in_the_log() -> None:
    notes: list[str] = []
    with pytest.raises(BadOutput):
        encode_output({"total": 12, "rows": [object]}, 1000, notes.append)
    assert notes == ["the output that was refused: {'rows': [<class 'object'>], 'total': 12}"]


def test_of_a_large_one_that_is_refused_the_beginning_does() -> None:
    notes: list[str] = []
    with pytest.raises(
        BadOutput, match=r"^the output has 1\d+ bytes and 1000 are allowed; store it under a key instead$"
    ):
        encode_output(list(range(3000)), 1000, notes.append)
    with pytest.raises(BadOutput, match=r"^the output has more than 1000 bytes; store it"):
        encode_output([{1}] * 3000, 1000, notes.append)
    with pytest.raises(BadOutput, match=r"^output\.a has 1000000000000 parts, and there is room for"):
        encode_output({"a": Huge()}, 1000, notes.append)
    with pytest.raises(BadOutput):
        encode_output([[Nasty()] * 500] * 500, 1000, notes.append)
    assert [len(note) < plain.SHOWN_CHARACTERS + 100 for note in notes] == [True] * 4


def test_what_is_of_the_right_size_is_not_refused() -> None:
    value = [{"a": {1}, "b": b"xyz", "c": "ü"}] * 100
    size = len(encode_output(value, 1 << 20, lambda _: None))
    assert len(encode_output(value, size, lambda _: None)) == size
    with pytest.raises(BadOutput):
        encode_output(value, size - 1, lambda _: None)


def test_an_output_that_is_plain_loads_nothing() -> None:
    code = "import sys; from jobs.channel import encode_output; encode_output({'a': [1]}, 99, print); print('jobs.plain' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_values_of_numpy_are_written() -> None:
    numpy = pytest.importorskip("numpy")
    value, notes = written(
        {
            "int": numpy.int64(1),
            "float": numpy.float32(1.5),
            "long": numpy.longdouble(2.5),
            "flag": numpy.bool_(True),
            "when": numpy.datetime64("2026-01-02T03:04:05.000000001"),
            "day": numpy.datetime64("2026-01-02"),
            "never": numpy.datetime64("NaT"),
            "took": numpy.timedelta64(1500, "ms"),
            "nanos": numpy.timedelta64(1_500_000_000, "ns"),
            "array": numpy.array([[1, 2], [3, 4]]),
            "days": numpy.array(["2026-01-02", "NaT"], dtype="datetime64[ns]"),
            "gap": numpy.array([1.0, numpy.nan]),
            numpy.int64(5): numpy.ma.masked_array([1, 2], [False, True]),
            numpy.datetime64("2026-01-02"): 1,
        }
    )
    assert value == {
        "int": 1,
        "float": 1.5,
        "long": 2.5,
        "flag": True,
        "when": "2026-01-02T03:04:05.000000001",
        "day": "2026-01-02",
        "never": None,
        "took": "P0DT0H0M1.5S",
        "nanos": "P0DT0H0M1.5S",
        "array": [[1, 2], [3, 4]],
        "days": ["2026-01-02T00:00:00.000000000", None],
        "gap": [1.0, None],
        "5": [1, None],
        "2026-01-02": 1,
    }
    assert notes == ["output.gap[1]: nan, written as null"]
    with pytest.raises(BadOutput, match=r"output\[0\] is a complex"):
        written([numpy.complex64(1)])
