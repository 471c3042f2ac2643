"""Extensions that come along: example and search, through the master."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from broker import keys
from extensions import Extension, Refused, Store
from extensions.search import Search
from master.index.index import Entry, Index
from ops.cluster import Cluster
from tests.support import Answer, http_request, put, unique

DAY_MS = 86_400_000


def ask(cluster: Cluster, path: str) -> Answer:
    return http_request("GET", f"{cluster.master_url}/extension/{path}", timeout=60)


def test_the_example_gives_back_what_it_got(cluster: Cluster) -> None:
    assert ask(cluster, "example/a/b?x=1").data == {"my_arg": ["a", "b"], "my_params": {"x": ["1"]}}


# Of a real cluster.


@pytest.fixture(scope="module")
def folder(cluster: Cluster) -> str:
    """A folder with some keys of today."""
    folder = unique("search")
    for name in ("one.txt", "two.txt", "sub/Three #1.txt", "sub/four.bin"):
        assert put(cluster, f"{folder}/{name}", b"value").status == 201
    return folder


def test_keys_that_contain_a_text_are_found_in_order_with_an_address_that_works(cluster: Cluster, folder: str) -> None:
    answer = ask(cluster, f"search/{quote(folder)}")
    assert (answer.status, answer.msg) == (200, "ok")
    assert [item["key"] for item in answer.data] == [
        f"{folder}/one.txt",
        f"{folder}/sub/Three #1.txt",
        f"{folder}/sub/four.bin",
        f"{folder}/two.txt",
    ]
    for item in answer.data:
        assert set(item) == {"key", "url"}
        assert item["url"].startswith(f"{cluster.master_url}/get_key/")
        assert http_request("GET", item["url"]).body == b"value"


def test_the_text_may_be_anywhere_and_have_slashes_and_spaces(cluster: Cluster, folder: str) -> None:
    def found(text: str) -> list[str]:
        data = ask(cluster, f"search/{text}?prefix={quote(folder)}").data
        return [item["key"].removeprefix(f"{folder}/") for item in data]

    assert found("Three%20%231") == ["sub/Three #1.txt"]
    assert found("sub%2Ff") == ["sub/four.bin"]
    assert found("sub/f") == ["sub/four.bin"]
    assert found("three") == []  # a key has upper and lower case
    assert found(".txt") == ["one.txt", "sub/Three #1.txt", "two.txt"]
    assert len(found("")) == 4


def test_limit_and_prefix_narrow_the_search(cluster: Cluster, folder: str) -> None:
    assert [item["key"] for item in ask(cluster, f"search/{folder}?limit=2").data] == [
        f"{folder}/one.txt",
        f"{folder}/sub/Three #1.txt",
    ]
    for prefix in (f"{folder}/sub/f", f"/{folder}/sub/f"):
        assert [item["key"] for item in ask(cluster, f"search/o?limit=9&prefix={prefix}").data] == [
            f"{folder}/sub/four.bin"
        ]


@pytest.mark.parametrize("prefix", ["%C3%BC", "a%C3%BC", "%FF", "%00", "k" * 400])
def test_a_prefix_that_no_key_can_have_finds_nothing(cluster: Cluster, prefix: str) -> None:
    answer = ask(cluster, f"search/?prefix={prefix}")
    assert (answer.status, answer.data) == (200, [])


def test_keys_of_today_are_found_by_todays_date(cluster: Cluster, folder: str) -> None:
    def found(query: str) -> int:
        return len(ask(cluster, f"search/{folder}?{query}").data)

    # Given the day on which they were stored; the tests may have gone on past midnight since
    page = http_request("GET", f"{cluster.master_url}/keys?prefix={quote(folder)}").data["keys"]
    days = sorted({datetime.datetime.fromtimestamp(row["created"], datetime.UTC).date() for row in page})
    first, last = days[0], days[-1]
    day, before = datetime.timedelta(days=1), first - datetime.timedelta(days=1)
    assert sum(found(f"eq={each:%m-%d-%Y}") for each in days) == 4
    assert found(f"gt={first:%m-%d-%Y}&lt={last:%m-%d-%Y}") == 4
    assert found(f"gt={last + day:%m-%d-%Y}") == 0
    assert found(f"lt={before:%m-%d-%Y}") == 0


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("eq=2026-12-31", "eq='2026-12-31' was received, and a date mm-dd-yyyy is needed"),
        ("lt=31-12-2026", "lt=31-12-2026 was received, which is no day of the calendar"),
        ("gt=02-29-2026", "gt=02-29-2026 was received, which is no day of the calendar"),
        ("gt=", "gt='' was received"),
        ("eq=1-1-2026", "a date mm-dd-yyyy is needed"),
        ("limit=0", "limit='0' was received, and a whole number from 1 on is needed"),
        ("limit=-1", "limit='-1' was received"),
        ("limit=many", "limit='many' was received"),
        ("limit=1&limit=2", "limit was given 2 times"),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_was_received(cluster: Cluster, query: str, message: str) -> None:
    answer = ask(cluster, f"search/text?{query}")
    assert (answer.status, answer.json["status"], answer.data) == (400, "ko", None)
    assert message in answer.msg


# Of an index with many days in it.


@contextmanager
def store_of(directory: Path, entries: dict[str, int]) -> Iterator[Store]:
    """A store whose keys were created at these times, in ms since the epoch."""
    index = Index(directory, 1 << 28, write=True)
    with index.write() as tables:
        for key, created in entries.items():
            tables.put_entry(keys.encode(key), None, Entry(1, "node-1", 1, 1, created, 0, 5, "", bytes(32), None))
    try:
        yield Store(index, "127.0.0.1:9")
    finally:
        index.close()


def found(store: Store, monkeypatch: pytest.MonkeyPatch, **params: str) -> list[str]:
    monkeypatch.setattr(Extension, "store", store, raising=False)
    return [item["key"] for item in Search([], {name: [value] for name, value in params.items()}).execute()]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"eq": "12-31-2025"}, "bc"),
        ({"lt": "12-31-2025"}, "abc"),
        ({"gt": "12-31-2025"}, "bcde"),
        ({"gt": "12-31-2025", "lt": "01-01-2026"}, "bcd"),
        ({"gt": "01-01-2026", "lt": "12-31-2025"}, ""),
        ({"eq": "12-30-2025", "gt": "01-01-2026", "lt": "01-01-2020"}, "a"),
        ({"eq": "12-30-2025", "gt": "no date"}, "a"),
        ({"lt": "12-31-9999"}, "abcde"),
        ({"gt": "01-01-0001"}, "abcde"),
        ({"eq": "01-01-1970"}, ""),
        ({}, "abcde"),
    ],
)
def test_days_are_those_of_utc_from_midnight_to_midnight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: dict[str, str], expected: str
) -> None:
    new_year = int(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).timestamp() * 1000)
    entries = {
        "a": new_year - DAY_MS - 1,
        "b": new_year - DAY_MS,
        "c": new_year - 1,
        "d": new_year,
        "e": new_year + DAY_MS,
    }
    with store_of(tmp_path, entries) as store:
        assert "".join(found(store, monkeypatch, **params)) == expected


def test_a_search_reads_no_more_than_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an index that counts what is read of it
    read = 0
    scan = Index.scan

    def counting(index: Index, prefix: str, after: str) -> Iterator[tuple[str, Any]]:
        nonlocal read
        for row in scan(index, prefix, after):
            read += 1
            yield row

    monkeypatch.setattr(Index, "scan", counting)
    with store_of(tmp_path, {f"{folder}/{number:05}": 1 for folder in "abc" for number in range(5000)}) as store:
        # When a part of it is asked for, then about that part is read
        assert len(found(store, monkeypatch, prefix="b/")) == 5000
        assert read <= 5001
        read = 0
        assert len(found(store, monkeypatch, limit="10")) == 10
        assert read <= 1001
        # And the first is there before the last is looked for
        read = 0
        monkeypatch.setattr(Extension, "store", store, raising=False)
        assert next(Search(["a", "0"], {}).execute())["key"] == "a/00000"
        assert read <= 1001


def test_a_search_with_a_wrong_date_is_refused_before_anything_is_read() -> None:
    with pytest.raises(Refused, match="no day of the calendar"):
        Search(["x"], {"eq": ["13-01-2026"]}).execute()


def test_what_is_found_is_one_json_list_however_long(cluster: Cluster) -> None:
    # Given more keys than fit into one piece of the answer
    folder = unique("many")
    long = "x" * 280
    for number in range(600):
        assert put(cluster, f"{folder}/{long}/{number:04}", b"").status == 201
    answer = http_request("GET", f"{cluster.master_url}/extension/search/{folder}")
    assert answer.headers["Content-Length"] is None
    data = json.loads(answer.body)["data"]
    assert [item["key"] for item in data] == [f"{folder}/{long}/{number:04}" for number in range(600)]
