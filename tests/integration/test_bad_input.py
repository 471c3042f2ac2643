"""Requests that break a rule: refused with a reason in the envelope, nothing stored, nothing harmed."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from ops.cluster import Cluster
from tests.integration.wire import INLINE, Answer, Client, Closed, curl, follow_to, good, payload, refused, target_of
from tests.support import unique, wait_for

ROUTES = [
    ("PUT", "add_key"),
    ("GET", "get_key"),
    ("HEAD", "get_key"),
    ("DELETE", "delete_key"),
    ("GET", "get_node"),
    ("PUT", "get_node"),
]


@pytest.fixture(autouse=True)
def _healthy_afterwards(cluster: Cluster, master: Client) -> Iterator[None]:
    """Whatever a test sends, the cluster goes on and stores the next value."""
    yield
    master.close()
    key = unique()
    good(master.put(key, b"value"), 201)
    assert master.get(key).body == b"value"
    good(master.request("GET", "/health?ready=1"))


def entries(master: Client) -> int:
    """How many keys there are."""
    number: int = good(master.request("GET", "/admin/status"))["keys"]
    return number


# Keys

BAD_KEYS = {
    "empty": "",
    "only a slash": "/",
    "two leading slashes": "/%2Fa",
    "an empty segment": "a//b",
    "an empty segment, encoded": "a/%2Fb",
    "a trailing slash": "a/",
    "dots": "a/../b",
    "dots at the start": "../b",
    "dots at the end": "a/..",
    "dots alone": "..",
    "encoded dots": "a/%2e%2e/b",
    "encoded dots, upper case": "%2E%2E/b",
    "half encoded dots": "a/.%2e/b",
    "encoded slashes too": "a%2f..%2fb",
    "out of the directory": "%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "a dot": "a/./b",
    "a dot alone": ".",
    "an encoded dot": "a/%2e/b",
    "NUL": "a%00b",
    "NUL at the end": "a.txt%00",
    "newline": "a%0Ab",
    "carriage return": "a%0D%0AX-Header:%20b",
    "tab": "a%09b",
    "escape": "a%1Bb",
    "delete": "a%7Fb",
    "non-ASCII": "%C3%A9t%C3%A9",
    "non-ASCII, not UTF-8": "%E9",
    "non-ASCII, other script": "%E6%96%87",
    "invisible": "a%C2%A0b",
    "too long": "k" * 384,
    "too long in segments": "/".join(["seg"] * 96) + "/x",
    "much too long": "k" * 5000,
}


@pytest.mark.parametrize("path", BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_a_bad_key_is_refused_by_every_route_with_the_reason(master: Client, path: str) -> None:
    before = entries(master)
    for method, route in ROUTES:
        answer = master.request(method, f"/{route}/{path}", b"value" if method == "PUT" else b"")
        if method == "HEAD":
            assert (answer.status, answer.body) == (400, b"")
        else:
            assert "key" in refused(answer, 400), (method, route)
    assert entries(master) == before


@pytest.mark.parametrize("path", BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_a_bad_key_is_refused_by_a_node_too(cluster: Cluster, path: str) -> None:
    for method, route in (("GET", "get_key"), ("PUT", "add_key")):
        answer = follow_to(f"{cluster.nodes[0].url}/{route}/{path}", method)
        assert refused(answer, answer.status)
        assert answer.status == 400 or (method == "PUT" and answer.status == 403)


def test_a_key_with_raw_bytes_that_no_url_has_is_refused(master: Client) -> None:
    for raw in (b"\xc3\xa9", b"a b", b"a\tb", b"a\x00b", b"a\x7fb", b"a\x01b"):
        try:
            answer = master.raw(
                b"PUT /add_key/" + raw + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx", "PUT"
            )
            assert answer.status == 400, raw
        except Closed:
            pass
        master.close()


def test_percent_signs_without_digits_do_not_break_anything(master: Client) -> None:
    for path in ("a%", "a%2", "a%zz", "%%", "%%41"):
        folder = unique("d")
        answer = master.request("PUT", f"/add_key/{folder}/{path}", b"value")
        assert answer.status in (201, 400)
        if answer.status == 201:
            assert master.request("GET", f"/get_key/{folder}/{path}").body == b"value"


@pytest.mark.parametrize("length", [1, 2, 3, 100, 381, 382, 383])
def test_keys_up_to_the_limit_are_good(master: Client, length: int) -> None:
    name = unique("")
    key = (name + "k" * 383)[:length] if length > 30 else "kkk"[:length]
    master.delete(key)
    good(master.put(key, b"small"), 201)
    assert master.get(key).body == b"small"
    good(master.delete(key))
    good(master.put(key, payload(INLINE + 1)), 201)
    assert master.get(key).body == payload(INLINE + 1)
    good(master.delete(key))


def test_a_longest_key_whose_characters_are_all_encoded_is_good(master: Client) -> None:
    key = unique("")
    key += '"' * (383 - len(key))
    for value in (b"small", payload(100_000), payload(INLINE + 1)):
        good(master.put(key, value), 201)
        assert master.get(key).body == value
        assert good(master.request("GET", f"/keys?prefix={quote(key)}"))["keys"][0]["key"] == key
        good(master.delete(key))
    assert "384" in refused(master.put(key + '"', b"value"), 400)


# Lengths


def put_head(master: Client, key: str, *headers: str) -> bytes:
    return "\r\n".join([f"PUT /add_key/{key} HTTP/1.1", f"Host: {master.host}", *headers, "", ""]).encode()


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: -1"],
        ["Content-Length: five"],
        ["Content-Length: 5.0"],
        ["Content-Length: 0x5"],
        ["Content-Length: 5 5"],
        ["Content-Length: 99999999999999999999999999"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5, 6"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding: gzip"],
    ],
)
def test_a_length_that_makes_no_sense_stores_nothing(master: Client, headers: list[str]) -> None:
    key = unique()
    try:
        answer = master.raw(put_head(master, key, *headers) + b"value", "PUT")
        assert 400 <= answer.status < 500 or answer.status == 501, answer
    except Closed:
        pass
    master.close()
    refused(master.get(key), 404)


def raw(client: Client, method: str, target: str, *headers: str, body: bytes = b"") -> Answer:
    """A request with exactly these headers, by a connection of its own."""
    with Client(f"http://{client.host}") as own:
        return own.raw("\r\n".join([f"{method} {target} HTTP/1.1", *headers, "", ""]).encode("latin-1") + body, method)


def test_two_hosts_or_one_that_is_none_are_refused_on_every_route(cluster: Cluster, master: Client) -> None:
    for url in (cluster.master_url, cluster.nodes[0].url):
        with Client(url) as server:
            for target in ("/get_key/a", "/keys", "/health", "/nothing"):
                for hosts in (("a", "a"), ("a b",), ("http://a",), ("a, b",)):
                    answer = raw(server, "GET", target, *[f"Host: {host}" for host in hosts])
                    assert "host:port" in refused(answer, 400), (url, target, hosts)


def test_a_header_named_with_an_underscore_counts_for_nothing(master: Client) -> None:
    key, host = unique(), f"Host: {master.host}"
    given = (
        host,
        "Content_Length: 3",
        "Content-Length: 5",
        "Content_Type: text/other",
        'If_Match: "x"',
        "Transfer_Encoding: gzip",
    )
    good(raw(master, "PUT", f"/add_key/{key}", *given, body=b"value"), 201)
    assert raw(master, "GET", f"/get_key/{key}", host, "If_None_Match: *").body == b"value"
    refused(raw(master, "DELETE", f"/delete_key/{key}", host, 'If-Match: "x"', "If_Match: *"), 412)


def test_the_same_length_twice_is_one_length(master: Client) -> None:
    key = unique()
    length = "Content-Length: 5"
    answer = raw(master, "PUT", f"/add_key/{key}", f"Host: {master.host}", length, length, body=b"value")
    assert answer.status in (201, 400)
    assert (master.get(key).status == 200) == (answer.status == 201)


CHUNKS = b"5\r\nvalue\r\n0\r\n\r\n"


@pytest.mark.parametrize("coding", ["gzip, chunked", "GZIP,chunked", "deflate\r\nTransfer-Encoding: chunked"])
def test_a_body_that_is_compressed_for_the_way_is_501_everywhere(cluster: Cluster, master: Client, coding: str) -> None:
    key = unique()
    node = good(master.request("GET", f"/get_node/{key}"))["node"]
    targets = {
        "PUT": [f"/add_key/{key}", f"/get_node/{key}", "/extension/example"],
        "POST": ["/launch_job/example/factorial"],
    }
    for method, paths in targets.items():
        for path in paths:
            answer = raw(master, method, path, f"Host: {master.host}", f"Transfer-Encoding: {coding}", body=CHUNKS)
            assert "Content-Encoding" in refused(answer, 501), path
    with Client(node) as upload:
        answer = raw(
            upload, "PUT", target_of(node), f"Host: {upload.host}", f"Transfer-Encoding: {coding}", body=CHUNKS
        )
    refused(answer, 501)
    refused(master.get(key), 404)


@pytest.mark.parametrize("given", ["bytes 0-4/10", "bytes 5-9/10", "bytes 0-4/*", "nonsense"])
def test_a_part_of_a_value_is_refused_everywhere(master: Client, given: str) -> None:
    key = unique()
    node = good(master.request("GET", f"/get_node/{key}"))["node"]
    headers = {"Content-Range": given}
    for target in (f"/add_key/{key}", f"/get_node/{key}", "/extension/example"):
        for body in (b"value", iter([b"value"])):
            assert "a part of a value" in refused(master.request("PUT", target, body, headers), 400), target
            master.close()
    large = {**headers, "Expect": "100-continue"}
    refused(master.request("PUT", f"/add_key/{key}", payload(INLINE + 1), large), 400)
    master.close()
    refused(follow_to(node, "PUT", b"value", headers), 400)
    refused(master.get(key), 404)


@pytest.mark.parametrize("size", [1_000, 3_000_000])
def test_curl_may_say_that_its_part_is_the_whole(cluster: Cluster, tmp_path: Path, size: int) -> None:
    file, key = tmp_path / "file", unique()
    file.write_bytes(payload(size))
    done = curl("-X", "PUT", "-L", "-C", "-", "-T", str(file), f"{cluster.master_url}/add_key/{key}")
    assert done.status == 201
    assert curl("-L", f"{cluster.master_url}/get_key/{key}").body == payload(size)


def test_a_body_with_both_a_length_and_chunks_is_not_taken_for_two_requests(master: Client) -> None:
    key, smuggled = unique(), unique("smuggled")
    hidden = put_head(master, smuggled, "Content-Length: 1") + b"x"
    request = put_head(master, key, "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + hidden
    try:
        answer = master.raw(request, "PUT")
        assert answer.status in (201, 400)
    except Closed:
        pass
    master.close()
    # By RFC 9112 chunks win and the connection ends, or all of it is refused; never is "5" believed.
    for found in (master.get(key), master.get(smuggled)):
        assert found.status == 404 or found.body in (b"", b"x")


@pytest.mark.parametrize("size", [1_000, INLINE, INLINE + 1, 3_000_000])
@pytest.mark.parametrize("how", ["closes", "resets", "says the end"])
def test_a_client_that_stops_halfway_stores_nothing(master: Client, size: int, how: str) -> None:
    key = unique()
    with Client(f"http://{master.host}") as client:
        client.send(put_head(master, key, f"Content-Length: {size}") + payload(size // 2))
        if how == "says the end":
            client.finish_sending()
            with contextlib.suppress(Closed):
                assert client.receive("PUT").status in (307, 400)
        elif how == "resets":
            client.reset()
    refused(master.get(key), 404)
    good(master.put(key, b"whole"), 201)
    assert master.get(key).body == b"whole"


@pytest.mark.parametrize("given", [b"5\r\nval", b"5\r\nvalue\r\n", b"5\r\nvalue\r\n0\r\n", b"fffff\r\n" + bytes(1000)])
def test_a_client_that_stops_in_the_middle_of_its_chunks_stores_nothing(master: Client, given: bytes) -> None:
    key = unique()
    with Client(f"http://{master.host}") as client:
        client.send(put_head(master, key, "Transfer-Encoding: chunked") + given)
        client.finish_sending()
        with contextlib.suppress(Closed):
            assert client.receive("PUT").status == 400
    refused(master.get(key), 404)


@pytest.mark.parametrize(
    "given",
    [b"x\r\nvalue\r\n0\r\n\r\n", b"-1\r\nv\r\n", b"5\r\nvalueXX0\r\n\r\n", b"\r\n\r\n", b"fffffffffffffffff\r\nv"],
)
def test_chunks_that_make_no_sense_never_become_part_of_a_value(master: Client, given: bytes) -> None:
    key = unique()
    with Client(f"http://{master.host}") as client:
        client.send(put_head(master, key, "Transfer-Encoding: chunked") + given)
        client.finish_sending()
        with contextlib.suppress(Closed):
            assert client.receive("PUT").status in (201, 400)
    # The web server shows nonsense as the end of the body, so what came before it may have been taken.
    answer = master.get(key)
    assert answer.status == 404 or answer.body in (b"", b"value")


def test_a_large_chunked_body_of_which_the_client_stops_halfway_stores_nothing(master: Client) -> None:
    key = unique()
    with Client(f"http://{master.host}") as client:
        client.send(put_head(master, key, "Transfer-Encoding: chunked") + b"200000\r\n" + payload(0x200000) + b"\r\n")
        client.send(b"200000\r\n" + payload(1_000))
    time_for_it = time.monotonic() + 1
    while time.monotonic() < time_for_it:
        refused(master.get(key), 404)
    wait_for(lambda: master.put(key, b"whole").status == 201, what="the key can be added")
    assert master.get(key).body == b"whole"


def test_more_bytes_than_said_are_the_next_request_and_not_the_value(master: Client) -> None:
    key = unique()
    good(master.raw(put_head(master, key, "Content-Length: 5") + b"value and more", "PUT"), 201)
    with contextlib.suppress(Closed):
        assert master.receive().status == 400
    master.close()
    assert master.get(key).body == b"value"


# Headers and URLs


def test_a_huge_header_is_refused(master: Client) -> None:
    key = unique()
    for headers in ({"X-Much": "x" * 2_000_000}, {f"X-{n}": "y" for n in range(5_000)}):
        try:
            answer = master.request("PUT", f"/add_key/{key}", b"value", headers)
            assert 400 <= answer.status < 500
        except Closed:
            pass
        master.close()
        refused(master.get(key), 404)


def test_a_huge_url_is_refused(master: Client) -> None:
    for target in ("/get_key/" + "k" * 70_000, "/get_key/k?" + "x=1&" * 50_000, "/get_key/" + "%2e" * 20_000):
        try:
            answer = master.request("GET", target)
            assert 400 <= answer.status < 500
        except Closed:
            pass
        master.close()


def test_headers_that_make_no_sense_are_refused_or_ignored(master: Client) -> None:
    for headers in (
        {"Content-Type": "x" * 5_000},
        {"If-Match": '"' * 5_000},
        {"If-None-Match": "," * 5_000},
        {"Content-MD5": "=" * 5_000},
        {"If-Match": "\xff\xfe"},
        {"Content-Type": "text/\xe9"},
        {"Range": "bytes=" + "0-0," * 5_000},
        {"Expect": "the unexpected"},
    ):
        key = unique()
        answer = master.request("PUT", f"/add_key/{key}", b"value", headers)
        assert answer.status in (201, 400, 412, 417), headers
        got = master.get(key, headers)
        assert got.status in (200, 304, 400, 404, 412, 417)
        assert (answer.status == 201) == (master.head(key).status == 200)


def test_a_content_type_can_not_bring_in_a_header_of_its_own(master: Client) -> None:
    key = unique()
    head = put_head(master, key, "Content-Length: 1", "Content-Type: text/a\r\n X-Evil: 1")
    with contextlib.suppress(Closed):
        assert master.raw(head + b"x", "PUT").status in (201, 400)
    master.close()
    assert "x-evil" not in master.get(key).headers


@pytest.mark.parametrize(
    "query",
    [
        "temporal=0",
        "temporal=-1",
        "temporal=1.5",
        "temporal=",
        "temporal=x",
        "temporal=1e3",
        "temporal=%D9%A3",
        "temporal=99999999999999999999",
        "ttl=",
        "ttl=0s",
        "ttl=-1s",
        "ttl=90",
        "ttl=s",
        "ttl=1y",
        "ttl=1.5h",
        "ttl=1s1s",
        "ttl=9999999999999999d",
        "ttl=%D9%A3s",
        "ttl=1h&temporal=1",
        "overwrite=2",
        "overwrite=x",
    ],
)
def test_a_bad_parameter_is_refused_and_nothing_stored(master: Client, query: str) -> None:
    for value in (b"small", payload(INLINE + 1)):
        key = unique()
        message = refused(master.put(key, value, f"?{query}"), 400)
        assert query.partition("=")[0] in message
        refused(master.get(key), 404)


LONG = ["0" * 9 + "1" * 13, "0000000001" + "0" * 12, "0" * 21 + "1", "9" * 19, "0" * 4_999 + "1", "1" * 5_000]
NUMBERS = [
    "/add_key/k?temporal={}",
    "/get_node/k?temporal={}",
    "/keys?limit={}",
    "/admin/jobs?limit={}",
    "/admin/jobs?before={}",
    "/admin/all_jobs?limit={}",
    "/admin/all_jobs?before={}",
    "/admin/scheduled_jobs?limit={}",
    "/admin/scheduled_jobs?before={}",
    "/admin/scheduled_jobs/ok?before={}",
    "/admin/jobs/{}",
    "/admin/scheduled_jobs/{}",
    "/admin/scheduled_jobs/failed/{}",
    "/cancel_job/{}",
    "/extension/search/x?limit={}",
]


@pytest.mark.parametrize("target", NUMBERS)
def test_a_number_of_many_digits_is_refused_and_nobody_else_notices(master: Client, target: str) -> None:
    method = {"add_key": "PUT", "cancel_job": "POST"}.get(target.split("/")[1], "GET")
    for digits in LONG:
        refused(
            master.request(method, target.format(digits), b"x" if method == "PUT" else b""),
            404 if "/{}" in target else 400,
        )
    good(master.put(unique(), b"value"), 201)


def test_a_lifetime_that_can_not_be_sent_costs_no_other_request_anything(cluster: Cluster) -> None:
    # Given clients that store one value after the other
    over = threading.Event()
    statuses: list[int] = []

    def store() -> None:
        with Client(cluster.master_url) as client:
            while not over.is_set():
                statuses.append(client.put(unique(), b"value").status)

    with ThreadPoolExecutor(8) as pool, Client(cluster.master_url) as other:
        stores = [pool.submit(store) for _ in range(8)]
        # When another one asks for lifetimes that no message can have
        try:
            for digits in LONG * 10:
                refused(other.put(unique(), b"value", f"?temporal={digits}"), 400)
            wait_for(lambda: len(statuses) > 20, what="values stored beside the refusals")
        finally:
            over.set()
        for stored in stores:
            stored.result()
    # Then each of them is stored
    assert set(statuses) == {201}


@pytest.mark.parametrize("length", ["0" * 30 + "5", "0" * 5_000 + "5", "9" * 19, "18446744073709551615"])
def test_a_length_of_many_digits_is_refused(master: Client, length: str) -> None:
    key = unique()
    for path in (f"/add_key/{key}", "/launch_job/example/factorial"):
        head = f"{'PUT' if key in path else 'POST'} {path} HTTP/1.1\r\nHost: {master.host}\r\nContent-Length: {length}\r\n\r\n"
        with contextlib.suppress(Closed):
            assert master.raw(head.encode() + b"value", "PUT").status in (201, 307, 400, 413, 431, 507)
        master.close()


@pytest.mark.parametrize("path", ["/keys?prefix=\u00fc", "/keys?limit=\u0663", "/admin/jobs?x=\u00fc"])
def test_a_query_with_bytes_that_are_no_ascii_is_no_error_of_the_server(master: Client, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: {master.host}\r\n\r\n".encode()
    answer = master.raw(head, "GET")
    assert answer.status in (200, 400), answer
    assert answer.json["status"] == ("ok" if answer.status == 200 else "ko")


@pytest.mark.parametrize("query", ["%", "%zz=%zz", "&&&", "=", "a=%ff", "temporal", "%00=%00", ";" * 100, "a" * 2_000])
def test_a_strange_query_is_no_error_of_the_server(master: Client, query: str) -> None:
    key = unique()
    answer = master.put(key, b"value", f"?{query}")
    assert answer.status in (201, 400)
    assert master.request("GET", f"/keys?{query}").status in (200, 400)
    assert master.request("GET", f"/get_node/{unique()}?{query}").status in (200, 400)


# At random


TARGETS = [
    "/add_key/{}",
    "/get_key/{}",
    "/delete_key/{}",
    "/get_node/{}",
    "/keys",
    "/keys?prefix={}&limit={}",
    "/admin/status",
    "/admin/network/{}",
    "/health?ready={}",
    "/openapi.json",
    "/internal/commit/{}",
    "/internal/restore/{}",
    "/{}",
    "*",
    "/add_key/{}?temporal={}",
    "/add_key/{}?ttl={}&overwrite={}",
    "/get_key/{}?signature={}&until={}",
]
METHODS = ["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH", "get", "TRACE"]
HEADERS = [
    "Range",
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
    "If-Range",
    "Content-MD5",
    "X-Checksum-Sha256",
    "Content-Type",
    "Expect",
    "Transfer-Encoding",
    "Content-Length",
    "Connection",
    "Accept",
    "Origin",
    "Authorization",
    "X-Pulzar-Signature",
    "Content-Encoding",
    "Upgrade",
    "Host",
]
VALUES = [
    "*",
    '"a"',
    'W/"x"',
    "bytes=0-5",
    "bytes=-",
    "chunked",
    "0",
    "1",
    "-1",
    "close",
    "keep-alive",
    "gzip",
    "a" * 300,
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "100-continue",
    "application/x-www-form-urlencoded",
    "text/plain",
    "\xff",
    "multipart/form-data; boundary=x",
    ",",
]


def word(dice: random.Random) -> str:
    """Something that may stand in a URL, or may not."""
    kind = dice.randrange(5)
    if kind == 0:
        return quote(dice.randbytes(dice.randrange(1, 40)))
    if kind == 1:
        return dice.choice(["a", "../x", "%2e%2e/x", "a//b", "%00", "a%0d%0ab", "0", "-1", "1s", "%", "a" * 384])
    if kind == 2:
        return "/".join(dice.choice("abcdef") for _ in range(dice.randrange(1, 6)))
    if kind == 3:
        return "".join(chr(dice.randrange(33, 127)) for _ in range(dice.randrange(1, 60)))
    return str(dice.randrange(10**6))


def noise(dice: random.Random) -> tuple[str, bytes]:
    """A request, more or less."""
    method = dice.choice(METHODS)
    target = dice.choice(TARGETS)
    target = target.format(*(word(dice) for _ in range(target.count("{}"))))
    body = dice.randbytes(dice.choice([0, 0, 1, 20, 5_000]))
    lines = [f"{method} {target} HTTP/1.{dice.choice('1110')}"]
    if dice.random() < 0.95:
        lines.append("Host: localhost")
    lines += [f"{dice.choice(HEADERS)}: {dice.choice([*VALUES, word(dice)])}" for _ in range(dice.randrange(4))]
    if body and dice.random() < 0.8:
        lines.append(f"Content-Length: {len(body)}")
    request = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
    if dice.random() < 0.1:
        at = dice.randrange(len(request))
        request = request[:at] + dice.randbytes(dice.randrange(1, 4)) + request[at + dice.randrange(4) :]
    return method, request


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("server", ["master", "node"])
def test_noise_never_breaks_a_server(cluster: Cluster, seed: int, server: str) -> None:
    dice = random.Random(seed)
    url = cluster.master_url if server == "master" else cluster.nodes[seed % 2].url
    seen = set()
    for _ in range(150):
        method, request = noise(dice)
        with Client(url) as client:
            client.send(request)
            client.finish_sending()
            try:
                answer = client.receive(method)
                if answer.status == 100:
                    answer = client.receive(method)
            except Closed:
                continue
        seen.add(answer.status)
        assert 200 <= answer.status < 500 or answer.status in (501, 503, 507), (request, answer)
        assert b"Traceback" not in answer.body, (request, answer)
        assert "html" not in answer.headers.get("content-type", ""), (request, answer)
        if answer.headers.get("content-type") == "application/json" and b"openapi" not in request:
            holds_the_envelope(answer, request)
    assert {400, 404} <= seen


def holds_the_envelope(answer: Answer, request: bytes) -> None:
    if answer.body:
        assert set(answer.json) == {"data", "msg", "status"}, (request, answer)
        assert answer.json["status"] == ("ok" if answer.status < 400 else "ko"), (request, answer)


def test_slow_clients_do_not_keep_others_waiting(cluster: Cluster, master: Client) -> None:
    crowd = [Client(cluster.master_url) for _ in range(300)]
    stages: list[Callable[[int], bytes]] = [
        lambda n: b"",
        lambda n: b"GET /get_key/k HTTP/1.1\r\nHo",
        lambda n: put_head(master, f"slow/{n}", "Content-Length: 1000") + b"x",
    ]
    try:
        for number, client in enumerate(crowd):
            client.send(stages[number % 2](number))
        for number, client in enumerate(crowd[:40]):
            client.close()
            client.send(stages[2](number))
        began = time.monotonic()
        for _ in range(20):
            key = unique()
            good(master.put(key, b"value"), 201)
            assert master.get(key).body == b"value"
        assert time.monotonic() - began < 40  # those that are slow have a minute
    finally:
        for client in crowd:
            client.close()


# Headers that decide something


GUARDS = [
    b'If-Match: "caf\xe9"',
    b'If-None-Match: *, "\xe9"',
    b"If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT\xa0",
    b"Content-MD5: AAAA\xa0",
    b"X-Checksum-Sha256: " + b"0" * 64 + b"\xa0",
    b"Content-Range: bytes 0-4/10\xa0",
    b'Content-Type: multipart/form-data; boundary="b\xfc"',
    b"Content-Encoding: gzip\xa0",
    b"Host: \xe9",
]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.partition(b":")[0].decode())
@pytest.mark.parametrize("where", ["master", "node"])
def test_a_guard_that_is_no_ascii_is_refused_and_not_overlooked(
    cluster: Cluster, master: Client, where: str, guard: bytes
) -> None:
    key = unique()
    good(master.put(key, b"first"), 201)
    host = b"" if guard.startswith(b"Host") else b"Host: localhost\r\n"
    if where == "master":
        for head in (b"PUT /add_key/%s?overwrite=1" % key.encode(), b"DELETE /delete_key/%s" % key.encode()):
            if head.startswith(b"DELETE") and not guard.startswith((b"If-", b"Host")):
                continue
            with Client(cluster.master_url) as client:
                answer = client.raw(
                    head + b" HTTP/1.1\r\n" + host + guard + b"\r\nContent-Length: 5\r\n\r\nother", "PUT"
                )
                assert answer.status in (400, 412), answer
    else:
        url = good(master.request("GET", f"/get_node/{key}?overwrite=1"))["node"]
        with Client(url) as client:
            head = f"PUT {target_of(url)} HTTP/1.1\r\n".encode()
            answer = client.raw(head + host + guard + b"\r\nContent-Length: 5\r\n\r\nother", "PUT")
            assert answer.status in (400, 412), answer
    assert master.get(key).body == b"first"


def test_a_harmless_header_may_have_any_bytes(cluster: Cluster) -> None:
    with Client(cluster.master_url) as client:
        assert client.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nUser-Agent: caf\xe9\r\n\r\n").status == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("HTTP/1.0\r\nHost: localhost", 411),
        ("HTTP/1.1\r\nHost: localhost\r\nContent_Length: 5", 400),
        ("HTTP/1.1\r\nHost: localhost\r\nTransfer_Encoding: chunked", 400),
    ],
)
def test_a_body_whose_length_is_not_told_is_no_empty_value(
    cluster: Cluster, master: Client, head: str, status: int
) -> None:
    for target in ("add_key", "get_node"):
        key = unique()
        url = f"{cluster.master_url}/add_key/{key}"
        if target == "get_node":
            url = good(master.request("GET", f"/get_node/{key}"))["node"]
        with Client(url) as client:
            refused(client.raw(f"PUT {target_of(url)} {head}\r\n\r\nhello".encode(), "PUT"), status)
        refused(master.get(key), 404)
