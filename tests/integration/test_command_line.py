"""The command line `pulzar` and the Python client on a real cluster, which asks for tokens."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from pulzar import Client, Conflict, Event, Forbidden, NotFound
from pulzar.command.main import main
from tests.integration.tokens_tools import Keys
from tests.support import ROOT, Clusters, http_request, unique, wait_for

# Around the limits of the store: what the master keeps, what it takes itself, what goes to a node; and what is resumed.
SIZES = (0, 1, 4096, 4097, 1 << 20, (1 << 20) + 1, 9 << 20)
SCRIPTS = {
    "types": """
from jobs import Job

class Types(Job):
    def execute(self):
        \"\"\"Arguments: {"count": "int", "flag": "bool", "items": "list", "text": "str"}\"\"\"
        print("in the log")
        return self.arguments
""",
    "fails": "import sys\nprint('before the end')\nsys.exit(7)\n",
    "slow": """
import time
from pathlib import Path
from jobs import run

print("begun", flush=True)
while not any(run.keys(run.arguments["stop"])):
    time.sleep(0.1)
print("the end", flush=True)
""",
}


class Said(NamedTuple):
    """What a command has said."""

    status: int
    out: str
    err: str

    @property
    def data(self) -> list[dict[str, object]]:
        """The lines of JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


Command = Callable[..., Said]


@pytest.fixture(scope="module")
def keys(make_shared_cluster: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("command-line")
    (folder / "jobs" / "mine").mkdir(parents=True)
    for name, text in SCRIPTS.items():
        (folder / "jobs" / "mine" / f"{name}.py").write_text(text)
    keys = Keys(folder / "tokens")
    keys.tokens["few"] = keys.make("few", ["read:few/", "launch:mine/types"])
    keys.start(make_shared_cluster, PULZAR_JOBS_DIR=str(folder / "jobs"))
    return keys


@pytest.fixture(autouse=True)
def _environment(keys: Keys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PULZAR_URL", keys.cluster.master_url)
    monkeypatch.setenv("PULZAR_TOKEN", keys.all)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def client(keys: Keys) -> Client:
    return Client(keys.cluster.master_url, token=keys.all)


@pytest.fixture
def pulzar(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> Said:
        status = main(list(arguments))
        out, err = capsys.readouterr()
        return Said(status, out, err)

    return run


def good(said: Said) -> Said:
    assert said.status == 0, said
    return said


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_of_many_sizes_come_back(pulzar: Command, tmp_path: Path) -> None:
    folder = unique("sizes") + "/"
    (tmp_path / "back").mkdir()
    for size in SIZES:
        (tmp_path / f"{size} bytes.bin").write_bytes(os.urandom(size))
    files = sorted(tmp_path.glob("*.bin"))
    # When they are put, then each is told with its digest
    said = good(pulzar("--json", "put", *map(str, files), folder))
    assert [row["size"] for row in said.data] == [file.stat().st_size for file in files]
    # And they come back by a pattern
    good(pulzar("get", f"{folder}*.bin", "back"))
    assert tree(tmp_path / "back") == {file.name: file.read_bytes() for file in files}
    # And they are listed, shown and deleted
    assert len(good(pulzar("ls", folder)).out.splitlines()) == len(SIZES)
    assert good(pulzar("--json", "stat", f"{folder}4097 bytes.bin")).data[0]["size"] == 4097
    assert "9,437,184 bytes" in good(pulzar("stat", f"{folder}{9 << 20} bytes.bin")).out
    good(pulzar("rm", f"{folder}4*"))
    assert len(good(pulzar("ls", "-r", folder)).out.splitlines()) == len(SIZES) - 2
    good(pulzar("rm", "-r", folder))
    assert good(pulzar("ls", folder)).out == ""


def test_a_key_that_exists_is_kept(pulzar: Command, client: Client, tmp_path: Path) -> None:
    key = unique()
    first = client.put(key, b"first")
    file = tmp_path / "file"
    file.write_bytes(b"second" * (1 << 18))
    assert pulzar("put", str(file), key).status == 73
    with pytest.raises(Conflict):
        client.put(key, b"second")
    with pytest.raises(Conflict):
        client.put(key, file, match="0" * 64)
    assert client.get(key) == b"first"
    client.put(key, file, match=first.digest)
    assert client.changed(key, first.digest)
    assert not client.changed(key, client.stat(key).digest)
    good(pulzar("put", "-f", str(file), key))


def test_a_stream_of_unknown_length_is_stored(client: Client) -> None:
    key = unique()
    stored = client.put(key, iter([b"a" * 100_000] * 30), ttl="1h", content_type="text/x-mine")
    assert client.stat(key).digest == stored.digest
    assert client.stat(key).content_type == "text/x-mine"
    assert client.stat(key).expires
    with client.open(key) as value:
        assert sum(map(len, value.pieces(1000))) == 3_000_000


def test_a_download_is_resumed(client: Client, tmp_path: Path) -> None:
    # Given what a download that broke off has left
    key, value = unique(), os.urandom(12 << 20)
    stored = client.put(key, value)
    (tmp_path / f"file.{stored.digest[:16]}.part").write_bytes(value[: 5 << 20])
    told: list[int] = []
    # Then the next one goes on with it
    client.fetch(key, tmp_path / "file", told=told.append)
    assert told[0] == 5 << 20
    assert sum(told) == len(value)
    assert tree(tmp_path) == {"file": value}


def test_sync_makes_keys_and_files_alike(pulzar: Command, tmp_path: Path) -> None:
    prefix = unique("tree")
    source, target = tmp_path / "source", tmp_path / "target"
    names = ("a.txt", "a b/ü.txt", "a b/日本/%41 100%", "deep/er/x.bin", "empty", "left.tmp")
    for number, name in enumerate(names):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"" if name == "empty" else f"value {number}".encode() * 1000 * number)
    wanted = {name: value for name, value in tree(source).items() if name != "left.tmp"}
    # When the folder is stored: at first nothing, by a dry run
    assert "5 sent" in good(pulzar("sync", "-n", "source", f":{prefix}", "--exclude", "*.tmp")).out
    assert good(pulzar("ls", prefix + "/")).out == ""
    assert "5 sent" in good(pulzar("sync", "source", f":{prefix}", "--exclude", "*.tmp")).out
    # Then it comes back as it was, and again there is nothing to do
    good(pulzar("sync", f":{prefix}", "target"))
    assert tree(target) == wanted
    for arguments in (("source", f":{prefix}"), (f":{prefix}", "target")):
        said = good(pulzar("--json", "sync", *arguments, "--exclude", "*.tmp")).data[-1]
        assert (said["sent"], said["received"], said["unchanged"], said["deleted"]) == (0, 0, 5, 0)
    # When files change, come and go, then --delete makes both alike
    (source / "a.txt").write_bytes(b"another")
    (source / "deep/er/x.bin").unlink()
    (source / "left.tmp").unlink()
    (source / "new").write_bytes(b"new")
    said = good(pulzar("--json", "sync", "--delete", "source", f":{prefix}/")).data[-1]
    assert (said["sent"], said["deleted"], said["unchanged"]) == (2, 1, 3)
    said = good(pulzar("--json", "sync", "--delete", f":{prefix}/", "target")).data[-1]
    assert (said["received"], said["deleted"], said["unchanged"]) == (2, 1, 3)
    assert tree(target) == tree(source)
    assert not (target / "deep").exists()


def test_sync_writes_nothing_outside_its_folder(pulzar: Command, client: Client, tmp_path: Path) -> None:
    prefix = unique("links") + "/"
    client.put(prefix + "link/file", b"v")
    client.put(prefix + "file", b"v")
    client.put(prefix + "file/below", b"v")
    (tmp_path / "outside").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "link").symlink_to(tmp_path / "outside")
    said = pulzar("sync", f":{prefix}", "target")
    assert said.status == 1
    assert "link/file" in said.err
    assert list((tmp_path / "outside").iterdir()) == []
    # And with a wrong name nothing is deleted
    assert pulzar("sync", "--delete", f":{prefix}nothing", "target").status == 66
    (tmp_path / "empty").mkdir()
    assert pulzar("sync", "--delete", "empty", f":{prefix}").status == 2
    assert len(list(client.list(prefix))) == 3


def test_copies_and_moves(pulzar: Command, client: Client) -> None:
    folder = unique("copies") + "/"
    client.put(folder + "one", b"1")
    good(pulzar("cp", folder + "one", folder + "two"))
    good(pulzar("mv", folder + "two", folder + "three"))
    assert [entry.key for entry in client.list(folder)] == [folder + "one", folder + "three"]
    assert pulzar("mv", folder + "nothing", folder + "x").status == 66
    client.delete(folder + "one")
    client.undelete(folder + "one")
    assert client.lifetime(folder + "one", "never") is None
    assert client.get(folder + "one") == b"1"


def test_a_run_has_typed_arguments_and_an_exit_status(pulzar: Command) -> None:
    wait_for(lambda: "mine/types" in pulzar("jobs", "--scripts").out, what="the scripts to be known")
    said = good(pulzar("--json", "run", "mine/types", "count=3", "flag=no", "items=a,b", "text=5", "more:={}"))
    assert said.data[0]["output"] == {"count": 3, "flag": False, "items": ["a", "b"], "text": "5", "more": {}}
    assert "in the log" in said.err
    assert "declares no argument more" in said.err
    assert pulzar("run", "mine/types", "count=three").status == 2
    assert pulzar("run", "mine/missing").status == 66
    said = pulzar("run", "mine/fails")
    assert said.status == 7
    assert "before the end" in said.err
    assert "exit status 7" in good(pulzar("jobs", "--state", "failed", "--script", "mine/fails")).out


def test_a_log_is_followed_while_it_grows(pulzar: Command, client: Client) -> None:
    wait_for(lambda: "mine/slow" in pulzar("jobs", "--scripts").out, what="the scripts to be known")
    stop = unique("stop")
    job = client.launch("mine/slow", {"stop": stop}).job_id
    pieces = []
    for piece in client.log(job, follow=True):
        pieces.append(piece)
        if b"begun" in piece:
            client.put(stop, b"")
    assert b"".join(pieces) == b"begun\nthe end\n"
    assert good(pulzar("logs", str(job))).out == "begun\nthe end\n"
    assert good(pulzar("logs", "-f", str(job))).out == "begun\nthe end\n"
    assert client.wait(job).state == "completed"
    # And one that never ends is cancelled
    job = client.launch("mine/slow", {"stop": unique("never")}).job_id
    good(pulzar("cancel", str(job)))
    assert client.wait(job).state == "cancelled"
    assert pulzar("logs", "-f", str(job)).status == 1
    assert pulzar("cancel", str(job)).status == 73


def test_schedules(pulzar: Command) -> None:
    wait_for(lambda: "mine/types" in pulzar("jobs", "--scripts").out, what="the scripts to be known")
    made = good(
        pulzar("--json", "schedule", "add", "mine/types", "count=1", "--cron", "0 9 * * 1", "--zone", "Europe/Vienna")
    )
    number = str(made.data[0]["job_id"])
    assert number in good(pulzar("schedule", "list")).out
    good(pulzar("schedule", "pause", number))
    good(pulzar("schedule", "resume", number))
    good(pulzar("schedule", "run", number))
    good(pulzar("cancel", number))
    assert pulzar("schedule", "pause", number).status == 73


def test_a_token_may_do_what_its_rights_say(pulzar: Command, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(keys.cluster.master_url, token=keys.tokens["few"]) as few:
        with pytest.raises(NotFound):
            few.get("few/nothing")
        with pytest.raises(Forbidden, match="few/nothing"):
            few.put("few/nothing", b"")
        job = few.wait(few.launch("mine/types", {"count": 1}).job_id)
        assert b"".join(few.log(job.job_id)) == b"in the log\n"
    monkeypatch.setenv("PULZAR_TOKEN", "")
    said = pulzar("ls")
    assert (said.status, said.out) == (77, "")
    assert keys.all not in said.err


def test_the_cluster_is_shown(pulzar: Command, keys: Keys) -> None:
    assert good(pulzar("health")).out == "ok\n"
    assert "node-1" in good(pulzar("nodes")).out
    assert "version" in good(pulzar("--json", "status")).data[0]
    # And a cluster of the file is chosen by its name, with the token that is there
    Path("config").write_text(f"[here]\nurl = {keys.cluster.master_url}\ntoken = {keys.all}\n")
    Path("config").chmod(0o644)
    said = pulzar("--config", "config", "--cluster", "here", "ls")
    assert said.status == 2
    assert "chmod 600" in said.err
    Path("config").chmod(0o600)
    good(pulzar("--config", "config", "--cluster", "here", "ls"))


def test_a_process_of_its_own_ends_cleanly(keys: Keys, client: Client, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pulzar"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    # Given values in a pipe whose reader ends early, then nothing is said about it
    client.put(key := unique("large"), bytes(4 << 20))
    done = subprocess.run(
        ["bash", "-c", '"$@" | head -c 10; exit "${PIPESTATUS[0]}"', "-", *command, "cat", key],
        env=environment,
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == (bytes(10), b"", 1)
    # And one that is interrupted says so, in one line. SIGINT does the same; a suite in the background ignores it.
    watching = subprocess.Popen(
        [*command, "watch", key], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with watching:
        try:
            assert watching.stdout
            assert key in watching.stdout.readline()
            watching.terminate()
            _, err = watching.communicate(timeout=100)
        finally:
            watching.kill()
    assert (watching.returncode, err) == (130, "pulzar: interrupted\n")


def test_changes_of_a_key_are_told_as_they_happen(client: Client) -> None:
    key = unique()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pulzar", "--json", "watch", key, "--count", "3"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout
        digests = [json.loads(watching.stdout.readline())["sha256"]]
        for value in (b"one", b"two"):
            client.put(key, value, overwrite=True)
            digests.append(json.loads(watching.stdout.readline())["sha256"])
        client.delete(key)
        digests.append(json.loads(watching.stdout.readline())["sha256"])
        assert digests == [None, *(hashlib.sha256(value).hexdigest() for value in (b"one", b"two")), None]
        assert watching.wait(60) == 0


def test_events_are_told_as_they_happen_and_from_one_on(pulzar: Command, client: Client) -> None:
    folder = unique("events") + "/"
    with next_event(client, folder) as first:
        client.put(folder + "a", b"x")
        assert (first.result(60).type, first.result(60).subject) == ("key.added", folder + "a")
    client.put(folder + "b", b"x")
    client.delete(folder + "a")
    after = first.result().id
    said = good(pulzar("events", folder, "--after", after, "--count", "2"))
    assert [line.split("  ")[1:] for line in said.out.splitlines()] == [
        ["key.added", folder + "b"],
        ["key.deleted", folder + "a"],
    ]
    [told] = good(pulzar("--json", "events", "--types", "key.deleted", "--after", after, "--count", "1")).data
    assert (told["type"], told["subject"]) == ("key.deleted", folder + "a")
    said = pulzar("events", "--types", "keys")
    assert said.status == 2
    assert "no list of types of events" in said.err


def test_events_go_on_after_the_master_was_killed(keys: Keys, client: Client) -> None:
    folder = unique("events") + "/"
    with next_event(client, folder) as first:
        client.put(folder + "a", b"x")
        first.result(60)
        after = first.result().id
    happening = client.events(folder, after=after)
    client.put(folder + "b", b"x")
    assert next(happening).subject == folder + "b"
    keys.cluster.kill_master()
    keys.cluster.start_master()
    keys.cluster.wait_healthy()
    client.put(folder + "c", b"x", overwrite=True)
    assert next(happening).subject == folder + "c"


@contextmanager
def next_event(client: Client, prefix: str) -> Iterator[Future[Event]]:
    """The next event of keys with a prefix; somebody listens when the block begins."""
    with ThreadPoolExecutor(1) as pool, Client(client.url, token=os.environ["PULZAR_TOKEN"]) as other:
        found = pool.submit(lambda: next(other.events(prefix)))

        def begun() -> bool:
            lines = metrics(client).splitlines()
            return (
                sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("pulzar_event_listeners{")) >= 1
            )

        wait_for(begun, 60, "a listener", pause=0.3)
        yield found


def metrics(client: Client) -> str:
    headers = {"Authorization": f"Bearer {os.environ['PULZAR_TOKEN']}"}
    return http_request("GET", f"{client.url}/metrics", headers=headers).body.decode()


def test_keys_are_completed(pulzar: Command, client: Client) -> None:
    folder = unique("completed") + "/"
    client.put(folder + "one", b"")
    client.put(folder + "deeper/two", b"")
    assert pulzar("__complete", "cat", folder).out.split() == [folder + "deeper/", folder + "one"]
    assert pulzar("__complete", "sync", f":{folder}o").out.split() == [f":{folder}one"]


def test_a_value_on_two_nodes_is_read_while_one_is_killed(keys: Keys, client: Client) -> None:
    values = {unique(f"two-{number}"): os.urandom(100_000) for number in range(8)}
    for key, value in values.items():
        client.put(key, value, replicas=2)
    keys.cluster.kill_node(0)
    try:
        # Some of them are with the node that was killed first
        assert {key: client.get(key) for key in values} == values
        # And a PUT goes to the other one
        client.put(unique(), bytes(3 << 20), overwrite=True)
    finally:
        keys.cluster.start_node(0)
        keys.cluster.wait_healthy()
