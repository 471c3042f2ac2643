"""Backups of a running cluster: ordered over the API, made by every member, restored to the byte."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from master.jobs.ledger import Ledger
from ops.cluster import Cluster
from tests.faults.tools import settle
from tests.integration.wire import Client, good, payload, refused
from tests.support import ROOT, Clusters, get, http_request, put, unique, wait_for

SECS = 90.0


def api(cluster: Cluster, method: str, path: str, body: object = None) -> Any:
    """The data of a request to the master, which must be done."""
    sent = None if body is None else json.dumps(body).encode()
    answer = http_request(method, f"{cluster.master_url}{path}", sent)
    assert answer.status < 300, (answer.status, answer.body)
    return answer.data


def members(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """The rows of `/admin/backup` by member."""
    return {row["member"]: row for row in api(cluster, "GET", "/admin/backup")["members"]}


def wait_idle(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Wait until no backup is on its way; returns the rows."""

    def idle() -> bool:
        overview = api(cluster, "GET", "/admin/backup")
        return not overview["running"] and not overview["waiting"]

    wait_for(idle, SECS, "the end of all backups")
    return members(cluster)


def environment(target: Path, **more: str) -> dict[str, str]:
    """Settings of a cluster whose backups go to a directory."""
    return {"PULZAR_BACKUP_TYPE": "directory", "PULZAR_BACKUP_ADDRESS": str(target), **more}


def restore(target: Path, member: str, into: Path) -> None:
    """Restore the newest backup by the engine."""
    command = [sys.executable, "-m", "backup", "restore", "--member", member, "--into", str(into)]
    environ = {"PATH": os.environ["PATH"], **environment(target)}
    subprocess.run(command, cwd=ROOT, env=environ, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def test_a_lost_node_is_restored_to_the_byte(make_cluster: Clusters, target: Path, tmp_path: Path) -> None:
    # Given a cluster with values of all sizes, and a job
    cluster = make_cluster(env=environment(target))
    values = {unique(f"folder/{size}"): payload(size) for size in (0, 20, 5_000, 100_000, 3_000_000) for _ in range(4)}
    for key, value in values.items():
        assert put(cluster, key, value).status == 201
    wait_for(lambda: api(cluster, "GET", "/admin/job_catalog"), 30, "the catalog")
    job = api(cluster, "POST", "/launch_job/example/factorial", {"number": 3})["job_id"]
    # When all members are backed up
    assert api(cluster, "POST", "/admin/backup")["members"] == ["node-1", "node-2", "master"]
    rows = wait_idle(cluster)
    # Then all of them have a good backup, and say so
    assert [(row["error"], row["failures"], row["running"]) for row in rows.values()] == [(None, 0, None)] * 3
    assert all(row["last_good"] and row["age"] < SECS and row["files"] and row["snapshot"] for row in rows.values())
    assert sum(rows[node.id]["size"] for node in cluster.nodes) > sum(map(len, values.values()))
    node = api(cluster, "GET", "/admin/network/node-1")
    assert {**node["backup"], "age": 0} == {**rows["node-1"], "age": 0}
    assert not list((cluster.nodes[0].directory / "snapshots").iterdir())
    # When both nodes lose their disks, and the backups are put in their places
    for number, one in enumerate(cluster.nodes):
        cluster.stop_node(number)
        shutil.rmtree(one.directory)
        restore(target, one.id, one.directory)
        cluster.start_node(number)
    settle(cluster)
    # Then every value is there
    for key, value in values.items():
        assert wait_for(lambda key=key: (found := get(cluster, key)).status == 200 and found, 30).body == value
    # And the ledger's copy knows the job
    restore(target, "master", tmp_path / "master")
    ledger = Ledger(tmp_path / "master" / "ledger", True, 64 << 20)
    with ledger.read() as view:
        assert view.job(job)
    ledger.close()


def test_what_is_asked_for_is_checked(cluster: Cluster, master: Client, tmp_path: Path) -> None:
    # Given a cluster without a target
    overview = good(master.request("GET", "/admin/backup"))
    assert (overview["active"], overview["type"], overview["next"], overview["at"]) == (False, None, None, "02:30")
    assert [row["member"] for row in overview["members"]] == ["node-1", "node-2", "master"]
    assert good(master.request("GET", "/health"))["warnings"] == []
    # Then bad requests are refused in words
    for body in (b"x", b"[]", b'{"nodes": "a"}', b'{"node": 5}', b'{"node": ""}', b'{"target": ["x"]}'):
        assert '{"node": "<its name>"' in refused(master.request("POST", "/admin/backup", body), 400), body
    assert "[backup] type and address" in refused(master.request("POST", "/admin/backup"), 400)
    for impossible, why in (
        ("floppy:a", "is no target"),
        ("mnt/backup", "is no target"),
        ("directory:mnt", "an absolute path like /mnt/backup is needed"),
        ("s3:", "has no address"),
        ("s3:https://host:9000/", "host:9000/bucket/prefix is needed"),
        ("sftp://anna:hush@host/x", "put it into [backup] psw instead"),
        ("rclone:drive", "one like remote:path is needed"),
    ):
        told = refused(master.request("POST", "/admin/backup", json.dumps({"target": impossible}).encode()), 400)
        assert why in told
        assert "hush" not in told
    elsewhere = {"target": str(tmp_path)}
    body = json.dumps({"node": "no-such"} | elsewhere).encode()
    assert "no node is called 'no-such'" in refused(master.request("POST", "/admin/backup", body), 404)
    # When one goes elsewhere, a second is a conflict until it has ended
    body = json.dumps({"node": "node-2"} | elsewhere).encode()
    assert good(master.request("POST", "/admin/backup", body), 202)["members"] == ["node-2"]
    assert "on its way, of node-2" in refused(master.request("POST", "/admin/backup", body), 409)
    row = wait_idle(cluster)["node-2"]
    assert (row["error"], row["last_good"]) == (None, None)
    assert list((tmp_path / "node-2" / "snapshots").iterdir())


def test_a_target_that_is_gone_is_told_in_words_and_events(make_cluster: Clusters, target: Path) -> None:
    cluster = make_cluster(env=environment(target / "missing"))
    api(cluster, "POST", "/admin/backup", {"node": "node-1"})
    row = wait_idle(cluster)["node-1"]
    assert str(target / "missing") in row["error"]
    assert (row["failures"], row["last_good"]) == (1, None)


@pytest.mark.parametrize(
    "phase", ["snapshot.linked", "snapshot.made", "ledger.copied", "ledger.described", "ledger.made"]
)
def test_a_process_killed_in_a_backup_leaves_nothing_and_the_next_one_is_good(
    make_cluster: Clusters, target: Path, tmp_path: Path, phase: str
) -> None:
    # Given a cluster in which a process is killed in that phase, once
    phases = tmp_path / "phases"
    cluster = make_cluster(env=environment(target, PULZAR_PHASES=str(phases), PULZAR_STOP_AT=phase))
    values = {unique(): payload(size) for size in (20, 100_000)}
    for key, value in values.items():
        assert put(cluster, key, value).status == 201
    # When backups are made
    api(cluster, "POST", "/admin/backup")
    wait_for(lambda: phases.exists() and phase in phases.read_text().split(), SECS, "the phase")
    cluster.wait_healthy()
    rows = wait_idle(cluster)
    # Then the member says what happened, or has done it anew
    told = [row["error"] for row in rows.values() if row["error"]]
    assert told in ([], ["the process that made it ended meanwhile"])
    assert sum(row["last_good"] is not None for row in rows.values()) == len(rows) - len(told)
    # And the next ones are good, and nothing is left
    api(cluster, "POST", "/admin/backup")
    rows = wait_idle(cluster)
    assert [row["error"] for row in rows.values()] == [None] * 3
    for directory in (cluster.master_directory, *(node.directory for node in cluster.nodes)):
        assert not list((directory / "snapshots").iterdir())
        assert not list(directory.glob("tmp/snapshot*"))
    for key, value in values.items():
        assert get(cluster, key).body == value


def test_backups_are_made_at_their_time_by_themselves(make_cluster: Clusters, target: Path) -> None:
    # Given a timetable with a time in every minute
    cluster = make_cluster(env=environment(target, PULZAR_BACKUP_ACTIVE="True", PULZAR_BACKUP_AT="* * * * *"))
    assert put(cluster, unique(), b"value").status == 201
    # Then each member has a good backup soon, that was read back, without anybody asking
    wait_for(lambda: all(row["last_verified"] for row in members(cluster).values()), SECS, "backups, read back")
    assert all(row["last_good"] and row["next"] for row in members(cluster).values())
    assert not list((cluster.nodes[0].directory / "snapshots").iterdir()) or members(cluster)["node-1"]["running"]
