"""A web worker of the master is killed while clients connect: how many connections that costs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from ops.cluster import Cluster
from ops.cluster.network import MIGRATION, migration_off
from tests.faults.tools import WORKER, processes
from tests.support import Clusters, put, unique, wait_for

WORKERS = 3
CLIENTS = 16
KILLS = 5
CONNECTED = 300  # connections that are answered before, between and after the kills


@pytest.fixture
def migration() -> Iterator[str]:
    """The kernel's setting, at 1 where this process may set it; put back as it was."""
    try:
        before = MIGRATION.read_text()
    except FileNotFoundError:
        pytest.skip(f"this kernel has no {MIGRATION}; Linux 5.14 has")
    try:
        MIGRATION.write_text("1\n")
    except OSError as error:
        yield f"{MIGRATION} is {before.strip()}, and can't be set: {error.strerror}"
        return
    try:
        yield f"{MIGRATION} is 1"
    finally:
        MIGRATION.write_text(before)


class Callers:
    """Clients that ask for a key again and again, each time by a new connection."""

    def __init__(self, url: str, path: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._call) for _ in range(CLIENTS)]
        self.seen: Counter[str] = Counter()

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(60)

    def _call(self) -> None:
        while not self._stopped.is_set():
            outcome = self._once()
            with self._lock:
                self.seen[outcome] += 1
            if outcome != "answered":
                time.sleep(0.01)

    def _once(self) -> str:
        answer = b""
        try:
            with socket.create_connection(self._address, timeout=30) as connection:
                connection.sendall(self._request)
                while part := connection.recv(65536):
                    answer += part
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "silent"
        except OSError:
            return "reset"
        return "answered" if answer.startswith(b"HTTP/1.1 200 ") else "reset" if not answer else "wrong"

    def wait(self, number: int) -> None:
        """Until so many more have been answered."""
        wanted = self.seen["answered"] + number
        wait_for(lambda: self.seen["answered"] >= wanted, 60, "answers")


def listening(cluster: Cluster) -> list[int]:
    """The web workers of the master that take connections, the youngest last."""
    found = []
    for pid in processes(cluster.master, WORKER):
        with contextlib.suppress(psutil.Error):
            sockets = psutil.Process(pid).net_connections("tcp")
            if any((one.status, one.laddr.port) == (psutil.CONN_LISTEN, cluster.base_port) for one in sockets):
                found.append(pid)
    return found


def test_a_killed_worker_costs_no_connection_but_those_it_had(make_cluster: Clusters, migration: str) -> None:
    # Given a master with several web workers, and clients that connect all the time
    cluster: Cluster = make_cluster(nodes=1, env={"PULZAR_SERVER_WORKERS": str(WORKERS)})
    wait_for(lambda: len(listening(cluster)) == WORKERS, 30, "all workers")
    key = unique("asked")
    assert put(cluster, key, b"value").status == 201
    with Callers(cluster.master_url, f"/get_key/{key}") as callers:
        callers.wait(CONNECTED)
        assert set(callers.seen) == {"answered"}, callers.seen
        # When one worker after the other is killed
        for _ in range(KILLS):
            killed = listening(cluster)[0]
            os.kill(killed, signal.SIGKILL)
            callers.wait(CONNECTED)
            # (a new one listens seconds after it has begun)
            wait_for(
                lambda killed=killed: killed not in (now := listening(cluster)) and len(now) == WORKERS,
                30,
                "another worker",
            )
        callers.wait(CONNECTED)
    # Then nobody was refused, sent something wrong or left without any answer; what the dead ones had begun was reset
    seen = callers.seen
    saw = f"{migration}; {KILLS} workers of {WORKERS} killed under {CLIENTS} clients: " + ", ".join(
        f"{number:,} connections {outcome}" for outcome, number in sorted(seen.items())
    )
    print(saw)
    assert not seen["wrong"], saw
    assert not seen["silent"], saw
    assert not seen["refused"], saw
    assert seen["reset"] <= KILLS * CLIENTS, saw


def test_the_setting_is_told_where_it_is_off(tmp_path: Path) -> None:
    (tmp_path / "off").write_text("0\n")
    (tmp_path / "on").write_text("1\n")
    assert "sysctl -w net.ipv4.tcp_migrate_req=1" in migration_off(tmp_path / "off")
    assert migration_off(tmp_path / "on") == migration_off(tmp_path / "no such kernel") == ""
