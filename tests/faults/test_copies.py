"""Data directories that are copied, put back from an older copy, wiped, or without their index."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker import settings, topology
from broker.messages.codec import decode_any
from broker.messages.store import Delete, Heartbeat, Status, Store
from node.storage.storage import Storage
from ops.cluster import Cluster, Rabbit
from tests.faults.load import FILE_BYTES, LARGE_BYTES, Client, Load, check, listing
from tests.faults.tools import logged, settle, wait_logged, wipe_index
from tests.support import Clusters, wait_for

SETTINGS = {"PULZAR_VOLUME_SEGMENT": "256K", "PULZAR_SERVER_PUT_TIMEOUT": "5"}


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Clusters) -> Cluster:
    return make_shared_cluster(env=SETTINGS)


def tar(source: Path, to: Path) -> None:
    """Copy a directory with plain tar. Files may change and vanish meanwhile, of which it complains (status 1)."""
    made = subprocess.run(["tar", "-cf", str(to), "-C", str(source), "."], capture_output=True, check=False)
    assert made.returncode in (0, 1), made.stderr.decode()


def untar(archive: Path, to: Path) -> None:
    """Unpack over whatever is there, as a restore onto an empty machine."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    subprocess.run(["tar", "-xf", str(archive), "-C", str(to)], check=True)


def put_on(cluster: Cluster, number: int, prefix: str, count: int, size: int = 1000) -> dict[str, bytes]:
    """Store keys until `count` of them are on that node; returns those."""
    url = cluster.nodes[number].url
    found: dict[str, bytes] = {}
    with closing(Client(cluster.master_url)) as client:
        for each in range(count * 10):
            key, value = f"{prefix}/{each:04}", f"{prefix} {each} {time.time_ns()}\n".encode().ljust(size, b".")
            answer = client.put(key, value)
            assert answer.status == 201, answer
            if url.encode() in answer.body:
                found[key] = value
            if len(found) == count:
                return found
    raise AssertionError(f"{len(found)} of {count * 10} keys went to {cluster.nodes[number].id}")


def statuses(cluster: Cluster, values: dict[str, bytes]) -> set[Any]:
    """What GETs of these keys come to: 200 for the right value, else the status or "wrong"."""
    with closing(Client(cluster.master_url)) as client:
        answers = {key: client.get(key) for key in values}
    return {
        "wrong" if answer.status == 200 and answer.body != values[key] else answer.status
        for key, answer in answers.items()
    }


def changed(cluster: Cluster, values: dict[str, bytes]) -> dict[str, tuple[int, bytes]]:
    """The keys that are not answered with their values: status and the beginning of the body."""
    with closing(Client(cluster.master_url)) as client:
        answers = {key: client.get(key) for key in values}
    return {
        key: (answer.status, answer.body[:80])
        for key, answer in answers.items()
        if (answer.status, answer.body) != (200, values[key])
    }


def test_a_nodes_index_that_is_deleted_is_built_again(cluster: Cluster) -> None:
    # Given values and deletions on a node
    with Load(cluster.master_url, prefix="no index") as load:
        load.wait_stored(200)
    # When its index is deleted while it is stopped
    cluster.stop_node(0)
    shutil.rmtree(cluster.nodes[0].directory / "index")
    cluster.start_node(0)
    # Then all is as it was
    settle(cluster)
    check(load)
    # And for an index that is rubbish as well
    cluster.kill_node(0)
    (cluster.nodes[0].directory / "index" / "data.mdb").write_bytes(b"rubbish" * 10_000)
    cluster.start_node(0)
    settle(cluster)
    check(load)


def test_a_tar_made_during_writes_has_everything_acknowledged_before(
    cluster: Cluster, make_cluster: Clusters, tmp_path: Path
) -> None:
    # Given a node with values, under writes, overwrites and deletes
    node = cluster.nodes[0]
    with Load(cluster.master_url, prefix="tar") as load:
        load.wait_stored(300)
        before = {key: (part.settled, len(part.lines)) for key, part in load.histories.items() if not part.maybe}
        # When its data directory is copied with plain tar
        tar(node.directory, tmp_path / "copy.tar")
        load.wait_stored(50)
    with closing(Client(cluster.master_url)) as client:
        on_node = {row["key"] for row in listing(client, "tar/") if row["nodes"] == [node.id]}
    untouched = {
        key: digest
        for key, (digest, lines) in before.items()
        if key in on_node and len(load.histories[key].lines) == lines
    }
    assert len(untouched) > 50, load
    # And unpacked elsewhere, for a master that knows nothing
    other = make_cluster(nodes=1, env=SETTINGS, start=False)
    untar(tmp_path / "copy.tar", other.nodes[0].directory)
    (other.nodes[0].directory / "node-address").unlink()  # the original still runs there
    other.start()
    settle(other)
    # Then every key acknowledged before, and not changed since, is there byte for byte
    with closing(Client(other.master_url)) as client:
        missing, halves = [], []
        for key, history in load.histories.items():
            answer = client.get(key)
            digest = answer.digest if answer.status == 200 else str(answer.status)
            if key in untouched and digest != untouched[key]:
                missing.append(f"{digest[:8]} instead of {untouched[key][:8]}: {history}")
            # And of the others nothing is half there
            if digest != "404" and digest not in history.sizes:
                halves.append(f"{digest}: {history}")
        assert not missing, f"{len(missing)} of {len(untouched)}: " + "\n".join(missing[:5])
        assert not halves, "\n".join(halves[:5])
        # And it can be written to
        assert client.put("tar/afterwards", b"new").status == 201
    other.stop()


def test_a_tar_made_during_compaction_has_everything_acknowledged_before(tmp_path: Path) -> None:
    # Given a storage whose segments are small, under writes, deletes and compaction without a pause
    environment = {
        "PULZAR_VOLUME_DIR": str(tmp_path / "original"),
        "PULZAR_VOLUME_UNDELETE_DAYS": "0",  # else there would be nothing to compact
        "PULZAR_VOLUME_SEGMENT": "64K",
        "PULZAR_VOLUME_RESERVE": "0",
        "PULZAR_VOLUME_COMPACT_RATE": "1G",
    }
    storage = Storage.open(settings.load(environ=environment))
    kept: dict[bytes, bytes] = {}
    stop = threading.Event()

    def segments() -> set[tuple[str, int]]:
        return {(file.name, file.stat().st_ino) for file in (tmp_path / "original" / "log").iterdir()}

    def compact() -> None:
        while not stop.wait(0.02):
            storage.compact()

    def write() -> None:
        version = 1
        while not stop.is_set():
            commands: list[Store | Delete] = []
            for number in range(20):
                version += 1
                size = 100_000 if version % 50 == 0 else 2_000
                value = f"{version} ".encode() * (size // 8)
                key = b"keep%d" % version if number == 0 else b"change%d" % (version % 97)
                digest = hashlib.sha256(value).digest()
                commands.append(Store(0, key, version, 1, 0, "", digest, len(value), value, ""))
                if number == 10:
                    commands.append(Delete(0, b"change%d" % ((version + 31) % 97), version))
            for command, result in zip(commands, storage.apply(commands), strict=True):
                assert result.status in (Status.DONE, Status.STALE), result
                if command.key.startswith(b"keep") and isinstance(command, Store):
                    kept[command.key] = command.value or b""

    threads = [threading.Thread(target=write), threading.Thread(target=compact)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(kept) > 30, 60, "values")
        overlapped, deadline = 0, time.monotonic() + 60
        while overlapped < 4:
            assert time.monotonic() < deadline
            # When it is copied with plain tar while segments are exchanged
            before, files = dict(kept), segments()
            tar(tmp_path / "original", tmp_path / "copy.tar")
            if files <= segments():
                continue
            overlapped += 1
            untar(tmp_path / "copy.tar", tmp_path / "copy")
            # Then the copy has all that was acknowledged before
            copy = Storage.open(settings.load(environ=environment | {"PULZAR_VOLUME_DIR": str(tmp_path / "copy")}))
            try:
                there = {
                    item.key: item for _, _, items in copy.replay(0) for item in items if item.key.startswith(b"keep")
                }
                assert not [key for key in before if key not in there]
                assert all(there[key].size == len(value) for key, value in before.items())
                report = copy.scrub(rate=1e12)
                assert not report.damages, report
            finally:
                copy.close()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        storage.close()


def test_an_older_copy_put_back_makes_no_phantoms(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.nodes[0]
    # Given values of every size on a node, and a copy of its data directory
    old = put_on(cluster, 0, "older/before", 10) | put_on(cluster, 0, "older/files", 3, FILE_BYTES)
    settle(cluster)
    cluster.stop_node(0)
    tar(node.directory, tmp_path / "copy.tar")
    cluster.start_node(0)
    settle(cluster)
    # And values stored, and one deleted, after the copy
    new = put_on(cluster, 0, "older/after", 10) | put_on(cluster, 0, "older/after-files", 3, FILE_BYTES)
    elsewhere = put_on(cluster, 1, "older/elsewhere", 3)
    gone = {key: old.pop(key) for key in list(old)[:1]}
    with closing(Client(cluster.master_url)) as client:
        assert client.delete(next(iter(gone))).status == 200
        # (and one replaced there; those that the other node got meanwhile are as they were replaced)
        for key in list(old):
            answer = client.put(key, b"replaced", "overwrite=1")
            assert answer.status == 201
            if node.url.encode() in answer.body:
                break
            old[key] = b"replaced"
    # (whose commands it has acknowledged: otherwise it is told once more to store what was replaced)
    settle(cluster)
    # When the node is put back to the older copy, under a running master
    cluster.kill_node(0)
    untar(tmp_path / "copy.tar", node.directory)
    cluster.start_node(0)
    settle(cluster)
    # Then what was stored after the copy is gone, and nobody is sent to it
    wait_for(lambda: statuses(cluster, new) == {404}, 30, "404 for keys that are not in the copy")
    # And everything else is served as the copy has it, and what was deleted stays deleted
    assert changed(cluster, old) == {}
    assert statuses(cluster, elsewhere) == {200}
    assert statuses(cluster, gone) == {404}
    # And new writes are good, and those keys can be stored again, through another start as well
    asked = len(logged(cluster.master, "replay asked for"))
    again = put_on(cluster, 0, "older/again", 5)
    with closing(Client(cluster.master_url)) as client:
        for key, value in new.items():
            assert client.put(key, value).status == 201
    for restart in (False, True):
        if restart:
            cluster.kill_node(0)
            cluster.start_node(0)
            settle(cluster)
        assert statuses(cluster, old | elsewhere | again | new) == {200}
        assert statuses(cluster, gone) == {404}
    assert len(logged(cluster.master, "replay asked for")) < asked + 5, "writes are followed by replays"
    # And an index filled anew has all of them
    cluster.stop_master()
    wipe_index(cluster)
    cluster.start_master()
    settle(cluster)
    assert statuses(cluster, old | elsewhere | again | new) == {200}


@pytest.mark.parametrize("master", ["runs", "is stopped meanwhile"])
def test_a_node_whose_data_are_gone_starts_anew(master: str, cluster: Cluster) -> None:
    # Given values on two nodes
    lost = put_on(cluster, 0, f"wiped {master}/lost", 5) | put_on(cluster, 0, f"wiped {master}/files", 2, FILE_BYTES)
    kept = put_on(cluster, 1, f"wiped {master}/kept", 5)
    settle(cluster)
    # When the data directory of one is gone
    if master != "runs":
        cluster.stop_master()
    cluster.kill_node(0)
    shutil.rmtree(cluster.nodes[0].directory)
    cluster.start_node(0)
    if master != "runs":
        cluster.start_master()
    settle(cluster)
    # Then its keys are unknown, and the other node's are served
    wait_for(lambda: statuses(cluster, lost) == {404}, 30, "404 for keys of a node without data")
    assert statuses(cluster, kept) == {200}
    # And new writes are good, through another start as well
    new = put_on(cluster, 0, f"wiped {master}/new", 5) | put_on(cluster, 0, f"wiped {master}/large", 1, LARGE_BYTES)
    cluster.kill_node(0)
    cluster.start_node(0)
    settle(cluster)
    assert statuses(cluster, new | kept) == {200}
    assert statuses(cluster, lost) == {404}


def test_an_empty_master_takes_no_second_value_for_a_key_that_a_node_has(cluster: Cluster) -> None:
    # Given keys on the nodes
    values = put_on(cluster, 0, "second/a", 5) | put_on(cluster, 1, "second/b", 5)
    settle(cluster)
    answers: list[str] = []
    for _ in range(3):
        # When a master starts with an empty index
        cluster.kill_master()
        wipe_index(cluster)
        cluster.start_master()
        # Then a PUT of such a key is never answered with 201, and a GET never with 404
        deadline = time.monotonic() + 20
        known: set[str] = set()
        with closing(Client(cluster.master_url)) as client:
            while len(known) < len(values) and time.monotonic() < deadline:
                for key in values:
                    put, get = client.put(key, b"another value"), client.get(key)
                    if put.status == 409:
                        known.add(key)
                    elif put.status not in (0, 503):
                        answers.append(f"PUT {key}: {put.status}")
                    if get.status not in (0, 200, 503) or (get.status == 200 and get.body != values[key]):
                        answers.append(f"GET {key}: {get.status} {get.body[:60]!r}")
        assert len(known) == len(values)
        settle(cluster)
    assert not answers, f"{len(answers)}: {answers[:10]}"
    assert statuses(cluster, values) == {200}


def test_a_key_of_a_node_whose_log_was_not_applied_yet_is_not_free(cluster: Cluster, rabbit: Rabbit) -> None:
    # Given keys on a node that an empty master has heard of, and that does not send its log just now
    values = put_on(cluster, 0, "not free", 3)
    settle(cluster)
    cluster.kill_master()
    wipe_index(cluster)
    node = cluster.nodes[0]
    assert node.process.pid

    def beats() -> list[str]:
        look = {"count": 50, "ackmode": "ack_requeue_true", "encoding": "base64"}
        rows = rabbit.api("POST", f"queues/{cluster.vhost}/{topology.HEARTBEATS}/get", look)
        found = [(row["payload"], decode_any(base64.b64decode(row["payload"]))) for row in rows]
        return [payload for payload, beat in found if isinstance(beat, Heartbeat) and beat.node == node.id]

    beat = wait_for(beats, 30, "a heartbeat that waits for the master")[0]

    def heard() -> bool:
        # The one that waits may be too old by now.
        message = {"routing_key": topology.HEARTBEATS, "properties": {}, "payload_encoding": "base64", "payload": beat}
        rabbit.api("POST", f"exchanges/{cluster.vhost}/amq.default/publish", message)
        return cluster.health().get("nodes") == 2

    os.killpg(node.process.pid, signal.SIGSTOP)
    try:
        cluster.start_master()
        wait_for(heard, 30, "a master that has heard of both nodes", 0.05)
        # When such a key is put again while the other node is there to take it, or read
        until = time.monotonic() + 3
        with closing(Client(cluster.master_url)) as client:
            while time.monotonic() < until:
                for key in values:
                    put, get = client.put(key, b"another value"), client.get(key)
                    # Then it is neither free nor unknown
                    assert (put.status, get.status) == (503, 503), (put, get)
    finally:
        os.killpg(node.process.pid, signal.SIGCONT)
    # And when the log has come, the key has its value
    settle(cluster)
    assert statuses(cluster, values) == {200}


def test_a_copied_node_says_that_its_index_is_not_its_own(cluster: Cluster, tmp_path: Path) -> None:
    # Given a copy made while the node runs, whose index may be torn
    before = put_on(cluster, 0, "own index", 3)
    tar(cluster.nodes[0].directory, tmp_path / "copy.tar")
    # When it takes the place of the original
    cluster.kill_node(0)
    untar(tmp_path / "copy.tar", cluster.nodes[0].directory)
    count = len(logged(cluster.nodes[0].process, "index"))
    cluster.start_node(0)
    # Then the index is built anew, and the log says so
    wait_logged(cluster.nodes[0].process, "index", more_than=count)
    settle(cluster)
    assert statuses(cluster, before) == {200}
