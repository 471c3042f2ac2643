"""`ops/manage.py undelete`: a whole accident at once."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from ops.cluster import Cluster
from tests.faults.tools import settle
from tests.integration.test_manage import MANAGE, Managed, manage
from tests.integration.wire import Client, good, payload, refused
from tests.support import Clusters, clean_environment, unique, wait_for


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Clusters) -> Cluster:
    return make_shared_cluster()


def run(cluster: Cluster, *arguments: str, given: str = "") -> Managed:
    return manage("--data", str(cluster.directory), "undelete", *arguments, given=given)


def body_of(key: str) -> bytes:
    return payload([0, 50, 5_000, 70_000][len(key) % 4], sum(key.encode()))


def deleted(master: Client, number: int, folder: str) -> dict[str, bytes]:
    """Keys that were there for a while, and are deleted now, with their values."""
    there = {f"{folder}{'x' * (n % 4)}{n}.txt": b"" for n in range(number)}
    for key in there:
        there[key] = body_of(key)
        good(master.put(key, there[key]), 201)
    for key in there:
        good(master.delete(key))
    return there


def test_a_folder_that_was_deleted_comes_back_whole(cluster: Cluster, master: Client) -> None:
    folder = unique("a folder/")
    there = deleted(master, 40, folder)
    total = sum(map(len, there.values()))
    begin = ("--prefix", folder, "--since", "10m")

    # It says what it would do, and does nothing without the right answer
    for given in ("", "yes\n", "undelete\n"):
        done = run(cluster, *begin, given=given)
        assert done.status == 1
        assert f"40 keys below {folder!r} were deleted since" in done.output
        assert "and 30 more" in done.output
        assert "Type 'undelete 40'" in done.output
        assert "nothing was changed" in done.output
    refused(master.get(next(iter(there))), 404)

    done = run(cluster, *begin, given="undelete 40\n")
    assert (done.status, done.errors) == (0, "")
    assert "brought back 40 of 40 keys" in done.output
    for key, value in there.items():
        assert master.get(key).body == value

    # And once more there is nothing to do
    done = run(cluster, *begin, "--yes", "--json")
    assert done.status == 0
    assert json.loads(done.output) == {"undeleted": 0, "bytes": 0, "there": 40, "failures": [], "missing": []}
    assert total == sum(len(master.get(key).body) for key in there)


def test_only_what_was_deleted_in_that_time_comes_back_and_what_exists_stays(cluster: Cluster, master: Client) -> None:
    folder = unique("timed/")
    early = deleted(master, 3, f"{folder}early")
    time.sleep(1.1)
    middle = time.time()
    late = deleted(master, 3, f"{folder}late")
    time.sleep(1.1)
    end = time.time()
    last = deleted(master, 3, f"{folder}last")
    again = next(iter(late))
    good(master.put(again, b"new"), 201)
    iso = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(middle))
    until = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(end))

    done = run(cluster, "--prefix", folder, "--since", iso, "--until", until, "--yes")

    assert done.status == 0, done
    assert "brought back 2 of 2 keys" in done.output
    assert "1 others exist" in done.output
    assert master.get(again).body == b"new"
    for key in set(late) - {again}:
        assert master.get(key).body == late[key]
    for key in (*early, *last):
        refused(master.get(key), 404)


def test_the_newest_version_of_each_key_comes_back(cluster: Cluster, master: Client) -> None:
    key = unique("versions")
    for number in range(4):
        good(master.put(key, f"version {number}".encode(), "?overwrite=1"), 201)
    good(master.delete(key))
    assert run(cluster, "--prefix", key, "--since", "1h", "--yes").status == 0
    assert master.get(key).body == b"version 3"


def broken_off(cluster: Cluster, master: Client, folder: str) -> subprocess.CompletedProcess[bytes]:
    """An undelete of a folder that gets Ctrl-C when the first key is back, if it is not over by then."""
    command = [*MANAGE, "--data", str(cluster.directory), "undelete", "--prefix", folder, "--since", "1h", "--yes"]
    with subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        # It works for moments only, so that it is not over too soon.
        begun = False
        while not begun and process.poll() is None:
            time.sleep(0.02)
            process.send_signal(signal.SIGSTOP)
            begun = bool(good(master.request("GET", f"/keys?prefix={quote(folder)}&limit=1"))["keys"])
            process.send_signal(signal.SIGINT if begun else signal.SIGCONT)
        process.send_signal(signal.SIGCONT)
        output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def test_it_may_be_broken_off_and_begun_again(cluster: Cluster, master: Client) -> None:
    for attempt in range(5):  # on a very busy machine, a moment may be long enough for all of it; so more each time
        folder = unique(f"broken{attempt}/")
        there = deleted(master, 80 << attempt, folder)
        done = broken_off(cluster, master, folder)
        if done.returncode:
            break
    assert done.returncode == 130, done
    assert b"Traceback" not in done.stderr
    again = run(cluster, "--prefix", folder, "--since", "1h", "--yes")
    assert again.status == 0, again
    for key, value in there.items():
        assert master.get(key).body == value


def test_what_a_silent_node_holds_is_said(cluster: Cluster, master: Client) -> None:
    folder = unique("silent/")
    there = deleted(master, 12, folder)
    stopped = cluster.nodes[1]
    cluster.stop_node(1)
    try:
        wait_for(lambda: good(master.request("GET", f"/admin/network/{stopped.id}"))["synch"] is False)
        done = run(cluster, "--prefix", folder, "--since", "1h", "--yes", "--json")
        assert done.status == 1
        result = json.loads(done.output)
        assert result["missing"] == [stopped.id]
        assert 0 < result["undeleted"] < len(there)
    finally:
        cluster.start_node(1)
        settle(cluster)
    done = run(cluster, "--prefix", folder, "--since", "1h", "--yes", "--json")
    assert done.status == 0, done
    assert json.loads(done.output)["there"] == result["undeleted"]
    for key, value in there.items():
        assert master.get(key).body == value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: --prefix, --since"),
        (["--prefix", "a"], "required: --since"),
        (["--prefix", "a", "--since", "yesterday"], "is no time; one like 10m, 2h or 3d ago"),
        (["--prefix", "a", "--since", "3 years"], "is no time"),
        (["--prefix", "a", "--since", "1h", "--until", "x"], "is no time"),
        (["--prefix", "a", "--since", "1h", "--json"], "give --yes"),
    ],
)
def test_wrong_use_is_said(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = manage("undelete", *arguments)
    assert (done.status, done.output) == (2, "")
    assert words in done.errors


def test_nothing_to_bring_back_is_said(cluster: Cluster) -> None:
    done = run(cluster, "--prefix", unique("never"), "--since", "1h")
    assert (done.status, done.errors) == (0, "")
    assert done.output.startswith("0 keys below")
