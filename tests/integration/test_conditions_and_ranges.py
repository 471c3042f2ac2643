"""Ranges and conditional requests by RFC 9110, wherever the value is: kept by the master, in a node's log, in a file."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import formatdate, parsedate_to_datetime
from typing import NamedTuple

import pytest

from ops.cluster import Cluster
from tests.integration.wire import INLINE, Answer, Client, follow_to, good, payload, refused, target_of
from tests.support import unique, wait_for

SIZES = {"master": 2_000, "log": 20_000, "file": 300_000}
_stored: dict[tuple[str, str], Value] = {}


class Value(NamedTuple):
    """A value stored once for all these tests; none of them changes it."""

    key: str
    bytes: bytes
    etag: str
    modified: str
    kept_by_master: bool


@pytest.fixture(params=list(SIZES))
def value(request: pytest.FixtureRequest, cluster: Cluster, master: Client) -> Value:
    name = cluster.master_url, request.param
    if name not in _stored:
        key, body = unique(f"{request.param}.bin"), payload(SIZES[request.param])
        good(master.put(key, body), 201)
        headers = master.head(key).headers
        _stored[name] = Value(key, body, headers["etag"], headers["last-modified"], request.param == "master")
    return _stored[name]


def get(master: Client, value: Value, headers: Mapping[str, str]) -> Answer:
    """GET, by a redirect when the master does not keep the value itself."""
    answer = master.get(value.key, headers, follow=False)
    if answer.status != 307:
        return answer
    assert not value.kept_by_master
    return follow_to(answer.headers["location"], headers=headers)


def shifted(date: str, seconds: int) -> str:
    return formatdate(parsedate_to_datetime(date).timestamp() + seconds, usegmt=True)


# Ranges


def test_one_range_gets_exactly_its_bytes(master: Client, value: Value) -> None:
    size = len(value.bytes)
    for wanted, start, stop in (
        ("4-7", 4, 8),
        ("0-0", 0, 1),
        ("0-", 0, size),
        ("500-", 500, size),
        (f"0-{size - 1}", 0, size),
        (f"{size - 1}-", size - 1, size),
        ("-1", size - 1, size),
        ("-500", size - 500, size),
        (f"-{size * 2}", 0, size),
        (f"100-{size * 2}", 100, size),
        ("100-99999999999999999999999999", 100, size),
    ):
        answer = get(master, value, {"Range": f"bytes={wanted}"})
        assert answer.status == 206, wanted
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}", wanted
        assert answer.headers["content-length"] == str(stop - start)
        assert answer.body == value.bytes[start:stop]
        assert answer.headers["etag"] == value.etag
        assert answer.headers["last-modified"] == value.modified


@pytest.mark.parametrize("wanted", ["{size}-", "{size}-{size}", "99999999999-", "-0", "99999999999999999999999999-"])
def test_a_range_with_no_byte_of_the_value_is_416(master: Client, value: Value, wanted: str) -> None:
    size = len(value.bytes)
    answer = get(master, value, {"Range": "bytes=" + wanted.format(size=size)})
    refused(answer, 416)
    assert answer.headers["content-range"] == f"bytes */{size}"


def test_a_range_of_a_value_of_no_bytes_is_416(master: Client) -> None:
    key = unique()
    good(master.put(key, b""), 201)
    for wanted in ("0-0", "0-", "-1"):
        answer = master.get(key, {"Range": f"bytes={wanted}"})
        refused(answer, 416)
        assert answer.headers["content-range"] == "bytes */0"


@pytest.mark.parametrize(
    "header",
    [
        "bytes=7-4",
        "bytes=a-b",
        "bytes=",
        "bytes",
        "4-7",
        "lines=1-2",
        "bytes=1-2-3",
        "bytes=--1",
        "bytes=-",
        "bytes=0x1-2",
    ],
)
def test_a_range_that_makes_no_sense_is_ignored(master: Client, value: Value, header: str) -> None:
    answer = get(master, value, {"Range": header})
    assert (answer.status, answer.body) == (200, value.bytes)


def parts(answer: Answer) -> list[tuple[str, bytes]]:
    """The parts of a multipart/byteranges answer: their Content-Range and their bytes."""
    kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.body.endswith(f"--{boundary}--\r\n".encode())
    found = []
    for part in answer.body.split(f"--{boundary}".encode())[1:-1]:
        head, _, body = part.partition(b"\r\n\r\n")
        match = re.search(rb"content-range: (.*)", head, re.IGNORECASE)
        assert match
        assert b"application/octet-stream" in head
        found.append((match[1].strip().decode(), body.removesuffix(b"\r\n")))
    return found


def test_several_ranges_come_as_parts(master: Client, value: Value) -> None:
    size = len(value.bytes)
    answer = get(master, value, {"Range": "bytes=0-9, 100-199,-5"})
    assert answer.status == 206
    assert "content-range" not in answer.headers
    assert parts(answer) == [
        (f"bytes 0-9/{size}", value.bytes[:10]),
        (f"bytes 100-199/{size}", value.bytes[100:200]),
        (f"bytes {size - 5}-{size - 1}/{size}", value.bytes[-5:]),
    ]


def test_of_a_good_and_a_bad_range_the_good_one_is_answered(master: Client, value: Value) -> None:
    size = len(value.bytes)
    answer = get(master, value, {"Range": f"bytes=4-7,{size}-"})
    assert answer.status == 206
    if answer.headers["content-type"].startswith("multipart/"):
        assert parts(answer) == [(f"bytes 4-7/{size}", value.bytes[4:8])]
    else:
        assert (answer.headers["content-range"], answer.body) == (f"bytes 4-7/{size}", value.bytes[4:8])


@pytest.mark.parametrize(
    "wanted", ["0-99,50-149", "0-,0-,0-", ",".join(["0-"] * 500), ",".join(f"{n}-{n}" for n in range(0, 1500, 2))]
)
def test_too_many_or_overlapping_ranges_get_no_more_than_the_value_and_never_nothing(
    master: Client, value: Value, wanted: str
) -> None:
    answer = get(master, value, {"Range": f"bytes={wanted}"})
    assert answer.status in (200, 206)
    assert 0 < len(answer.body) <= len(value.bytes) + 100
    if answer.status == 200:
        assert answer.body == value.bytes
    elif "content-range" in answer.headers:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/\d+", answer.headers["content-range"])
        assert match
        assert answer.body == value.bytes[int(match[1]) : int(match[2]) + 1]


def test_a_head_with_a_range_is_told_of_the_whole_value(master: Client, value: Value) -> None:
    answer = master.head(value.key, {"Range": "bytes=4-7"})
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == str(len(value.bytes))


# If-Range


def test_a_range_counts_while_its_if_range_holds(master: Client, value: Value) -> None:
    second = parsedate_to_datetime(value.modified).timestamp()
    wait_for(lambda: time.time() >= second + 1, what="the second after the value's")
    for condition in (value.etag, value.modified):
        answer = get(master, value, {"Range": "bytes=4-7", "If-Range": condition})
        assert (answer.status, answer.body) == (206, value.bytes[4:8]), condition


@pytest.mark.parametrize("size", SIZES.values())
def test_a_date_of_this_very_second_is_not_good_enough_for_a_range(master: Client, size: int) -> None:
    def put_and_read() -> bool:
        """Whether all of it happened within one second."""
        key = unique()
        good(master.put(key, payload(size)), 201)
        modified = master.head(key).headers["last-modified"]
        answer = master.get(key, {"Range": "bytes=4-7", "If-Range": modified})
        if time.time() >= parsedate_to_datetime(modified).timestamp() + 1:
            return False
        assert (answer.status, answer.body) == (200, payload(size))
        return True

    wait_for(put_and_read, what="a value stored and read within one second")


def test_without_its_if_range_the_whole_value_is_answered(master: Client, value: Value) -> None:
    for condition in (
        '"other"',
        f"W/{value.etag}",
        shifted(value.modified, -1),
        shifted(value.modified, 1),
        "no date",
        "*",
    ):
        for wanted in ("bytes=4-7", "bytes=99999999-"):
            answer = get(master, value, {"Range": wanted, "If-Range": condition})
            assert (answer.status, answer.body) == (200, value.bytes), condition


# Conditions


NOT_MODIFIED = ["{etag}", "W/{etag}", '"x", {etag}', '"x" ,{etag}, "y"', "*"]
CHANGED = ['"x"', "", '"x", "y"', "{bare}", "nonsense"]


def conditions(value: Value, patterns: list[str]) -> list[str]:
    return [pattern.format(etag=value.etag, bare=value.etag.strip('"')) for pattern in patterns]


def not_modified(answer: Answer, value: Value) -> bool:
    """Whether it is a 304 as it should be."""
    return (
        answer.status == 304
        and answer.body == b""
        and answer.headers.get("etag") == value.etag
        and answer.headers.get("last-modified") == value.modified
        and answer.headers.get("x-content-type-options") == "nosniff"
    )


def test_what_the_client_has_already_is_304_without_leaving_the_master(master: Client, value: Value) -> None:
    for condition in conditions(value, NOT_MODIFIED):
        headers = {"If-None-Match": condition}
        assert not_modified(master.get(value.key, headers, follow=False), value), condition
        assert not_modified(master.head(value.key, headers), value), condition


def test_what_the_client_has_already_is_304_on_the_node_too(cluster: Cluster, master: Client, value: Value) -> None:
    urls = [f"{node.url}/get_key/{value.key}" for node in cluster.nodes]
    url = next(url for url in urls if follow_to(url, "HEAD").status == 200)
    for condition in conditions(value, NOT_MODIFIED):
        for method in ("GET", "HEAD"):
            assert not_modified(follow_to(url, method, headers={"If-None-Match": condition}), value), condition
    assert not_modified(follow_to(url, headers={"If-Modified-Since": value.modified}), value)
    refused(follow_to(url, headers={"If-Match": '"x"'}), 412)


def test_what_the_client_has_not_is_sent(master: Client, value: Value) -> None:
    for condition in conditions(value, CHANGED):
        answer = get(master, value, {"If-None-Match": condition})
        assert (answer.status, answer.body) == (200, value.bytes), condition
        assert master.head(value.key, {"If-None-Match": condition}).status == 200


def test_what_is_no_newer_than_the_client_has_is_304(master: Client, value: Value) -> None:
    for date in (value.modified, shifted(value.modified, 1), shifted(value.modified, 3600)):
        headers = {"If-Modified-Since": date}
        assert not_modified(master.get(value.key, headers, follow=False), value)
        assert not_modified(master.head(value.key, headers), value)
    for date in (shifted(value.modified, -1), "nonsense", "", "Thu, 99 Nov 2026 00:00:00 GMT"):
        assert get(master, value, {"If-Modified-Since": date}).body == value.bytes


def test_if_none_match_beats_if_modified_since(master: Client, value: Value) -> None:
    headers = {"If-None-Match": '"x"', "If-Modified-Since": value.modified}
    assert get(master, value, headers).body == value.bytes
    headers = {"If-None-Match": value.etag, "If-Modified-Since": shifted(value.modified, -100)}
    assert not_modified(master.get(value.key, headers, follow=False), value)


def test_a_condition_that_holds_lets_the_request_through(master: Client, value: Value) -> None:
    for condition in (value.etag, "*", f'"x", {value.etag}'):
        assert get(master, value, {"If-Match": condition}).body == value.bytes
    for date in (value.modified, shifted(value.modified, 10), "nonsense"):
        assert get(master, value, {"If-Unmodified-Since": date}).body == value.bytes
    headers = {"If-Match": value.etag, "If-Unmodified-Since": shifted(value.modified, -100)}
    assert get(master, value, headers).body == value.bytes


def test_a_condition_that_does_not_hold_is_412_without_leaving_the_master(master: Client, value: Value) -> None:
    for headers in (
        {"If-Match": '"x"'},
        {"If-Match": f"W/{value.etag}"},
        {"If-Match": ""},
        {"If-Unmodified-Since": shifted(value.modified, -1)},
    ):
        refused(master.get(value.key, headers, follow=False), 412)
        head = master.head(value.key, headers)
        assert (head.status, head.body) == (412, b"")


def test_conditions_come_before_ranges(master: Client, value: Value) -> None:
    headers = {"Range": "bytes=4-7", "If-None-Match": value.etag}
    assert not_modified(master.get(value.key, headers, follow=False), value)
    refused(master.get(value.key, {"Range": "bytes=4-7", "If-Match": '"x"'}, follow=False), 412)
    answer = get(master, value, {"Range": "bytes=4-7", "If-Match": value.etag, "If-None-Match": '"x"'})
    assert (answer.status, answer.body) == (206, value.bytes[4:8])


def test_an_unknown_key_is_404_whatever_the_condition(master: Client) -> None:
    for headers in ({"If-Match": "*"}, {"If-None-Match": "*"}, {"Range": "bytes=0-1"}):
        assert master.get(unique(), headers).status == 404


def test_416_does_not_need_the_node(master: Client, value: Value) -> None:
    answer = master.get(value.key, {"Range": f"bytes={len(value.bytes)}-"}, follow=False)
    refused(answer, 416)


# Conditional writes


def test_if_match_guards_an_overwrite(master: Client) -> None:
    key = unique()
    first = master.put(key, b"first").headers["etag"]
    assert first in refused(master.put(key, b"lost", headers={"If-Match": '"other"'}), 412)
    refused(master.put(key, b"lost", headers={"If-Match": f"W/{first}"}), 412)
    refused(master.put(key, b"lost", "?overwrite=1", {"If-Match": '"other"'}), 412)
    assert master.get(key).body == b"first"

    second = master.put(key, b"second", headers={"If-Match": first})
    good(second, 201)
    refused(master.put(key, b"lost", headers={"If-Match": first}), 412)
    good(master.put(key, b"third", headers={"If-Match": f'"x", {second.headers["etag"]}'}), 201)
    good(master.put(key, b"fourth", headers={"If-Match": "*"}), 201)
    assert master.get(key).body == b"fourth"


def test_if_match_on_a_key_that_does_not_exist_is_412_and_stores_nothing(master: Client) -> None:
    key = unique()
    for condition in ("*", '"other"'):
        refused(master.put(key, b"value", headers={"If-Match": condition}), 412)
    refused(master.get(key), 404)


def test_if_none_match_lets_a_key_be_added_once(master: Client) -> None:
    key = unique()
    good(master.put(key, b"first", headers={"If-None-Match": "*"}), 201)
    refused(master.put(key, b"lost", headers={"If-None-Match": "*"}), 412)
    refused(master.put(key, b"lost", "?overwrite=1", {"If-None-Match": "*"}), 412)
    assert master.get(key).body == b"first"
    good(master.delete(key))
    good(master.put(key, b"again", headers={"If-None-Match": "*"}), 201)


def test_if_match_guards_a_delete(master: Client) -> None:
    key = unique()
    etag = master.put(key, b"first").headers["etag"]
    refused(master.delete(key, {"If-Match": '"other"'}), 412)
    assert master.get(key).body == b"first"
    good(master.delete(key, {"If-Match": etag}))
    refused(master.get(key), 404)
    assert master.delete(key, {"If-Match": etag}).status in (404, 412)


@pytest.mark.parametrize("size", [100, 20_000, INLINE + 1])
def test_if_unmodified_since_guards_an_overwrite_and_a_delete(master: Client, size: int) -> None:
    key = unique()
    etag = master.put(key, b"first").headers["etag"]
    modified = master.head(key).headers["last-modified"]
    before, after = shifted(modified, -1), shifted(modified, 1)
    assert etag in refused(master.put(key, payload(size), "?overwrite=1", {"If-Unmodified-Since": before}), 412)
    chunks = (payload(size)[at : at + 65536] for at in range(0, size, 65536))
    refused(master.put(key, chunks, "?overwrite=1", {"If-Unmodified-Since": before}), 412)
    url = good(master.request("GET", f"/get_node/{key}?overwrite=1"))["node"]
    refused(follow_to(url, "PUT", payload(size), {"If-Unmodified-Since": before}), 412)
    assert before in refused(master.delete(key, {"If-Unmodified-Since": before}), 412)
    assert master.get(key).body == b"first"
    # It is no wish to replace, and does not count beside an If-Match.
    refused(master.put(key, payload(size), headers={"If-Unmodified-Since": modified}), 409)
    both = {"If-Unmodified-Since": before, "If-Match": etag}
    good(master.put(key, payload(size), headers=both), 201)
    good(master.put(key, payload(size), "?overwrite=1", {"If-Unmodified-Since": "no date"}), 201)
    good(master.put(unique(), payload(size), headers={"If-Unmodified-Since": before}), 201)
    modified = master.head(key).headers["last-modified"]
    good(master.put(key, payload(size), "?overwrite=1", {"If-Unmodified-Since": modified}), 201)
    good(master.delete(key, {"If-Unmodified-Since": shifted(after, 3600)}))


def test_a_replaced_value_has_another_etag_and_is_sent_again(master: Client) -> None:
    key = unique()
    first = master.put(key, payload(20_000)).headers["etag"]
    good(master.put(key, payload(20_000, seed=2), "?overwrite=1"), 201)
    answer = master.get(key, {"If-None-Match": first})
    assert (answer.status, answer.body) == (200, payload(20_000, seed=2))
    refused(master.get(key, {"If-Match": first}), 412)


def test_last_modified_is_the_time_of_the_newest_put(master: Client) -> None:
    key = unique()
    good(master.put(key, b"first"), 201)
    first = parsedate_to_datetime(master.head(key).headers["last-modified"]).timestamp()
    while time.time() < first + 1.05:
        time.sleep(0.05)
    good(master.put(key, b"second", "?overwrite=1"), 201)
    second = parsedate_to_datetime(master.head(key).headers["last-modified"]).timestamp()
    assert first + 1 <= second <= time.time()


def test_a_redirect_leads_to_the_value_that_was_asked_for_or_to_its_successor(master: Client) -> None:
    key = unique()
    good(master.put(key, payload(20_000)), 201)
    location = master.get(key, follow=False).headers["location"]
    good(master.put(key, payload(300_000), "?overwrite=1"), 201)
    assert follow_to(location).body in (payload(20_000), payload(300_000))
    assert target_of(location).startswith(f"/get_key/{key}?")
