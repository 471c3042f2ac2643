"""`ops/manage.py`: the index filled again from the nodes, and all data removed, as a person does it."""

from __future__ import annotations

import base64
import os
import pty
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import pytest

from broker import keys, topology
from broker.messages.codec import encode
from broker.messages.store import Kind, Result, Results, Status
from ops.cluster import Cluster, Rabbit
from tests.faults.tools import settle
from tests.integration.wire import INLINE, Client, good, payload, refused
from tests.support import ROOT, Clusters, clean_environment, unique, wait_for

MANAGE = [sys.executable, str(ROOT / "ops" / "manage.py")]


@pytest.fixture(scope="module")
def cluster(rabbit: Rabbit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for this module alone: its processes are stopped, and its index goes away."""
    clusters = Clusters(tmp_path_factory.mktemp("manage"), lambda: rabbit)
    try:
        yield clusters()
    finally:
        clusters.close()


@pytest.fixture(autouse=True)
def _all_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test has stopped runs again for the next."""
    yield
    if "cluster" in request.fixturenames:
        shared: Cluster = request.getfixturevalue("cluster")
        shared.start_master()
        for number in range(len(shared.nodes)):
            shared.start_node(number)
        shared.wait_healthy()


class Managed(NamedTuple):
    """What manage.py did."""

    status: int
    output: str
    errors: str


def manage(*arguments: str, given: str = "") -> Managed:
    """Run it; `given` is what a person types."""
    done = subprocess.run(
        [*MANAGE, *arguments],
        input=given,
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Managed(done.returncode, done.stdout, done.stderr)


class Kept(NamedTuple):
    """Everything that is known of a key from outside."""

    row: dict[str, Any]
    headers: dict[str, str]
    body: bytes


def kept(master: Client, key: str) -> Kept:
    answer = master.get(key)
    assert answer.status == 200, answer
    headers = {name: answer.headers[name] for name in ("etag", "last-modified", "content-type", "content-length")}
    return Kept(good(master.request("GET", f"/keys?prefix={quote(key)}"))["keys"][0], headers, answer.body)


def fill(master: Client) -> tuple[dict[str, Kept], list[str]]:
    """Keys of all kinds, as they are seen from outside, and keys that are gone."""
    folder = unique("d")
    names = []
    for number, size in enumerate([0, 10, 5_000, 60_000, 70_000, 400_000, INLINE + 1] * 4):
        name = f"{folder}/{number}.txt"
        query = "?ttl=1h" if number % 3 == 0 else ""
        headers = {"Content-Type": f"text/x-{number}"} if number % 2 else {}
        good(master.put(name, payload(size, number), query, headers), 201)
        names.append(name)
    for name in names[3:8]:
        good(master.put(name, payload(30_000, 99), "?overwrite=1"), 201)
    gone = [*names[:3], f"{folder}/never"]
    for name in gone[:3]:
        good(master.delete(name))
    return {name: kept(master, name) for name in names[3:]}, gone


def unchanged(master: Client, there: dict[str, Kept], gone: list[str]) -> None:
    for key, before in there.items():
        assert kept(master, key) == before
    for key in gone:
        refused(master.get(key), 404)


def figures(master: Client) -> tuple[int, int]:
    data = good(master.request("GET", "/admin/status"))
    return data["keys"], data["bytes"]


def snapshot(directory: Path) -> dict[str, tuple[int, int]]:
    """All files below a directory, with size and time of change."""
    return {
        str(path.relative_to(directory)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if not path.is_socket()
    }


# No flag


def test_without_a_flag_it_shows_the_help_and_changes_nothing() -> None:
    done = manage()
    assert done.status == 0
    for word in ("--restore", "--reset", "status", "verify", "forget"):
        assert word in done.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["--wipe"],
        ["--reset"],
        ["--reset", "some"],
        ["--data", "nowhere"],
        ["--keys"],
        ["--yes"],
        ["--restore", "--reset", "all"],
        ["--reset", "all", "status"],
        ["--restore", "http://localhost:9", "forget", "node-1"],
        ["--keys", "--reset", "all"],
        ["--yes", "status"],
        ["forget"],
        ["forget", "node-1", "node-2"],
        ["verify", "--keys"],
        ["wipe"],
    ],
)
def test_what_can_not_be_meant_is_wrong_use(arguments: list[str]) -> None:
    done = manage(*arguments)
    assert (done.status, done.output) == (2, "")
    assert "usage" in done.errors


# --restore


def test_restore_of_all_nodes_tells_what_it_did_and_changes_no_key(cluster: Cluster, master: Client) -> None:
    there, gone = fill(master)
    count = figures(master)
    done = manage("--data", str(cluster.directory), "--restore")
    assert (done.status, done.errors) == (0, "")
    for node in cluster.nodes:
        assert node.id in done.output
    assert f"{count[0]:,} keys" in done.output
    unchanged(master, there, gone)
    assert figures(master) == count


def test_restore_of_one_node_by_its_address_or_its_name(cluster: Cluster, master: Client) -> None:
    there, gone = fill(master)
    for name in (f"{cluster.nodes[0].url}/", cluster.nodes[0].id):
        done = manage("--data", str(cluster.directory), "--restore", name)
        assert done.status == 0, done
        assert cluster.nodes[0].id in done.output
        assert cluster.nodes[1].id not in done.output
    unchanged(master, there, gone)


def test_restore_of_a_node_that_there_is_not_says_which_there_are(cluster: Cluster) -> None:
    done = manage("--data", str(cluster.directory), "--restore", "http://127.0.0.1:9")
    assert done.status == 1
    for node in cluster.nodes:
        assert node.id in done.errors
        assert node.url in done.errors


def test_restore_finds_the_cluster_by_its_configuration_file(cluster: Cluster, tmp_path: Path) -> None:
    address = urlsplit(cluster.master_url)
    config = tmp_path / "server.conf"
    config.write_text(f"[server]\nhost={address.hostname}\nport={address.port}\n")
    assert manage("--config", str(config), "--restore").status == 0
    config.write_text("[server]\nprot=1\n")
    done = manage("--config", str(config), "--restore")
    assert done.status == 1
    assert "prot" in done.errors


def test_a_bar_shows_how_far_it_is_on_a_terminal(cluster: Cluster, master: Client) -> None:
    fill(master)
    ours, theirs = pty.openpty()
    command = [*MANAGE, "--data", str(cluster.directory), "--restore"]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=clean_environment()) as process:
        os.close(theirs)
        seen = b""
        try:
            while data := os.read(ours, 65536):
                seen += data
        except OSError:  # how a terminal says that nobody writes to it any more
            assert process.wait(30) == 0
        os.close(ours)
    assert b"[##############################] 100%" in seen
    assert b"restored in" in seen


def test_an_index_that_was_lost_fills_itself_and_can_be_restored(cluster: Cluster, master: Client) -> None:
    there, gone = fill(master)
    count = figures(master)
    cluster.stop_master()
    master.close()
    shutil.rmtree(cluster.master_directory / "index")
    cluster.start_master()
    cluster.wait_healthy()

    done = manage("--data", str(cluster.directory), "--restore")

    assert done.status == 0, done
    assert f"{count[0]:,} keys" in done.output
    assert figures(master) == count
    unchanged(master, there, gone)


def test_entries_with_nothing_behind_them_are_gone_after_a_restore(
    cluster: Cluster, rabbit: Rabbit, master: Client
) -> None:
    phantom, node = unique(), cluster.nodes[0].id
    there, gone = fill(master)
    result = Result(0, Status.DONE, "", 1, Kind.PUT, keys.encode(phantom), 1 << 62, 1, 0, "", b"\0" * 32, 1, b"x")
    body = encode(Results(node, "", "", 0, 1, 1, False, [result]))
    rabbit.api(
        "POST",
        f"exchanges/{quote(cluster.vhost, safe='')}/amq.default/publish",
        {
            "properties": {},
            "routing_key": topology.RESULTS,
            "payload": base64.b64encode(body).decode(),
            "payload_encoding": "base64",
        },
    )
    wait_for(lambda: master.get(phantom).status == 200, what="an entry without a value")

    assert manage("--data", str(cluster.directory), "--restore", node).status == 0

    refused(master.get(phantom), 404)
    unchanged(master, there, gone)


def test_restore_refuses_when_a_node_is_not_heard_from(cluster: Cluster, master: Client) -> None:
    there, gone = fill(master)
    count = figures(master)
    stopped = cluster.nodes[1]
    cluster.stop_node(1)
    wait_for(lambda: good(master.request("GET", f"/admin/network/{stopped.id}"))["synch"] is False)
    for arguments in (["--restore"], ["--restore", stopped.id]):
        done = manage("--data", str(cluster.directory), *arguments)
        assert done.status == 1
        assert stopped.id in done.errors
    assert figures(master) == count
    assert manage("--data", str(cluster.directory), "--restore", cluster.nodes[0].id).status == 0
    cluster.start_node(1)
    settle(cluster)
    unchanged(master, there, gone)


def test_restore_says_when_the_master_is_not_there(cluster: Cluster) -> None:
    cluster.stop_master()
    done = manage("--data", str(cluster.directory), "--restore")
    assert done.status == 1
    assert "does not answer" in done.errors


def test_a_directory_that_is_none_of_a_cluster_is_an_error(tmp_path: Path) -> None:
    for content in (None, "{}", "no JSON"):
        if content:
            (tmp_path / "cluster.json").write_text(content)
        done = manage("--data", str(tmp_path), "--restore")
        assert done.status == 1
        assert str(tmp_path) in done.errors


def test_a_key_deleted_while_its_node_was_down_does_not_come_back_after_a_restore(
    cluster: Cluster, master: Client
) -> None:
    keys_there = []
    while len(keys_there) < 6:
        key = unique()
        if good(master.put(key, payload(6_000)), 201)["url"].startswith(cluster.nodes[1].url):
            keys_there.append(key)
    cluster.stop_node(1)
    wait_for(lambda: good(master.request("GET", f"/admin/network/{cluster.nodes[1].id}"))["synch"] is False)
    deleted = [key for key in keys_there if master.delete(key).status == 200]
    assert deleted, "a deletion is as good on another node"
    for key in deleted:
        refused(master.get(key), 404)
    cluster.start_node(1)
    settle(cluster)

    assert manage("--data", str(cluster.directory), "--restore").status == 0

    for key in deleted:
        refused(master.get(key), 404)
    for key in set(keys_there) - set(deleted):
        assert master.get(key).body == payload(6_000)


# --reset


def directories(cluster: Cluster) -> list[Path]:
    return [cluster.master_directory, *(node.directory for node in cluster.nodes)]


def test_reset_refuses_while_the_cluster_or_a_part_of_it_is_running(cluster: Cluster, master: Client) -> None:
    there, gone = fill(master)

    def refuses(directory: Path) -> None:
        done = manage("--data", str(cluster.directory), "--reset", "all", given="remove all\n")
        assert done.status == 1, done
        assert str(directory) in done.errors
        done = manage("--data", str(cluster.directory), "--reset", "all", "--yes")
        assert done.status == 1, done

    refuses(cluster.master_directory)
    cluster.stop_master()
    master.close()
    refuses(cluster.nodes[0].directory)
    cluster.stop_node(0)
    refuses(cluster.nodes[1].directory)
    cluster.stop_node(1)
    cluster.start_master()
    wait_for(lambda: cluster.health().get("live"))
    refuses(cluster.master_directory)

    for number in (0, 1):
        cluster.start_node(number)
    settle(cluster)
    unchanged(master, there, gone)


def test_reset_asks_first_and_removes_nothing_without_the_right_answer(cluster: Cluster) -> None:
    for part in (cluster.stop_master, lambda: cluster.stop_node(0), lambda: cluster.stop_node(1)):
        part()
    before = [snapshot(directory) for directory in directories(cluster)]
    for given in ("no\n", "\n", "yes\n", "remove\n", ""):
        done = manage("--data", str(cluster.directory), "--reset", "all", given=given)
        assert done.status == 1, given
        assert "Type 'remove all'" in done.output
        for directory in directories(cluster):
            assert str(directory) in done.output
    assert [snapshot(directory) for directory in directories(cluster)] == before


def test_reset_removes_pulzars_files_and_no_others(make_cluster: Clusters, tmp_path: Path) -> None:
    backups = {"PULZAR_BACKUP_TYPE": "directory", "PULZAR_BACKUP_ADDRESS": str(tmp_path / "backups")}
    (tmp_path / "backups").mkdir()
    cluster = make_cluster(env=backups)
    with Client(cluster.master_url) as master:
        there, _ = fill(master)
    assert manage("--data", str(cluster.directory), "backup").status == 0
    cluster.stop()
    foreign = []
    for directory in directories(cluster):
        for name in ("notes.txt", "folder/notes.txt", ".hidden", "extensions/mine.py"):
            path = directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("mine")
            foreign.append(path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("mine")
    foreign.append(elsewhere / "file")
    shutil.rmtree(cluster.nodes[0].directory / "staging")
    (cluster.nodes[0].directory / "staging").symlink_to(elsewhere)

    done = manage("--data", str(cluster.directory), "--reset", "all", given="remove all\n")

    assert done.status == 0, done
    left = [path for directory in directories(cluster) for path in directory.rglob("*") if not path.is_dir()]
    assert sorted(left) == sorted(path for path in foreign if path != elsewhere / "file")
    assert all(path.read_text() == "mine" for path in foreign)
    # And no empty folder of Pulzar's is left
    folders = {str(path.relative_to(directory)) for directory in directories(cluster) for path in directory.iterdir()}
    assert folders == {"notes.txt", "folder", ".hidden", "extensions"}
    again = manage("--data", str(cluster.directory), "--reset", "all", given="")
    assert (again.status, again.output) == (0, "there is no data to remove\n")

    cluster.start()
    with Client(cluster.master_url) as master:
        for key in there:
            refused(master.get(key), 404)
        assert figures(master) == (0, 0)
        key = next(iter(there))
        good(master.put(key, b"new"), 201)
        assert master.get(key).body == b"new"


def test_restores_asked_for_again_and_again_run_one_at_a_time_and_make_no_key_unavailable(
    cluster: Cluster, master: Client
) -> None:
    # Given keys, and clients that read, replace and add some
    there, gone = fill(master)
    known = [unique() for _ in range(300)]
    for key in known:
        good(master.put(key, b"1"), 201)
    over = threading.Event()
    wrong: Counter[str] = Counter()
    done: Counter[str] = Counter()

    def use(number: int) -> None:
        with Client(cluster.master_url) as client:
            turn = 0
            while not over.is_set():
                turn += 1
                key = known[(turn * 8 + number) % len(known)]
                for what, answer, status in (
                    ("GET", client.get(key), 200),
                    ("PUT", client.put(key, b"2", "?overwrite=1"), 201),
                    ("new", client.put(unique(), b"new"), 201),
                    ("unknown", client.get(unique()), 404),
                ):
                    done[what] += 1
                    if answer.status != status:
                        wrong[f"{what}: {answer.status} {answer.body[:100]!r}"] += 1

    statuses: Counter[int] = Counter()
    clients = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for client in clients:
        client.start()
    try:
        # When restores are asked for all the time
        until = time.monotonic() + 5
        while time.monotonic() < until:
            body = b"{}" if statuses[202] % 2 else b'{"node": "%s"}' % cluster.nodes[0].id.encode()
            answer = master.request("POST", "/internal/restore", body)
            statuses[answer.status] += 1
            if answer.status == 409:
                assert "records; GET /internal/restore tells how far it is" in refused(answer, 409)
            time.sleep(0.05)
    finally:
        over.set()
        for client in clients:
            client.join()
    # Then some run, one at a time, and no request notices
    assert set(statuses) == {202, 409}, statuses
    assert statuses[202] >= 2
    assert not wrong, wrong
    assert min(done.values()) > 50
    settled(master)
    unchanged(master, there, gone)
    assert all(master.get(key).status == 200 for key in known)


def settled(master: Client) -> None:
    wait_for(lambda: not any(row["restoring"] for row in good(master.request("GET", "/internal/restore"))["nodes"]))


def test_a_restore_that_runs_already_is_followed(cluster: Cluster, master: Client) -> None:
    there, gone = fill(master)
    settled(master)
    followed = threading.Event()

    def restore_again_and_again() -> None:
        with Client(cluster.master_url) as client:
            while not followed.is_set():
                assert client.request("POST", "/internal/restore", b"{}").status in (202, 409)

    # Given somebody who has a restore run all the time, until the command has met one
    other = threading.Thread(target=restore_again_and_again)
    other.start()
    command = [*MANAGE, "--data", str(cluster.directory), "--restore"]
    environment = clean_environment() | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            first = process.stdout.readline()
        finally:
            followed.set()
            other.join()
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert "already" in first
    assert "following it" in first
    assert "restored in" in output
    unchanged(master, there, gone)


def test_a_restore_of_a_silent_node_is_not_begun(cluster: Cluster, master: Client) -> None:
    stopped = cluster.nodes[1]
    cluster.stop_node(1)
    wait_for(lambda: good(master.request("GET", f"/admin/network/{stopped.id}"))["synch"] is False)
    for body in (b"{}", b'{"node": "%s"}' % stopped.id.encode()):
        assert stopped.id in refused(master.request("POST", "/internal/restore", body), 409)
    good(master.put(unique(), b"value"), 201)


# forget


def test_forget_needs_a_node_that_is_known_and_gone(cluster: Cluster) -> None:
    done = manage("--data", str(cluster.directory), "forget")
    assert (done.status, "required: NODE" in done.errors) == (2, True)
    done = manage("--data", str(cluster.directory), "forget", "nobody")
    assert (done.status, "nobody" in done.errors) == (1, True)
    for name in (cluster.nodes[0].id, cluster.nodes[0].url):
        done = manage("--data", str(cluster.directory), "forget", name, "--yes")
        assert (done.status, "is heard from" in done.errors) == (1, True)


def test_forget_says_what_is_lost_and_asks_first(make_cluster: Clusters) -> None:
    cluster = make_cluster(nodes=2)
    gone = cluster.nodes[1]
    with Client(cluster.master_url) as master:
        on_it = []
        while len(on_it) < 3:
            key = unique()
            if good(master.put(key, payload(6_000)), 201)["url"].startswith(gone.url):
                on_it.append(key)
        cluster.stop_node(1)
        wait_for(lambda: not good(master.request("GET", f"/admin/network/{gone.id}"))["synch"])
        given = ["--data", str(cluster.directory), "forget", gone.id, "--keys"]
        for answer in ("", "yes\n", f"forget {cluster.nodes[0].id}\n"):
            done = manage(*given, given=answer)
            assert (done.status, "nothing was changed" in done.output) == (1, True)
            assert "3 keys of the index are there" in done.output
        assert good(master.request("GET", f"/admin/network/{gone.id}"))["node"] == gone.id
        done = manage(*given, given=f"forget {gone.id}\n")
        assert (done.status, done.errors) == (0, "")
        assert "3 keys of it leave the index" in done.output
        for key in on_it:
            wait_for(lambda key=key: master.get(key, follow=False).status == 404)
