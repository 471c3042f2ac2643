"""Where a read that comes too late is sent, and which pages may read the response."""

from __future__ import annotations

from typing import Any

import pytest

from broker.errors import BadSignature
from broker.http import signed_addresses, signing

SECRET = b"s" * 32
KEY = "a b.txt"
NOW = 1_795_000_000


def signed(method: str = "GET", until: int = NOW + 60, **fields: str) -> str:
    return signing.sign(SECRET, method, KEY, {"url": "master:1", **fields}, until)


@pytest.mark.parametrize("open_reads", [True, False])
def test_a_read_in_time_is_answered(open_reads: bool) -> None:
    assert signed_addresses.way_back(SECRET, KEY, signed(), NOW, open_reads) is None


def test_a_late_read_is_answered_where_reads_are_open_and_sent_back_elsewhere() -> None:
    assert signed_addresses.way_back(SECRET, KEY, signed(until=NOW - 1), NOW, True) is None
    assert (
        signed_addresses.way_back(SECRET, KEY, signed(until=NOW - 1), NOW, False) == "http://master:1/get_key/a%20b.txt"
    )


@pytest.mark.parametrize("open_reads", [True, False])
@pytest.mark.parametrize("until", [NOW + 60, NOW - 1])
def test_a_wrong_signature_is_never_right(until: int, open_reads: bool) -> None:
    for query in (signed(until=until)[:-1], signed("PUT", until), signed(until=until).replace("master", "evil")):
        with pytest.raises(BadSignature, match="changed"):
            signed_addresses.way_back(SECRET, KEY, query, NOW, open_reads)


def test_a_read_without_a_signature_is_for_open_nodes() -> None:
    assert signed_addresses.way_back(SECRET, KEY, "", NOW, True) is None
    with pytest.raises(BadSignature, match="not signed"):
        signed_addresses.way_back(SECRET, KEY, "", NOW, False)


@pytest.mark.parametrize(
    ("path", "query", "any_origin"),
    [
        ("/get_key/a b.txt", signed(), True),
        ("/get_key/a b.txt", signed(until=1), True),
        ("/add_key/a b.txt", signed("PUT"), True),
        ("/add_key/a b.txt", signed(), False),
        ("/get_key/a b.txt", signed("PUT"), False),
        ("/get_key/a b.txt", signed()[:-1], False),
        ("/get_key/a b.txt", "", False),
        ("/get_key/a c.txt", signed(), False),
        ("/get_key/", signed(), False),
        ("/get_key", signed(), False),
        ("*", signed(), False),
        ("/health", signed(), False),
    ],
)
def test_any_origin_may_read_what_an_authentic_address_answers(path: str, query: str, any_origin: bool) -> None:
    environ: dict[str, Any] = {"PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": "OPTIONS"}
    assert signed_addresses.allowed_origin(SECRET, environ, "https://ui") == ("*" if any_origin else "https://ui")
    assert signed_addresses.allowed_origin(SECRET, environ, "") == "", "none at all is none at all"
    assert signed_addresses.allowed_origin(SECRET, environ, "*") == "*"
