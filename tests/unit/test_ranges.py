"""Range headers: what they ask for, and how several stretches are put together."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.http import ranges
from broker.http.ranges import MAX_RANGES, Multipart, Span, Unsatisfiable

SIZE = 1000


@pytest.mark.parametrize(
    ("header", "spans"),
    [
        ("bytes=4-7", [(4, 8)]),
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-999", [(0, 1000)]),
        ("bytes=999-", [(999, 1000)]),
        ("bytes=500-", [(500, 1000)]),
        ("bytes=0-", [(0, 1000)]),
        ("bytes=-1", [(999, 1000)]),
        ("bytes=-1000", [(0, 1000)]),
        ("bytes=-5000", [(0, 1000)]),
        ("bytes=990-5000", [(990, 1000)]),
        ("bytes=0-99999999999999999999999999", [(0, 1000)]),
        ("bytes=-99999999999999999999999999", [(0, 1000)]),
        ("bytes=" + "0" * 5000 + "4-7", [(4, 8)]),
        ("Bytes=4-7", [(4, 8)]),
        (" bytes=4-7 ", [(4, 8)]),
        ("bytes= 4-7", [(4, 8)]),
    ],
)
def test_one_range_is_one_stretch(header: str, spans: list[tuple[int, int]]) -> None:
    assert ranges.read(header, SIZE) == spans


@pytest.mark.parametrize(
    ("header", "spans"),
    [
        ("bytes=0-9,20-29", [(0, 10), (20, 30)]),
        ("bytes=20-29,0-9", [(20, 30), (0, 10)]),  # the client's order, when nothing overlaps
        ("bytes=0-9 ,\t20-29", [(0, 10), (20, 30)]),
        ("bytes=,0-9,,20-29,", [(0, 10), (20, 30)]),
        ("bytes=0-0,-1", [(0, 1), (999, 1000)]),
        ("bytes=0-9,10-19", [(0, 10), (10, 20)]),
        ("bytes=4-7,1000-", [(4, 8)]),  # a good and a bad one
        ("bytes=2000-3000,-5", [(995, 1000)]),
        ("bytes=0-9,5-14", [(0, 15)]),
        ("bytes=0-9,0-9", [(0, 10)]),
        ("bytes=50-60,0-9,5-14", [(0, 15), (50, 61)]),
        ("bytes=0-,0-,0-", [(0, 1000)]),
    ],
)
def test_several_ranges_are_several_stretches_with_nothing_twice(header: str, spans: list[tuple[int, int]]) -> None:
    assert ranges.read(header, SIZE) == spans


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=7-4",
        "bytes=0-9,7-4",
        "bytes=a-b",
        "bytes=1-2-3",
        "bytes=--1",
        "bytes=1 -2",
        "bytes=+1-2",
        "bytes=0x1-2",
        "bytes=1.0-2",
        "bytes=٣-٤",
        "lines=1-2",
        "4-7",
        "bytes:4-7",
        "bytes =4-7",
        "bytes=0-1,bytes=3-4",
        "bytes=*",
    ],
)
def test_a_header_that_makes_no_sense_is_ignored(header: str) -> None:
    assert ranges.read(header, SIZE) is None


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ("bytes=1000-", SIZE),
        ("bytes=1000-1000", SIZE),
        ("bytes=99999999999999999999-", SIZE),
        ("bytes=-0", SIZE),
        ("bytes=1000-,2000-", SIZE),
        ("bytes=0-0", 0),
        ("bytes=0-", 0),
        ("bytes=-1", 0),
        ("bytes=-0", 0),
    ],
)
def test_ranges_with_no_byte_of_the_value_are_unsatisfiable(header: str, size: int) -> None:
    with pytest.raises(Unsatisfiable, match=f"{size} bytes"):
        ranges.read(header, size)


def test_too_many_ranges_are_ignored() -> None:
    def header(count: int) -> str:
        return "bytes=" + ",".join(f"{number * 2}-{number * 2}" for number in range(count))

    most = ranges.read(header(MAX_RANGES), SIZE)
    assert most is not None
    assert len(most) == MAX_RANGES
    assert ranges.read(header(MAX_RANGES + 1), SIZE) is None
    assert ranges.read("bytes=" + ",".join(["0-"] * 5000), SIZE) is None


_SPEC = st.one_of(
    st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: f"{min(pair)}-{max(pair)}"),
    st.integers(0, 60).map(lambda first: f"{first}-"),
    st.integers(0, 60).map(lambda count: f"-{count}"),
)


@given(st.lists(_SPEC, min_size=1, max_size=8), st.integers(0, 50))
def test_the_stretches_are_exactly_the_bytes_asked_for(specs: list[str], size: int) -> None:
    wanted: set[int] = set()
    for spec in specs:
        first, _, last = spec.partition("-")
        if not first:
            wanted |= set(range(size)[max(0, size - int(last)) :])
        else:
            wanted |= set(range(size)[int(first) : int(last) + 1 if last else size])
    if not wanted:
        with pytest.raises(Unsatisfiable):
            ranges.read("bytes=" + ",".join(specs), size)
        return
    spans = ranges.read("bytes=" + ",".join(specs), size)
    assert spans
    covered = [at for start, stop in spans for at in range(start, stop)]
    assert sorted(covered) == sorted(wanted)
    assert len(set(covered)) == len(covered)


def test_several_stretches_travel_as_parts_with_their_places() -> None:
    value = bytes(range(200)) * 5
    multipart = Multipart([Span(0, 5), Span(990, 1000)], SIZE, [("Content-Type", "text/plain; charset=utf-8")])
    body = b"".join(value[p.start : p.stop] if isinstance(p, Span) else p for p in multipart.pieces())
    match = re.fullmatch(r"multipart/byteranges; boundary=([0-9a-f]{32})", multipart.content_type)
    assert match
    mark = match[1].encode()
    assert len(body) == multipart.length
    assert body == (
        b"\r\n--"
        + mark
        + b"\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes 0-4/1000\r\n\r\n"
        + value[:5]
        + b"\r\n--"
        + mark
        + b"\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes 990-999/1000\r\n\r\n"
        + value[-10:]
        + b"\r\n--"
        + mark
        + b"--\r\n"
    )


def test_no_two_answers_have_the_same_boundary() -> None:
    assert Multipart([], SIZE, []).content_type != Multipart([], SIZE, []).content_type
