"""What nodes hold, put in one order: pages that end anywhere, nodes that are silent, versions on several nodes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

import pytest

from broker.http.peer_client import PeerFailed
from master.web.keys.held_versions import HeldVersion, HeldVersions, Name, Page, _Part, read_name, written


class Network:
    """Nodes that hold versions, and answer in pages that are as short as they like."""

    def __init__(self, held: Mapping[str, set[Name]], silent: frozenset[str], chance: random.Random) -> None:
        self.held = {node: sorted(names) for node, names in held.items()}
        self.silent = silent
        self.chance = chance
        self.asked: list[str] = []

    def names(self) -> list[str]:
        return sorted(self.held)

    async def ask(self, node: str, given: Mapping[str, str]) -> _Part:
        self.asked.append(node)
        if node in self.silent:
            raise PeerFailed("silent")
        after = read_name(given["after"]) if "after" in given else ("", 0)
        limit = int(given["limit"])
        left = [name for name in self.held[node] if name > after and name[0].startswith(given["prefix"])]
        most = self.chance.randint(0, limit) if self.chance.random() < 0.3 else limit
        taken = left[:most]
        following: Name | None = taken[-1] if taken else None
        if most < limit and len(left) > most:
            # It has looked at something more that it does not hold any longer.
            seen = left[most]
            following = following or (seen[0], seen[1] - 1)
        elif len(left) <= limit and self.chance.random() < 0.7:
            following = None
        return _Part([_version(node, *name) for name in taken], following)


def _version(node: str, key: str, version: int) -> HeldVersion:
    return HeldVersion(key, version, node, 1, '"e"', "text/plain", None, "", 1.0, None, 2.0, 3.0)


def _make(
    held: Mapping[str, set[Name]], silent: frozenset[str] = frozenset(), seed: int = 1
) -> tuple[HeldVersions, Network]:
    network = Network(held, silent, random.Random(seed))
    versions = HeldVersions(network, b"secret")  # type: ignore[arg-type]
    versions._ask = network.ask  # type: ignore[method-assign]
    return versions, network


def _all(versions: HeldVersions, prefix: str, limit: int) -> tuple[list[Name], list[Page]]:
    """The names on all pages."""
    names: list[Name] = []
    pages: list[Page] = []
    after: Name | None = None
    while True:
        page = asyncio.run(versions.page(prefix, after, limit))
        pages.append(page)
        names += [version.name for version in page.versions]
        if page.following is None:
            return names, pages
        assert after is None or page.following > after
        assert len(page.versions) <= limit
        after = page.following


@pytest.mark.parametrize("seed", range(40))
def test_every_version_is_listed_once_in_order_whatever_the_pages_of_the_nodes_are(seed: int) -> None:
    chance = random.Random(seed)
    names = [(f"{chance.choice('abc')}/{number % 7}", number + 1) for number in range(60)]
    held = {node: set(chance.sample(names, chance.randint(0, 40))) for node in ("n1", "n2", "n3")}
    versions, _ = _make(held, seed=seed)
    for prefix in ("", "b/", "c/3"):
        expected = sorted({name for some in held.values() for name in some if name[0].startswith(prefix)})
        assert _all(versions, prefix, chance.randint(1, 12))[0] == expected
    for key in {name[0] for name in names}:
        found, missing = asyncio.run(versions.of_key(key))
        assert missing == []
        expected = sorted(((one, node) for node, some in held.items() for one in some if one[0] == key), reverse=True)
        assert sorted(((one.name, one.node) for one in found), reverse=True) == expected
        assert [one.version for one in found] == sorted((one.version for one in found), reverse=True)


def test_a_silent_node_is_named_and_not_asked_again_for_the_same_page() -> None:
    versions, network = _make({"n1": {("a", 1), ("b", 2)}, "n2": {("a", 3)}}, frozenset({"n2"}))
    page = asyncio.run(versions.page("", None, 10))
    assert [version.name for version in page.versions] == [("a", 1), ("b", 2)]
    assert page.missing == ["n2"]
    assert network.asked.count("n2") == 1
    assert asyncio.run(versions.of_key("a"))[1] == ["n2"]


@pytest.mark.parametrize("name", [("a", 1), ("a:5", 7), ("a/b: c", (1 << 63) - 1)])
def test_a_name_is_read_as_it_was_written(name: Name) -> None:
    assert read_name(written(name)) == name


@pytest.mark.parametrize("text", ["", "a", "a:", ":1", "a:x", "a:-1", "a:9999999999999999999", "a//b:1", "ü:1"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no KEY:VERSION"):
        read_name(text)
