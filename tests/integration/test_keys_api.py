"""The rows of "Keys" in the API, one after the other: PUT, GET, HEAD, DELETE, and what every answer has."""

from __future__ import annotations

import http.client
import json
import re
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import requests

from ops.cluster import Cluster
from tests.integration import wire
from tests.integration.wire import Client, curl, follow_to, good, payload, refused
from tests.support import unique

VALUE = b"a value of some bytes"


def node_of(cluster: Cluster, url: str) -> str:
    """The node that a URL leads to; it must be one of the cluster's."""
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    assert origin in [node.url for node in cluster.nodes]
    return origin


# PUT


def test_a_put_answers_201_with_the_address_of_the_value_on_its_node(cluster: Cluster, master: Client) -> None:
    key = unique("folder/name.ext")
    data = good(master.put(key, VALUE), 201, "key added")
    assert data == {"url": f"{node_of(cluster, data['url'])}/get_key/{key}"}
    assert follow_to(data["url"]).body == VALUE


def test_a_put_of_a_large_value_gets_the_same_answer_from_the_node(cluster: Cluster, master: Client) -> None:
    key, value = unique("large.bin"), payload(wire.INLINE + 1)
    data = good(master.put(key, value), 201, "key added")
    assert data == {"url": f"{node_of(cluster, data['url'])}/get_key/{key}"}
    assert follow_to(data["url"]).body == value


def test_a_value_put_comes_back_byte_for_byte(master: Client) -> None:
    key = unique()
    value = bytes(range(256)) * 3
    good(master.put(key, value), 201)
    assert master.get(key).body == value


@pytest.mark.parametrize("size", [1_000, 3_000_000])
def test_curl_puts_a_file_with_dash_t(cluster: Cluster, tmp_path: Path, size: int) -> None:
    key, file = unique("file.bin"), tmp_path / "file"
    file.write_bytes(payload(size))
    done = curl("-X", "PUT", "-L", "-T", str(file), f"{cluster.master_url}/add_key/{key}")
    assert (done.status, json.loads(done.body)["msg"]) == (201, "key added")
    assert curl("-L", f"{cluster.master_url}/get_key/{key}").body == payload(size)


@pytest.mark.parametrize("size", [1_000, 3_000_000])
def test_curl_puts_a_file_with_data_binary(cluster: Cluster, tmp_path: Path, size: int) -> None:
    key, file = unique("picture.png"), tmp_path / "file"
    file.write_bytes(payload(size))
    done = curl("-X", "PUT", "-L", "--data-binary", f"@{file}", f"{cluster.master_url}/add_key/{key}")
    assert done.status == 201
    back = curl("-L", f"{cluster.master_url}/get_key/{key}")
    assert back.body == payload(size)
    # curl says "form" because nobody said what it is: that is no Content-Type of the value.
    assert back.content_type == "image/png"


@pytest.mark.parametrize("size", [1_000, wire.INLINE, wire.INLINE + 1, 10 << 20])
def test_python_requests_puts_an_open_file(cluster: Cluster, tmp_path: Path, size: int) -> None:
    key, file = unique("open.bin"), tmp_path / "file"
    file.write_bytes(payload(size))
    with file.open("rb") as body:
        answer = requests.put(f"{cluster.master_url}/add_key/{key}", data=body, timeout=60)
    assert (answer.status_code, answer.json()["msg"]) == (201, "key added")
    assert requests.get(f"{cluster.master_url}/get_key/{key}", timeout=60).content == payload(size)


@pytest.mark.parametrize("size", [0, 1_000, wire.INLINE])
def test_a_client_that_knows_no_redirects_puts_up_to_the_inline_limit(cluster: Cluster, size: int) -> None:
    key = unique()
    connection = http.client.HTTPConnection(*Client(cluster.master_url).address, timeout=30)
    connection.request("PUT", f"/add_key/{key}", body=payload(size))
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["msg"]) == (201, "key added")
    connection.close()


def test_a_second_put_is_refused_and_leaves_the_first_value_untouched(master: Client) -> None:
    key = unique()
    good(master.put(key, VALUE, headers={"Content-Type": "text/first"}), 201)
    before = master.get(key)

    assert key in refused(master.put(key, b"another"), 409)
    refused(master.put(key, payload(wire.INLINE + 1)), 409)
    refused(master.put(key, VALUE), 409)
    refused(master.put(key, b""), 409)

    after = master.get(key)
    assert after.body == VALUE
    for name in ("etag", "last-modified", "content-type"):
        assert after.headers[name] == before.headers[name]


def test_a_second_put_over_a_large_value_leaves_it_untouched(master: Client) -> None:
    key, value = unique(), payload(2_000_000)
    good(master.put(key, value), 201)
    refused(master.put(key, b"small"), 409)
    refused(master.put(key, payload(2_000_000, seed=2)), 409)
    assert master.get(key).body == value


@pytest.mark.parametrize("query", ["?overwrite=1", "?overwrite=true", "?overwrite"])
def test_overwrite_replaces_a_value(master: Client, query: str) -> None:
    key = unique()
    good(master.put(key, VALUE), 201)
    good(master.put(key, b"new", query), 201, "key added")
    assert master.get(key).body == b"new"


def test_overwrite_adds_a_key_that_does_not_exist(master: Client) -> None:
    key = unique()
    good(master.put(key, VALUE, "?overwrite=1"), 201)
    assert master.get(key).body == VALUE


@pytest.mark.parametrize("query", ["?overwrite=0", "?overwrite=false"])
def test_overwrite_can_be_said_not_to_be_wanted(master: Client, query: str) -> None:
    key = unique()
    good(master.put(key, VALUE, query), 201)
    refused(master.put(key, b"new", query), 409)


def test_an_overwrite_that_makes_no_sense_is_refused(master: Client) -> None:
    key = unique()
    assert "overwrite" in refused(master.put(key, VALUE, "?overwrite=perhaps"), 400)
    refused(master.get(key), 404)


def test_an_empty_body_is_a_value_of_no_bytes_and_no_phantom(cluster: Cluster, master: Client) -> None:
    key = unique("empty.txt")
    good(master.put(key, b""), 201)
    for answer in (master.get(key), master.head(key)):
        assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")
        assert answer.headers["etag"] == '"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"'
    good(master.delete(key))
    refused(master.get(key), 404)
    good(master.put(key, VALUE), 201)


def test_a_put_without_any_body_header_stores_no_bytes(master: Client) -> None:
    key = unique()
    answer = master.raw(f"PUT /add_key/{key} HTTP/1.1\r\nHost: {master.host}\r\n\r\n".encode(), "PUT")
    good(answer, 201)
    assert master.get(key).body == b""


SIZES = [
    1,
    wire.CACHED - 1,
    wire.CACHED,
    wire.CACHED + 1,
    wire.SMALL - 1,
    wire.SMALL,
    wire.SMALL + 1,
    wire.INLINE - 1,
    wire.INLINE,
    wire.INLINE + 1,
]


@pytest.mark.parametrize("size", SIZES)
def test_values_around_every_limit_of_size_come_back(master: Client, size: int) -> None:
    key, value = unique(), payload(size)
    good(master.put(key, value), 201)
    answer = master.get(key)
    assert answer.body == value
    assert answer.headers["content-length"] == str(size)
    assert master.head(key).headers["content-length"] == str(size)


def test_only_what_is_larger_than_the_inline_limit_is_sent_to_a_node(cluster: Cluster, master: Client) -> None:
    key = unique()
    expect = {"Expect": "100-continue"}
    at_the_limit = master.request("PUT", f"/add_key/{key}", payload(wire.INLINE), expect)
    assert at_the_limit.status == 201
    one_more = master.request("PUT", f"/add_key/{unique()}", payload(wire.INLINE + 1), expect)
    node_of(cluster, wire.sent_on(one_more))
    assert "this value is large" in one_more.json["msg"]


def test_only_values_up_to_4_kib_are_answered_by_the_master_itself(cluster: Cluster, master: Client) -> None:
    for size, status in ((wire.CACHED, 200), (wire.CACHED + 1, 307)):
        key = unique()
        good(master.put(key, payload(size)), 201)
        answer = master.get(key, follow=False)
        assert answer.status == status
        if status == 307:
            node_of(cluster, answer.headers["location"])
            assert answer.headers["content-type"] == "text/plain"
            assert answer.headers["location"].encode() in answer.body


# Replacing values of one size by values of another.


def test_a_value_is_replaced_across_all_the_ways_in_which_values_are_kept(master: Client) -> None:
    key = unique("changing.txt")
    good(master.put(key, b"first", headers={"Content-Type": "text/first"}), 201)
    etags = set()
    for number, size in enumerate([100_000, 5, 2_000_000, 0, 20_000, 3_000_000, wire.SMALL + 1, wire.CACHED]):
        value = payload(size, number)
        put = master.put(key, value, "?overwrite=1", {"Content-Type": f"text/number-{number}"})
        good(put, 201)
        answer = master.get(key)
        assert answer.status == 200
        assert answer.body == value, f"{number}: {size} bytes"
        assert answer.headers["content-type"] == f"text/number-{number}"
        assert answer.headers["etag"] == put.headers["etag"]
        etags.add(answer.headers["etag"])
    assert len(etags) == 8


# GET and HEAD


@pytest.mark.parametrize("size", [500, 20_000, 300_000, 1_500_000])
def test_head_has_the_headers_of_get_and_is_never_redirected(master: Client, size: int) -> None:
    key = unique("name.html")
    good(master.put(key, payload(size)), 201)
    got, head = master.get(key), master.head(key)
    assert (got.status, head.status, head.body) == (200, 200, b"")
    for name in ("content-length", "content-type", "etag", "last-modified", "accept-ranges"):
        assert head.headers[name] == got.headers[name], name
    assert got.headers["content-type"].startswith("text/html")
    assert got.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("size", [500, 20_000, 1_500_000])
def test_who_asks_first_where_a_value_is_put_is_told_of_the_value(master: Client, size: int) -> None:
    key = unique("a b.txt")
    target = f"/add_key/{quote(key)}"
    assert (master.request("HEAD", target).status, master.request("HEAD", target).body) == (404, b"")
    etag = master.put(key, payload(size)).headers["etag"]
    head = master.request("HEAD", target)
    assert {**head.headers, "date": ""} == {**master.head(key).headers, "date": ""}
    assert (head.status, head.headers["content-length"], head.headers["etag"]) == (200, str(size), etag)
    assert master.request("HEAD", target, headers={"If-None-Match": etag}).status == 304
    answer = master.request("GET", target)
    refused(answer, 405)
    assert answer.headers["allow"] == "HEAD, OPTIONS, PUT"


@pytest.mark.parametrize("size", [500, 20_000, 1_500_000])
def test_a_page_among_the_values_can_do_nothing_in_the_masters_name(master: Client, size: int) -> None:
    key = unique("page.html")
    good(master.put(key, payload(size)), 201)
    for answer in (master.get(key), master.head(key), master.get(key, {"Range": "bytes=0-9"})):
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"])
def test_no_answer_is_anything_but_what_it_says(cluster: Cluster, master: Client, method: str) -> None:
    key = unique()
    good(master.put(key, payload(20_000)), 201)
    for path in (
        f"/get_key/{key}",
        f"/get_node/{key}",
        f"/add_key/{unique()}",
        f"/delete_key/{unique()}",
        "/keys",
        "/nothing",
        "/admin/network",
        "/openapi.json",
        "/extension/example",
        "/extension/search/a",
        "/launch_job/a/b",
    ):
        assert master.request(method, path).headers["x-content-type-options"] == "nosniff", path
    for path in (f"/get_key/{key}", "/add_key/a", "/autodiscovery", "/nothing"):
        assert follow_to(cluster.nodes[0].url + path, method).headers["x-content-type-options"] == "nosniff", path


@pytest.mark.parametrize("size", [500, 20_000, 1_500_000])
def test_dates_and_etags_are_the_same_wherever_they_are_told(cluster: Cluster, master: Client, size: int) -> None:
    key = unique()
    began = time.time()
    put = master.put(key, payload(size))
    ended = time.time()
    url = good(put, 201)["url"]

    row = good(master.request("GET", f"/keys?prefix={key}"))["keys"][0]
    assert began - 0.01 <= row["created"] <= ended + 0.01
    told = [master.get(key), master.head(key), follow_to(url), follow_to(url, "HEAD")]
    assert {answer.headers["etag"] for answer in told} == {put.headers["etag"]} == {row["etag"]}
    dates = {answer.headers["last-modified"] for answer in told}
    assert len(dates) == 1
    assert parsedate_to_datetime(dates.pop()).timestamp() == int(row["created"])


def test_the_etag_is_strong_and_quoted(master: Client) -> None:
    key = unique()
    assert re.fullmatch(r'"[0-9a-f]{64}"', master.put(key, VALUE).headers["etag"])


@pytest.mark.parametrize("size", [500, 20_000, 1_500_000])
@pytest.mark.parametrize("content_type", ["text/x-mine; charset=utf-8", "application/json", "image/svg+xml"])
def test_a_content_type_given_at_put_is_kept(master: Client, size: int, content_type: str) -> None:
    key = unique("name.png")
    good(master.put(key, payload(size), headers={"Content-Type": content_type}), 201)
    assert master.get(key).headers["content-type"] == content_type
    assert master.head(key).headers["content-type"] == content_type


@pytest.mark.parametrize("size", [500, 20_000, 1_500_000])
@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("a.png", "image/png"),
        ("a.json", "application/json"),
        ("noextension", "application/octet-stream"),
        ("a.unheard-of", "application/octet-stream"),
        ("dir.html/noextension", "application/octet-stream"),
    ],
)
def test_a_content_type_that_was_not_given_is_guessed_from_the_name(
    master: Client, size: int, name: str, content_type: str
) -> None:
    key = unique(name)
    good(master.put(key, payload(size)), 201)
    assert master.get(key).headers["content-type"] == content_type
    assert master.head(key).headers["content-type"] == content_type


def test_an_unknown_key_is_404_without_leaving_the_master(master: Client) -> None:
    key = unique()
    assert key in refused(master.get(key, follow=False), 404)
    assert master.head(key).status == 404


def test_an_unknown_key_is_404_on_the_node_too(cluster: Cluster) -> None:
    refused(follow_to(f"{cluster.nodes[0].url}/get_key/{unique()}"), 404)


def test_a_value_is_404_on_the_node_that_does_not_have_it(cluster: Cluster, master: Client) -> None:
    key = unique()
    url = good(master.put(key, VALUE), 201)["url"]
    other = next(node.url for node in cluster.nodes if node.url != node_of(cluster, url))
    refused(follow_to(f"{other}/get_key/{key}"), 404)


# DELETE


@pytest.mark.parametrize("size", [0, 500, 20_000, 300_000, 1_500_000])
def test_a_deleted_key_is_gone_everywhere_and_can_be_added_again(master: Client, size: int) -> None:
    key = unique()
    url = good(master.put(key, payload(size)), 201)["url"]

    assert good(master.delete(key), 200, "key deleted") is None

    refused(master.get(key), 404)
    refused(follow_to(url), 404)
    assert master.head(key).status == 404
    assert good(master.request("GET", f"/keys?prefix={key}"))["keys"] == []
    refused(master.delete(key), 404)

    good(master.put(key, payload(size, seed=2)), 201)
    assert master.get(key).body == payload(size, seed=2)


def test_a_delete_of_an_unknown_key_is_404(master: Client) -> None:
    key = unique()
    assert key in refused(master.delete(key), 404)


def test_a_deleted_key_does_not_take_its_neighbours_along(master: Client) -> None:
    folder = unique()
    for name in ("a", "a/b", "a.txt", "a-b", "ab"):
        good(master.put(f"{folder}/{name}", name.encode()), 201)
    good(master.delete(f"{folder}/a"))
    for name in ("a/b", "a.txt", "a-b", "ab"):
        assert master.get(f"{folder}/{name}").body == name.encode()


# Keys


GOOD_KEYS = [
    "a-b.txt",
    "dir-1/k",
    "x.y/k",
    "a b/c d.txt",
    "100%",
    "%41",
    "a+b",
    "~user/~file",
    "...",
    "a..b",
    ".hidden",
    "-",
    "--flag",
    "a/-/b",
    "trailing.",
    "trailing ",
    " leading",
    "q?x=1",
    "a#b",
    "a&b=c",
    "semi;colon",
    "a:b@c",
    "quo\"te'",
    "[brackets]",
    "<angle>",
    "back\\slash",
    "{curly}|pipe",
    "ca^ret`tick",
    "$dollar!",
    "comma,star*",
    "con.tent/type.png",
]


@pytest.mark.parametrize("name", GOOD_KEYS)
def test_unusual_names_are_good_keys(master: Client, name: str) -> None:
    key = unique(name)
    url = good(master.put(key, name.encode()), 201)["url"]
    assert master.get(key).body == name.encode()
    assert follow_to(url).body == name.encode()
    assert [row["key"] for row in good(master.request("GET", f"/keys?prefix={quote(key)}"))["keys"]] == [key]
    good(master.delete(key))
    refused(master.get(key), 404)


@pytest.mark.parametrize("size", [500, 20_000, 1_500_000])
def test_a_key_with_every_printable_character_makes_the_whole_way(master: Client, size: int) -> None:
    printable = "".join(map(chr, range(32, 127))).replace("/", "")
    key = f"{unique(printable)}/{printable[::-1]}"
    good(master.put(key, payload(size)), 201)
    assert master.get(key).body == payload(size)
    assert master.head(key).headers["content-length"] == str(size)
    good(master.delete(key))


@pytest.mark.parametrize("size", [500, 1_500_000])
def test_characters_that_need_no_encoding_may_stand_as_they_are(cluster: Cluster, master: Client, size: int) -> None:
    name = "a-._~!$&'()*+,;=:@b"
    folder = unique()
    good(master.put(f"{folder}/{name}", payload(size)), 201)
    with Client(cluster.master_url) as client:
        plain = client.request("GET", f"/get_key/{folder}/{name}", follow=True)
    assert plain.body == payload(size)


def test_a_plus_in_a_path_is_a_plus_and_no_space(master: Client) -> None:
    folder = unique()
    good(master.request("PUT", f"/add_key/{folder}/a+b", b"plus"), 201)
    good(master.request("PUT", f"/add_key/{folder}/a%20b", b"space"), 201)
    assert master.get(f"{folder}/a+b").body == b"plus"
    assert master.get(f"{folder}/a b").body == b"space"


def test_an_encoded_slash_is_a_slash(master: Client) -> None:
    folder = unique("d")
    good(master.request("PUT", f"/add_key/{folder}%2Fk", b"value"), 201)
    assert master.get(f"{folder}/k").body == b"value"


def test_a_leading_slash_is_dropped(master: Client) -> None:
    key = unique()
    good(master.request("PUT", f"/add_key//{key}", b"value"), 201)
    assert master.get(key).body == b"value"
    refused(master.put(key, b"again"), 409)


def test_case_matters_in_a_key(master: Client) -> None:
    folder = unique()
    good(master.put(f"{folder}/Name", b"upper"), 201)
    refused(master.get(f"{folder}/name"), 404)


def test_unknown_query_parameters_are_ignored(master: Client) -> None:
    key = unique()
    good(master.put(key, VALUE, "?colour=blue&x&=&overwriting=1"), 201)
    assert master.request("GET", f"/get_key/{key}?colour=blue&v=2").body == VALUE
    good(master.request("GET", f"/get_node/{unique()}?colour=blue"))
    good(master.request("GET", "/keys?colour=blue&limit=1"))
    good(master.request("DELETE", f"/delete_key/{key}?colour=blue"))


# Methods and paths


def test_a_method_that_is_not_possible_is_405_and_says_which_are(cluster: Cluster, master: Client) -> None:
    expected = {
        "/add_key/k": {"PUT"},
        "/get_key/k": {"GET", "HEAD"},
        "/delete_key/k": {"DELETE"},
        "/get_node/k": {"GET", "PUT"},
        "/keys": {"GET"},
        "/admin/status": {"GET"},
        "/admin/network": {"GET"},
        "/admin/network/n": {"DELETE", "GET"},
        "/health": {"GET"},
        "/openapi.json": {"GET"},
    }
    for target, methods in expected.items():
        for method in {"GET", "PUT", "POST", "DELETE", "PATCH", "BREW"} - methods:
            answer = master.request(method, target)
            refused(answer, 405)
            allowed = {name.strip() for name in answer.headers["allow"].split(",")}
            assert methods <= allowed, (method, target, allowed)
            assert method not in allowed
    for target, methods in (("/get_key/k", {"GET", "HEAD"}), ("/add_key/k", {"PUT"})):
        answer = follow_to(f"{cluster.nodes[0].url}{target}", "DELETE")
        refused(answer, 405)
        assert methods <= {name.strip() for name in answer.headers["allow"].split(",")}


@pytest.mark.parametrize(
    ("target", "methods"),
    [
        ("/add_key/k", "HEAD, OPTIONS, PUT"),
        ("/get_key/k", "GET, HEAD, OPTIONS"),
        ("/delete_key/k", "DELETE, OPTIONS"),
        ("/copy/k", "OPTIONS, POST"),
        ("/archive/k", "GET, HEAD, OPTIONS"),
        ("/keys", "GET, HEAD, OPTIONS"),
        ("/admin/status", "GET, HEAD, OPTIONS"),
        ("/admin/network/node", "DELETE, GET, HEAD, OPTIONS"),
        ("/admin/jobs/1", "GET, HEAD, OPTIONS"),
        ("/launch_job/a/b", "OPTIONS, POST"),
    ],
)
def test_options_and_a_refused_method_name_the_methods_that_a_path_has(
    master: Client, target: str, methods: str
) -> None:
    assert master.request("OPTIONS", target).headers["allow"] == methods
    answer = master.request("PATCH", target)
    assert refused(answer, 405) == f"PATCH is not possible on {_shown(target)}; {methods} is"
    assert answer.headers["allow"] == methods


def _shown(target: str) -> str:
    hot = ("/add_key/", "/get_key/", "/delete_key/", "/copy/", "/archive/", "/launch_job/")
    return next((f"{path}…" for path in hot if target.startswith(path)), target)


@pytest.mark.parametrize(
    "target", ["/", "/nothing", "/nothing/here", "/add_key", "/get_keys", "/get_keys/k", "/admin", "/internal/x"]
)
def test_an_unknown_path_is_404_in_the_envelope(master: Client, target: str) -> None:
    refused(master.request("GET", target), 404)


def test_an_unknown_path_on_the_node_is_404_in_the_envelope(cluster: Cluster) -> None:
    for target in ("/", "/nothing", "/admin/status", "/delete_key/k"):
        refused(follow_to(f"{cluster.nodes[0].url}{target}"), 404)


def test_a_connection_is_kept_for_many_requests(master: Client) -> None:
    key = unique()
    connection = http.client.HTTPConnection(*master.address, timeout=30)
    connection.connect()
    port = connection.sock.getsockname()[1]
    for method, target, status in (
        ("PUT", f"/add_key/{key}", 201),
        ("PUT", f"/add_key/{key}", 409),
        ("GET", f"/get_key/{key}", 200),
        ("GET", f"/get_key/{key}x", 404),
        ("HEAD", f"/get_key/{key}", 200),
        ("GET", "/keys?limit=1", 200),
        ("DELETE", f"/delete_key/{key}", 200),
    ):
        connection.request(method, target, body=VALUE if method == "PUT" else None)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
        assert connection.sock.getsockname()[1] == port
    connection.close()
