"""Values with a lifetime: there until its last moment, 404 at once afterwards, and removed soon after."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from broker import keys
from ops.cluster import Cluster
from tests.integration.wire import INLINE, Client, follow_to, good, payload, refused
from tests.support import unique, wait_for

# Where values of these sizes are kept.
SIZES = {"master": 100, "log": 20_000, "file": 300_000, "uploaded": INLINE + 1}


def row_of(master: Client, key: str) -> dict[str, float] | None:
    """The listing's row of a key."""
    rows: list[dict[str, float]] = good(master.request("GET", f"/keys?prefix={key}"))["keys"]
    return rows[0] if rows else None


def value_files(cluster: Cluster, key: str) -> list[Path]:
    """The value files that say they are this key's."""
    name = keys.encode(key)
    found = []
    for node in cluster.nodes:
        for path in (node.directory / "values").glob("??/*"):
            try:
                with path.open("rb") as file:
                    if name in file.read(4096):
                        found.append(path)
            except FileNotFoundError:
                continue
    return found


def records(cluster: Cluster, key: str) -> int:
    """How many records of the nodes' logs name the key."""
    logs = [path for node in cluster.nodes for path in (node.directory / "log").iterdir() if path.is_file()]
    return sum(path.read_bytes().count(keys.encode(key)) for path in logs)


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        ("ttl=90s", 90),
        ("ttl=15m", 900),
        ("ttl=12h", 43_200),
        ("ttl=7d", 604_800),
        ("temporal=1", 86_400),
        ("temporal=30", 2_592_000),
        ("temporal=007", 604_800),
    ],
)
@pytest.mark.parametrize("size", [100, INLINE + 1])
def test_a_lifetime_is_kept_to_the_millisecond(master: Client, query: str, seconds: int, size: int) -> None:
    key = unique()
    began = time.time()
    good(master.put(key, payload(size), f"?{query}"), 201)
    ended = time.time()
    row = row_of(master, key)
    assert row
    assert began + seconds - 0.001 <= row["expires"] <= ended + seconds + 0.001


def test_a_value_without_a_lifetime_has_no_end(master: Client) -> None:
    key = unique()
    good(master.put(key, b"value"), 201)
    row = row_of(master, key)
    assert row
    assert row["expires"] is None


def test_a_value_is_there_to_the_last_moment_and_404_at_once_afterwards(master: Client) -> None:
    names = {kind: unique(kind) for kind in SIZES}
    ends = {}
    for kind, key in names.items():
        good(master.put(key, payload(SIZES[kind]), "?ttl=3s"), 201)
        row = row_of(master, key)
        assert row
        ends[kind] = row["expires"]

    seen_alive = set()
    while time.time() < max(ends.values()) + 0.05:
        for kind, key in names.items():
            before = time.time()
            answer = master.head(key)
            after = time.time()
            if after < ends[kind]:
                assert answer.status == 200, f"{kind}: {ends[kind] - after:.3f} s before its end"
                seen_alive.add(kind)
            elif before >= ends[kind]:
                assert answer.status == 404, f"{kind}: {before - ends[kind]:.3f} s after its end"
    assert seen_alive == set(SIZES)

    for kind, key in names.items():
        refused(master.get(key), 404)
        assert row_of(master, key) is None, kind
        refused(master.delete(key), 404)
        refused(master.put(key, b"value", headers={"If-Match": "*"}), 412)


def test_the_node_does_not_serve_a_value_after_its_end(master: Client) -> None:
    urls, addresses = [], []
    for size in SIZES.values():
        key = unique()
        urls.append(good(master.put(key, payload(size), "?ttl=3s"), 201)["url"])
        location = master.get(key, follow=False).headers.get("location")
        addresses += [location] if location else []
    end = time.time() + 3
    assert {follow_to(url, "HEAD").status for url in urls + addresses} == {200}
    while time.time() < end:
        time.sleep(0.01)
    for url in urls + addresses:
        refused(follow_to(url), 404)


def test_a_key_can_be_added_again_right_after_its_end(master: Client) -> None:
    names = {kind: unique(kind) for kind in SIZES}
    ends = {}
    for kind, key in names.items():
        good(master.put(key, payload(SIZES[kind]), "?ttl=3s"), 201)
        row = row_of(master, key)
        assert row
        ends[kind] = row["expires"]
    for kind, key in names.items():
        while True:
            asked = time.time()
            if (answer := master.put(key, payload(SIZES[kind], 2))).status != 409:
                break
            assert asked < ends[kind] + 0.05, "still taken after its end"
        assert time.time() >= ends[kind], "added before its end"
        good(answer, 201)
        assert master.get(key).body == payload(SIZES[kind], 2)
        row = row_of(master, key)
        assert row
        assert row["expires"] is None
    # What was added is still there when the old values are swept away.
    other = unique()
    good(master.put(other, b"value", "?ttl=1s"), 201)
    wait_for(lambda: row_of(master, other) is None)
    for kind, key in names.items():
        assert master.get(key).body == payload(SIZES[kind], 2)


def test_a_new_value_is_not_removed_with_the_lifetime_of_the_old_one(cluster: Cluster, master: Client) -> None:
    names = {kind: unique(kind) for kind in SIZES}
    for kind, key in names.items():
        good(master.put(key, payload(SIZES[kind]), "?ttl=1s"), 201)
        good(master.put(key, payload(SIZES[kind], 2), "?overwrite=1"), 201)
    other = unique()
    good(master.put(other, b"the sweep is through", "?ttl=1s"), 201)
    wait_for(lambda: not alive_in_index(master, other) and records(cluster, other) >= 2, what="the sweep")
    for kind, key in names.items():
        assert master.get(key).body == payload(SIZES[kind], 2), kind


def alive_in_index(master: Client, key: str) -> bool:
    return row_of(master, key) is not None


def test_a_lifetime_that_is_given_anew_counts(master: Client) -> None:
    shorter, longer = unique("shorter"), unique("longer")
    good(master.put(shorter, b"first", "?ttl=1h"), 201)
    good(master.put(shorter, b"second", "?ttl=1s&overwrite=1"), 201)
    good(master.put(longer, b"first", "?ttl=1s"), 201)
    good(master.put(longer, b"second", "?ttl=1h&overwrite=1"), 201)
    wait_for(lambda: master.get(shorter).status == 404)
    assert master.get(longer).body == b"second"


def test_what_has_ended_is_removed_from_the_index_and_the_nodes_disk(cluster: Cluster, master: Client) -> None:
    names = {kind: unique(kind) for kind in SIZES}
    for kind, key in names.items():
        good(master.put(key, payload(SIZES[kind]), "?ttl=5s"), 201)
    assert len(value_files(cluster, names["file"])) == len(value_files(cluster, names["uploaded"])) == 1
    assert [key for key in names.values() if master.head(key).status != 200] == []
    assert {kind: records(cluster, key) for kind, key in names.items()} == dict.fromkeys(SIZES, 1)

    for kind, key in names.items():
        wait_for(lambda key=key: records(cluster, key) == 2, what=f"a deletion in the log: {kind}")
    wait_for(lambda: not value_files(cluster, names["file"]), what="the value file unlinked")
    wait_for(lambda: not value_files(cluster, names["uploaded"]), what="the uploaded value file unlinked")


def test_purged_value_files_are_unlinked(cluster: Cluster, master: Client) -> None:
    key = unique()
    good(master.put(key, payload(300_000)), 201)
    good(master.put(key, payload(300_000, 2), "?overwrite=1"), 201)
    assert len(value_files(cluster, key)) == 2  # one of them can be brought back
    assert master.get(key).body == payload(300_000, 2)
    good(master.request("DELETE", f"/delete_key/{key}?purge=1"))
    wait_for(lambda: not value_files(cluster, key), what="both values unlinked")


def test_many_lifetimes_end_together(cluster: Cluster, master: Client) -> None:
    for seconds in (8, 16, 32):  # until the first one lives long enough to see the last one
        folder = unique()
        began = time.monotonic()
        for number in range(300):
            good(master.put(f"{folder}/{number}", b"value", f"?ttl={seconds}s"), 201)
        there = len(good(master.request("GET", f"/keys?prefix={folder}&limit=1000"))["keys"])
        if time.monotonic() - began < seconds:
            break
    assert there == 300
    wait_for(
        lambda: not good(master.request("GET", f"/keys?prefix={folder}"))["keys"],
        timeout=60,
        what="the end of all of them",
    )
    for number in (0, 150, 299):
        wait_for(lambda number=number: records(cluster, f"{folder}/{number}") >= 2, what="removed on the node")
