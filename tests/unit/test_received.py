"""Which headers of a request count, and with which it is answered with an error whatever it asks for."""

from __future__ import annotations

from typing import Any

import pytest

from broker.refusals import BadRequest, NotSupported
from broker.server import request_headers


def environ(*headers: tuple[str, str], method: str = "PUT") -> dict[str, Any]:
    """The environment of a request with these headers."""
    made = {"REQUEST_METHOD": method}
    request_headers.add_headers(made, headers)
    return made


def test_headers_are_named_as_wsgi_does_and_those_of_one_name_are_a_list() -> None:
    given = [("content-type", "a/b"), ("Content-Length", "5"), ("X-A", "1"), ("x-a", "2"), ("accept", "*")]
    assert environ(*given, method="GET") == {
        "REQUEST_METHOD": "GET",
        "CONTENT_TYPE": "a/b",
        "CONTENT_LENGTH": "5",
        "HTTP_X_A": "1,2",
        "HTTP_ACCEPT": "*",
    }


@pytest.mark.parametrize("name", ["If_Match", "Content_Length", "content_type", "X-Checksum_Sha256", "_", "host_"])
def test_a_name_with_an_underscore_is_no_other_header(name: str) -> None:
    made = environ((name, "9"), ("Content-Length", "5"), (name, "9"))
    request_headers.check(made)
    made.pop(request_headers.AMBIGUOUS, None)
    assert made == environ(("Content-Length", "5"))


@pytest.mark.parametrize("name", ["Content_Length", "transfer_encoding"])
def test_a_body_may_not_be_told_of_with_an_underscore_alone(name: str) -> None:
    with pytest.raises(BadRequest, match=name):
        request_headers.check(environ((name, "9")))


def test_a_header_that_the_server_has_left_out_is_known_by_its_name() -> None:
    seen = [("host", "a"), ("accept", "*")]
    assert request_headers.hidden(["host", "accept", "user-agent"], seen) == ""
    assert request_headers.hidden(["host", "if-match", "accept", "content-md5"], seen) == "if-match, content-md5"


@pytest.mark.parametrize(
    "host", ["master:31414", "127.0.0.1", "[::1]:80", "[::1]", "a_b-c.d", "host:", "", " a:1 ", "a%20b"]
)
def test_one_host_is_fine(host: str) -> None:
    request_headers.check_host([host])
    request_headers.check(environ(("Host", host)))


def test_no_host_is_left_to_the_web_server() -> None:
    request_headers.check_host([])
    request_headers.check(environ())


@pytest.mark.parametrize(
    "host", ["a b", "a/b", "http://a", "user@a", "a:b", "a:1:2", "::1", "[::1", "[x]", "a:123456", "é", "a\x00", "a?b"]
)
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(BadRequest, match="host or host:port"):
        request_headers.check(environ(("Host", host)))


@pytest.mark.parametrize("hosts", [["a", "a"], ["a", "b"], ["a", ""], ["a,b"], [","]])
def test_two_hosts_are_refused(hosts: list[str]) -> None:
    with pytest.raises(BadRequest, match="2 hosts"):
        request_headers.check(environ(*[("Host", host) for host in hosts], method="GET"))


@pytest.mark.parametrize("given", ["chunked", "Chunked", " chunked ", ",chunked,"])
def test_chunks_are_understood(given: str) -> None:
    request_headers.check(environ(("Transfer-Encoding", given)))


@pytest.mark.parametrize("method", ["PUT", "POST", "GET"])
@pytest.mark.parametrize("given", ["gzip, chunked", "gzip", "chunked, chunked", "identity", "", "chunked;a=b"])
def test_any_other_transfer_is_not(given: str, method: str) -> None:
    with pytest.raises(NotSupported, match="only chunked"):
        request_headers.check(environ(("Transfer-Encoding", given), method=method))
    assert NotSupported.status == 501


@pytest.mark.parametrize("given", ["bytes 0-4/5", "Bytes  0-4/5", " bytes 0-4/5 "])
def test_a_range_that_is_the_whole_is_none(given: str) -> None:
    request_headers.check(environ(("Content-Range", given), ("Content-Length", "5")))


@pytest.mark.parametrize(
    "given",
    [
        "bytes 0-3/5",
        "bytes 1-4/5",
        "bytes 0-4/6",
        "bytes 0-4/*",
        "bytes */5",
        "bytes 0-5/5",
        "bytes 0-9/10",
        "bytes=0-4/5",
        "lines 0-4/5",
        "",
        "0-4/5",
        "bytes 0-4/5,bytes 0-4/5",
        "bytes 0-" + "9" * 5000 + "/5",
        "bytes 0-٤/5",
    ],
)
def test_a_part_of_a_value_is_refused(given: str) -> None:
    with pytest.raises(BadRequest, match="nothing was stored"):
        request_headers.check(environ(("Content-Range", given), ("Content-Length", "5")))
    with pytest.raises(BadRequest, match="nothing was stored"):
        request_headers.check(environ(("Content-Range", given), ("Transfer-Encoding", "chunked")))


def test_a_range_of_a_body_of_unknown_length_is_refused() -> None:
    with pytest.raises(BadRequest, match="only a whole one"):
        request_headers.check(environ(("Content-Range", "bytes 0-4/5"), ("Transfer-Encoding", "chunked")))


def test_a_range_means_nothing_of_other_methods() -> None:
    request_headers.check(environ(("Content-Range", "bytes 0-3/5"), ("Content-Length", "5"), method="POST"))
