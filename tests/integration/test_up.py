"""ops/up end to end: one command gives a whole cluster that works, and takes all of it away again."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ops.cluster.network import AMQP, free_base, is_free
from tests.support import ROOT, clean_environment, http_request, left_running, wait_for

MARK = "PYTEST_UP_OF_PULZAR"
PRIVATE = ("master", "node-1", "node-2", "logs")
LAST_LINE = "/admin/network"  # of what is printed once it stays in the foreground
START_SECS = 100

# Each start is that of a whole cluster, on a machine that may be busy.
pytestmark = pytest.mark.timeout(300, method="signal")


class Up:
    """An ops/up in the foreground of a terminal of its own."""

    def __init__(self, checkout: Path, output: Path, *arguments: str, **environment: str) -> None:
        self.mark = uuid.uuid4().hex
        self.output = output
        with output.open("w") as file:
            self.process = subprocess.Popen(
                [str(checkout / "ops" / "up"), *arguments],
                cwd=output.parent,
                env=clean_environment() | {MARK: self.mark} | environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def shows(self, text: str, timeout: float = START_SECS) -> None:
        """Wait until it has printed the text."""

        def shown() -> bool:
            assert text in self.text or self.process.poll() is None, f"ended, {self.process.returncode}:\n{self.text}"
            return text in self.text

        wait_for(shown, timeout, f"{text!r} in what ops/up prints")

    @property
    def text(self) -> str:
        """All that it has printed."""
        return self.output.read_text()

    def ctrl_c(self) -> None:
        """What a terminal does: the signal goes to every process in the foreground."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self, timeout: float = 100) -> int:
        """Wait for its end; the exit status."""
        return self.process.wait(timeout)

    def left(self) -> list[str]:
        """What runs of it, or was started by it."""
        return [str(process) for process in left_running(self.mark, MARK)]

    def close(self) -> None:
        """End it, whatever a test has left."""
        if self.process.poll() is None:
            self.process.terminate()
            self.end()


def copy_checkout(to: Path) -> Path:
    """What a clone of the working tree as it is now would have: nothing that git ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def state_of(data: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((data / "cluster.json").read_text())
    return state


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, with the virtual environment of the original."""
    copy = copy_checkout(tmp_path_factory.mktemp("checkout") / "pulzar")
    (copy / ".venv").symlink_to(sys.prefix)
    return copy


@pytest.fixture(scope="module")
def demonstrated(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Up:
    """`ops/up --exit`, ended."""
    place = tmp_path_factory.mktemp("demonstrated")
    up = Up(checkout, place / "output", "--exit", "--data", "here", "--ports", str(free_base()))
    try:
        up.end(START_SECS)
    finally:
        up.close()
    return up


@pytest.fixture(scope="module")
def started(checkout: Path, demonstrated: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A second start on the data that the first one left, in the foreground."""
    place = tmp_path_factory.mktemp("second")
    shutil.copytree(demonstrated.output.parent / "here", place / "data")
    for name in PRIVATE:  # as an ops/up made them once
        (place / "data" / name).chmod(0o755)
    up = Up(checkout, place / "output", "--data", str(place / "data"), "--ports", str(free_base()))
    try:
        up.shows(LAST_LINE)
        yield up
    finally:
        up.close()


@pytest.fixture
def second_start(started: Up) -> Up:
    """The same, whole: one of its processes may have been killed by the test before."""
    wait_for(lambda: is_whole(state_of(started.output.parent / "data")), START_SECS, "all of its processes", pause=0.1)
    return started


def is_whole(state: dict[str, Any]) -> bool:
    """Whether every process of a cluster answers, and the master has heard of every node lately."""
    try:
        health = http_request("GET", f"{state['master']['url']}/health")
        rows = http_request("GET", f"{state['master']['url']}/admin/network").data
        nodes = [http_request("GET", f"{node['url']}/health") for node in state["nodes"]]
    except OSError:
        return False
    return {answer.status for answer in (health, *nodes)} == {200} and [row["synch"] for row in rows] == [True, True]


def test_exit_shows_the_store_at_work_and_leaves_nothing_running(demonstrated: Up) -> None:
    # Given that `ops/up --exit` has ended: it went well
    assert demonstrated.process.returncode == 0, demonstrated.text
    # Then every step was shown with its time, on real files
    steps = re.findall(r"^  (.+) … \d+\.\d s$", demonstrated.text, re.MULTILINE)
    assert steps[:2] == ["starting RabbitMQ", "starting the master and 2 nodes"]
    assert re.fullmatch(r"storing \S+, [\d,]+ bytes", steps[2])
    assert "32 MiB" in steps[3]
    assert steps[4:6] == ["reading both back and comparing", "deleting demo/large.bin"]
    # And nothing runs any more
    assert demonstrated.left() == []
    # And the data is where --data said, seen from where the user stood
    data = demonstrated.output.parent / "here"
    assert {path.name for path in data.iterdir()} == {"rabbitmq", "master", "node-1", "node-2", "logs", "cluster.json"}
    assert state_of(data)["running"] is False


def test_what_it_keeps_is_for_its_owner_alone(demonstrated: Up, second_start: Up) -> None:
    # Values, logs, sockets, RabbitMQ's files: nothing of it is for anybody else
    data = demonstrated.output.parent / "here"
    for path in (data, *data.rglob("*")):
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    # And directories that were open to others are so no more after a start
    for name in PRIVATE:
        assert stat.S_IMODE((second_start.output.parent / "data" / name).stat().st_mode) == 0o700


def test_a_second_start_finds_its_data(second_start: Up) -> None:
    state = state_of(second_start.output.parent / "data")
    stored = re.search(r"^  storing (\S+), ([\d,]+) bytes", second_start.text, re.MULTILINE)
    assert stored
    # Given a key that only the second start can have overwritten, and the one that the first deleted
    url = state["master"]["url"]
    answer = http_request("GET", f"{url}/get_key/demo/{stored[1]}")
    assert (answer.status, len(answer.body)) == (200, int(stored[2].replace(",", "")))
    assert http_request("GET", f"{url}/get_key/demo/large.bin").status == 404


def test_a_key_outlives_a_restart_of_everything(checkout: Path, tmp_path: Path) -> None:
    # Given a cluster that was given a key and then stopped with Ctrl-C
    arguments = ("--data", str(tmp_path / "data"), "--ports", str(free_base()))
    first = Up(checkout, tmp_path / "first", *arguments)
    try:
        first.shows(LAST_LINE)
        url = state_of(tmp_path / "data")["master"]["url"]
        assert http_request("PUT", f"{url}/add_key/mine/notes.txt", b"worth keeping").status == 201
        asked = time.monotonic()
        first.ctrl_c()
        # Then it stops within seconds, as asked, and nothing of it is left
        assert first.end() == 0, first.text
        assert time.monotonic() - asked < 45
        assert first.left() == []
    finally:
        first.close()
    # When it is started once more
    again = Up(checkout, tmp_path / "again", *arguments)
    try:
        started = time.monotonic()
        again.shows(LAST_LINE)
        # Then that takes seconds, and the key is there
        assert time.monotonic() - started < 45
        assert http_request("GET", f"{url}/get_key/mine/notes.txt").body == b"worth keeping"
    finally:
        again.close()
    # SIGTERM, which `close` sends, stops it as well as Ctrl-C does
    assert again.process.returncode == 0
    assert again.left() == []


def test_cluster_json_tells_scripts_everything_and_nobody_else(second_start: Up) -> None:
    path = second_start.output.parent / "data" / "cluster.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    state = json.loads(path.read_text())
    assert state["running"] is True
    # Every process id is that of a process of this cluster
    running = {process.pid for process in left_running(second_start.mark, MARK)}
    pids = [state["pid"], state["master"]["pid"], state["broker"]["pid"], *(node["pid"] for node in state["nodes"])]
    assert len(set(pids)) == 5
    assert set(pids) <= running
    # Every address answers, at its place from the base on
    base = state["master"]["port"]
    assert [node["port"] for node in state["nodes"]] == [base + 1, base + 2]
    assert (state["broker"]["port"], state["console"]["port"]) == (base + 50, base + 51)
    for port in (base, base + 1, base + 2, base + 50, base + 51):
        assert not is_free(port)
    assert state["broker"]["url"].endswith(f":{state['broker']['password']}@127.0.0.1:{base + 50}/%2F")
    # The console lets its user in, and shows the master and the nodes connected
    login = f"{state['console']['user']}:{state['console']['password']}"
    curl = ["curl", "-sSf", "-u", login, f"{state['console']['url']}api/connections"]
    wait_for(lambda: len(json.loads(subprocess.check_output(curl))) >= 3, 60, "the connections in the console")
    # Every directory is inside the data directory, and a node's is all there is of it
    for place in [state["master"], *state["nodes"]]:
        assert Path(place["directory"]).parent == path.parent
        assert Path(place["directory"]).is_dir()


def test_the_lines_to_try_work_as_they_are_printed(second_start: Up) -> None:
    lines = [line.strip() for line in second_start.text.splitlines() if line.startswith("  curl ")]
    assert len(lines) == 7
    for line in lines:
        done = subprocess.run([*shlex.split(line), "-sS", "-w", "\n%{http_code}"], capture_output=True, text=True)
        assert done.stdout.rsplit("\n", 1)[1] in ("200", "201"), f"{line}: {done.stdout[-500:]} {done.stderr}"


@pytest.mark.parametrize("name", ["node-1", "master", "broker"])
def test_a_killed_process_is_started_again_and_that_is_said(second_start: Up, name: str) -> None:
    data = second_start.output.parent / "data"

    def process() -> dict[str, Any]:
        state = state_of(data)
        found: dict[str, Any] = {"node-1": state["nodes"][0], "master": state["master"], "broker": state["broker"]}[
            name
        ]
        return found

    # Given a process of the cluster
    before = process()["pid"]
    shown = "rabbitmq" if name == "broker" else name
    # When it is killed
    os.kill(before, signal.SIGKILL)
    # Then it is started again, both are said, and scripts find the new one
    second_start.shows(f"{shown} ended by signal SIGKILL")
    second_start.shows(f"{shown} started again, process ")
    wait_for(lambda: process()["pid"] not in (None, before))
    # And the store works again by itself
    url = state_of(data)["master"]["url"]

    def stored() -> bool:
        try:
            return http_request("PUT", f"{url}/add_key/after-{name}?overwrite=1", b"again").status == 201
        except OSError:
            return False

    wait_for(stored, START_SECS, f"a PUT that works after {name} was killed", pause=0.2)


def test_two_side_by_side_do_not_disturb_each_other(checkout: Path, second_start: Up, tmp_path: Path) -> None:
    # Given a cluster that runs, with a key
    one = state_of(second_start.output.parent / "data")
    url = f"{one['master']['url']}/add_key/only/here?overwrite=1"
    assert http_request("PUT", url, b"one").status == 201
    # When another one, of three nodes, is started on other ports in another directory, and ends
    data = tmp_path / "data"
    other = Up(checkout, tmp_path / "output", "--nodes", "3", "--data", str(data), "--ports", str(free_base()))
    try:
        other.shows(LAST_LINE)
        # Then it has its own nodes, keys and passwords
        two = state_of(data)
        assert [node["id"] for node in two["nodes"]] == ["node-1", "node-2", "node-3"]
        assert len(http_request("GET", f"{two['master']['url']}/admin/network").data) == 3
        assert http_request("GET", f"{two['master']['url']}/get_key/only/here").status == 404
        assert two["broker"]["password"] != one["broker"]["password"]
        assert two["secret"] != one["secret"]
        other.ctrl_c()
        other.shows("stopping")
        # A second Ctrl-C is for the impatient
        other.ctrl_c()
        other.end()
    finally:
        other.close()
    assert other.left() == []
    # And the first one never noticed
    assert http_request("GET", f"{one['master']['url']}/get_key/only/here").body == b"one"
    assert len(http_request("GET", f"{one['master']['url']}/admin/network").data) == 2


def test_settings_in_the_environment_reach_every_process_and_a_given_broker_is_used(
    checkout: Path, second_start: Up, tmp_path: Path
) -> None:
    # Given a broker that runs already, with a virtual host for us
    broker = state_of(second_start.output.parent / "data")["broker"]
    console = state_of(second_start.output.parent / "data")["console"]
    curl = ["curl", "-sSf", "-u", f"{console['user']}:{console['password']}", "-X", "PUT"]
    subprocess.run([*curl, f"{console['url']}api/vhosts/given"], check=True)
    url = f"{broker['url'].removesuffix('%2F')}given"
    # When a cluster is started with settings and that broker in the environment
    base = free_base()
    up = Up(
        checkout,
        tmp_path / "output",
        "--nodes",
        "1",
        "--exit",
        "--data",
        str(tmp_path / "data"),
        "--ports",
        str(base),
        PULZAR_BROKER_URL=url,
        PULZAR_GENERAL_LOG_LEVEL="warning",
        PULZAR_GENERAL_SECRET="a secret of ours",
    )
    try:
        assert up.end(START_SECS) == 0, up.text
    finally:
        up.close()
    # Then none was started, and the settings count
    state = state_of(tmp_path / "data")
    assert "RabbitMQ" not in up.text
    assert not (tmp_path / "data" / "rabbitmq").exists()
    assert (state["broker"]["url"], state["broker"]["vhost"], state["console"]) == (url, "given", None)
    assert state["secret"] == "a secret of ours"
    for log in ("master.log", "node-1.log"):
        assert " INFO " in (second_start.output.parent / "data" / "logs" / log).read_text()
        assert " INFO " not in (tmp_path / "data" / "logs" / log).read_text()


def test_a_folder_of_jobs_of_ones_own_needs_no_factorial(checkout: Path, tmp_path: Path) -> None:
    # Given job scripts of one's own
    (tmp_path / "jobs" / "mine").mkdir(parents=True)
    (tmp_path / "jobs" / "mine" / "nothing.py").write_text("pass\n")
    up = Up(
        checkout,
        tmp_path / "output",
        "--nodes",
        "1",
        "--exit",
        "--data",
        str(tmp_path / "data"),
        "--ports",
        str(free_base()),
        PULZAR_JOBS_DIR=str(tmp_path / "jobs"),
    )
    try:
        # Then all else is shown, it went well, and what was left out is said
        assert up.end(START_SECS) == 0, up.text
    finally:
        up.close()
    assert "deleting demo/large.bin" in up.text
    assert "running the job" not in up.text
    assert f"no job was run: {tmp_path / 'jobs'} has no example/factorial.py" in up.text


def test_a_demonstration_that_fails_is_said_and_the_cluster_stays(checkout: Path, tmp_path: Path) -> None:
    # Given a job of one's own that is called as the one that is shown, and does something else
    (tmp_path / "jobs" / "example").mkdir(parents=True)
    (tmp_path / "jobs" / "example" / "factorial.py").write_text("raise SystemExit('not today')\n")
    up = Up(
        checkout,
        tmp_path / "output",
        "--nodes",
        "1",
        "--data",
        str(tmp_path / "data"),
        "--ports",
        str(free_base()),
        PULZAR_JOBS_DIR=str(tmp_path / "jobs"),
    )
    try:
        # Then that is said, and the cluster runs on
        up.shows(LAST_LINE)
        assert re.search(r"The demonstration failed: GET \S+/admin/jobs/1: failed \(.*\), its output is None", up.text)
        assert "Pulzar is running" in up.text
        url = state_of(tmp_path / "data")["master"]["url"]
        assert http_request("GET", f"{url}/health").status == 200
        # And at its end the exit status has not forgotten
        up.ctrl_c()
        assert up.end() == 1, up.text
    finally:
        up.close()
    assert up.left() == []


def test_a_data_directory_in_use_and_a_taken_port_are_told_clearly(
    checkout: Path, second_start: Up, tmp_path: Path
) -> None:
    data = second_start.output.parent / "data"
    base = state_of(data)["master"]["port"]
    # When a second one wants the same directory
    same = Up(checkout, tmp_path / "same", "--exit", "--data", str(data), "--ports", str(free_base()))
    assert same.end() == 1
    assert f"another ops/up is running on {data}" in same.text
    assert state_of(data)["running"] is True
    # Or, in another directory, a port that is taken
    port = Up(checkout, tmp_path / "port", "--exit", "--data", str(tmp_path / "data"), "--ports", str(base - 1))
    assert port.end() == 1
    assert f"another program uses port {base} (node-1)" in port.text
    assert re.search(r"for example --ports \d+", port.text)
    assert not (tmp_path / "data").exists(), "a cluster that never started leaves nothing"
    # Or a data directory that is a file
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file, file / "below"):
        other = Up(checkout, tmp_path / "other", "--exit", "--data", str(path), "--ports", str(free_base()))
        assert other.end() == 1
        assert f"the data directory {path} can't be used" in other.text
        assert "Traceback" not in other.text
    assert file.read_text() == "mine"
    # Or has a setting with a slip of the pen
    slip = Up(checkout, tmp_path / "slip", "--exit", "--data", str(tmp_path / "data"), PULZAR_VOLUME_INLIN="1M")
    assert slip.end() == 1
    assert "PULZAR_VOLUME_INLIN in the environment is no setting; PULZAR_VOLUME_INLINE?" in slip.text


def test_a_cluster_that_can_not_start_says_why_and_leaves_nothing_running(checkout: Path, tmp_path: Path) -> None:
    # Given a master's data directory that is a file
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "master").write_text("in the way")
    # When a cluster is started on it
    base = free_base()
    up = Up(checkout, tmp_path / "output", "--exit", "--data", str(tmp_path / "data"), "--ports", str(base))
    try:
        # Then it ends, with the reason from the master's log
        assert up.end(START_SECS) == 1
        assert "master ended with status" in up.text
        assert str(tmp_path / "data" / "master") in up.text
    finally:
        up.close()
    assert up.left() == []
    assert is_free(base + AMQP)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_nothing_outlives_an_ops_up_that_is_killed(checkout: Path, tmp_path: Path) -> None:
    # Given a cluster in the foreground
    up = Up(checkout, tmp_path / "output", "--data", str(tmp_path / "data"), "--ports", str(free_base()))
    try:
        up.shows(LAST_LINE)
        # When ops/up itself is killed with -9
        up.process.kill()
        up.end()
        # Then everything it started ends by itself
        wait_for(lambda: not up.left(), START_SECS, "the end of all processes of a killed ops/up", pause=0.2)
    finally:
        up.close()


def test_help_needs_nothing_to_be_installed(tmp_path: Path) -> None:
    # Given a checkout without a virtual environment
    checkout = copy_checkout(tmp_path / "pulzar")
    done = subprocess.run([checkout / "ops" / "up", "--help"], capture_output=True, text=True, check=True)
    # Then the help is there, and nothing was made
    for option in ("--exit", "--data", "--nodes", "--ports", "PULZAR_BROKER_URL"):
        assert option in done.stdout
    assert not (checkout / ".venv").exists()


@pytest.mark.clean
@pytest.mark.timeout(900)
def test_from_nothing_and_with_a_half_made_environment(tmp_path: Path) -> None:
    # Given a fresh checkout, whose virtual environment was interrupted while it was made
    checkout = copy_checkout(tmp_path / "pulzar")
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    # When ops/up is run for the first time
    up = Up(checkout, tmp_path / "first", "--exit", "--ports", str(free_base()))
    try:
        assert up.end(600) == 0, up.text
    finally:
        up.close()
    # Then it has made the environment, and says so; its data is in the checkout, where git ignores it
    assert "making .venv" in up.text
    assert "installing requirements.lock" in up.text
    assert (checkout / "data" / "cluster.json").exists()
    # And the second time has nothing to install
    up = Up(checkout, tmp_path / "second", "--exit", "--ports", str(free_base()))
    try:
        assert up.end(60) == 0, up.text
    finally:
        up.close()
    assert up.text.startswith("  starting RabbitMQ")
