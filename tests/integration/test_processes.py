"""Child processes of ops/up: none is left behind, and one that dies is started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ops.cluster import processes
from ops.cluster.errors import ProcessDied
from ops.cluster.processes import ROOT, Child, Supervisor
from tests.support import left_running, wait_for

MARK = "PYTEST_CHILD_OF_PULZAR"

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
# A process with a child of its own in the same process group, as a web server has workers.
FAMILY = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]); {SLEEPER}"

MakeChild = Callable[[str], Child]


@pytest.fixture
def mark() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def make_child(tmp_path: Path, mark: str) -> Iterator[MakeChild]:
    made = []

    def make(program: str) -> Child:
        made.append(
            Child("it", [sys.executable, "-c", program], os.environ | {MARK: mark}, tmp_path / "logs" / "it.log")
        )
        return made[-1]

    yield make
    for child in made:
        child.kill()


def is_up(child: Child, times: int = 1) -> bool:
    return child.log.read_text().splitlines().count("up") >= times


def test_a_child_that_is_stopped_ends_by_its_own_will(make_child: MakeChild) -> None:
    # Given a child that tidies up when it is asked to stop
    child = make_child(
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: (print('tidy'), sys.exit(3))); "
        "print('up', flush=True); signal.pause()"
    )
    child.start()
    wait_for(lambda: is_up(child))
    # When it is stopped
    child.stop(grace=10)
    # Then it was given the time for it
    assert child.how_it_ended() == "with status 3"
    assert "tidy" in child.tail(5)


def test_a_child_that_ignores_the_request_is_killed_after_its_grace(make_child: MakeChild) -> None:
    child = make_child(STUBBORN)
    child.start()
    wait_for(lambda: is_up(child))
    started = time.monotonic()
    child.stop(grace=0.3)
    assert child.how_it_ended() == "by signal SIGKILL"
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize("end", [Child.stop, Child.kill], ids=["stopped", "killed"])
def test_nothing_of_its_process_group_is_left(make_child: MakeChild, mark: str, end: Callable[[Child], None]) -> None:
    # Given a child that has a child, which ignores SIGTERM
    child = make_child(FAMILY)
    child.start()
    wait_for(lambda: is_up(child, times=2))
    assert len(left_running(mark, MARK)) == 2
    # When the first is ended
    end(child)
    # Then both are gone
    wait_for(lambda: not left_running(mark, MARK))


def test_what_is_left_of_a_group_goes_as_soon_as_the_death_of_its_first_process_is_seen(
    make_child: MakeChild, mark: str
) -> None:
    child = make_child(FAMILY)
    child.start()
    wait_for(lambda: is_up(child, times=2))
    # When only the first process is killed
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)
    wait_for(lambda: not child.running)
    # Then the other one is gone too
    wait_for(lambda: not left_running(mark, MARK))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_children_do_not_outlive_a_parent_that_is_killed(tmp_path: Path, mark: str) -> None:
    # Given a process that starts a child from a thread, which ends when the child is up
    log = tmp_path / "it.log"
    program = f"""
import os, pathlib, sys, threading, time
from ops.cluster.processes import Child

log = pathlib.Path({str(log)!r})

def start():
    Child("it", [sys.executable, "-c", {SLEEPER!r}], os.environ, log).start()
    while "up" not in log.read_text():
        time.sleep(0.01)

thread = threading.Thread(target=start)
thread.start()
thread.join()
while os.path.exists(f"/proc/self/task/{{thread.native_id}}"):
    time.sleep(0.01)
print("started", flush=True)
time.sleep(600)
"""
    environment = os.environ | {MARK: mark}
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout
            assert parent.stdout.readline() == b"started\n"
            assert len(left_running(mark, MARK)) == 2
        finally:
            # When the parent is killed with -9
            parent.kill()
    # Then the child is gone
    wait_for(lambda: not left_running(mark, MARK))


def test_a_child_that_ended_is_told_with_the_end_of_its_log(make_child: MakeChild) -> None:
    child = make_child("print('first'); raise SystemExit('no room for it')")
    child.start()
    wait_for(lambda: not child.running)
    with pytest.raises(ProcessDied, match=r"(?s)it ended with status 1\..*it\.log.*no room for it"):
        child.check()


def test_a_command_that_does_not_exist_says_so(tmp_path: Path) -> None:
    child = Child("it", ["/nowhere/program"], os.environ, tmp_path / "it.log")
    child.start()
    wait_for(lambda: not child.running)
    with pytest.raises(ProcessDied, match=r"/nowhere/program can't be started: .*No such file"):
        child.check()


def test_a_supervisor_starts_a_dead_child_again_with_backoff_and_says_so(make_child: MakeChild) -> None:
    # Given a child that dies as soon as it is up
    child = make_child("print('up')")
    said: list[str] = []
    changes: list[int | None] = []
    supervisor = Supervisor([child], said.append, lambda: changes.append(child.pid))
    child.start()
    # When it is supervised
    supervisor.start()
    try:
        wait_for(lambda: len(changes) >= 3)
    finally:
        supervisor.close()
    # Then each start waits twice as long as the one before, and everything is told
    ends = [line for line in said if "ended" in line]
    assert [line.rsplit("in ", 1)[1] for line in ends[:3]] == ["0.2 s", "0.4 s", "0.8 s"]
    assert all("with status 0" in line and str(child.log) in line for line in ends)
    assert len([line for line in said if "started again, process" in line]) == len(changes)


def test_a_supervisor_leaves_a_child_alone_that_was_stopped(make_child: MakeChild) -> None:
    # Given two supervised children
    stopped, killed = make_child(SLEEPER), make_child(SLEEPER)
    said: list[str] = []
    supervisor = Supervisor([stopped, killed], said.append, lambda: None)
    for child in (stopped, killed):
        child.start()
    supervisor.start()
    try:
        # When one is stopped and then one is killed
        stopped.stop()
        before = killed.pid
        killed.kill()
        wait_for(lambda: killed.pid not in (None, before))
    finally:
        supervisor.close()
    # Then only the killed one was started again
    assert not stopped.running
    assert killed.pid
    assert psutil.pid_exists(killed.pid)
    assert len(said) == 2


def test_a_long_log_is_made_short_while_its_process_writes(
    make_child: MakeChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a supervised process that writes line after line
    monkeypatch.setattr(processes, "TRIM_EVERY_SECS", 0.1)
    monkeypatch.setattr(processes, "MOST_LOG_BYTES", 20_000)
    child = make_child(
        "import itertools, time\nfor number in itertools.count(): print(number, 'x' * 100, flush=True); time.sleep(0.001)"
    )
    child.start()
    supervisor = Supervisor([child], lambda text: None, lambda: None)
    supervisor.start()
    before = child.log.with_name("it.log.1")
    # When its log has become long, twice
    wait_for(before.exists, what="the first log")
    first = before.read_bytes()
    wait_for(lambda: before.read_bytes()[:50] != first[:50], what="the second log")
    supervisor.close()
    # Then the log begins anew, nothing but whole lines is in it, and what came before is beside it
    child.kill()
    assert child.log.stat().st_size < 10 * 20_000
    assert len(first) > 20_000
    lines = before.read_text().split("\n")[1:-1]
    assert lines
    assert all(line.endswith("x" * 100) for line in lines)
    assert "\0" not in child.log.read_text()
    assert sorted(path.name for path in child.log.parent.iterdir()) == ["it.log", "it.log.1"]
