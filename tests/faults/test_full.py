"""Disks that are full."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from ops.cluster import Cluster
from tests.faults.load import FILE_BYTES, LARGE_BYTES, Answer, Client, listing, make_body
from tests.faults.tools import network, settle
from tests.support import Clusters, wait_for

MIB = 1 << 20
RESERVE = 2 * MIB
COMPACT_SECS = 45.0  # a pass begins every 30 s
VALUE_BYTES = 30_000  # lives in the log


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[None]:
    """A filesystem of so many bytes at `path`; the test is skipped where that can't be made."""
    path.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"a small filesystem can't be mounted here (root is needed): {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=False)


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Clusters) -> Iterator[Cluster]:
    if os.geteuid() != 0:
        pytest.skip("a small filesystem can only be mounted by root")
    settings = {
        "PULZAR_VOLUME_RESERVE": str(RESERVE),
        "PULZAR_VOLUME_SEGMENT": "1M",
        "PULZAR_SERVER_PUT_TIMEOUT": "5",
    }
    made = make_shared_cluster(env=settings, start=False)
    with ExitStack() as stack:
        # The first one is the smaller one.
        for node, size in zip(made.nodes, (16 * MIB, 40 * MIB), strict=True):
            stack.enter_context(small_disk(node.directory, size))
        made.start()
        yield made
        made.stop()


def fill(client: Client, prefix: str, size: int, most: int) -> tuple[list[str], Answer]:
    """Store values until one is refused; returns the keys that are stored, and the refusal."""
    chance = random.Random(prefix)
    stored = []
    for number in range(most):
        key = f"{prefix}/{number:04}"
        answer = client.put(key, make_body(key, 0, size, chance))
        if answer.status != 201:
            return stored, answer
        stored.append(key)
    raise AssertionError(f"{most} values of {size} bytes were taken")


def nodes_of(client: Client, prefix: str) -> dict[str, str]:
    """Which node has which key."""
    return {row["key"]: row["nodes"][0] for row in listing(client, prefix)}


def test_full_disks_refuse_values_and_come_back_when_values_are_deleted(cluster: Cluster) -> None:
    chance = random.Random(1)
    with closing(Client(cluster.master_url)) as client:
        # Given two nodes with small disks, one smaller than the other
        values: dict[str, bytes] = {}
        full = False
        for number in range(2000):
            # When values are stored until one node is full
            key = f"full/one/{number:04}"
            body = make_body(key, 0, VALUE_BYTES, chance)
            answer = client.put(key, body)
            # Then no client notices
            assert answer.status == 201, (number, answer)
            values[key] = body
            if number % 20 == 0 and network(cluster)["node-1"]["full"]:
                full = True
                break
        assert full
        more = {f"full/other/{number}": make_body("other", number, VALUE_BYTES, chance) for number in range(20)}
        for key, body in more.items():
            assert client.put(key, body).status == 201
        # And the other one is used
        assert set(nodes_of(client, "full/other/").values()) == {"node-2"}
        values |= more

        # When all are full
        stored, refusal = fill(client, "full/all", VALUE_BYTES, 2000)
        # Then it is 507, said in the envelope; for values of every size
        assert refusal.status == 507, refusal
        assert "room" in refusal.message
        wait_for(lambda: all(row["full"] for row in network(cluster).values()), 30, "heartbeats that say so")
        for size in (1000, FILE_BYTES, LARGE_BYTES):
            answer = client.put(f"full/no/{size}", bytes(size))
            assert answer.status == 507, (size, answer)
            assert answer.message
            assert client.get(f"full/no/{size}").status == 404
        # And what was acknowledged is there
        for key, body in values.items():
            assert client.get(key).body == body
        assert [key for key in stored if client.get(key).status != 200] == []

        # When values are deleted
        doomed = [key for number, key in enumerate([*values, *stored]) if number % 4]
        for key in doomed:
            answer = client.delete(key)
            # Then that works
            assert answer.status == 200, answer
        # And after compaction, which works on a full disk, values are taken again
        wait_for(lambda: client.put("full/again", bytes(VALUE_BYTES)).status == 201, COMPACT_SECS, "room again", 0.5)
        wait_for(lambda: not any(row["full"] for row in network(cluster).values()), COMPACT_SECS, "room on both nodes")
        for size in (1000, FILE_BYTES, LARGE_BYTES):
            # A node that is no longer full may lack room for a large one: compaction goes on
            key, body = f"full/yes/{size}", bytes([7]) * size
            wait_for(lambda: client.put(key, body).status == 201, COMPACT_SECS, f"room for {size} bytes", 0.5)  # noqa: B023
            assert client.get(f"full/yes/{size}").body == bytes([7]) * size
        # And all the others are as they were, through another start
        cluster.kill_node(0)
        cluster.start_node(0)
        settle(cluster)
        for key, body in values.items():
            answer = client.get(key)
            assert answer.status == 404 if key in doomed else answer.body == body, (key, answer.status)


def test_a_disk_without_a_byte_left_breaks_nothing(cluster: Cluster) -> None:
    chance = random.Random(2)
    with closing(Client(cluster.master_url)) as client:
        # Given a few values on both nodes
        values = {f"byte/{number}": make_body("byte", number, VALUE_BYTES, chance) for number in range(8)}
        for key, body in values.items():
            assert client.put(key, body).status == 201
        with ExitStack() as stack:
            for node in cluster.nodes:
                # When another program uses up every byte of the disk
                stack.enter_context(eaten(node.directory / "somebody-elses"))
            wait_for(lambda: all(row["full"] for row in network(cluster).values()), 30, "heartbeats that say so")
            # Then a PUT is refused with 507
            assert client.put("byte/no", bytes(VALUE_BYTES)).status == 507
            # And values can be read, and a DELETE is either done or refused, not half done
            for key, body in values.items():
                assert client.get(key).body == body
            answer = client.delete("byte/0")
            assert answer.status in (200, 503, 507), answer
            deleted = answer.status == 200
            assert client.get("byte/0").status == (404 if deleted else 200)
            # And nodes start on such a disk, and serve
            cluster.kill_node(0)
            cluster.start_node(0)
            settle(cluster, full=True)
            for key, body in list(values.items())[1:]:
                assert client.get(key).body == body
        # And when there is room again, all is well
        wait_for(lambda: client.put("byte/yes", bytes(VALUE_BYTES), "overwrite=1").status == 201, 30, "room again", 0.2)
        settle(cluster)
        assert client.get("byte/0").status == (404 if deleted else 200)


@contextmanager
def eaten(path: Path) -> Iterator[None]:
    """Every byte of the filesystem is used by a file, for as long as the block lasts."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (MIB, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    try:
        yield
    finally:
        path.unlink()
