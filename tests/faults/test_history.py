"""Clients put, replace, delete and read values on two nodes each while what they need dies, stands still and loses disks.

That is nodes, the master, RabbitMQ and disks: full ones, older ones, empty ones, damaged bytes. Afterwards no read may have been stale or have seen a deleted value, and every value is on two nodes byte for byte.
`HISTORY_FAULTS` and `HISTORY_SEED` in the environment say how many faults and which; `ops/soak` has many.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest

from ops.cluster import Cluster, Rabbit
from tests.faults.history import NEVER, History, Kind, Operation, now
from tests.faults.load import Threads
from tests.faults.test_full import small_disk
from tests.faults.tools import COMPANION, WORKER, family, flip, kill_part, serves
from tests.support import Answer, Clusters, delete, get, http_request, put, wait_for

FAULTS = int(os.environ.get("HISTORY_FAULTS", "20"))
ROUND = 5  # faults, then all is brought back and looked at
CLIENTS, KEYS = 4, 5
DISK_BYTES = 96 << 20  # of a node
ON_SMALL_DISKS = os.geteuid() == 0  # only root can mount them
SIZES = (40, 3_000, 120_000)  # in the index, in the log, in a file that goes straight to a node
ENV = {
    "PULZAR_GENERAL_REPLICAS": "2",
    "PULZAR_GENERAL_REPAIR_AFTER": "5",
    "PULZAR_SERVER_PUT_TIMEOUT": "4",
    "PULZAR_SERVER_CACHED": "100",
    "PULZAR_VOLUME_INLINE": "20000",
    "PULZAR_VOLUME_RESERVE": "2M",
    "PULZAR_VOLUME_SEGMENT": "1M",
}


def body(number: int) -> bytes:
    """The value with this number; its size goes by the number, too."""
    return b"%d " % number + hashlib.shake_128(b"%d" % number).digest(SIZES[number % len(SIZES)])


def etag(number: int) -> str:
    return f'"{hashlib.sha256(body(number)).hexdigest()}"'


class Load(Threads):
    """Clients on a few keys, until they are told to end."""

    def __init__(self, cluster: Cluster, keys: list[str], seed: int) -> None:
        self.cluster = cluster
        self.keys = keys
        self.history = History()
        self.problems: list[str] = []
        super().__init__(*(partial(self._run, random.Random(seed * 100 + number)) for number in range(CLIENTS)))

    def _run(self, chance: random.Random) -> None:
        seen = dict.fromkeys(self.keys, 0)  # what this client has read last
        while not self._stopping.is_set():
            key = chance.choice(self.keys)
            kind = chance.choices(list(Kind)[:4], (3, 2, 1, 6))[0]
            number = self.history.number() if kind in (Kind.PUT, Kind.SWAP) else 0
            if kind is Kind.SWAP and not seen[key]:
                kind = Kind.PUT
            called = now()
            answer = self._ask(kind, key, number, seen[key])
            operation = self._operation(kind, key, number, seen[key], answer=answer, called=called)
            if operation is not None:
                self.history.note(key, operation)
                if kind is Kind.GET:
                    seen[key] = operation.value
            self._stopping.wait(chance.random() * 0.2)

    def _ask(self, kind: Kind, key: str, number: int, expected: int) -> Answer | None:
        """The answer; None when there is none."""
        with suppress(OSError, http.client.HTTPException):  # as of a process that was killed
            match kind:
                case Kind.PUT:
                    return put(self.cluster, key, body(number), "overwrite=1", timeout=15)
                case Kind.SWAP:
                    return put(self.cluster, key, body(number), headers={"If-Match": etag(expected)}, timeout=15)
                case Kind.DELETE:
                    return delete(self.cluster, key, timeout=15)
                case _:
                    return get(self.cluster, key, timeout=15)
        return None

    def _operation(
        self, kind: Kind, key: str, number: int, expected: int, *, answer: Answer | None, called: float
    ) -> Operation | None:
        """What is known to have happened; None for what says nothing."""
        returned = now()
        status = answer.status if answer else 0
        if kind is Kind.GET:
            if answer is None or status not in (200, 404):
                return None
            value = int(answer.body.partition(b" ")[0]) if status == 200 else 0
            if status == 200 and answer.body != body(value):
                self.problems.append(f"{key}: wrong bytes of {value}")
            return Operation(kind, called, returned, value)
        said = f"{status} {answer.url if answer else ''} {'' if answer is None or status < 400 else answer.msg}"
        if status in (200, 201):
            return Operation(kind, called, returned, number, expected, answer=said)
        if (kind, status) in ((Kind.SWAP, 412), (Kind.DELETE, 404)):
            return Operation(kind, called, returned, number, expected, refused=True, answer=said)
        return Operation(kind, called, NEVER, number, expected, answer=f"{returned:.3f} {said}")


class Faults:
    """What is done to a cluster, at random."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self.cluster = cluster
        self.chance = chance
        self.done: list[str] = []
        self._kinds: list[Callable[[], str]] = [
            self.node_killed,
            self.node_killed,
            self.node_frozen,
            self.node_wiped,
            self.master_killed,
            self.controller_killed,
            self.data_server_killed,
            self.broker_killed,
            self.broker_frozen,
            self.everything_killed,
            self.older_disk,
            self.byte_flipped,
            *([self.disk_full] if ON_SMALL_DISKS else []),
        ]

    def one(self) -> None:
        """Do something, and wait a while."""
        self.done.append(self.chance.choice(self._kinds)())
        time.sleep(self.chance.random() * 2)

    def _node(self) -> int:
        return self.chance.randrange(len(self.cluster.nodes))

    def node_killed(self) -> str:
        """A node is killed, and comes back soon or when it counts as lost."""
        index = self._node()
        self.cluster.kill_node(index)
        time.sleep(self.chance.choice((0.1, 2.0, 8.0)))
        self.cluster.start_node(index)
        return f"node {index + 1} killed"

    def node_frozen(self) -> str:
        """A node stands still, with all that it has taken in."""
        index = self._node()
        process = self.cluster.nodes[index].process
        _freeze([*([process.pid] if process.pid else []), *family(process)], self.chance.choice((0.5, 3.0, 8.0)))
        return f"node {index + 1} frozen"

    def node_wiped(self) -> str:
        """A node loses its disk, when every value is on two nodes."""
        settle(self.cluster)
        index = self._node()
        self.cluster.kill_node(index)
        shutil.rmtree(self.cluster.nodes[index].directory, ignore_errors=True)  # it may not have made it yet
        since = time.time()
        self.cluster.start_node(index)
        settle(self.cluster, since)
        return f"node {index + 1} wiped"

    def master_killed(self) -> str:
        """The master is killed and started again, now and then without its index."""
        self.cluster.kill_master()
        lost = self.chance.random() < 0.3
        if lost:
            shutil.rmtree(self.cluster.master_directory / "index")
        self.cluster.start_master()
        return "master killed" + (", its index lost" if lost else "")

    def controller_killed(self) -> str:
        """The one writer of the index is killed."""
        kill_part(self.cluster.master, COMPANION)
        return "controller killed"

    def data_server_killed(self) -> str:
        """What answers reads and uploads of a node is killed."""
        index = self._node()
        kill_part(self.cluster.nodes[index].process, WORKER)
        return f"data server {index + 1} killed"

    def broker_killed(self) -> str:
        """RabbitMQ is killed, and comes back after a while."""
        self._rabbit.kill()
        time.sleep(self.chance.choice((0.1, 3.0)))
        self._rabbit.start()
        return "RabbitMQ killed"

    def broker_frozen(self) -> str:
        """RabbitMQ stands still with its connections open."""
        pids = [pid for child in self._rabbit.children for pid in (child.pid, *family(child)) if pid]
        _freeze(pids, self.chance.choice((0.5, 3.0, 8.0)))
        return "RabbitMQ frozen"

    def everything_killed(self) -> str:
        """All processes are killed in one moment."""
        self.cluster.kill()
        self._rabbit.start()
        self.cluster.start_master()
        for index in range(len(self.cluster.nodes)):
            self.cluster.start_node(index)
        return "everything killed"

    def older_disk(self) -> str:
        """A node comes back with what was on its disk some time ago, when every value is on two nodes."""
        index = self._node()
        directory = self.cluster.nodes[index].directory
        with tempfile.TemporaryDirectory() as place:
            self.cluster.kill_node(index)
            shutil.copytree(directory, f"{place}/copy")
            self.cluster.start_node(index)
            time.sleep(self.chance.random() * 3)
            settle(self.cluster)
            self.cluster.kill_node(index)
            for part in directory.iterdir():
                shutil.rmtree(part) if part.is_dir() else part.unlink()
            shutil.copytree(f"{place}/copy", directory, dirs_exist_ok=True)
        since = time.time()
        self.cluster.start_node(index)
        settle(self.cluster, since)
        return f"node {index + 1} back with an older disk"

    def byte_flipped(self) -> str:
        """A byte of one of two copies changes on the disk; whoever reads it there makes the node replace it."""
        settle(self.cluster)
        rows = http_request("GET", f"{self.cluster.master_url}/keys?limit=1000").data["keys"]
        shared = [row for row in rows if len(row["nodes"]) > 1 and row["size"] > SIZES[0] + 40]
        if not shared:
            return "no byte to flip"
        row = self.chance.choice(shared)
        node = next(node for node in self.cluster.nodes if node.id == row["nodes"][0])
        value = get(self.cluster, row["key"]).body
        changed = bool(value) and flip(node.directory, value, self.chance.randrange(len(value)))
        url = f"{node.url}/get_key/{quote(row['key'])}"
        # A client may have put or deleted the key meanwhile.
        wait_for(
            lambda: is_sound(self.cluster, url, row["key"]), 60, "a sound copy in place of the damaged one", pause=0.2
        )
        return f"a byte of {row['key']} on {node.id} {'flipped' if changed else 'not found'}"

    def disk_full(self) -> str:
        """The disk of a node has no room for a while."""
        index = self._node()
        filler = self.cluster.nodes[index].directory / "filler"
        with filler.open("wb") as file, suppress(OSError):  # when it is full
            while True:
                file.write(bytes(1 << 20))
                file.flush()
        time.sleep(self.chance.choice((1.0, 4.0)))
        filler.unlink()
        return f"disk {index + 1} full"

    @property
    def _rabbit(self) -> Rabbit:
        assert self.cluster.rabbit
        return self.cluster.rabbit


def _freeze(pids: list[int], seconds: float) -> None:
    """Stop processes for so long."""
    for signal_number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal_number)
        if signal_number == signal.SIGSTOP:
            time.sleep(seconds)


def is_sound(cluster: Cluster, url: str, key: str) -> bool:
    """Whether a node gives the same value for a key as the cluster, or the cluster has none, or another node's."""
    with suppress(OSError, http.client.HTTPException):
        there, here = get(cluster, key), http_request("GET", url)
        return there.status == 404 or (there.status, there.body) == (here.status, here.body)
    return False


def settle(cluster: Cluster, since: float = 0.0) -> None:
    """Wait until all nodes have sent a heartbeat after `since`, and the master says that every value is on two."""

    def calm() -> bool:
        with suppress(OSError, http.client.HTTPException):
            nodes = http_request("GET", f"{cluster.master_url}/admin/network").data
            status = http_request("GET", f"{cluster.master_url}/admin/status").data
            heard = all(row["synch"] and row["sent"] > since for row in nodes)
            return heard and not status["restoring"] and whole(status["repair"])
        return False

    wait_for(calm, 180, "all is well and every value on two nodes", pause=0.5)


def whole(repair: dict[str, Any]) -> bool:
    """Whether repair says that no value lacks a copy or has too many, after a look at all of them."""
    return repair["checked"] and not any(repair[name] for name in ("lacking", "surplus", "under_way", "lost"))


@pytest.mark.timeout(600 + 90 * FAULTS)
def test_no_read_is_stale_and_no_value_is_lost_whatever_dies(make_cluster: Clusters) -> None:
    seed = int(os.environ.get("HISTORY_SEED", random.randrange(1 << 32)))
    print(f"HISTORY_SEED={seed} HISTORY_FAULTS={FAULTS}")
    cluster = make_cluster(nodes=3, env=ENV, own_broker=True, start=False)
    with ExitStack() as stack:
        if ON_SMALL_DISKS:
            for node in cluster.nodes:
                stack.enter_context(small_disk(node.directory, DISK_BYTES))
        cluster.start()
        stack.callback(cluster.stop)
        go_through(cluster, seed)


def go_through(cluster: Cluster, seed: int) -> None:
    """Do all the faults under load, and look at the history and the copies after each round."""
    chance = random.Random(seed)
    faults = Faults(cluster, chance)
    while len(faults.done) < FAULTS:
        # Each round has keys of its own, so that its history can be checked in little time.
        keys = [f"history/{len(faults.done)}/{number}" for number in range(KEYS)]
        with Load(cluster, keys, seed + len(faults.done)) as load:
            for _ in range(min(ROUND, FAULTS - len(faults.done))):
                faults.one()
        settle(cluster)
        # A data server that was killed may not be there yet.
        wait_for(lambda: all(serves(cluster, node) for node in cluster.nodes), what="every data server")
        ends = {key: get(cluster, key) for key in keys}
        for key, answer in ends.items():
            called = now()
            value = int(answer.body.partition(b" ")[0]) if answer.status == 200 else 0
            load.history.note(key, Operation(Kind.GET, called, now(), value))
        told = f"HISTORY_SEED={seed}, after {faults.done}"
        assert not load.problems, told
        if wrong := load.history.faults():
            pytest.fail("\n".join([told, *wrong]))  # whole, which an assertion would not show
        check_copies(cluster, {key: answer.body for key, answer in ends.items() if answer.status == 200}, told)


def check_copies(cluster: Cluster, values: dict[str, bytes], told: str) -> None:
    """Each value is on two nodes, byte for byte."""
    rows = {
        row["key"]: row["nodes"] for row in http_request("GET", f"{cluster.master_url}/keys?limit=1000").data["keys"]
    }
    urls = {node.id: node.url for node in cluster.nodes}
    for key, value in values.items():
        assert len(rows[key]) >= 2, (key, told)
        for name in rows[key]:
            assert http_request("GET", f"{urls[name]}/get_key/{key}").body == value, (key, name, told)
