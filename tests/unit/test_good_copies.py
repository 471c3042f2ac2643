"""Where the master sends a node that has damaged values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import topology
from broker.keys import encode
from broker.messages.store import Damaged, Fetch
from master.cluster.good_copies import GoodCopies
from master.index.index import Entry, Holder, Index
from tests.unit.node_link import NodeLink


class Network:
    """Nodes of which `c` is away."""

    def alive(self, node: str) -> bool:
        return node != "c"

    def by_load(self, nodes: list[str]) -> list[str]:
        return sorted(nodes, reverse=True)

    def url(self, node: str) -> str:
        return f"http://{node}"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path, 64 << 20, write=True)
    with index.write() as tables:
        for name, holders in {"one": "a", "two": "ab", "away": "ac", "three": "abd", "elsewhere": "bd"}.items():
            copies = tuple(Holder(node, 1) for node in holders[1:])
            entry = Entry(10, holders[0], 1, 1, 77, 88, 3, "text/plain", b"d" * 32, b"abc", copies)
            tables.put_entry(encode(name), None, entry)
    yield index
    index.close()


def test_a_node_is_sent_to_the_other_holders_that_are_heard(index: Index) -> None:
    link = NodeLink()
    copies = GoodCopies(index, Network(), link, b"s")  # type: ignore[arg-type]
    names = ("one", "two", "away", "three", "elsewhere", "unknown")
    copies.send_to(Damaged("a", [*((encode(name), 10) for name in names), (encode("two"), 9)]))
    assert {queue for queue, _ in link.sent} == {topology.node_queue("a")}
    found = {}
    for _, message in link.sent:
        assert isinstance(message, Fetch)
        store = message.store
        assert (message.origin, store.ticket, store.version, store.value, store.staged) == ("", 0, 10, None, "")
        assert (store.created, store.expires, store.content_type, store.size) == (77, 88, "text/plain", 3)
        found[store.key] = [source.removeprefix("http://").partition("/")[0] for source in message.sources]
    assert found == {encode("two"): ["b"], encode("three"): ["d", "b"]}


def test_without_rabbitmq_nothing_is_sent_and_nothing_raised(index: Index) -> None:
    link = NodeLink()
    link.ready = False
    GoodCopies(index, Network(), link, b"s").send_to(Damaged("a", [(encode("two"), 10)]))  # type: ignore[arg-type]
    assert not link.sent
