"""A byte on a node's disk that is not what was written."""

from __future__ import annotations

import random
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from ops.cluster import Cluster
from tests.faults.load import FILE_BYTES, LARGE_BYTES, Client, check_usable, make_body
from tests.faults.tools import flip, logged, settle, wipe_index
from tests.support import Clusters

BLOCKS = LARGE_BYTES // 131072


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Clusters) -> Cluster:
    # Nothing is kept by the master: every read goes to the node.
    return make_shared_cluster(nodes=1, env={"PULZAR_SERVER_CACHED": "0"})


def flipped(directory: Path, content: bytes, at: int) -> Path:
    """The file below the directory that has this content, one byte of which was changed."""
    file = flip(directory, content, at)
    assert file, "nobody has this value"
    return file


@pytest.mark.parametrize(
    ("size", "at", "folder"),
    [(1000, 500, "log"), (1000, 999, "log"), (FILE_BYTES, 70_000, "values"), (LARGE_BYTES, 5, "values")],
)
def test_a_changed_byte_is_an_error_and_never_wrong_data(size: int, at: int, folder: str, cluster: Cluster) -> None:
    chance = random.Random(size + at)
    keys = [f"rot/{size}/{at}/{name}" for name in ("before", "bad", "after")]
    values = {key: make_body(key, 0, size, chance) for key in keys}
    process = cluster.nodes[0].process
    with closing(Client(cluster.master_url)) as client:
        # Given three values
        for key, value in values.items():
            assert client.put(key, value).status == 201
            assert client.get(key).body == value
        # When one byte of the second one changes on the disk
        file = flipped(cluster.nodes[0].directory, values[keys[1]], at)
        assert folder in file.relative_to(cluster.nodes[0].directory).parts
        errors = len(logged(process, "ERROR", keys[1]))
        # Then reading it is an error, every time, and the log says which key it was
        for _ in range(2):
            answer = client.get(keys[1])
            assert answer.status >= 500, answer
        assert len(logged(process, "ERROR", keys[1])) > errors
        # And all others are as they were, through another start, a new index of the node and one of the master
        for step in ("now", "restarted", "index built anew", "master filled anew"):
            if step == "restarted":
                cluster.stop_node(0)
                cluster.start_node(0)
            elif step == "index built anew":
                cluster.kill_node(0)
                shutil.rmtree(cluster.nodes[0].directory / "index")
                cluster.start_node(0)
            elif step == "master filled anew":
                cluster.stop_master()
                wipe_index(cluster)
                cluster.start_master()
            settle(cluster)
            assert client.get(keys[0]).body == values[keys[0]], step
            assert client.get(keys[2]).body == values[keys[2]], step
            answer = client.get(keys[1])
            assert answer.status >= 500 or answer.status == 404, (step, answer)
        # And the key can be stored anew, or deleted
        assert client.put(keys[1], b"new", "overwrite=1").status == 201
        assert client.get(keys[1]).body == b"new"
        assert client.delete(keys[1]).status == 200
        assert client.get(keys[1]).status == 404
    check_usable(cluster.master_url, f"rot/{size}/{at}/usable")


def test_a_changed_byte_far_into_a_large_value_ends_the_answer(cluster: Cluster) -> None:
    chance = random.Random(7)
    value = make_body("rot/far", 0, LARGE_BYTES, chance)
    with closing(Client(cluster.master_url)) as client:
        # Given a value of several blocks, of which a byte in the last one changes
        assert client.put("rot/far", value).status == 201
        flipped(cluster.nodes[0].directory, value, LARGE_BYTES - 10)
        # When it is read, then the answer is an error, or breaks off before the bad block
        answer = client.get("rot/far")
        assert answer.status == 0 or answer.status >= 500, (answer.status, len(answer.body))
        # And the parts that are good can still be read
        part = client.get("rot/far", Range="bytes=0-99")
        assert (part.status, part.body) == (206, value[:100])
        # And the log says so
        assert logged(cluster.nodes[0].process, "ERROR", "rot/far")


def test_a_cut_value_file_is_an_error(cluster: Cluster) -> None:
    chance = random.Random(8)
    value = make_body("rot/cut", 0, FILE_BYTES, chance)
    with closing(Client(cluster.master_url)) as client:
        assert client.put("rot/cut", value).status == 201
        # When a value file has lost its end
        file = flipped(cluster.nodes[0].directory, value, 10)
        with file.open("r+b") as opened:
            opened.truncate(file.stat().st_size - 500)
        assert client.get("rot/cut").status >= 500
        # And when it is gone
        file.unlink()
        assert client.get("rot/cut").status >= 500
        assert len(logged(cluster.nodes[0].process, "ERROR", "rot/cut")) >= 2
