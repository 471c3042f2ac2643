"""Where clients are sent: signed URLs of nodes."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from broker.errors import InvalidKey
from broker.http import signing
from broker.messages.upload import UploadPermit
from broker.refusals import NoRoom, Unavailable
from master.index.index import Entry, Holder
from master.web.keys.redirects import READ_SECS, UPLOAD_SECS, Redirects

SECRET = b"s" * 32
MASTER = "master:1"
KEY = "a b/c+d.txt"
ROOM = 100  # bytes on each node


class StandInNodes:
    """Two nodes with little room, as the index knows them."""

    def __init__(self) -> None:
        self.urls = {"one": "http://one:1", "two": "http://two:2"}
        self.silent: set[str] = set()

    def url(self, node: str) -> str | None:
        return self.urls.get(node)

    def by_load(self, nodes: Sequence[str]) -> list[str]:
        return list(nodes)

    def gone(self, node: str) -> bool:
        return node in self.silent

    def any_alive(self, exclude: Collection[str] = ()) -> str | None:
        return next(iter(self.urls.keys() - self.silent - set(exclude)), None)

    def takes(self, node: str) -> bool:
        return node in self.urls and node not in self.silent

    def choose_several(self, size: int, number: int, exclude: Collection[str], beside: Collection[str]) -> list[str]:
        others = [node for node in sorted(self.urls) if node not in {*exclude, *beside, *self.silent}]
        return others[:number] if size <= ROOM else []

    def choose(self, size: int, exclude: Collection[str] = ()) -> str | None:
        return self.any_alive(exclude) if size <= ROOM else None


@pytest.fixture
def nodes() -> StandInNodes:
    return StandInNodes()


@pytest.fixture
def redirects(nodes: StandInNodes) -> Redirects:
    return Redirects(nodes, SECRET, f"http://{MASTER}")  # type: ignore[arg-type]


def at(node: str, *others: str) -> Entry:
    copies = tuple(Holder(other, 1) for other in others)
    return Entry(7, node, 1, 1, 1, 0, 3, "", b"d" * 32, None, copies)


def verified(url: str, method: str, path: str, now: float) -> dict[str, str]:
    """What was signed into a URL."""
    parts = urlsplit(url)
    assert unquote(parts.path) == path + KEY
    return signing.verify(SECRET, method, KEY, parts.query, now)


def test_a_read_goes_to_the_node_of_the_value_and_knows_the_way_back(redirects: Redirects) -> None:
    url = redirects.read(KEY, at("two"))
    assert url.startswith("http://two:2/get_key/a%20b/c%2Bd.txt?")
    assert verified(url, "GET", "/get_key/", time.time() + READ_SECS - 1) == {
        signing.MASTER: MASTER,
        signing.NODE: "two",
    }


def test_a_read_from_a_node_that_is_not_heard_from_is_for_later(redirects: Redirects, nodes: StandInNodes) -> None:
    nodes.silent.add("two")
    for node in ("two", "nobody"):
        with pytest.raises(Unavailable, match=f"node {node}, which has this value"):
            redirects.read(KEY, at(node))


def test_a_read_of_a_value_on_several_nodes_has_a_second_address(redirects: Redirects, nodes: StandInNodes) -> None:
    later = time.time() + READ_SECS - 1
    first = verified(redirects.read(KEY, at("two", "one")), "GET", "/get_key/", later)
    assert (first[signing.NODE], first[signing.VERSION]) == ("two", "7")
    second = verified(first[signing.NEXT], "GET", "/get_key/", later)
    assert second == {signing.MASTER: MASTER, signing.NODE: "one", signing.VERSION: "7"}
    # One that is gone is passed over
    nodes.silent.add("two")
    only = verified(redirects.read(KEY, at("two", "one")), "GET", "/get_key/", later)
    assert (only[signing.NODE], signing.NEXT in only) == ("one", False)
    assert [urlsplit(url).netloc for url in redirects.each(KEY, at("two", "one"))] == ["one:1"]
    nodes.silent.add("one")
    with pytest.raises(Unavailable, match="node two, which has this value"):
        redirects.read(KEY, at("two", "one"))


def test_an_upload_is_signed_with_what_it_permits(redirects: Redirects) -> None:
    permit = UploadPermit(MASTER, 5_000, True, 7, '"x"')
    place = redirects.upload(KEY, permit, 7)
    signed = verified(place.url, "PUT", "/add_key/", time.time() + UPLOAD_SECS - 1)
    assert UploadPermit.read(signed) == permit._replace(node=place.node)
    assert place.url.startswith(f"http://{place.node}:")


def test_an_upload_of_a_value_for_several_nodes_names_the_others(redirects: Redirects, nodes: StandInNodes) -> None:
    nodes.urls |= {"three": "http://three:3", "four": "http://four:4"}
    nodes.silent |= {"two"}

    def further(**options: Any) -> tuple[str, list[str]]:
        place = redirects.upload(KEY, UploadPermit(MASTER), **options)
        named = UploadPermit.read(verified(place.url, "PUT", "/add_key/", time.time())).further
        assert all(nodes.urls[other.node] == other.url for other in named)
        return place.node, [other.node for other in named]

    assert further(wanted=1) in [(node, []) for node in nodes.urls]
    for wanted, number in ((2, 1), (3, 2), (8, 2)):
        first, others = further(wanted=wanted)
        assert len({first, *others}) == 1 + number
    # Nodes with the older value come first, if they are heard from.
    first, others = further(wanted=2, exclude=["three"], holders=["two", "four", "one"])
    assert {first, *others} == {"one", "four"}


def test_an_upload_goes_to_no_node_that_was_tried(redirects: Redirects) -> None:
    assert redirects.upload(KEY, UploadPermit(MASTER), exclude=["one"]).node == "two"
    with pytest.raises(Unavailable, match="no node was heard from lately, or can be reached"):
        redirects.upload(KEY, UploadPermit(MASTER), exclude=["one", "two"])


def test_no_room_and_no_node_are_told_apart(redirects: Redirects, nodes: StandInNodes) -> None:
    with pytest.raises(NoRoom, match="no node has room for 101 bytes"):
        redirects.upload(KEY, UploadPermit(MASTER), ROOM + 1)
    nodes.silent |= {"one", "two"}
    with pytest.raises(Unavailable):
        redirects.upload(KEY, UploadPermit(MASTER), ROOM + 1)


def test_no_address_is_made_for_what_is_no_key(redirects: Redirects) -> None:
    with pytest.raises(InvalidKey):
        redirects.upload("a//b", UploadPermit(MASTER))
