"""How runs end, and that nothing is left of them."""

from __future__ import annotations

import os
import time

import psutil
import pytest

from node.runs.model import State
from tests.support import wait_for
from tests.unit.runs import Node, alive, descriptors, zombies

MIB = 1 << 20


@pytest.mark.parametrize(
    "text", ["", "import sys; sys.exit(0)", "import sys; sys.exit(None)", "import os; os._exit(0)"]
)
def test_a_script_that_ends_well_has_completed(node: Node, text: str) -> None:
    outcome = node.execute(text)
    assert (outcome.state, outcome.reason, outcome.log, outcome.output) == (State.COMPLETED, "", b"", b"")
    now = time.time_ns() // 1_000_000
    assert now - 60_000 < outcome.started <= outcome.ended <= now


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import sys; sys.exit(3)", "exit status 3"),
        ("import sys; sys.exit(-1)", "exit status 255"),
        ("import os; os._exit(4)", "exit status 4"),
        ("import sys; sys.exit('no more paper')", "exit status 1: no more paper"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import json; json.loads('{')", "json.decoder.JSONDecodeError: Expecting property name"),
        ("class Own(Exception): pass\nraise Own('of mine')", "Own: of mine"),
        ("class Bad(Exception):\n def __str__(self): return 1\nraise Bad", "Bad: (its message raised TypeError)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9 (SIGKILL)"),
        ("import os; os.abort()", "killed by signal 6 (SIGABRT)"),
        ("import ctypes; ctypes.string_at(0)", "killed by signal 11 (SIGSEGV)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGRTMIN + 3)", "killed by signal 37"),
        ("def deeper(): deeper()\ndeeper()", "RecursionError: maximum recursion depth exceeded"),
        ("print('x' * 2000000); raise ValueError('y' * 2000000)", "ValueError: yyyy"),
    ],
)
def test_a_script_that_ends_badly_has_failed_and_its_reason_is_told(node: Node, text: str, reason: str) -> None:
    outcome = node.execute(text)
    assert outcome.state is State.FAILED
    assert outcome.reason.startswith(reason)
    assert len(outcome.reason) <= 1000


def test_an_exception_leaves_its_traceback_in_the_log_from_the_script_on(node: Node) -> None:
    node.script("test/helper", "def divide(a, b):\n    return a / b\n")
    outcome = node.execute("import helper\nprint('before', end='')\nhelper.divide(1, 0)\n")
    lines = outcome.log.decode().splitlines()
    # What was printed comes first, then the frames of the script and of its module, and none of ours
    assert lines[0] == "beforeTraceback (most recent call last):"
    assert [line.split('"')[1] for line in lines if line.startswith("  File")] == [
        str(node.scripts / "test/script.py"),
        str(node.scripts / "test/helper.py"),
    ]
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_a_crash_says_where_in_the_script(node: Node) -> None:
    outcome = node.execute("import ctypes\nprint('so far', end='', flush=True)\nctypes.string_at(0)\n")
    assert outcome.log.startswith(b"so farFatal Python error: Segmentation fault")
    assert b'script.py", line 3 in' in outcome.log


def test_a_script_that_is_not_there_and_paths_that_are_none(node: Node) -> None:
    outcome = node.run("test/nothing")
    assert (outcome.state, outcome.reason) == (State.FAILED, "no such script: test/nothing")
    assert outcome.log == b"no such script: test/nothing\n"
    for path in ("../../etc/passwd", "test", "a/b/c", "test/.hidden", "-a/b", "a/" + "b" * 65, "a/b\n", "", "ä/b"):
        outcome = node.run(path)
        assert outcome.state is State.FAILED
        assert "is no path of a script" in outcome.reason, path


def test_a_syntax_error_says_file_and_line(node: Node) -> None:
    outcome = node.execute("print('begun')\nif True\n    pass\n")
    assert outcome.state is State.FAILED
    assert outcome.reason == "SyntaxError: expected ':' (script.py, line 2)"
    assert str(node.scripts / "test/script.py").encode() in outcome.log
    assert b"begun\n" not in outcome.log.splitlines(keepends=True)
    # and so does one in a module beside it, and text that is none
    node.script("test/helper", "x = (\n")
    assert "helper.py, line 1" in node.execute("import helper").reason
    (node.scripts / "test/script.py").write_bytes(b"x = '\xff'\n")
    assert node.run("test/script").reason.startswith("SyntaxError: (unicode error)")
    (node.scripts / "test/script.py").write_bytes(b"\0")
    assert "null bytes" in node.run("test/script").reason


def test_a_class_that_is_no_job_is_refused_with_the_reason(node: Node) -> None:
    node.script("test/one", "class Job: pass\nclass One(Job):\n    def execute(self): return 1\n")
    assert node.run("test/one").reason == "the class One of test/one has not the base jobs.Job"
    node.script("test/two", "from jobs import Job\nclass Two(Job): pass\n")
    assert node.run("test/two").reason == "the class Two of test/two has no method execute"


def test_a_hog_is_told_of_its_limit(node: Node) -> None:
    # Given one that holds more and more, and one that asks for all of it at once
    outcome = node.execute("kept = []\nwhile True: kept.append(bytearray(b'x' * (1 << 20)))", memory=64 * MIB)
    assert outcome.state is State.FAILED
    assert outcome.reason in ("used more than 64 MiB of memory", "used more than 64 MiB of memory (MemoryError)")
    outcome = node.execute("kept = bytearray(8 << 30)", memory=64 * MIB)
    assert outcome.state is State.FAILED
    assert outcome.reason == "used more than 64 MiB of memory (MemoryError)"
    assert b"MemoryError" in outcome.log
    # What fits is given: the limit is what a run may have beside what every run has
    assert node.execute("kept = bytearray(50 << 20)", memory=64 * MIB).state is State.COMPLETED


def test_processes_that_take_too_much_together_are_killed(node: Node) -> None:
    # Given children that each take less than the limit
    text = """
        import os, time
        for _ in range(4):
            if not os.fork():
                kept = bytearray(os.urandom(1 << 20) * 30)
                time.sleep(60)
        time.sleep(60)
    """
    outcome = node.execute(text, memory=64 * MIB)
    assert (outcome.state, outcome.reason) == (State.FAILED, "used more than 64 MiB of memory")
    assert not node.others()


def test_memory_that_is_shared_counts_once(node: Node) -> None:
    # Given three processes that look at the same 30 MiB
    text = """
        import os, time
        kept = bytearray(os.urandom(1 << 20) * 30)
        children = []
        for _ in range(2):
            child = os.fork()
            if not child:
                time.sleep(1)
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
    """
    outcome = node.execute(text, memory=64 * MIB)
    assert (outcome.state, outcome.reason) == (State.COMPLETED, "")


def test_a_hundred_children_are_too_many_for_a_limit_of_sixty(node: Node) -> None:
    node.start(processes=60)
    text = """
        import os, time
        for _ in range(int(__import__('jobs').run.arguments['children'])):
            if not os.fork():
                os.setsid()
                time.sleep(60)
        time.sleep(60)
    """
    # Given as many as are allowed, with the run's own
    fine = node.begin("test/script", {"children": 59}, timeout=1.0) if node.script("test/script", text) else ""
    assert node.outcome(fine).reason == "ran longer than 1 s"
    began = time.monotonic()
    outcome = node.execute(text, {"children": 100})
    assert (outcome.state, outcome.reason) == (State.FAILED, "had more than 60 processes")
    assert time.monotonic() - began < 40
    assert not node.others()
    assert not zombies(node.zygote)


def test_a_fork_bomb_is_stopped(node: Node) -> None:
    node.start(processes=100)
    # Given one that doubles, in sessions of their own, and would end by itself after 4096
    text = """
        import os, time
        for _ in range(12):
            if not os.fork():
                os.setsid()
        time.sleep(60)
    """
    outcome = node.execute(text)
    assert (outcome.state, outcome.reason) == (State.FAILED, "had more than 100 processes")
    assert not node.others()
    assert node.execute("print('next')").log == b"next\n"


@pytest.mark.parametrize(
    "daemon",
    [
        "subprocess.Popen(['sleep', MARK])",
        "subprocess.Popen(['sleep', MARK], start_new_session=True)",
        "subprocess.Popen(['setsid', '-f', 'env', '-i', 'sleep', MARK], close_fds=True)",
        "subprocess.run(['sh', '-c', 'nohup setsid sleep ' + MARK + ' >/dev/null 2>&1 &'], env={})",
        "subprocess.run(f\"for i in 1 2 3; do setsid sh -c 'sleep {MARK} & sleep {MARK}' & done\", shell=True)",
    ],
)
def test_what_a_script_leaves_running_is_killed_when_it_ends(node: Node, daemon: str) -> None:
    mark = f"{1000 + os.getpid()}.{time.monotonic_ns()}"
    text = """
        import os, pathlib, subprocess, time
        MARK = "%s"
        def begun():
            for process in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    if process.read_bytes() == f"sleep\\0{MARK}\\0".encode():
                        return True
                except OSError:
                    continue
        %s
        while not begun():
            time.sleep(0.01)
    """
    text %= (mark, daemon)
    outcome = node.execute(text)
    assert (outcome.state, outcome.reason) == (State.COMPLETED, "")
    assert not alive(mark)
    assert not node.others()
    assert not zombies(node.zygote)


def test_a_daemon_by_the_book_is_killed_when_its_script_ends(node: Node) -> None:
    # Given a child that forks twice, changes its session, closes everything and empties its environment
    text = """
        import os, time
        if not os.fork():
            os.setsid()
            if os.fork():
                os._exit(0)
            os.chdir("/")
            os.closerange(0, 256)
            os.environ.clear()
            time.sleep(60)
            os._exit(0)
        os.wait()
    """
    for _ in range(5):
        assert node.execute(text).state is State.COMPLETED
    assert not node.others()
    assert not zombies(node.zygote)


def test_runs_do_not_die_with_others(node: Node) -> None:
    # Given a run that goes on, with children of its own
    node.script(
        "test/long", "import subprocess, time\nsubprocess.Popen(['setsid', 'sleep', '60'])\nprint('on')\ntime.sleep(60)"
    )
    long = node.begin("test/long")
    node.printed(long, "on")
    # When others crash, end, and are cancelled
    node.execute("import os; os.abort()")
    node.execute("import os; os.fork() or os.setsid()")
    other = node.begin("test/long")
    node.printed(other, "on")
    node.runner.cancel(other)
    assert node.outcome(other).state is State.CANCELLED
    # Then it is still there
    time.sleep(0.3)
    assert long not in {outcome.run.run for outcome in node.ends}
    assert len(node.others()) == 2
    node.runner.cancel(long)
    node.outcome(long)
    assert not node.others()


def test_too_long_is_too_long(node: Node) -> None:
    began = time.monotonic()
    outcome = node.execute("import time\nprint('on')\ntime.sleep(60)", timeout=2.0)
    assert (outcome.state, outcome.reason, outcome.log) == (State.FAILED, "ran longer than 2 s", b"on\n")
    assert 2.0 <= time.monotonic() - began < 40


def test_a_script_may_clean_up_in_the_grace(node: Node) -> None:
    text = """
        import signal, sys, time
        def stop(*_):
            print("tidy")
            sys.exit(0)
        signal.signal(signal.SIGTERM, stop)
        time.sleep(60)
    """
    outcome = node.execute(text, timeout=3.0)
    assert (outcome.state, outcome.reason, outcome.log) == (State.FAILED, "ran longer than 3 s", b"tidy\n")


@pytest.mark.parametrize(
    "text",
    [
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on'); time.sleep(60)",
        "signal.signal(signal.SIGTERM, lambda *_: print('no')); print('on')\nwhile True: time.sleep(60)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); print('on'); time.sleep(60)",
        # Its handler is Python's, and the C code never comes back to let it run
        "signal.signal(signal.SIGTERM, lambda *_: exit()); print('on'); sum(range(10**12))",
        "print('on'); os.kill(os.getpid(), signal.SIGSTOP)",
    ],
)
def test_a_script_that_does_not_listen_is_killed_after_the_grace(node: Node, text: str) -> None:
    node.script("test/deaf", "import os, signal, time\n" + text)
    run = node.begin("test/deaf")
    node.printed(run, "on")
    began = time.monotonic()
    node.runner.cancel(run, "nobody wants it")
    outcome = node.outcome(run)
    assert (outcome.state, outcome.reason) == (State.CANCELLED, "nobody wants it")
    assert 0.5 <= time.monotonic() - began < 40
    assert not node.others()


def test_cancel_before_the_start_and_while_it_runs_and_when_there_is_nothing(node: Node) -> None:
    node.script("test/sleep", "import time\nprint('on')\ntime.sleep(60)")
    node.start()
    # Given a run that can't have begun, since there is no zygote yet; and one that is just beginning
    for _ in range(2):
        run = node.begin("test/sleep")
        node.runner.cancel(run)
        outcome = node.outcome(run)
        assert (outcome.state, outcome.reason) == (State.CANCELLED, "cancelled")
        assert node.zygote
    run = node.begin("test/sleep")
    node.printed(run, "on")
    node.runner.cancel(run)
    node.runner.cancel(run, "again")
    outcome = node.outcome(run)
    assert (outcome.state, outcome.reason, outcome.log) == (State.CANCELLED, "cancelled", b"on\n")
    node.runner.cancel(run)
    node.runner.cancel("unknown")
    assert node.execute("").state is State.COMPLETED
    assert len(node.ends) == 4


def test_cancelling_at_any_moment_leaves_nothing(node: Node) -> None:
    node.script("test/sleep", "import time\ntime.sleep(60)")
    node.execute("")
    for pause in range(30):
        run = node.begin("test/sleep")
        time.sleep(pause / 5000)
        node.runner.cancel(run)
        assert node.outcome(run).state is State.CANCELLED
    assert not node.others()


def test_nothing_is_kept_of_runs(node: Node) -> None:
    # Given all kinds of them, once
    texts = [
        "",
        "1/0",
        "import os; os._exit(3)",
        "import os; os.fork()",
        "import os; os.close(1); os.close(2)",
        "print('x' * 300000)",
        "import ctypes; ctypes.string_at(0)",
        "import os; os.fork() or os.setsid()",
        "open('file', 'w').write('x' * 2000000)",
    ]
    for number, text in enumerate(texts):
        node.script(f"test/script{number}", text)

    def all_of_them() -> None:
        for run in [node.begin(f"test/script{number}") for number in range(len(texts))]:
            node.outcome(run)

    def taken() -> tuple[int, int]:
        wait_for(lambda: len(alive(str(node.directory))) == 3)  # zygote and two spares
        return descriptors(os.getpid()), descriptors(node.zygote)

    all_of_them()
    before = taken()
    memory = psutil.Process(node.zygote).memory_info().rss
    # When they run again and again
    for _ in range(15):
        all_of_them()
    # Then neither agent nor zygote hold more than before
    assert taken() == before
    assert not zombies(node.zygote)
    assert not zombies(os.getpid())
    assert psutil.Process(node.zygote).memory_info().rss - memory < MIB
    assert not list((node.work / "scratch").iterdir())
