"""`GET /keys`: pages of entries in the order of their keys, by prefix, with folders folded."""

from __future__ import annotations

import datetime
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from ops.cluster import Cluster
from tests.integration.wire import INLINE, Client, good, payload, refused
from tests.support import unique, wait_for

MANY = 2_500


def page(master: Client, **parameters: Any) -> dict[str, Any]:
    """One page."""
    data: dict[str, Any] = good(master.request("GET", f"/keys?{urlencode(parameters)}"), 200, "ok")
    names = ["keys", "prefixes", *(["folders"] if parameters.get("delimiter") == "/" else []), "next"]
    assert list(data) == names
    return data


def put_all(cluster: Cluster, keys: list[str]) -> None:
    """Add keys, their names as values, from several clients."""

    def put(part: list[str]) -> None:
        with Client(cluster.master_url) as client:
            for key in part:
                good(client.put(key, key.encode()), 201)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, [keys[n::8] for n in range(8)]))


@pytest.fixture(scope="module")
def many(cluster: Cluster) -> list[str]:
    """Keys in one folder, in their order; nobody else writes there."""
    folder = unique("many")
    dice = random.Random(7)
    printable = "".join(map(chr, range(32, 127))).replace("/", "").replace(".", "")
    names = set()
    while len(names) < MANY:
        depth = dice.choice([1, 1, 2, 3])
        segments = ("".join(dice.choice(printable) for _ in range(dice.randrange(1, 9))) for _ in range(depth))
        names.add(f"{folder}/" + "/".join(segments))
    put_all(cluster, list(names))
    return sorted(names)


@pytest.fixture(scope="module")
def tree(cluster: Cluster) -> str:
    """A folder with folders."""
    folder = unique("tree")
    names = ["a.txt", "b/1", "b/2", "b/c/3", "b-c", "b.d", "c/1/2/3", "d", "d/e", "z"]
    put_all(cluster, [f"{folder}/{name}" for name in names])
    return folder


def test_a_row_says_what_there_is_to_say_of_a_key(cluster: Cluster, master: Client) -> None:
    for size, query in ((10, ""), (INLINE + 1, "?ttl=1h")):
        key = unique("a.txt")
        put = master.put(key, payload(size), query)
        (row,) = page(master, prefix=key)["keys"]
        assert row.keys() == {"key", "size", "etag", "nodes", "created", "expires", "content_type", "content_encoding"}
        assert (row["key"], row["size"], row["etag"]) == (key, size, put.headers["etag"])
        assert row["content_type"] == "text/plain"
        assert (row["expires"] is None) == (not query)
        url = good(put, 201)["url"]
        assert [next(node.url for node in cluster.nodes if node.id == name) for name in row["nodes"]] == [
            url.removesuffix(f"/get_key/{key}")
        ]


@pytest.mark.parametrize("limit", [1000, 999, 400, 17])
def test_pages_lead_to_the_end_in_the_order_of_the_keys(master: Client, many: list[str], limit: int) -> None:
    wanted = many if limit > 100 else many[:200]
    prefix = many[0].rpartition("many/")[0] + "many/"
    found: list[str] = []
    after: str | None = ""
    while after is not None and len(found) < len(wanted):
        rows = page(master, prefix=prefix, after=after, limit=limit)
        assert len(rows["keys"]) == limit or rows["next"] is None
        assert rows["next"] is None or rows["next"] == rows["keys"][-1]["key"]
        found += [row["key"] for row in rows["keys"]]
        after = rows["next"]
    assert found[: len(wanted)] == wanted
    if limit > 100:
        assert after is None


def test_a_page_has_100_rows_unless_it_is_said(master: Client, many: list[str]) -> None:
    rows = page(master, prefix=many[0][:20])
    assert len(rows["keys"]) == 100
    assert rows["next"]


def test_the_last_page_says_that_it_is_the_last_also_when_it_is_full(master: Client, tree: str) -> None:
    assert page(master, prefix=f"{tree}/", limit=10)["next"] is None
    rows = page(master, prefix=f"{tree}/", limit=9)
    assert len(rows["keys"]) == 9
    assert [row["key"] for row in page(master, prefix=f"{tree}/", limit=9, after=rows["next"])["keys"]] == [f"{tree}/z"]


def test_any_text_is_a_prefix_also_in_the_middle_of_a_name(master: Client, many: list[str]) -> None:
    dice = random.Random(8)
    for key in dice.sample(many, 40):
        prefix = key[: dice.randrange(len(key) - 4, len(key) + 1)]
        expected = [other for other in many if other.startswith(prefix)]
        assert [row["key"] for row in page(master, prefix=prefix, limit=1000)["keys"]] == expected[:1000], prefix


def test_after_goes_on_behind_any_text_whether_or_not_there_is_such_a_key(master: Client, many: list[str]) -> None:
    dice = random.Random(9)
    prefix = many[0].rpartition("many/")[0] + "many/"
    for key in dice.sample(many, 40):
        after = key + dice.choice(["", " ", "~", "/", "a"])
        expected = [other for other in many if other > after][:20]
        assert [row["key"] for row in page(master, prefix=prefix, after=after, limit=20)["keys"]] == expected, after


def test_after_in_front_of_the_prefix_or_behind_it_is_no_error(master: Client, tree: str) -> None:
    assert len(page(master, prefix=f"{tree}/", after=" ")["keys"]) == 10
    assert page(master, prefix=f"{tree}/", after="~~~~") == {"keys": [], "prefixes": [], "next": None}


def test_a_leading_slash_counts_for_nothing(master: Client, tree: str) -> None:
    for query in (
        {"prefix": f"{tree}/"},
        {"prefix": f"{tree}/", "after": f"{tree}/a"},
        {"prefix": f"{tree}/", "delimiter": "/"},
    ):
        with_slash = {name: f"/{text}" if name != "delimiter" else text for name, text in query.items()}
        assert page(master, **with_slash) == page(master, **query)
        assert page(master, **with_slash)["keys"] != []
    assert page(master, prefix="/", limit=5) == page(master, limit=5)
    assert len(page(master, prefix="/" + "k" * 383)["keys"]) == 0
    refused(master.request("GET", "/keys?prefix=/" + "k" * 384), 400)
    assert page(master, prefix=f"//{tree}") == {"keys": [], "prefixes": [], "next": None}


def test_a_prefix_of_nothing_is_an_empty_page(master: Client) -> None:
    assert page(master, prefix=unique("nothing")) == {"keys": [], "prefixes": [], "next": None}


def test_the_order_is_that_of_ascii(master: Client, cluster: Cluster) -> None:
    folder = unique("order")
    names = [chr(code) for code in range(33, 127) if chr(code) not in "./"] + [
        "a/b",
        "a b",
        "a-",
        "a.",
        "aa",
        "A",
        "~~",
    ]
    names = sorted(set(names))
    put_all(cluster, [f"{folder}/{name}" for name in names])
    rows = page(master, prefix=f"{folder}/", limit=1000)["keys"]
    assert [row["key"] for row in rows] == [f"{folder}/{name}" for name in names]


# Folders


def test_a_delimiter_folds_what_lies_deeper(master: Client, tree: str) -> None:
    rows = page(master, prefix=f"{tree}/", delimiter="/")
    assert [row["key"] for row in rows["keys"]] == [f"{tree}/{name}" for name in ("a.txt", "b-c", "b.d", "d", "z")]
    assert rows["prefixes"] == [f"{tree}/{name}/" for name in ("b", "c", "d")]
    assert rows["next"] is None

    rows = page(master, prefix=f"{tree}/b/", delimiter="/")
    assert [row["key"] for row in rows["keys"]] == [f"{tree}/b/1", f"{tree}/b/2"]
    assert rows["prefixes"] == [f"{tree}/b/c/"]

    assert page(master, prefix=tree, delimiter="/")["prefixes"] == [f"{tree}/"]


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_pages_with_folders_lead_to_the_end_and_repeat_nothing(master: Client, tree: str, limit: int) -> None:
    whole = page(master, prefix=f"{tree}/", delimiter="/")
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        rows = page(master, prefix=f"{tree}/", delimiter="/", limit=limit, after=after)
        found += sorted([row["key"] for row in rows["keys"]] + rows["prefixes"])
        assert 1 <= len(rows["keys"]) + len(rows["prefixes"]) <= limit
        after = rows["next"]
    assert found == sorted([row["key"] for row in whole["keys"]] + whole["prefixes"])


def test_pages_with_folders_of_many_keys_repeat_nothing(master: Client, many: list[str]) -> None:
    prefix = many[0].rpartition("many/")[0] + "many/"
    expected = sorted(
        {
            prefix + (rest[: rest.index("/") + 1] if "/" in rest else rest)
            for rest in (key.removeprefix(prefix) for key in many)
        }
    )
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        rows = page(master, prefix=prefix, delimiter="/", limit=1000, after=after)
        found += sorted([row["key"] for row in rows["keys"]] + rows["prefixes"])
        after = rows["next"]
    assert found == expected


def test_a_delimiter_may_be_any_text(master: Client, cluster: Cluster) -> None:
    folder = unique("delimiter")
    put_all(cluster, [f"{folder}/{name}" for name in ("2026-11-24", "2026-11-25", "2026-12-01", "2027")])
    rows = page(master, prefix=f"{folder}/2026-", delimiter="-")
    assert rows["prefixes"] == [f"{folder}/2026-11-", f"{folder}/2026-12-"]
    rows = page(master, prefix=f"{folder}/", delimiter="11-2")
    assert rows["prefixes"] == [f"{folder}/2026-11-2"]


def test_the_listing_of_everything_begins_with_the_smallest_key(master: Client, cluster: Cluster) -> None:
    put_all(cluster, [f" {unique('first')}"])
    rows = page(master, limit=1)
    assert rows["keys"][0]["key"].startswith(" ")
    assert rows["next"] == rows["keys"][0]["key"]


# Counters


def usage(master: Client, prefix: str) -> tuple[int, int]:
    data = good(master.request("GET", f"/stats/{quote(prefix)}"), 200, "ok")
    assert list(data) == ["keys", "bytes"]
    return data["keys"], data["bytes"]


def test_each_folder_says_how_much_lies_beneath_it(master: Client, tree: str) -> None:
    def size(*names: str) -> int:
        return sum(len(f"{tree}/{name}") for name in names)

    rows = page(master, prefix=f"{tree}/", delimiter="/")
    assert rows["folders"] == [
        {"prefix": f"{tree}/b/", "keys": 3, "bytes": size("b/1", "b/2", "b/c/3")},
        {"prefix": f"{tree}/c/", "keys": 1, "bytes": size("c/1/2/3")},
        {"prefix": f"{tree}/d/", "keys": 1, "bytes": size("d/e")},
    ]
    assert page(master, prefix=tree, delimiter="/")["folders"][0]["keys"] == 10
    for folder in rows["folders"]:
        assert usage(master, folder["prefix"]) == usage(master, "/" + folder["prefix"])
        assert usage(master, folder["prefix"]) == (folder["keys"], folder["bytes"])


def test_any_prefix_is_summed(master: Client, many: list[str], tree: str) -> None:
    dice = random.Random(10)
    for key in [*dice.sample(many, 40), f"{tree}/b-"]:
        prefix = key[: dice.randrange(len(many[0].rpartition("many/")[0]) + 2, len(key) + 1)]
        expected = [other for other in many if other.startswith(prefix)]
        if key in many:
            assert usage(master, prefix) == (len(expected), sum(map(len, expected))), prefix
    assert usage(master, f"{tree}/b") == (
        5,
        sum(len(f"{tree}/{name}") for name in ("b/1", "b/2", "b/c/3", "b-c", "b.d")),
    )
    assert usage(master, unique("nothing")) == usage(master, unique("nothing") + "/") == usage(master, "a//") == (0, 0)


def test_counters_follow_every_change_and_agree_with_the_status(master: Client) -> None:
    folder = unique("counted")
    for key, size, query in ((f"{folder}/a/1", 10, ""), (f"{folder}/a/2", INLINE + 1, ""), (f"{folder}/3", 0, "")):
        good(master.put(key, payload(size), query), 201)
    assert usage(master, f"{folder}/") == (3, INLINE + 11)
    good(master.put(f"{folder}/a/2", b"smaller", "?overwrite=1"), 201)
    assert usage(master, f"{folder}/a/") == (2, 17)
    good(master.request("DELETE", f"/delete_key/{folder}/a/1"), 200)
    assert (usage(master, f"{folder}/a/"), usage(master, f"{folder}/")) == ((1, 7), (2, 7))
    good(master.request("DELETE", f"/delete_key/{folder}/a/2"), 200)
    assert page(master, prefix=f"{folder}/", delimiter="/")["folders"] == []

    def all_agree() -> bool:
        status, whole = (good(master.request("GET", path), 200, "ok") for path in ("/admin/status", "/stats"))
        return (status["keys"], status["bytes"], status["entries"]) == (whole["keys"], whole["bytes"], whole["keys"])

    wait_for(all_agree)  # other tests may be writing


def test_a_prefix_that_is_no_key_is_refused_or_counts_nothing(master: Client) -> None:
    for bad in ("%C3%BC", "a%C3%BC/", "%FF", "%00", "%00/", "k" * 384):
        assert "prefix" in refused(master.request("GET", f"/stats/{bad}"), 400)
    for empty in ("a/../", "k" * 383):
        assert good(master.request("GET", f"/stats/{empty}"), 200, "ok") == {"keys": 0, "bytes": 0}


def test_head_has_the_headers_of_get(master: Client, tree: str) -> None:
    for path in (f"/keys?prefix={tree}/", f"/stats/{tree}/", "/stats"):
        get, head = (master.request(method, path) for method in ("GET", "HEAD"))
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-type"] == "application/json"
        if "?" in path:
            assert head.headers["content-length"] == get.headers["content-length"]
    assert master.request("POST", "/keys").headers["allow"] == "GET, HEAD, OPTIONS"


# Bad parameters


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=1001",
        "limit=x",
        "limit=",
        "limit=1.5",
        "limit=%D9%A3",
        "limit=99999999999999999999",
        "prefix=%C3%A9",
        "after=%C3%A9",
        "delimiter=%C3%A9",
        "prefix=" + "k" * 384,
        "after=" + "k" * 404,  # with the version of a deleted one
    ],
)
def test_a_bad_parameter_is_refused_with_its_name(master: Client, query: str) -> None:
    assert query.partition("=")[0] in refused(master.request("GET", f"/keys?{query}"), 400)


@pytest.mark.parametrize(
    "query",
    [
        "prefix=%00",
        "after=%00",
        "after=%7F",
        "prefix=a//",
        "prefix=../",
        "prefix=%FF",
        "delimiter=%00",
        "prefix=//",
        "delimiter=//",
    ],
)
def test_a_prefix_that_no_key_can_have_finds_nothing_and_breaks_nothing(master: Client, query: str) -> None:
    answer = master.request("GET", f"/keys?{query}&limit=5")
    assert answer.status in (200, 400)
    if answer.status == 200 and query.startswith("prefix"):
        assert good(answer)["keys"] == []


def test_a_list_can_be_of_names_with_a_text_and_of_days(cluster: Cluster) -> None:
    folder = unique("found")
    put_all(cluster, [f"{folder}/{name}" for name in ("May/report.PDF", "june/x", "may.txt", "reports/may")])
    with Client(cluster.master_url) as master:
        found = good(master.request("GET", f"/keys?prefix={folder}/&contains=MAY"), 200, "ok")
        assert [row["key"][len(folder) + 1 :] for row in found["keys"]] == ["May/report.PDF", "may.txt", "reports/may"]
        assert (found["looked"], found["next"]) == (4, None)
        # The folder itself is no part of the names that are looked through.
        assert good(master.request("GET", f"/keys?prefix={folder}/&contains=found"), 200, "ok")["keys"] == []
        first = good(master.request("GET", f"/keys?prefix={folder}/&contains=may&limit=1"), 200, "ok")
        rest = good(master.request("GET", f"/keys?prefix={folder}/&contains=may&after={first['next']}"), 200, "ok")
        assert [row["key"] for row in first["keys"] + rest["keys"]] == [row["key"] for row in found["keys"]]
        today = datetime.datetime.fromtimestamp(found["keys"][0]["created"], datetime.UTC).date()
        for since, until, count in ((0, 0, 4), (1, 2, 0), (-2, -1, 0), (-1, None, 4), (None, 1, 4)):
            days = {"since": since, "until": until}
            given = {name: today + datetime.timedelta(n) for name, n in days.items() if n is not None}
            query = urlencode({"prefix": f"{folder}/", **given})
            assert len(good(master.request("GET", f"/keys?{query}"), 200, "ok")["keys"]) == count


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("since=yesterday", "is no day"),
        ("until=2026-02-30", "is no day"),
        ("since=2026-02-02&until=2026-02-01", "exchange them"),
        ("contains=%C3%BC", "ASCII"),
        ("contains=x&delimiter=/", "does not go with"),
    ],
)
def test_a_filter_that_can_t_be_is_refused(cluster: Cluster, query: str, reason: str) -> None:
    with Client(cluster.master_url) as master:
        assert reason in refused(master.request("GET", f"/keys?{query}"), 400)
