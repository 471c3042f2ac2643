"""`ops/manage.py backup`, `backups` and `restore-backup`, as an operator uses them."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ops.cluster import Cluster
from tests.faults.tools import family, settle
from tests.integration.test_backup_api import api, wait_idle
from tests.integration.test_manage import MANAGE, Managed, manage
from tests.integration.test_verify import flip, node_of
from tests.integration.wire import Client, payload
from tests.support import ROOT, Clusters, clean_environment, get, put, unique, wait_for


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("target")


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Clusters, target: Path) -> Cluster:
    return make_shared_cluster(env={"PULZAR_BACKUP_TYPE": "directory", "PULZAR_BACKUP_ADDRESS": str(target)})


@pytest.fixture(scope="module")
def filled(cluster: Cluster, target: Path) -> Path:
    """The target, with a backup of every member."""
    assert put(cluster, unique(), payload(100_000)).status == 201
    assert run(cluster, "backup").status == 0
    return target


def run(cluster: Cluster, *arguments: str) -> Managed:
    return manage("--data", str(cluster.directory), *arguments)


def names(cluster: Cluster) -> list[str]:
    return [*(node.id for node in cluster.nodes), "master"]


def test_all_members_are_backed_up_listed_and_restored(cluster: Cluster, target: Path, tmp_path: Path) -> None:
    values = {unique(f"{size}"): payload(size) for size in (0, 20, 5_000, 100_000, 2_000_000) for _ in range(3)}
    for key, value in values.items():
        assert put(cluster, key, value).status == 201

    # All members, one after the other
    done = run(cluster, "backup")
    assert (done.status, done.errors) == (0, ""), done
    for name in names(cluster):
        assert re.search(rf"^{name}: good, \d{{8}}T\d{{6}}Z", done.output, re.MULTILINE), done.output

    # What the target has, by the target's name or by what the master says of it
    for arguments in (["--to", str(target)], []):
        listed = json.loads(run(cluster, "backups", "--json", *arguments).output)
        assert [(row["member"], row["complete"]) for row in listed] == [(name, True) for name in sorted(names(cluster))]
    shown = run(cluster, "backups")
    assert shown.status == 0
    for row in listed:
        assert f"{row['bytes']:,}" in shown.output
        assert row["name"] in shown.output

    # A node that is restored is that node
    node = cluster.nodes[0]
    cluster.stop_node(0)
    shutil.rmtree(node.directory)
    done = run(cluster, "restore-backup", str(target), "--node", node.id, "--into", str(node.directory))
    assert (done.status, done.errors) == (0, "")
    assert "all verified" in done.output
    assert f"a node started on it is {node.id}" in done.output
    cluster.start_node(0)
    settle(cluster)
    for key, value in values.items():
        assert wait_for(lambda key=key: (found := get(cluster, key)).status == 200 and found, 30).body == value
    assert run(cluster, "verify").status == 0

    # And the ledger
    done = run(cluster, "restore-backup", str(target), "--node", "master", "--into", str(tmp_path / "ledger"), "--json")
    assert done.status == 0
    assert json.loads(done.output)["outcome"] == "good"
    assert (tmp_path / "ledger" / "ledger" / "data.mdb").is_file()


def test_one_member_goes_to_a_target_of_its_own(cluster: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    node = cluster.nodes[1]
    done = run(cluster, "backup", "--node", node.url, "--to", str(other), "--json")
    assert done.status == 0, done
    result = json.loads(done.output)
    assert result["good"] is True
    assert [row["member"] for row in result["members"]] == [node.id]
    assert [row["member"] for row in json.loads(run(cluster, "backups", "--to", str(other), "--json").output)] == [
        node.id
    ]


def test_a_backup_that_fails_says_why(cluster: Cluster, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    done = run(cluster, "backup", "--to", gone)
    assert done.status == 1
    for name in names(cluster):
        assert re.search(rf"^{name}: failed: .*{gone}", done.output, re.MULTILINE), done.output
    assert f"no good backup of {', '.join(names(cluster))}" in done.output
    # The screen has it first, too
    shown = run(cluster, "status").output
    for name in names(cluster):
        assert re.search(rf"^  the backup of {name} failed on 20.*: .*{gone}", shown, re.MULTILINE), shown
    done = run(cluster, "backup", "--to", gone, "--node", "master", "--json")
    assert done.status == 1
    assert [(row["member"], row["good"]) for row in json.loads(done.output)["members"]] == [("master", False)]
    assert run(cluster, "backup", "--node", "other").status == 1


def followed(cluster: Cluster, body: dict[str, str], *arguments: str) -> str:
    """What `backup` says that is called while one is on its way. The first node stands still until it has noticed."""
    node = cluster.nodes[0].process
    frozen = [process for process in (node.pid, *family(node)) if process]
    command = [*MANAGE, "--data", str(cluster.directory), "backup", *arguments]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        api(cluster, "POST", "/admin/backup", body)
        following = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=clean_environment() | {"PYTHONUNBUFFERED": "1"}
        )
        assert following.stdout is not None
        output = following.stdout.readline()
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    with following:
        output += following.stdout.read()
    assert following.returncode == 0, output
    assert "waiting for its end" in output
    return output


def test_a_backup_that_is_on_its_way_is_followed(cluster: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    wait_idle(cluster)
    output = followed(cluster, {})
    for name in names(cluster):
        assert re.search(rf"^{name}: good", output, re.MULTILINE), output
    # The same goes for one to another target, which is not made twice
    followed(cluster, {"target": str(other)}, "--to", str(other))
    before = {path.name for path in other.glob("*/snapshots/*")}
    wait_idle(cluster)
    assert {path.name for path in other.glob("*/snapshots/*")} == before
    assert len(before) == len(names(cluster))
    # One of another member is made after it
    api(cluster, "POST", "/admin/backup", {"node": cluster.nodes[0].id})
    done = run(cluster, "backup", "--node", "master")
    assert done.status == 0, done
    assert re.search(r"^master: good, ", done.output, re.MULTILINE), done.output


def test_a_terminal_shows_a_bar(cluster: Cluster, tmp_path: Path, filled: Path) -> None:
    ours, theirs = pty.openpty()
    arguments = ["restore-backup", str(filled), "--node", cluster.nodes[0].id, "--into", str(tmp_path / "into")]
    with subprocess.Popen(
        [*MANAGE, *arguments], stdout=theirs, stderr=theirs, stdin=theirs, env=clean_environment()
    ) as process:
        os.close(theirs)
        seen = b""
        try:
            while data := os.read(ours, 65536):
                seen += data
        except OSError:  # how a terminal says that nobody writes to it any more
            assert process.wait(30) == 0
        os.close(ours)
    assert b"100%" in seen


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["restore-backup"], 2, "required"),
        (["restore-backup", "{target}", "--node", "a b", "--into", "{into}"], 2, "no name of a node"),
        (["restore-backup", "{target}", "--node", "nobody", "--into", "{into}"], 1, "no backup of 'nobody'"),
        (["restore-backup", "{target}", "--node", "node-1", "--into", "{full}"], 1, "{full}"),
        (["restore-backup", "{target}", "--node", "node-1", "--into", "{into}", "--at", "soon"], 2, "no time in UTC"),
        (["restore-backup", "ftp://x/y", "--node", "node-1", "--into", "{into}"], 2, "is no target"),
        (["backups", "--to", "{into}"], 1, "is not there"),
        (["backups", "--to", "ftp://x/y"], 2, "is no target"),
    ],
)
def test_what_is_wrong_is_said(
    cluster: Cluster, filled: Path, tmp_path: Path, arguments: list[str], status: int, words: str
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("mine")
    places = {"target": filled, "into": tmp_path / "into", "full": full}
    done = run(cluster, *(text.format(**places) for text in arguments))
    assert (done.status, done.output) == (status, "")
    assert words.format(**places) in done.errors
    assert "Traceback" not in done.errors
    assert not (tmp_path / "into").exists()
    assert [path.name for path in full.iterdir()] == ["mine"]


def test_a_damaged_backup_is_not_restored_and_named_file_by_file(filled: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(filled, copy)
    objects = sorted(path for path in (copy / "node-2" / "objects").rglob("*") if path.is_file())
    largest = max(objects, key=lambda path: path.stat().st_size)
    largest.chmod(0o644)
    with largest.open("r+b") as file:
        file.seek(100)
        byte = file.read(1)
        file.seek(100)
        file.write(bytes([byte[0] ^ 1]))
    done = manage("restore-backup", str(copy), "--node", "node-2", "--into", str(tmp_path / "into"))
    assert (done.status, done.output) == (1, "")
    assert "not restored" in done.errors
    assert re.search(r"^  .*(log|values)/", done.errors, re.MULTILINE), done.errors
    assert not (tmp_path / "into").exists()


def test_a_reader_that_ends_early_gets_no_traceback(cluster: Cluster) -> None:
    command = [*MANAGE, "--data", str(cluster.directory), "status"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()) as done:
        assert done.stdout is not None
        assert done.stderr is not None
        done.stdout.close()
        assert done.stderr.read() == b""
    assert done.returncode == 1


def test_the_tool_needs_nothing_but_python(filled: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", MANAGE[1], "backups", "--to", str(filled)],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_damaged_value_gets_its_bytes_from_the_backup_as_verify_says(
    cluster: Cluster, target: Path, tmp_path: Path
) -> None:
    # Given a value that is in the backup, and is damaged since
    key, value = unique("it's here"), payload(9_000, 7)
    assert put(cluster, key, value).status == 201
    assert run(cluster, "backup").status == 0
    with Client(cluster.master_url) as master:
        node = node_of(master, key)
    flip(cluster, node, value)
    # When it is verified
    done = run(cluster, "verify", "--repair", "--node", node)
    assert done.status == 1, done
    commands = re.findall(r"^  (ops/manage\.py .*|\.venv/bin/python .*|curl .*)$", done.output, re.MULTILINE)
    assert len(commands) == 3, done.output
    # Then what it says brings the bytes back
    script = "\n".join(commands).replace(".venv/bin/python", sys.executable).replace("TARGET", str(target))
    script = script.replace("ops/manage.py", f"{sys.executable} ops/manage.py", 1)
    script = script.replace("DIR", str(tmp_path / "into")).replace(" value", f" {tmp_path}/value")
    subprocess.run(["bash", "-euc", script], cwd=ROOT, env=clean_environment(), check=True, capture_output=True)
    assert get(cluster, key).body == value
    assert run(cluster, "verify", "--node", node).status == 0
