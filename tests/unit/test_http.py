"""How a GET of a value is answered, the envelope, and keys in paths."""

from __future__ import annotations

import hashlib
import json

import pytest

from broker.errors import InvalidKey
from broker.http import request_fields, responses, values
from broker.http.ranges import Span
from broker.http.values import Plan, Resource

VALUE = bytes(range(256)) * 4
CREATED = 784111777_123  # ms
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
RESOURCE = Resource(len(VALUE), hashlib.sha256(VALUE).digest(), CREATED, "text/plain")
EMPTY = Resource(0, hashlib.sha256(b"").digest(), CREATED, "text/plain")
ETAG = RESOURCE.etag


def ask(method: str = "GET", resource: Resource = RESOURCE, **headers: str) -> tuple[Plan, dict[str, str], bytes]:
    """The plan, its headers and the body that is sent."""
    environ = {"REQUEST_METHOD": method, **{f"HTTP_{name.upper()}": value for name, value in headers.items()}}
    plan = values.plan(environ, resource)
    names = [name for name, _ in plan.headers]
    assert len(set(names)) == len(names), "no header twice"
    value = VALUE if resource.size else b""
    body = plan.body(value)
    pieces = b"".join(value[p.start : p.stop] if isinstance(p, Span) else p for p in plan.pieces())
    assert pieces == body, "streamed or whole, the same bytes"
    if not plan.ranges:
        assert plan.body(None) == body
    return plan, dict(plan.headers), body


def test_a_plain_get_is_answered_with_everything_about_the_value() -> None:
    plan, headers, body = ask()
    assert plan.status == 200
    assert body == VALUE
    assert headers == {
        "Content-Type": "text/plain",
        "Content-Length": "1024",
        "ETag": f'"{hashlib.sha256(VALUE).hexdigest()}"',
        "Last-Modified": DATE,
        "Cache-Control": "no-cache",
        "Accept-Ranges": "bytes",
        "Content-Security-Policy": "sandbox; default-src 'none'",
    }


def test_a_value_in_memory_is_sent_without_a_copy() -> None:
    plan, _, _ = ask()
    assert plan.body(VALUE) is VALUE


def test_head_has_the_headers_of_get_and_no_body() -> None:
    _, headers, _ = ask()
    plan, head_headers, body = ask("HEAD")
    assert (plan.status, head_headers, body, plan.ranges) == (200, headers, b"", ())


def test_head_knows_no_ranges() -> None:
    plan, headers, body = ask("HEAD", range="bytes=4-7")
    assert (plan.status, headers["Content-Length"], body) == (200, "1024", b"")
    assert ask("HEAD", range="bytes=9999-")[0].status == 200


def test_one_range_is_206_with_its_place() -> None:
    plan, headers, body = ask(range="bytes=4-7")
    assert plan.status == 206
    assert body == VALUE[4:8]
    assert headers["Content-Range"] == "bytes 4-7/1024"
    assert headers["Content-Length"] == "4"
    assert headers["Content-Type"] == "text/plain"
    assert (headers["ETag"], headers["Last-Modified"]) == (ETAG, DATE)


def test_several_ranges_are_206_in_parts() -> None:
    plan, headers, body = ask(range="bytes=0-3,-4")
    assert plan.status == 206
    assert headers["Content-Type"].startswith("multipart/byteranges; boundary=")
    assert headers["Content-Length"] == str(len(body))
    assert "Content-Range" not in headers
    assert b"Content-Range: bytes 0-3/1024\r\n\r\n" + VALUE[:4] + b"\r\n--" in body
    assert b"Content-Range: bytes 1020-1023/1024\r\n\r\n" + VALUE[-4:] + b"\r\n--" in body
    assert headers["ETag"] == ETAG


def test_the_encoding_goes_with_the_value_and_with_each_part() -> None:
    encoded = RESOURCE._replace(encoding="gzip")
    for method, more in (("GET", {}), ("HEAD", {}), ("GET", {"range": "bytes=4-7"}), ("GET", {"range": "x=0-"})):
        assert ask(method, encoded, **more)[1]["Content-Encoding"] == "gzip"
    _, headers, body = ask(resource=encoded, range="bytes=0-3,-4")
    assert "Content-Encoding" not in headers, "the parts are encoded, not what stands between them"
    assert body.count(b"Content-Type: text/plain\r\nContent-Encoding: gzip\r\nContent-Range: ") == 2
    for more in ({"if_none_match": "*"}, {"if_match": '"x"'}, {"range": "bytes=9999-"}):
        assert "Content-Encoding" not in ask(resource=encoded, **more)[1]
    assert "Content-Encoding" not in ask()[1]


def test_overlapping_ranges_are_one() -> None:
    plan, headers, body = ask(range="bytes=0-9,5-19")
    assert (plan.status, headers["Content-Range"], body) == (206, "bytes 0-19/1024", VALUE[:20])


@pytest.mark.parametrize("wanted", ["bytes=1024-", "bytes=-0", "bytes=5000-6000,9000-"])
def test_a_range_past_the_end_is_416_with_the_size(wanted: str) -> None:
    plan, headers, body = ask(range=wanted)
    assert plan.status == 416
    assert headers["Content-Range"] == "bytes */1024"
    assert headers["Content-Type"] == "application/json"
    assert headers["Content-Length"] == str(len(body))
    assert json.loads(body)["status"] == "ko"
    assert not plan.ranges


def test_a_value_of_no_bytes() -> None:
    plan, headers, body = ask(resource=EMPTY)
    assert (plan.status, headers["Content-Length"], body, plan.ranges) == (200, "0", b"", ())
    plan, headers, _ = ask(resource=EMPTY, range="bytes=0-0")
    assert (plan.status, headers["Content-Range"]) == (416, "bytes */0")
    assert ask(resource=EMPTY, range="nonsense")[0].status == 200


@pytest.mark.parametrize("wanted", ["bytes=7-4", "lines=1-2", "bytes=" + ",".join(["0-"] * 100)])
def test_a_range_that_is_ignored_gets_the_whole_value(wanted: str) -> None:
    plan, headers, body = ask(range=wanted)
    assert (plan.status, headers["Content-Length"], body) == (200, "1024", VALUE)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("header", [{"if_none_match": ETAG}, {"if_none_match": "*"}, {"if_modified_since": DATE}])
def test_what_the_client_has_is_304_with_its_tag_and_no_body(method: str, header: dict[str, str]) -> None:
    plan, headers, body = ask(method, **header)
    assert plan.status == 304
    assert headers == {"ETag": ETAG, "Last-Modified": DATE, "Cache-Control": "no-cache"}
    assert (body, plan.ranges) == (b"", ())


@pytest.mark.parametrize("header", [{"if_match": '"x"'}, {"if_unmodified_since": "Sat, 05 Nov 1994 08:49:37 GMT"}])
def test_a_condition_that_does_not_hold_is_412(header: dict[str, str]) -> None:
    plan, headers, body = ask(**header)
    assert plan.status == 412
    assert ETAG in json.loads(body)["msg"]
    head, head_headers, nothing = ask("HEAD", **header)
    assert (head.status, head_headers, nothing) == (plan.status, headers, b"")


def test_conditions_come_before_ranges() -> None:
    assert ask(range="bytes=9999-", if_none_match=ETAG)[0].status == 304
    assert ask(range="bytes=9999-", if_match='"x"')[0].status == 412
    assert ask(range="bytes=0-0", if_match=ETAG, if_none_match='"x"')[0].status == 206


@pytest.mark.parametrize(
    ("if_range", "status"),
    [(ETAG, 206), (DATE, 206), (f"W/{ETAG}", 200), ('"x"', 200), ("Sun, 06 Nov 1994 08:49:38 GMT", 200)],
)
def test_if_range_decides_whether_the_range_counts(if_range: str, status: int) -> None:
    assert ask(range="bytes=0-0", if_range=if_range)[0].status == status
    # A range that does not count can't be unsatisfiable.
    assert ask(range="bytes=9999-", if_range=if_range)[0].status == (416 if status == 206 else 200)
    assert ask(if_range=if_range)[0].status == 200


def test_the_envelope_says_whether_it_went_well() -> None:
    answer = responses.make_plain(201, {"url": "x"}, "key added", [("ETag", '"a"')])
    headers = dict(answer.headers)
    assert len(headers) == len(answer.headers)
    assert json.loads(answer.body) == {"data": {"url": "x"}, "msg": "key added", "status": "ok"}
    assert answer.status == 201
    assert headers["Content-Type"] == "application/json"
    assert headers["Content-Length"] == str(len(answer.body))
    assert (headers["ETag"], headers["X-Frame-Options"]) == ('"a"', "DENY")
    answer = responses.make_plain(507, None, "full – really", [])
    assert json.loads(answer.body) == {"data": None, "msg": "full – really", "status": "ko"}


def test_a_redirect_is_not_said_to_have_gone_well() -> None:
    assert json.loads(responses.make_plain(307, None, "elsewhere", []).body)["status"] == "ko"


def test_options_tells_methods_and_what_pages_from_elsewhere_may_send() -> None:
    answer = responses.options(["PUT", "GET"], page=True)
    headers = dict(answer.headers)
    assert (answer.status, answer.body) == (204, b"")
    assert headers["Allow"] == headers["Access-Control-Allow-Methods"] == "GET, OPTIONS, PUT"
    for name in ("Content-Type", "If-Match", "Range", "X-Checksum-Sha256", "Content-MD5", "Authorization"):
        assert name in headers["Access-Control-Allow-Headers"]
    assert dict(responses.options(["PUT"], page=False).headers) == {"Allow": "OPTIONS, PUT"}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("content_type", "sandboxed"),
    [
        ("text/html", True),
        ("image/svg+xml", True),
        ("application/xhtml+xml", True),
        ("image/png", True),
        ("", True),
        ("application/pdf", False),
        ("Audio/mpeg", False),
        ("video/mp4; codecs=avc1", False),
        ("application/pdf, text/html", True),
        ("video/mp4;x, text/html", True),
        ("video/", True),
        ("video/mp4 text/html", True),
        ("audio/x+xml", True),
        ("Video/x+XML; a=b", True),
        ("audio/x+xmlish", False),
    ],
)
def test_a_value_that_could_act_as_a_page_is_in_a_sandbox(content_type: str, sandboxed: bool, method: str) -> None:
    resource = RESOURCE._replace(content_type=content_type)
    for more in ({}, {"range": "bytes=0-3"}, {"range": "bytes=0-3,9-"}):
        found = ask(method, resource, **more)[1].get("Content-Security-Policy")
        assert found == ("sandbox; default-src 'none'" if sandboxed else None)


def test_who_is_sent_elsewhere_is_told_that_nothing_is_done() -> None:
    for status, said in ((200, "ok"), (299, "ok"), (307, "ko"), (400, "ko")):
        assert json.loads(responses.envelope(status, None, "x"))["status"] == said
    answer = responses.redirect("http://n:1/get_key/a")
    assert (answer.status, answer.body) == (307, b"the value is at http://n:1/get_key/a\n")
    headers = dict(answer.headers)
    assert (headers["Location"], headers["Content-Type"]) == ("http://n:1/get_key/a", "text/plain")
    assert headers["Content-Length"] == str(len(answer.body))


@pytest.mark.parametrize(
    ("path", "key"),
    [("a/b", "a/b"), ("/a", "a"), ("a+b %~", "a+b %~"), ("k" * 383, "k" * 383)],
)
def test_the_key_is_what_follows_the_prefix(path: str, key: str) -> None:
    assert request_fields.key_of({"PATH_INFO": "/get_key/" + path}, "/get_key/") == key


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "empty"),
        ("a//b", "empty segment"),
        ("a/../b", r"\. or \.\."),
        ("a\x00b", "control"),
        ("k" * 384, "384 bytes"),
        ("é文".encode().decode("latin-1"), "'é'"),
        ("\xe9", "not ASCII"),
    ],
)
def test_a_bad_key_in_a_path_is_refused_with_the_reason(path: str, reason: str) -> None:
    with pytest.raises(InvalidKey, match=reason):
        request_fields.key_of({"PATH_INFO": "/get_key/" + path}, "/get_key/")


def test_a_key_is_quoted_so_that_it_comes_back() -> None:
    assert request_fields.quote_key("a b/100%+~?#é"[:-1]) == "a%20b/100%25%2B~%3F%23"
