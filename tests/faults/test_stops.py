"""Ends in order and ends without; and what a program says that can't start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from ops.cluster import Cluster
from ops.cluster.processes import Child
from tests.faults.load import Client, Load, check
from tests.faults.tools import family, living, settle, tracebacks
from tests.support import ROOT, Clusters, clean_environment, quickest, wait_for

STOP_SECS = 10.0


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Clusters) -> Cluster:
    return make_shared_cluster(env={"PULZAR_SERVER_WORKERS": "2", "PULZAR_SERVER_PUT_TIMEOUT": "5"})


def child_of(cluster: Cluster, which: str) -> Child:
    return cluster.master if which == "master" else cluster.nodes[0].process


def start(cluster: Cluster, which: str) -> None:
    if which == "master":
        cluster.start_master()
    else:
        cluster.start_node(0)


@pytest.mark.parametrize("which", ["master", "node"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_asked_to_stop_under_load_it_ends_in_time_with_status_0(
    number: signal.Signals, which: str, cluster: Cluster
) -> None:
    child = child_of(cluster, which)
    # Given clients that write
    with Load(cluster.master_url, prefix=f"stop {which} {number.name}") as load:
        load.wait_stored(150)
        members = family(child)
        # When it is asked to stop
        started = time.monotonic()
        child.wanted = False
        child.signal(number)
        child.wait(STOP_SECS + 5)
        seconds = time.monotonic() - started
        # Then it has ended in order and in time, and nothing of it is left
        assert child.how_it_ended() == "with status 0"
        assert seconds < STOP_SECS
        wait_for(lambda: not living(members), 30, "the end of its processes")
        start(cluster, which)
        load.wait_stored(100)
    # And nothing acknowledged is lost
    settle(cluster)
    check(load)
    assert not tracebacks(cluster)


@pytest.mark.parametrize("which", ["master", "node"])
def test_a_stop_of_an_idle_one_takes_no_time(which: str, cluster: Cluster) -> None:
    def took() -> float:
        settle(cluster)
        child = child_of(cluster, which)
        started = time.monotonic()
        child.terminate()
        child.wait(STOP_SECS)
        seconds = time.monotonic() - started
        assert child.how_it_ended() == "with status 0"
        start(cluster, which)
        settle(cluster)
        return seconds

    assert quickest(took, 3) < 3


def test_a_master_that_says_that_it_is_ready_can_store_whichever_worker_is_asked(cluster: Cluster) -> None:
    for round_number in range(3):
        # Given a master that has just been started, and says that it is ready
        cluster.kill_master()
        cluster.start_master()
        wait_for(lambda: cluster.health().get("ready"), 20, "a master that is ready", 0.002)
        # When clients with connections of their own store something, then it is stored
        for number in range(8):
            with closing(Client(cluster.master_url)) as client:
                answer = client.put(f"ready/{round_number}/{number}", b"stored")
                assert answer.status == 201, answer
    settle(cluster)


@pytest.mark.parametrize("which", ["master", "node"])
def test_a_main_process_that_is_killed_leaves_no_orphan(which: str, cluster: Cluster) -> None:
    child = child_of(cluster, which)
    with Load(cluster.master_url, prefix=f"orphans {which}", threads=8) as load:
        load.wait_stored(50)
        # When only the main process is killed
        members = family(child)
        assert len(members) >= 2
        assert child.pid
        os.kill(child.pid, signal.SIGKILL)
        # Then the others end by themselves
        wait_for(lambda: not living(members), STOP_SECS, "the end of its processes")
        assert not child.running
        start(cluster, which)
        load.wait_stored(50)
    settle(cluster)
    check(load)


@pytest.mark.parametrize("module", ["master", "node"])
@pytest.mark.parametrize(
    "why", ["a bad value", "an unknown setting", "a port that is taken", "no directory", "no file"]
)
def test_a_program_that_can_not_start_says_why_in_one_line_and_ends_with_status_2(
    why: str, module: str, tmp_path: Path
) -> None:
    # Given something that is wrong
    (tmp_path / "file").write_text("no directory")
    section = "SERVER" if module == "master" else "VOLUME"
    environment = clean_environment() | {
        f"PULZAR_{section}_DIR": str(tmp_path / "data"),
        f"PULZAR_{section}_HOST": "127.0.0.1",
        "PULZAR_BROKER_URL": "amqp://user:hush-hush@127.0.0.1:1/%2F",
    }
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        taken = other.getsockname()[1]
        wrong, named = {
            "a bad value": ({f"PULZAR_{section}_PORT": "many"}, "many"),
            "an unknown setting": ({f"PULZAR_{section}_PROT": "31414"}, f"PULZAR_{section}_PROT"),
            "a port that is taken": ({f"PULZAR_{section}_PORT": str(taken)}, str(taken)),
            "no directory": ({f"PULZAR_{section}_DIR": str(tmp_path / "file" / "data")}, str(tmp_path / "file")),
            "no file": ({"PULZAR_CONFIG": str(tmp_path / "missing.conf")}, "missing.conf"),
        }[why]
        # When it is started
        done = subprocess.run(
            [sys.executable, "-m", module],
            cwd=ROOT,
            env=environment | {f"PULZAR_{section}_PORT": "0"} | wrong,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    # Then it says what is wrong, and where, in one line, and ends
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f"pulzar {module}: ")
    assert named in lines[0]
    assert "hush-hush" not in done.stderr + done.stdout


@pytest.mark.parametrize("which", ["master", "node"])
def test_a_directory_that_another_one_uses_is_refused_with_status_2(
    which: str, cluster: Cluster, tmp_path: Path
) -> None:
    settle(cluster)
    # Given a master and a node that run
    child = child_of(cluster, which)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    section = "SERVER" if which == "master" else "VOLUME"
    # When another one is started on the same directory
    done = subprocess.run(
        [sys.executable, "-m", which],
        cwd=ROOT,
        env=child.environment | {f"PULZAR_{section}_PORT": str(port)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    # Then it says so and ends
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith(f"pulzar {which}: ")]
    assert len(said) == 1, done.stderr
    assert child.environment[f"PULZAR_{section}_DIR"] in said[0]
    assert "raceback" not in done.stderr
    # And the first one is not disturbed
    assert child.running
    with Load(cluster.master_url, prefix=f"in use {which}", threads=4) as load:
        load.wait_stored(20)
    settle(cluster)
    check(load)
