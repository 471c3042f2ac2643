"""Processes that are killed with -9: the agent, the zygote, both; and machines that allow less."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import SettingsError
from broker.messages.runs import RunState
from node.runs import processes
from node.runs.framing import Frames
from node.runs.model import Run, RunLimits
from node.runs.protocol import RUN, RunOrder, ZygoteOptions
from node.runs.runner import Runner
from tests.support import wait_for
from tests.unit.runs import ROOT, Node, alive, descriptors, is_zygote, separate, zombies

# It leaves a child in the group, one in a session of its own, and a daemon that can't be told by its environment.
FAMILY = """
    import os, subprocess, time
    subprocess.Popen(["sleep", "1000.MARK"])
    subprocess.Popen(["sleep", "1000.MARK"], start_new_session=True)
    subprocess.Popen(["env", "-i", "setsid", "-f", "sleep", "1000.MARK"])
    if not os.fork():
        os.setsid()
        os.closerange(0, 256)
        time.sleep(1000)
    with open(__file__ + ".pid", "w") as file:
        file.write(str(os.getpid()))
    print("on")
    time.sleep(1000)
"""
FAMILY_SIZE = 4  # without the daemon


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    node.script("test/family", FAMILY.replace("MARK", str(time.monotonic_ns())))
    node.script("test/noop", "print('done')")
    yield node
    node.stop()
    left = family(node)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
    assert not alive(str(tmp_path))


def family(node: Node) -> list[int]:
    """The processes of the runs of `test/family` that can be told."""
    mark = (node.scripts / "test/family.py").read_text().partition('"1000.')[2].partition('"')[0]
    return [pid for pid in alive("1000." + mark) if not is_zygote(pid)]


def leader_of(node: Node) -> int:
    """The process of the last run of `test/family`, 0 when that is not written down yet."""
    return int((node.scripts / "test/family.py.pid").read_text() or 0)


@pytest.fixture
def agent(node: Node) -> Iterator[subprocess.Popen[str]]:
    process = separate(node.directory)
    yield process
    process.kill()
    process.wait()


def order(agent: subprocess.Popen[str], job: str) -> None:
    assert agent.stdin
    agent.stdin.write(json.dumps(job) + "\n")
    agent.stdin.flush()


def answer(agent: subprocess.Popen[str]) -> list[str]:
    assert agent.stdout
    told: list[str] = json.loads(agent.stdout.readline())
    return told


def test_an_agent_that_is_killed_takes_everything_with_it(node: Node, agent: subprocess.Popen[str]) -> None:
    # Given two runs with processes that went their own ways
    order(agent, "test/family")
    order(agent, "test/family")
    wait_for(lambda: len(family(node)) == 6)
    # When the agent is killed
    agent.kill()
    # Then zygote, runs, and what they started are soon gone: in a second or two, where there is room to work
    wait_for(lambda: not family(node) and not [p for p in alive(str(node.directory)) if p != agent.pid])


def test_an_agent_and_a_zygote_that_are_killed_leave_what_the_next_agent_kills(
    node: Node, agent: subprocess.Popen[str]
) -> None:
    order(agent, "test/family")
    leader = wait_for(lambda: (node.scripts / "test/family.py.pid").exists() and leader_of(node))
    wait_for(lambda: len(family(node)) == 3)
    # When nobody is left to clean up
    zygote = node.zygote
    os.kill(zygote, signal.SIGSTOP)
    agent.kill()
    os.kill(zygote, signal.SIGKILL)
    wait_for(lambda: zygote not in alive(str(node.directory)))
    # Then the kernel ends the runs themselves,
    wait_for(lambda: processes.ended(leader))
    assert len(family(node)) == 3
    # and what they left the next agent does, before it runs anything
    node.start()
    assert not family(node)
    assert not node.others()
    assert node.run("test/noop").log == b"done\n"


def test_a_copy_of_the_directory_kills_nothing_of_the_other_node(
    node: Node, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = node.begin("test/family")
    node.printed(run, "on")
    copy = Node(tmp_path_factory.mktemp("copy") / "node")
    shutil.copytree(node.directory, copy.directory)
    try:
        assert copy.run("test/noop").end.state is RunState.COMPLETED
        assert len(node.others()) == FAMILY_SIZE
    finally:
        copy.stop()
    assert len(node.others()) == FAMILY_SIZE


def test_runs_of_a_killed_zygote_have_failed_and_others_go_on(node: Node) -> None:
    runs = [node.begin("test/family") for _ in range(2)]
    for run in runs:
        node.printed(run, "on")
    # When the zygote is killed
    os.kill(node.zygote, signal.SIGKILL)
    began = time.monotonic()
    for run in runs:
        outcome = node.outcome(run)
        assert outcome.end.state is RunState.FAILED
        assert outcome.end.reason == "the node's job process ended (killed by signal 9 (SIGKILL))"
        assert outcome.log == b"on\n"
    # Then nothing is left of them, and there is a new one
    assert time.monotonic() - began < 40
    assert not family(node)
    assert node.run("test/noop").log == b"done\n"
    assert not node.others()
    assert not zombies(os.getpid())
    assert not list((node.work / "scratch").iterdir())


def test_a_zygote_may_be_killed_again_and_again(node: Node) -> None:
    for _ in range(3):
        outcome = node.run("test/noop")
        assert (outcome.end.state, outcome.end.reason, outcome.log) == (RunState.COMPLETED, "", b"done\n")
        zygote = node.zygote
        os.kill(zygote, signal.SIGKILL)
        # By what the runner knows: what the old one has kept ready lives on for a moment, and looks like a new one.
        wait_for(lambda zygote=zygote: node.runner._zygote and node.runner._zygote.pid != zygote)
    # A run that is ordered while there is none waits for the next, and can be cancelled meanwhile
    os.kill(node.zygote, signal.SIGKILL)
    wait_for(lambda: node.runner._zygote is None)
    run, cancelled = node.begin("test/noop"), node.begin("test/family")
    node.runner.cancel(cancelled)
    assert node.outcome(cancelled).end.state is RunState.CANCELLED
    assert node.outcome(run).log == b"done\n"


def test_a_cancelled_run_stays_cancelled_when_the_zygote_is_killed(node: Node) -> None:
    node.script("test/deaf", "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('on')\ntime.sleep(60)")
    node.start(grace=20.0)
    run = node.begin("test/deaf")
    node.printed(run, "on")
    node.runner.cancel(run)
    os.kill(node.zygote, signal.SIGKILL)
    assert (node.outcome(run).end.state, node.outcome(run).end.reason) == (RunState.CANCELLED, "cancelled")


def test_spares_that_are_killed_are_replaced(node: Node) -> None:
    node.run("test/noop")
    for _ in range(5):
        spares = [pid for pid in alive(str(node.directory)) if pid != node.zygote]
        for pid in spares:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda spares=spares: all(map(processes.ended, spares)))
        assert node.run("test/noop").log == b"done\n"
    assert not zombies(node.zygote)


def test_a_signal_to_all_processes_does_not_end_the_zygote(node: Node) -> None:
    node.run("test/noop")
    zygote = node.zygote
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(zygote, number)
    assert node.run("test/noop").log == b"done\n"
    assert node.zygote == zygote


def test_stopping_ends_everything_and_tells_nothing_more(node: Node) -> None:
    node.script(
        "test/tidy",
        "import signal, time\nsignal.signal(15, lambda *_: print('tidy') or exit())\nprint('on')\ntime.sleep(60)",
    )
    node.script("test/deaf", "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('on')\ntime.sleep(60)")
    node.run("test/noop")
    for run in [node.begin(job) for job in ("test/family", "test/tidy", "test/deaf")]:
        node.printed(run, "on")
    before = len(os.listdir("/proc/self/fd"))
    began = time.monotonic()
    node.stop()
    assert 0.5 <= time.monotonic() - began < 40
    assert not alive(str(node.directory))
    assert len(node.ends) == 1
    assert len(os.listdir("/proc/self/fd")) < before
    # A runner that has nothing to end is stopped at once
    node.start()
    node.run("test/noop")
    began = time.monotonic()
    node.stop()
    assert time.monotonic() - began < 5


def test_an_end_that_can_not_be_handled_does_not_stop_the_runner(node: Node, tmp_path: Path) -> None:
    ends = []

    def fail(outcome: object) -> None:
        ends.append(outcome)
        raise RuntimeError("no")

    runner = Runner(
        node.work, node.scripts, RunLimits(), environment=os.environ, on_end=fail, on_progress=lambda progress: None
    )
    runner.start()
    for number in range(1, 4):
        runner.run(Run(f"{number:x}", 1, 1, "test/noop", {}))
        wait_for(lambda number=number: len(ends) == number)
    runner.stop()


def test_orders_before_the_start_are_kept_and_after_the_end_do_nothing(node: Node) -> None:
    ends: list[object] = []
    runner = Runner(
        node.work, node.scripts, RunLimits(), environment=os.environ, on_end=ends.append, on_progress=lambda _: None
    )
    runner.stop()
    runner.run(Run("1", 1, 1, "test/noop", {}))
    runner.start()
    wait_for(lambda: len(ends) == 1)
    runner.stop()
    # Given that the next file has a number that the runner had
    with (node.directory / "file").open("wb", buffering=0) as file:
        others = [os.dup(file.fileno()) for _ in range(10)]
        runner.run(Run("2", 1, 1, "test/noop", {}))
        runner.cancel("2")
        runner.stop()
        assert os.fstat(file.fileno()).st_size == 0
        for other in others:
            os.close(other)
    assert len(ends) == 1


def test_a_directory_that_can_not_be_used_and_tokens_that_are_none(node: Node, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    runner = Runner(
        tmp_path / "file" / "x", node.scripts, RunLimits(), environment=os.environ, on_end=print, on_progress=print
    )
    with pytest.raises(SettingsError, match="can't be used for runs: Not a directory"):
        runner.start()
    for token in ("", "..", "a/b", "x", "A", "0" * 65):
        with pytest.raises(ValueError, match="is no token"):
            node.runner.run(Run(token, 1, 1, "test/noop", {}))


def test_a_run_for_which_there_is_no_process_or_no_descriptor_fails(node: Node, tmp_path: Path) -> None:
    # Given a zygote that can't fork
    ours, theirs = socket.socketpair()
    directory = tmp_path / "zygote"
    directory.mkdir()
    options = ZygoteOptions(theirs.fileno(), "a" * 64, str(directory), str(node.scripts), 2, 100, 1000)
    code = "from node.runs import processes, zygote\ndef fork(_): raise BlockingIOError(11, 'No room')\n"
    code += "processes.fork = fork\nzygote.main()"
    command = [sys.executable, "-c", code, json.dumps(options)]
    with subprocess.Popen(command, cwd=ROOT, pass_fds=(theirs.fileno(),)) as zygote:
        theirs.close()
        frames = Frames(ours)
        assert frames.receive() == [[[], "", False]]  # there is no fence
        for token in ("1", "2"):
            frames.send([RUN, RunOrder(token, 1, 1, "test/noop", b"{}", "", "", 0)], os.pipe2(os.O_CLOEXEC))
            # Then it says so and goes on
            assert frames.receive() == [[token, 256, False, "the run can't be started: No room", "", [], False]]
        assert descriptors(zygote.pid) < 10
        frames.close()
        assert zygote.wait(60) == 0
    # Given an agent that has no descriptors left
    assert node.run("test/noop").end.state is RunState.COMPLETED
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = max(int(name) for name in os.listdir("/proc/self/fd"))
    held = [os.dup(0) for _ in range(taken)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 2, before[1]))
    try:
        outcome = node.run("test/noop")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in held:
            os.close(descriptor)
    assert (outcome.end.state, outcome.end.reason) == (RunState.FAILED, "the run can't be started: Too many open files")
    assert node.run("test/noop").end.state is RunState.COMPLETED


def test_where_marks_can_not_be_set_sessions_and_environments_tell(node: Node) -> None:
    # Given an agent that may not raise its limits, the one that is used for marks being at the bottom
    lower = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]
    if not shutil.which("setpriv") or subprocess.run([*lower, "true"], check=False).returncode:
        pytest.skip("needs setpriv and the right to use it")
    code = "import os, resource, sys; resource.setrlimit(10, (0, 0)); os.execvp(sys.argv[1], sys.argv[1:])"
    agent = separate(node.directory, sys.executable, "-c", code, *lower)
    try:
        order(agent, "test/noop")
        assert answer(agent) == ["completed", "", "done\n"]
        limit = Path(f"/proc/{node.zygote}/limits").read_text()
        assert [line.split()[-3:-1] for line in limit.splitlines() if "locks" in line and "file" in line] == [
            ["0", "0"]
        ]
        # When a run leaves children in its group, in sessions, and daemons that were forked only
        text = """
            import os, subprocess, time
            subprocess.Popen(["sleep", "1000"])
            subprocess.Popen(["sleep", "1000"], start_new_session=True)
            if not os.fork():
                os.setsid()
                os.fork()
                time.sleep(1000)
            time.sleep(0.2)
        """
        node.script("test/leaves", text)
        order(agent, "test/leaves")
        assert answer(agent)[0] == "completed"
        # Then they are killed too
        wait_for(lambda: not node.others())
        # and when the agent is killed
        order(agent, "test/family")
        wait_for(lambda: len(family(node)) == 3)
        agent.kill()
        agent.wait()
        wait_for(lambda: not alive(str(node.directory)))
        # But for the daemon with an empty environment, which nothing tells
        daemons = family(node)
        assert len(daemons) <= 1
        for pid in daemons:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not family(node), what="its end")
    finally:
        agent.kill()
        agent.wait()


def test_a_runner_of_its_own_process_works_from_any_directory(node: Node) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.unit.runs", str(node.directory)]
    done = subprocess.run(
        command, cwd="/", env=environment, input='"test/noop"\n', capture_output=True, text=True, timeout=30, check=True
    )
    # It may be stopped before the run was over, but nothing else
    assert done.stdout in ("", '["completed", "", "done\\n"]\n')
