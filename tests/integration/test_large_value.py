"""A value of 1 GiB goes up and down as a stream: neither the master nor a node ever holds much of it."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from ops.cluster import Cluster
from tests.integration.wire import Client, curl, good
from tests.support import unique, wait_for

SIZE = 1 << 30
MARKS = {0: b"begin", 123_456_789: b"somewhere", SIZE // 2: b"middle", SIZE - 3: b"end"}
GROWTH_BYTES = 100 << 20


def sparse(path: Path) -> None:
    """A file of a GiB that takes hardly any room."""
    with path.open("wb") as file:
        file.truncate(SIZE)
        for at, mark in MARKS.items():
            file.seek(at)
            file.write(mark)


class Memory:
    """The most memory that each of some process trees has had."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._trees = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._stop = threading.Event()
        self.most = dict.fromkeys(pids, 0)

    def now(self) -> dict[str, int]:
        """Resident bytes of each tree, added up."""
        return {
            name: sum(process.memory_info().rss for process in [root, *root.children(recursive=True)])
            for name, root in self._trees.items()
        }

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note the most during the block."""
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            for name, size in self.now().items():
                self.most[name] = max(self.most[name], size)


def test_a_gibibyte_goes_up_and_down_in_little_memory(cluster: Cluster, tmp_path: Path) -> None:
    file, key = tmp_path / "large", unique("large.bin")
    sparse(file)
    pids = {"master": cluster.master.pid, **{node.id: node.process.pid for node in cluster.nodes}}
    memory = Memory({name: pid for name, pid in pids.items() if pid})
    assert set(memory.most) == set(pids)
    with Client(cluster.master_url, timeout=60) as master:
        # What every process needs for its first large value does not count.
        good(master.put(unique(), bytes(8 << 20)), 201)
        before = memory.now()

        with memory.watched():
            done = curl("-X", "PUT", "-L", "-T", str(file), f"{cluster.master_url}/add_key/{key}")
            assert done.status == 201
            digest = hashlib.sha256()
            size = 0
            with subprocess.Popen(
                ["curl", "-sS", "-L", f"{cluster.master_url}/get_key/{key}"], stdout=subprocess.PIPE
            ) as download:
                assert download.stdout
                while chunk := download.stdout.read(1 << 20):
                    digest.update(chunk)
                    size += len(chunk)
            assert download.returncode == 0

        assert size == SIZE
        head = master.head(key)
        assert head.headers["content-length"] == str(SIZE)
        assert head.headers["etag"] == f'"{digest.hexdigest()}"'
        for at, mark in MARKS.items():
            part = master.get(key, {"Range": f"bytes={at}-{min(SIZE, at + 9) - 1}"})
            assert part.body == (mark + bytes(9))[: len(part.body)]
        growth = {name: memory.most[name] - before[name] for name in before}
        assert max(growth.values()) < GROWTH_BYTES, {name: f"{size >> 20} MiB" for name, size in growth.items()}

        good(master.request("DELETE", f"/delete_key/{key}?purge=1"))
    values = [node.directory / "values" for node in cluster.nodes]

    def large() -> list[Path]:
        found = []
        for path in (path for folder in values for path in folder.glob("??/*")):
            with contextlib.suppress(FileNotFoundError):  # it has just been unlinked
                found += [path] * (path.stat().st_size >= SIZE)
        return found

    wait_for(lambda: not large(), what="the value's file unlinked")
