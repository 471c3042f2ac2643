"""The power goes while clients write: of what the index had not flushed, any part is on the disk, or none."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing

import pytest

from broker.lmdb_files import DATA
from master.index import checkpoint_file
from ops.cluster import Cluster
from tests.faults.load import Client, Load, check
from tests.faults.tools import settle, tracebacks, wipe_index
from tests.support import Clusters, get, put, wait_for

BETWEEN = 150  # PUTs acknowledged from one step to the next
SECTOR = 512


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Clusters) -> Cluster:
    return make_shared_cluster(env={"PULZAR_SERVER_WORKERS": "2", "PULZAR_SERVER_PUT_TIMEOUT": "5"})


class Disk:
    """The index on its disk, as it was at moments since its last checkpoint."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._directory = cluster.master_directory / "index"
        self._random = random.Random(seed)
        self._contents: list[tuple[int, bytes]] = []  # when its checkpoint was made, and the file

    def look(self) -> None:
        """Remember what the file is now."""
        before = self._checkpoint()
        content = (self._directory / DATA).read_bytes()
        if self._checkpoint() == before:
            self._contents.append((before, content))

    def cut_power(self) -> None:
        """Leave of each sector anything that it was since the last checkpoint; all processes are dead."""
        self.look()
        now = self._checkpoint()
        contents = [content for at, content in self._contents if at == now]
        assert len(contents) > 1
        length = self._random.choice(list(map(len, contents)))
        with (self._directory / DATA).open("r+b") as file:
            file.truncate(length)
            for at in range(0, length, SECTOR):
                file.write(self._random.choice(contents)[at : at + SECTOR].ljust(SECTOR, b"\0"))
        note = checkpoint_file.read(self._directory)
        assert note
        assert not note.clean
        # The machine is not really started again.
        checkpoint_file.write(self._directory, note._replace(boot="another one"))

    def lose_checkpoint(self) -> None:
        """Make the checkpoint one that is too old to count."""
        note = checkpoint_file.read(self._directory)
        assert note
        checkpoint_file.write(self._directory, note._replace(at=1))

    def _checkpoint(self) -> int:
        note = checkpoint_file.read(self._directory)
        return note.at if note else 0


def nothing(_: Disk) -> None:
    pass


@pytest.mark.parametrize("spoil", [nothing, Disk.lose_checkpoint], ids=["checkpoint", "no checkpoint"])
def test_after_a_power_cut_everything_is_as_the_clients_were_told(
    spoil: Callable[[Disk], None], cluster: Cluster
) -> None:
    # Given an index with a checkpoint, and clients that have written, overwritten and deleted since then
    disk = Disk(cluster, 1)
    with Load(cluster.master_url, prefix=f"cut {spoil.__name__}") as load:
        load.wait_stored(BETWEEN)
        cluster.stop_master()
        cluster.start_master()
        for _ in range(6):
            load.wait_stored(BETWEEN // 3)
            disk.look()
        # When the power goes, everywhere
        cluster.kill_master()
        cluster.kill_node(0)
        cluster.kill_node(1)
    disk.cut_power()
    spoil(disk)
    # And the master is back before the nodes
    cluster.start_master()
    wait_for(lambda: cluster.health().get("ready") is not None, 30, "the master to answer")
    # Then no key is free, and none is unknown, while that can't be said
    assert get(cluster, f"cut-{spoil.__name__}/never-stored").status == 503
    assert put(cluster, f"cut-{spoil.__name__}/never-stored", b"x").status == 503
    # When one node is back, it is the same for the sake of the other one
    cluster.start_node(0)
    wait_for(lambda: any(row["applied"] for row in _logs(cluster)), 30, "the log of one node")
    assert get(cluster, f"cut-{spoil.__name__}/never-stored").status == 503
    cluster.start_node(1)
    # Then everything is as the clients were told
    settle(cluster)
    check(load)
    assert get(cluster, f"cut-{spoil.__name__}/never-stored").status == 404
    # And an index filled anew from the nodes' logs says the same
    cluster.stop_master()
    wipe_index(cluster)
    cluster.start_master()
    settle(cluster)
    check(load)
    assert not tracebacks(cluster)


def _logs(cluster: Cluster) -> list[dict[str, int]]:
    with closing(Client(cluster.master_url)) as client:
        rows: list[dict[str, int]] = client.json("/internal/restore")["nodes"]
    return rows
