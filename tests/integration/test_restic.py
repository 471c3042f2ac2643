"""`/restic/{repository}/`: Debian's restic with the store as its repository, and the protocol by hand."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.cluster import Cluster
from tests.integration.wire import Client, good, payload, refused
from tests.support import Clusters, unique, wait_for

VERSION_2 = "application/vnd.x.restic.rest.v2"
TREE_BYTES = 24 << 20

needs_restic = pytest.mark.skipif(shutil.which("restic") is None, reason="needs restic: apt-get install restic")


@pytest.fixture(scope="module")
def store(make_shared_cluster: Clusters) -> Cluster:
    return make_shared_cluster(
        env={"PULZAR_GENERAL_RESTIC_APPEND_ONLY": "archive/safe", "PULZAR_GENERAL_QUOTAS": "restic/tiny/: 2MiB"}
    )


@pytest.fixture
def master(store: Cluster) -> Iterator[Client]:
    with Client(store.master_url) as client:
        yield client


class Restic:
    """The program, with one repository in the store."""

    def __init__(self, cluster: Cluster, directory: Path, repository: str) -> None:
        self._url = f"rest:{cluster.master_url}/restic/{repository}/"
        self._env = os.environ | {
            "RESTIC_PASSWORD": "secret",
            "RESTIC_REPOSITORY": self._url,
            "RESTIC_CACHE_DIR": str(directory / "cache"),
            "RESTIC_PROGRESS_FPS": "0.1",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            ["restic", *arguments],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(self, *arguments: str, status: int = 0) -> str:
        """What a command says, which ends with `status`."""
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == status, said
        return said


def make_tree(directory: Path) -> dict[str, bytes]:
    """Files of many sizes that do not compress; returns their contents by name."""
    chance = random.Random(4)
    contents = {f"small/{number:03}": chance.randbytes(chance.randrange(20_000)) for number in range(200)}
    contents |= {f"large-{number}": chance.randbytes(TREE_BYTES // 3) for number in range(3)}
    contents |= {"empty": b""}
    for name, content in contents.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return contents


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@needs_restic
def test_a_pc_backs_up_checks_restores_forgets_and_prunes(store: Cluster, tmp_path: Path, master: Client) -> None:
    restic = Restic(store, tmp_path, "office/laptop")
    source = tmp_path / "files"
    contents = make_tree(source)
    restic("init")
    # A backup that is killed midway leaves a repository that the next one goes on with
    killed = restic.start("backup", str(source))
    wait_for(lambda: good(master.request("GET", "/stats/restic/office/laptop/data/"))["keys"] or killed.poll(), 30)
    killed.kill()
    killed.communicate()
    restic("unlock", "--remove-all")
    restic("backup", str(source))
    restic("check", "--read-data")
    restic("restore", "latest", "--target", str(tmp_path / "back"))
    assert tree(tmp_path / "back" / str(source).removeprefix("/")) == contents
    # The files are keys: placed on nodes, counted, with the right digest
    rows = good(master.request("GET", "/keys?prefix=restic/office/laptop/data/&limit=1000"))["keys"]
    assert all(row["etag"].strip('"') == row["key"].rpartition("/")[2] for row in rows)
    assert sum(row["size"] for row in rows) > TREE_BYTES
    # And a later backup of less lets the room go
    shutil.rmtree(source / "small")
    (source / "large-0").unlink()
    restic("backup", str(source))
    restic("forget", "--keep-last", "1", "--prune")
    restic("check", "--read-data")
    assert good(master.request("GET", "/stats/restic/office/laptop/data/"))["bytes"] < TREE_BYTES
    restic("restore", "latest", "--target", str(tmp_path / "later"))
    assert tree(tmp_path / "later" / str(source).removeprefix("/")) == {
        name: content for name, content in contents.items() if name in ("large-1", "large-2", "empty")
    }
    assert "no locks" not in restic("list", "locks")
    assert good(master.request("GET", "/stats/restic/office/laptop/locks/"))["keys"] == 0


@needs_restic
def test_an_append_only_repository_takes_backups_and_loses_none(store: Cluster, tmp_path: Path, master: Client) -> None:
    restic = Restic(store, tmp_path, "archive/safe")
    source = tmp_path / "files"
    source.mkdir()
    (source / "a").write_text("a")
    restic("init")
    restic("backup", str(source))
    # Its locks are gone again, and nothing else goes. restic itself would repeat a refused deletion for a minute.
    rows = good(master.request("GET", "/keys?prefix=restic/archive/safe/"))["keys"]
    assert {row["key"].split("/")[3] for row in rows} == {"config", "data", "index", "keys", "snapshots"}
    for row in rows:
        assert "append-only" in refused(master.request("DELETE", f"/{row['key']}"), 403)
    restic("check", "--read-data")
    (snapshot,) = json.loads(restic("snapshots", "--json"))
    assert snapshot["paths"] == [str(source)]


def test_the_protocol_by_hand(master: Client) -> None:
    base = f"/restic/{unique()}"
    body = payload(300_000)
    name = hashlib.sha256(body).hexdigest()
    path = f"{base}/data/{name}"
    assert master.request("POST", f"{base}/?create=true").status == 200
    assert master.request("HEAD", f"{base}/config").status == 404
    assert master.request("POST", f"{base}/config", b"configuration").status == 200
    refused(master.request("POST", f"{base}/config", b"another"), 409)
    assert master.request("GET", f"{base}/config").body == b"configuration"
    assert master.request("GET", f"{base}/data/", headers={"Accept": VERSION_2}).body == b"[]"
    # The bytes must be those that the name says; twice the same ones do no harm
    refused(master.request("POST", path, body[:-1] + b"!"), 400)
    assert master.request("HEAD", path).status == 404
    for _ in range(2):
        assert master.request("POST", path, body).status == 200
    answer = master.request("HEAD", path)
    assert (answer.status, answer.headers["content-length"]) == (200, "300000")
    part = master.request("GET", path, headers={"Range": "bytes=10-19"}, follow=True)
    assert (part.status, part.body) == (206, body[10:20])
    listed = master.request("GET", f"{base}/data/", headers={"Accept": VERSION_2})
    assert (listed.headers["content-type"], json.loads(listed.body)) == (VERSION_2, [{"name": name, "size": 300_000}])
    assert json.loads(master.request("GET", f"{base}/data/").body) == [name]
    assert master.request("DELETE", path).status == 200
    refused(master.request("DELETE", path), 404)
    refused(master.request("GET", path), 404)


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/restic/a/data/short", 400, "no name of a file in data"),
        ("GET", "/restic/a/data/" + "A" * 64, 400, "64 digits of SHA-256"),
        ("POST", "/restic/a/data/..", 400, "no name of a file"),
        ("POST", "/restic/../config", 400, "no path of a restic repository"),
        ("POST", "/restic//config", 400, "no path of a restic repository"),
        ("POST", "/restic/?create=true", 400, "no path of a restic repository"),
        ("POST", "/restic/data/?create=true", 400, "'data' can't stand in it"),
        ("POST", "/restic/a/b/c/d/e/?create=true", 400, "it has 5 parts"),
        ("POST", "/restic/a/", 400, "?create=true"),
        ("POST", "/restic/a/data/", 405, "GET, HEAD, OPTIONS is"),
        ("GET", "/restic/a/", 405, ""),
        ("DELETE", "/restic/a/", 405, ""),
        ("DELETE", "/restic/a/data/", 405, ""),
        ("PUT", "/restic/a/config", 405, ""),
    ],
)
def test_what_restic_never_sends_is_refused(master: Client, method: str, path: str, status: int, said: str) -> None:
    assert said in refused(master.request(method, path, b"x" if method in ("PUT", "POST") else b""), status)


def test_a_quota_bounds_a_repository(master: Client) -> None:
    for number, status in enumerate((200, 507)):
        body = payload(1_500_000, seed=number)
        path = f"/restic/tiny/data/{hashlib.sha256(body).hexdigest()}"
        answer = master.request("POST", path, body)
        assert answer.status == status, answer
    assert "its quota is 2,097,152" in answer.json["msg"]
