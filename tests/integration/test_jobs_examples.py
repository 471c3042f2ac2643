"""The example jobs, by hand and on a node's runner, with a real store."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from broker.messages.runs import RunState
from jobs.client import Client
from jobs.errors import KeyExists, KeyMissing
from ops.cluster import Cluster
from tests.support import ROOT, unique
from tests.unit.runs import Node, alive

FEW_LINES = "The cat and the dog.\nA dog's life: the Dog sleeps — naïvely.\n\nno newline at the end"
ACCESS_LOG = """\
10.0.0.1 - - [24/Nov/2026:10:00:00 +0000] "GET /index.html?x=1 HTTP/1.1" 200 1000 "-" "curl/8"
10.0.0.1 - eva [24/Nov/2026:10:00:01 +0000] "GET /index.html HTTP/1.1" 304 - "-" "curl/8"
10.0.0.2 - - [24/Nov/2026:10:00:02 +0000] "POST /form HTTP/1.1" 500 24
this is no request
"""


class Done(NamedTuple):
    """What became of a job."""

    good: bool
    output: Any
    log: str


Runs = Callable[..., Done]


@pytest.fixture(scope="module", params=["by hand", "on a node"])
def runs(request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    master = cluster.master_url.removeprefix("http://")
    node = Node(tmp_path_factory.mktemp("runner"), ROOT / "jobs", master)

    def on_node(job: str, arguments: dict[str, Any], data: Path | None = None, key: str = "") -> Done:
        outcome = node.run(job, arguments, data_path=str(data) if data else "", data_key=key)
        output = json.loads(outcome.output) if outcome.output else None
        return Done(outcome.end.state is RunState.COMPLETED, output, outcome.log.decode() + outcome.end.reason)

    def by_hand(job: str, arguments: dict[str, Any], data: Path | None = None, key: str = "") -> Done:
        command = [sys.executable, "-m", "jobs", "run", job, json.dumps(arguments), "--master", master]
        command += ["--data", str(data)] if data else []
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=60, check=False
        )
        *lines, last = [*done.stdout.splitlines(), ""] if "output: " not in done.stdout else done.stdout.splitlines()
        output = json.loads(last.removeprefix("output: ")) if last else None
        return Done(done.returncode == 0, output, "\n".join(lines) + done.stderr)

    yield on_node if request.param == "on a node" else by_hand
    node.stop()
    assert not alive(str(node.directory))


@pytest.fixture
def store(cluster: Cluster) -> Client:
    return Client(cluster.master_url)


def test_factorial(runs: Runs) -> None:
    assert runs("example/factorial", {"number": 5}) == (True, 120, runs("example/factorial", {"number": 5}).log)
    assert "5! has 3 digits" in runs("example/factorial", {"number": 5}).log
    assert runs("example/factorial", {"number": 0}).output == 1
    assert len(str(runs("example/factorial", {"number": 1000}).output)) == 2568
    for wrong in ({"number": -1}, {"number": 1001}, {"number": "5"}, {"number": 1.5}, {}):
        done = runs("example/factorial", wrong)
        assert not done.good
        assert "number" in done.log


def test_fibonacci(runs: Runs) -> None:
    assert runs("example/fibonacci", {"count": 10}).output == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]
    assert runs("example/fibonacci", {"count": 1}).output == [0]
    numbers = runs("example/fibonacci", {"count": 200}).output
    assert numbers[-1] == "173402521172797813159685037284371942044301"
    assert int(numbers[-1]) == int(numbers[-2]) + int(numbers[-3])
    assert not runs("example/fibonacci", {"count": 0}).good


def test_words_of_a_text(runs: Runs, tmp_path: Path, store: Client) -> None:
    text = tmp_path / "text.txt"
    text.write_text(FEW_LINES)
    done = runs("text/words", {"top": 2}, text, "text.txt")
    assert done.output == {
        "key": "text.txt",
        "lines": 4,
        "words": 17,
        "characters": len(FEW_LINES),
        "top": [["the", 4], ["dog", 2]],
    }
    # With a key for the result, all words are there
    key = unique("words.json")
    assert runs("text/words", {"result": key}, text, "text.txt").output["result"].endswith(key)
    assert json.loads(store.fetch(key))["dog's"] == 1
    assert not runs("text/words", {}).good


def test_an_access_log_is_summed_up_with_helper_modules(runs: Runs, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text(ACCESS_LOG)
    done = runs("logs/access", {}, log, "access.log")
    assert done.output == {
        "requests": 3,
        "bytes": 1024,
        "not_understood": 1,
        "statuses": {"200": 1, "304": 1, "500": 1},
        "paths": {"/index.html": 2, "/form": 1},
        "clients": {"10.0.0.1": 2, "10.0.0.2": 1},
    }
    assert "most asked for\n  /index.html  2\n  /form        1\n" in done.log
    (empty := tmp_path / "empty").write_text("")
    assert runs("logs/access", {}, empty, "empty").output["requests"] == 0


def test_old_keys_are_cleaned_only_when_that_is_asked_for(runs: Runs, store: Client) -> None:
    prefix = unique("")
    keys = [f"{prefix}{number}.txt" for number in range(3)]
    for key in keys:
        store.store(b"12345", key)
    store.store(b"x", other := unique("other"))
    # A dry run tells only
    done = runs("keys/clean", {"prefix": prefix, "days": 0})
    assert done.output == {"keys": 3, "old": 3, "bytes": 15, "deleted": 0}
    assert f"{keys[0]}: 5 bytes\n" in done.log
    # Nothing is a day old
    assert runs("keys/clean", {"prefix": prefix, "days": 1, "delete": True}).output["old"] == 0
    assert [entry["key"] for entry in store.keys(prefix)] == keys
    # Then they are deleted, and nothing else
    assert runs("keys/clean", {"prefix": prefix, "days": 0, "delete": True}).output["deleted"] == 3
    assert not list(store.keys(prefix))
    assert store.fetch(other) == b"x"
    for wrong in (
        {"days": 1},
        {"prefix": "", "days": 1},
        {"prefix": "/", "days": 1},
        {"prefix": prefix},
        {"prefix": prefix, "days": -1},
        {"prefix": prefix, "days": "1"},
    ):
        assert not runs("keys/clean", wrong).good
    assert not runs("keys/clean", {"prefix": prefix, "days": 0, "delete": "yes"}).good


def test_a_value_is_compressed_by_a_program_and_stored(runs: Runs, tmp_path: Path, store: Client) -> None:
    key = unique("big.txt")
    file = tmp_path / Path(key).name
    file.write_bytes(os.urandom(1000) * 2000)
    done = runs("system/compress", {}, file, key)
    stored = done.output["url"].partition("/get_key/")[2]
    assert gzip.decompress(store.fetch(stored)) == file.read_bytes()
    assert done.output["bytes"] == 2_000_000 > done.output["compressed"]
    assert "url" not in runs("system/compress", {"program": "xz", "store": False}, file, key).output
    assert not runs("system/compress", {"program": "rm"}, file, key).good


def test_the_disks_of_a_node(runs: Runs) -> None:
    output = runs("system/disk_usage", {}).output
    assert output["/"]["kilobytes"] >= output["/"]["used"] > 0


def test_what_a_job_can_do_with_keys(cluster: Cluster, store: Client, tmp_path: Path) -> None:
    node = Node(tmp_path, master=cluster.master_url)
    node.script(
        "test/keys",
        """
        import os
        from jobs import Job, KeyExists, KeyMissing
        class Keys(Job):
            def execute(self):
                base = self.arguments["base"]
                small, big = base + "small", base + "big file%.bin"
                self.store(b"small", small, ttl="1h")
                try:
                    self.store(b"again", small)
                except KeyExists as error:
                    self.log(error.status)
                self.store(b"replaced", small, overwrite=True)
                path = self.scratch / "big"
                path.write_bytes(os.urandom(1 << 20) * 20)
                url = self.store(path, big)
                self.fetch_to(big, "back")
                assert open("back", "rb").read() == path.read_bytes()
                assert self.fetch(small) == b"replaced"
                try:
                    self.fetch(base + "nothing")
                except KeyMissing as error:
                    self.log(error.status)
                self.delete(small)
                return [[entry["key"], entry["size"]] for entry in self.keys(base)]
        """,
    )
    base = unique("")
    try:
        outcome = node.run("test/keys", {"base": base})
    finally:
        node.stop()
    assert outcome.end.reason == ""
    assert outcome.log == b"409\n404\n"
    assert json.loads(outcome.output) == [[base + "big file%.bin", 20 << 20]]
    assert len(store.fetch(base + "big file%.bin")) == 20 << 20
    with pytest.raises(KeyMissing):
        store.fetch(base + "small")
    with pytest.raises(KeyExists):
        store.store(tmp_path / "work" / "mark", base + "big file%.bin")
