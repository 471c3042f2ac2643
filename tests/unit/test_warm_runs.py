"""Runs that follow each other in one process: what is new in each, and what ends the process."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.messages.runs import RunState
from node.runs.model import Outcome
from node.runs.zygotes import workers
from node.runs.zygotes.workers import Key, Worker, Workers
from tests.support import wait_for
from tests.unit.runs import Node, alive

COUNT = """
    # pulzar: reuse={reuse}
    import os, sys
    from jobs import run
    sys.counted = getattr(sys, "counted", 0) + 1
    {body}
    run.output([os.getpid(), sys.counted])
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    directory = tmp_path_factory.mktemp("warm")
    node = Node(directory).start(workers=3, spares=2)
    yield node
    node.stop()
    wait_for(lambda: not alive(str(directory)), what="the end of all that was run")


@pytest.fixture
def node(shared: Node, request: pytest.FixtureRequest) -> Node:
    """The node that all tests here share; each has scripts of its own."""
    shared.job = f"warm/t{abs(hash(request.node.name))}"  # type: ignore[attr-defined]
    return shared


def write(node: Node, body: str = "", reuse: int = 100) -> str:
    """Write a script that tells its process and how many runs that had; it runs once, and is known then."""
    job: str = node.job  # type: ignore[attr-defined]
    body = "\n    ".join(body.strip().split("\n"))
    file = node.script(job, COUNT.replace("{reuse}", str(reuse)).replace("{body}", body))
    os.utime(file, (1, 1))  # not just now
    assert node.run(job).end.state is RunState.COMPLETED
    return job


def told(outcome: Outcome) -> tuple[int, int]:
    """The process of a run, and how many it had."""
    assert outcome.end.state is RunState.COMPLETED, (outcome.end.reason, outcome.log)
    pid, count = json.loads(outcome.output)
    return pid, count


def test_runs_follow_each_other_in_one_process_up_to_a_number(node: Node) -> None:
    job = write(node, reuse=3)
    found = [told(node.run(job)) for _ in range(7)]
    assert [count for _, count in found] == [1, 2, 3, 1, 2, 3, 1]
    assert len({pid for pid, _ in found}) == 3
    # A script that does not say so has a process of its own each time
    node.script("warm/plain", "import os\nfrom jobs import run\nrun.output(os.getpid())")
    assert len({node.run("warm/plain").output for _ in range(3)}) == 3


def test_each_run_has_its_own_surroundings(node: Node) -> None:
    job = write(
        node,
        """
import atexit, random, signal, tempfile
from pathlib import Path
told = [run.arguments, run.job_id, run.attempt, sys.argv[1:], Path.cwd() == run.scratch, os.listdir("."), os.umask(0)]
told += [signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, os.environ.get("LEFT"), Path(os.environ["HOME"]) == run.scratch]
told += [os.listdir(run.scratch.parent) if run.scratch.parent.name[0] == "w" else [run.scratch.name]]
print(told)
print("end", file=open("file", "w"))
left = open("left", "w")
left.write("never closed")
atexit.register(lambda: print("at the end", Path("file").read_text().strip()))
os.environ["LEFT"] = "1"
os.chdir("/")
os.chdir(run.scratch)
os.umask(0o11)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.setitimer(signal.ITIMER_REAL, 0.05)
signal.signal(signal.SIGALRM, lambda *_: None)
print("numbers", random.random())
random.seed(1)
class Tee:
    def __init__(self, stream): self.stream = stream
    def write(self, text): return self.stream.write(text)
    def flush(self): self.stream.flush()
sys.stdout = Tee(sys.stdout)
""",
    )
    outcomes = [
        node.run(job, {"number": number}, job_id=number, attempt=number + 1, argv=(f"-{number}",))
        for number in range(1, 6)
    ]
    assert {told(outcome)[0] for outcome in outcomes} == {told(outcomes[0])[0]}
    mask = os.umask(0o022)
    os.umask(mask)
    numbers = set()
    for number, outcome in enumerate(outcomes, 1):
        lines = outcome.log.decode().splitlines()
        surroundings = [{"number": number}, number, number + 1, [f"-{number}"], True, [], mask, True, None, True]
        assert lines[0] == str([*surroundings, [str(number)]])
        assert lines[2:] == ["at the end end"]
        numbers.add(lines[1])
    assert len(numbers) == 5
    scratch = node.work / "scratch"
    assert [each for each in scratch.rglob("*") if each.name in ("file", "left")] == []


def test_a_class_stays_loaded_and_gets_a_new_object_for_each_run(node: Node) -> None:
    job = "warm/kept"
    text = """
        import atexit, os
        from jobs import Job
        from . import shelf
        print("loaded")
        atexit.register(print, "at the end of the process")

        class Kept(Job):
            reuse: int = 50

            def __init__(self):
                self.mine = []

            async def execute(self):
                atexit.register(print, "at the end of the run")
                shelf.ALL.append(self.job_id)
                self.mine.append(self.job_id)
                self.log("-")
                return [os.getpid(), shelf.ALL, self.mine]
    """
    node.script("warm/shelf", "ALL = []")
    os.utime(node.script(job, text), (1, 1))
    node.run(job, job_id=1)
    first, second = node.run(job, job_id=2), node.run(job, job_id=3)
    assert first.log == b"loaded\n-\nat the end of the run\n"
    assert second.log == b"-\nat the end of the run\n"
    pid, everything, mine = json.loads(second.output)
    assert (pid, everything, mine) == (json.loads(first.output)[0], [2, 3], [3])
    # When the module beside it changes, its state is gone
    (node.scripts / "warm/shelf.py").write_text("ALL = ['new']")
    assert json.loads(node.run(job, job_id=4).output)[1:] == [["new", 4], [4]]


ENDS = {
    "an exception": ("raise ValueError('no')", RunState.FAILED),
    "an exit": ("sys.exit(0)", RunState.COMPLETED),
    "a thread": ("import threading; threading.Timer(0.2, print, ['later']).start()", RunState.COMPLETED),
    "a daemon thread": ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", None),
    "a child": ("import subprocess; subprocess.Popen(['sleep', '1000'])", None),
    "a closed stream": ("sys.stdout.close()", None),
    "a closed pipe": ("os.close(60)", RunState.FAILED),
    "a replaced descriptor": ("os.dup2(os.open('/dev/null', os.O_WRONLY), 1)", None),
    "a limit": ("import resource; resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))", None),
    "niceness": ("os.nice(1)", None),
    "its memory": ("sys.held = bytearray(os.urandom(1 << 20) * 270)", None),
    "a signal": ("os.kill(os.getpid(), 9)", RunState.FAILED),
    "what it writes to the zygote": ("os.write(3, bytes([0, 0, 0, 1, 0]) * 10)", None),
    "what it pretends": ("import msgpack; b = msgpack.packb([[[1, 2]]]); os.write(3, len(b).to_bytes(4) + b)", None),
    "too much for the zygote": ("os.write(3, (1 << 30).to_bytes(4))", None),
}


@pytest.mark.parametrize("what", ENDS)
def test_a_process_with_something_left_is_not_used_again(node: Node, what: str) -> None:
    action, state = ENDS[what]
    job = write(node, f"if run.arguments: {action}")
    pid, count = told(node.run(job))
    assert count == 1
    outcome = node.run(job, {"now": True})
    assert outcome.end.state is (state or RunState.COMPLETED), outcome
    if what == "a thread":
        assert outcome.log == b"later\n"
    if what == "a child":
        assert b"killed at the end: sleep 1000" in outcome.log
    following, count = told(node.run(job))
    assert (following != pid, count) == (True, 1)
    wait_for(lambda: not Path(f"/proc/{pid}").exists())


def test_a_changed_script_has_another_process(node: Node) -> None:
    job = write(node)
    pid, _ = told(node.run(job))
    file = node.scripts / f"{job}.py"
    file.write_text(file.read_text() + "\nprint('new')\n")
    outcome = node.run(job)
    assert (outcome.log, told(outcome)[0] != pid) == (b"new\n", True)


def test_only_runs_of_one_caller_and_one_limit_follow_each_other(node: Node) -> None:
    job = write(node)
    found = {
        (caller, memory): [told(node.run(job, caller=caller, memory=memory)) for _ in range(2)]
        for caller in ("", "ada", "bob")
        for memory in (0, 256 << 20)
    }
    pids = {key: {pid for pid, _ in each} for key, each in found.items()}
    assert all(len(each) == 1 for each in pids.values())
    assert len(set.union(*pids.values())) == 6
    # No more than three wait for another run
    wait_for(lambda: sum(Path(f"/proc/{pid}").exists() for pid in set.union(*pids.values())) == 3)


def test_cancel_and_timeout_end_the_process_and_meet_no_other_run(node: Node) -> None:
    job = write(node, "import time; print('on', flush=True); time.sleep(run.arguments.get('seconds', 0))")
    for _ in range(2):
        pid, _ = told(node.run(job))
        run = node.begin(job, {"seconds": 1000})
        node.printed(run, "on")
        node.runner.cancel(run)
        assert node.outcome(run).end.state is RunState.CANCELLED
        assert told(node.run(job))[0] != pid
        late = node.run(job, {"seconds": 1000}, timeout=0.1)
        assert late.end.reason == "ran longer than 0.1 s"
    # When one is cancelled that has just ended, the next run in its process is not
    for _ in range(20):
        run = node.begin(job)
        node.outcome(run)
        following = node.begin(job)
        node.runner.cancel(run)
        told(node.outcome(following))


def test_the_limit_of_memory_counts_for_each_run(node: Node) -> None:
    job = write(node, "if run.arguments: import time; held = bytearray(os.urandom(1 << 20) * 120); time.sleep(9)")
    told(node.run(job, memory=96 << 20))
    told(node.run(job, memory=96 << 20))
    assert "used more than 96 MiB" in node.run(job, {"now": True}, memory=96 << 20).end.reason
    assert told(node.run(job, memory=96 << 20))[1] == 1


def test_processes_that_wait_may_be_killed_or_frozen(node: Node) -> None:
    job = write(node)
    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
        pid, _ = told(node.run(job))
        os.kill(pid, number)
        wait_for(lambda pid=pid: state_of(pid) in ("", "T"))
        assert told(node.run(job))[0] != pid
        wait_for(lambda pid=pid: not state_of(pid))


# Makes the process kill itself at a certain moment after its run: when the next task has come and is not read, or when
# it has said that its run is over.
TRAP = """
import gc, select
gc.unfreeze()
found = [each for each in gc.get_objects() if type(each).__name__ == "Frames" and each.socket.fileno() == 3]
frames, send = (found[0], found[0].send) if found else (None, None)
def receive(select=select.select, frames=frames, kill=os.kill, pid=os.getpid()):
    select([frames.socket], [], [])
    kill(pid, 9)
def send_and_die(message, send=send, kill=os.kill, pid=os.getpid()):
    send(message)
    kill(pid, 9)
trap = run.arguments.get("trap")
if trap == "unread":
    frames.receive = receive
if trap == "over":
    frames.send = send_and_die
"""


def test_a_run_whose_process_is_killed_at_the_hand_over_begins_in_another_one(node: Node, tmp_path: Path) -> None:
    value = tmp_path / "value"
    value.write_bytes(b"a value")
    job = write(node, f"{TRAP}\nprint(run.data_path.read_text() if run.data_path else 'none')")
    for data in ("", str(value)):
        # Given a process that is killed when it has a task, and has not read it
        trapped, _ = told(node.run(job, {"trap": "unread"}))
        ended = len(node.ends)
        # When that task comes, then its run begins in another process, once
        outcome = node.run(job, data_path=data, data_key="value" if data else "")
        assert told(outcome)[0] != trapped
        assert outcome.log == (b"a value\n" if data else b"none\n")
        assert len(node.ends) == ended + 1
        wait_for(lambda trapped=trapped: not state_of(trapped))


def test_a_run_whose_process_is_killed_when_it_is_over_is_completed(node: Node, tmp_path: Path) -> None:
    wait = "import time\nprint(os.getpid(), flush=True)\nwhile not os.path.exists(run.arguments.get('gate', '/')): time.sleep(0.01)"
    job, gate = write(node, f"{TRAP}\n{wait}"), tmp_path / "gate"
    run = node.begin(job, {"trap": "over", "gate": str(gate)})
    pid = int(wait_for(lambda: [told.log for told in node.progress if told.run.token == run and told.log])[0])
    # Given a process that says that its run is over, and is killed, before the zygote hears of either
    os.kill(node.zygote, signal.SIGSTOP)
    try:
        gate.touch()
        wait_for(lambda: state_of(pid) == "Z")
    finally:
        os.kill(node.zygote, signal.SIGCONT)
    # Then what it has said counts
    assert told(node.outcome(run))[0] == pid
    assert told(node.run(job))[1] == 1


def test_the_death_of_the_zygote_ends_processes_that_wait_and_that_work(node: Node) -> None:
    job = write(node, "import time; print('on', flush=True); time.sleep(run.arguments.get('seconds', 0))")
    run = node.begin(job, {"seconds": 1000})
    node.printed(run, "on")
    waiting, _ = told(node.run(job))
    ended = len(node.ends)
    os.kill(node.zygote, signal.SIGKILL)
    assert node.outcome(run).end.reason == "the node's job process ended (killed by signal 9 (SIGKILL))"
    assert len(node.ends) == ended + 1
    # Nothing is left of either, and the next runs begin as before
    wait_for(lambda: not state_of(waiting))
    assert told(node.run(job))[1] == 1


def state_of(pid: int) -> str:
    """The state of a process, "" for none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except FileNotFoundError:
        return ""


def test_processes_that_work_may_be_killed_or_frozen(node: Node) -> None:
    job = write(node, "import time; print('on', flush=True); time.sleep(run.arguments.get('seconds', 0))")
    for number, reason in ((signal.SIGKILL, "killed by signal 9 (SIGKILL)"), (signal.SIGSTOP, "ran longer than 1 s")):
        pid, _ = told(node.run(job))
        ended = len(node.ends)
        run = node.begin(job, {"seconds": 1000}, timeout=1 if number == signal.SIGSTOP else 0)
        node.printed(run, "on")
        os.kill(pid, number)
        assert node.outcome(run).end.reason == reason
        assert told(node.run(job))[0] != pid
        assert len(node.ends) == ended + 2


def mixed(node: Node, job: str, count: int, seed: int) -> None:
    """Let many runs begin, with cancels and timeouts among them; each has its own output and ends once."""
    chance = random.Random(seed)
    ended = len(node.ends)
    going: list[tuple[str, str, int]] = []
    kinds = {"right": 0, "wrong": 0}
    for number in range(count):
        kind = chance.choices(("right", "cancelled", "late", "raises", "race"), (80, 5, 3, 5, 7))[0]
        arguments = {"number": number, "kind": kind}
        token = node.begin(job, arguments, job_id=number, timeout=0.05 if kind == "late" else 0)
        if kind in ("cancelled", "race"):
            node.runner.cancel(token)
        going.append((token, kind, number))
        if len(going) >= 4:
            kinds[check(node, *going.pop(chance.randrange(len(going))))] += 1
    for each in going:
        kinds[check(node, *each)] += 1
    assert len(node.ends) == ended + count
    assert kinds["right"] > count / 2
    assert kinds["wrong"]


def check(node: Node, token: str, kind: str, number: int) -> str:
    """Look at the outcome of a run; whether it was completed."""
    outcome = node.outcome(token)
    lines = set(outcome.log.decode().split("\n")) - {""}
    own = {line for line in lines if line.startswith(f"{number}:")}
    if outcome.end.state is RunState.COMPLETED:
        assert kind in ("right", "race")
        assert json.loads(outcome.output) == {"number": number}
        assert own == lines == {f"{number}: begins", f"{number}: ends", f"{number}: exits"}
        return "right"
    assert kind != "right", outcome
    assert not outcome.output or json.loads(outcome.output) == {"number": number}
    assert not any(line.partition(":")[0].isdecimal() for line in lines - own)
    return "wrong"


MIXED = """
    # pulzar: reuse=40
    import atexit, time
    from jobs import run
    number, kind = run.arguments["number"], run.arguments["kind"]
    print(f"{number}: begins", flush=bool(number % 2))
    atexit.register(print, f"{number}: exits")
    assert run.job_id == number
    if kind in ("cancelled", "late"):
        time.sleep(1000)
    if kind == "raises":
        raise ValueError(number)
    run.output({"number": number})
    print(f"{number}: ends")
"""


def test_no_output_of_one_run_is_in_that_of_another(node: Node) -> None:
    os.utime(node.script("warm/mixed", MIXED), (1, 1))
    mixed(node, "warm/mixed", 120, 1)


def test_records_that_a_handler_collects_are_written_in_their_own_run(node: Node) -> None:
    body = """
import logging, logging.handlers
if not logging.root.handlers:
    logging.root.addHandler(logging.handlers.MemoryHandler(100, target=logging.StreamHandler(sys.stdout)))
logging.warning("of %s", run.job_id)
"""
    job = write(node, body)
    outcomes = [node.run(job, job_id=number) for number in (1, 2, 3)]
    assert [outcome.log for outcome in outcomes] == [b"of 1\n", b"of 2\n", b"of 3\n"]
    assert len({told(outcome)[0] for outcome in outcomes}) == 1


@pytest.mark.soak
@pytest.mark.timeout(1800, method="signal")
def test_no_output_of_one_run_is_in_that_of_another_in_ten_thousand(node: Node) -> None:
    os.utime(node.script("warm/mixed", MIXED), (1, 1))
    mixed(node, "warm/mixed", 10_000, 2)


class FakeFrames:
    def close(self) -> None:
        """Nothing is open."""


def test_workers_without_a_run_end_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(workers.time, "monotonic", lambda: now)
    stamp = (1, 2, 3, 4)
    all_of_them: Workers[FakeFrames, str] = Workers(most_idle=2)
    made = [Worker(pid, Key("a/b", "", 0, stamp), "", frames=FakeFrames(), group="") for pid in (1, 2, 3)]
    for worker in made:
        all_of_them.add(worker)
    assert all_of_them.due(now) is None
    # When a third one has no run, the first of them ends
    assert [all_of_them.rest(worker, []) for worker in made[:2]] == [[], []]
    now += 1
    assert all_of_them.rest(made[2], []) == made[:1]
    all_of_them.leave(made[0])
    assert all_of_them.due(now) == workers.LEAVE_SECS
    assert all_of_them.late(now + workers.LEAVE_SECS) == made[:1]
    all_of_them.drop(1)
    assert all_of_them.due(now) == workers.IDLE_SECS - 1
    assert all_of_them.old(now + workers.IDLE_SECS) == made[1:]


@pytest.mark.parametrize(
    "message", [[], [1], [[1]], [[["a", "b"]]], [[["a\0", [1]]]], [{"a": 1}], [[], []], [[[None]]]]
)
def test_a_message_that_no_worker_sends_is_refused(message: list[object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        workers.files_of(message)
