"""Where a read that comes too late is sent, and whether its address is authentic."""

from __future__ import annotations

from typing import Any

import pytest

from broker.errors import BadSignature
from broker.http import signed_addresses, signing

SECRET = b"s" * 32
KEY = "a b.txt"
NOW = 1_795_000_000


def signed(method: str = "GET", until: int = NOW + 60, **fields: str) -> str:
    return signing.sign(SECRET, method, KEY, {"url": "master:1", "node": "node-1", **fields}, until)


def back(query: str, open_reads: bool, node: str = "node-1") -> str | None:
    return signed_addresses.way_back(SECRET, KEY, query, node, now=NOW, open_reads=open_reads)


@pytest.mark.parametrize("open_reads", [True, False])
def test_a_read_in_time_is_answered(open_reads: bool) -> None:
    assert back(signed(), open_reads) is None


def test_a_late_read_is_answered_where_reads_are_open_and_sent_back_elsewhere() -> None:
    assert back(signed(until=NOW - 1), True) is None
    assert back(signed(until=NOW - 1), False) == "http://master:1/get_key/a%20b.txt"


@pytest.mark.parametrize("open_reads", [True, False])
@pytest.mark.parametrize("until", [NOW + 60, NOW - 1])
def test_a_wrong_signature_is_never_right(until: int, open_reads: bool) -> None:
    for query in (signed(until=until)[:-1], signed("PUT", until), signed(until=until).replace("master", "evil")):
        with pytest.raises(BadSignature, match="changed"):
            back(query, open_reads)


def test_a_read_without_a_signature_is_for_open_nodes() -> None:
    assert back("", True) is None
    with pytest.raises(BadSignature, match="not signed"):
        back("", False)


@pytest.mark.parametrize(
    ("path", "query", "authentic"),
    [
        ("/get_key/a b.txt", signed(), True),
        ("/get_key/a b.txt", signed(until=1), True),
        ("/add_key/a b.txt", signed("PUT"), True),
        ("/add_key/a b.txt", signed(), False),
        ("/get_key/a b.txt", signed("PUT"), False),
        ("/get_key/a b.txt", signed()[:-1], False),
        ("/get_key/a b.txt", signed(node="node-2"), False),
        ("/get_key/a b.txt", "", False),
        ("/get_key/a c.txt", signed(), False),
        ("/get_key/", signed(), False),
        ("/get_key", signed(), False),
        ("*", signed(), False),
        ("/health", signed(), False),
    ],
)
def test_an_authentic_address_was_made_by_the_master_for_this_request(path: str, query: str, authentic: bool) -> None:
    environ: dict[str, Any] = {"PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": "OPTIONS"}
    assert (signed_addresses.authentic(SECRET, environ, "node-1") is not None) == authentic


def test_who_came_by_a_link_and_is_late_is_sent_to_the_link_again() -> None:
    link = "by=ci&until=5&signature=ab"
    late = signed(until=NOW - 1, back=link)
    assert back(late, False) == f"http://master:1/get_key/a%20b.txt?{link}"


@pytest.mark.parametrize("open_reads", [True, False])
@pytest.mark.parametrize("until", [NOW + 60, NOW - 1])
def test_a_read_at_another_node_than_that_of_the_address_is_refused(until: int, open_reads: bool) -> None:
    with pytest.raises(BadSignature, match="for the node node-1, and this is the node node-2"):
        back(signed(until=until), open_reads, "node-2")
