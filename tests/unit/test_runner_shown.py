"""What is to be seen of a run from outside: in its log, in `ps`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.messages.runs import RunState
from node.runs import processes
from node.runs.tracebacks import Trim
from tests.support import wait_for
from tests.unit.runs import Node

ROOT = Path(__file__).parents[2]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.stop()


def test_what_went_on_in_the_background_is_named_in_the_log_when_it_is_killed(node: Node) -> None:
    outcome = node.execute(
        """
        import subprocess, sys
        print("begun", flush=True)
        sys.stdout.write("no end of line")
        one = subprocess.Popen(["sleep", "1000"])
        two = subprocess.Popen(["sleep", "2000"], start_new_session=True)
        while not all(open(f"/proc/{child.pid}/cmdline").read() for child in (one, two)):
            pass
        """
    )
    lines = outcome.log.decode().splitlines()
    assert outcome.end.state is RunState.COMPLETED
    assert lines[:2] == ["begun", "no end of line"]
    assert re.fullmatch(r"killed at the end: sleep 1000 \(pid \d+\), sleep 2000 \(pid \d+\)", lines[2])


def test_of_many_the_first_are_named_and_helpers_of_python_are_not(node: Node) -> None:
    outcome = node.execute(
        """
        import subprocess
        from multiprocessing import resource_tracker
        resource_tracker.ensure_running()
        children = [subprocess.Popen(["sleep", "1000"]) for _ in range(13)]
        while not all(open(f"/proc/{child.pid}/cmdline").read() for child in children):
            pass
        """
    )
    assert outcome.log.count(b"sleep 1000") == 10
    assert outcome.log.endswith(b" and 3 more\n")


def test_nothing_is_said_where_nothing_is_left_or_the_end_was_asked_for(node: Node) -> None:
    assert node.execute("print('done')").log == b"done\n"
    node.script(
        "test/long",
        "import subprocess, time\nsubprocess.Popen(['sleep', '1000'])\nprint('on', flush=True)\ntime.sleep(60)",
    )
    run = node.begin("test/long")
    node.printed(run, "on")
    node.runner.cancel(run)
    assert node.outcome(run).log == b"on\n"


def test_ps_shows_the_job_and_its_script(node: Node) -> None:
    node.script("reports/nightly", "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)")
    run = node.begin("reports/nightly", job_id=4711, attempt=2)
    pid = int(wait_for(lambda: [told.log for told in node.progress if told.log.endswith(b"\n")])[0])
    assert Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0") == b"pulzar: job 4711 reports/nightly attempt 2"
    assert Path(f"/proc/{pid}/comm").read_text() == "4711 nightly\n"
    assert b"PULZAR_NODE_RUNS=" in Path(f"/proc/{pid}/environ").read_bytes()  # what lies behind it is whole
    node.runner.cancel(run)
    node.outcome(run)


def test_a_title_longer_than_its_room_is_cut(node: Node) -> None:
    node.script(f"{'f' * 64}/{'s' * 64}", "print(open('/proc/self/cmdline').read().rstrip(chr(0)), end='')")
    log = node.run(f"{'f' * 64}/{'s' * 64}").log
    assert f"pulzar: job 1 {'f' * 64}/{'s' * 64} attempt 1".encode().startswith(log)
    assert len(log) > 100


STACKS = """
import faulthandler, logging, sys, traceback, warnings

def inner():
    print("at work")
    faulthandler.dump_traceback(sys.stdout, all_threads=False)
    traceback.print_stack(file=sys.stdout)
    logging.warning("odd", stack_info=True)

class Stacks(__import__("jobs").Job):
    def execute(self):
        inner()
"""


@pytest.mark.parametrize("text", [STACKS, STACKS.replace('(__import__("jobs").Job)', "") + "\nStacks().execute()\n"])
def test_stacks_show_the_frames_of_the_script_alone(node: Node, text: str) -> None:
    node.script("test/stacks", text)
    log = node.run("test/stacks").log.decode()
    assert log.startswith("at work\nStack (most recent call first):\n")
    frames = re.findall(r'File "([^"]+)", line', log)
    assert set(frames) == {str(node.scripts / "test/stacks.py")}
    assert len(frames) >= 6
    assert not re.search("runpy|zygote|common", log)
    assert "Stack (most recent call last):\n  File" in log


def test_a_crash_shows_the_frames_of_the_script_alone(node: Node) -> None:
    outcome = node.execute("import os\nprint('on', flush=True)\nos.abort()")
    assert outcome.end.reason == "killed by signal 6 (SIGABRT)"
    assert outcome.log.decode().startswith("on\nFatal Python error: Aborted\n")
    assert re.findall(r'File "([^"]+)"', outcome.log.decode()) == [str(node.scripts / "test/script.py")]


OURS = f'''\
  File "<frozen runpy>", line 198, in _run_module_as_main
  File "<frozen runpy>", line 88, in _run_code
  File "{ROOT}/node/runs/zygote.py", line 289, in <module>
    main()
    └ <function main at 0x7f>

  File "{ROOT}/node/runs/run_process.py", line 104, in _lead
    returned = loader.execute(script, common.sources)

'''
LOGURU = f"""\
2026-01-02 | ERROR | __main__ - it failed
Traceback (most recent call last):

{OURS}\
  File "/s/a.py", line 3, in f
    g()
    └ <function g>

> File "/s/a.py", line 5, in g
    1 / 0

ZeroDivisionError: division by zero
  File "<frozen runpy>", line 291, in run_path
    of the script's own
  File "/s/b.py", line 1, in <module>
    indented, and the script's
  Filed under: nothing
  Fi"""


def test_a_log_in_any_pieces_is_without_our_frames() -> None:
    text = LOGURU.encode()
    wanted = LOGURU.replace(OURS, "").encode()
    for size in (1, 2, 3, 7, 10, 64, 1000, len(text)):
        trim = Trim()
        pieces = [trim.feed(text[start : start + size]) for start in range(0, len(text), size)]
        assert b"".join(pieces) + trim.end() == wanted, size


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"no end",
        b"a\r\nb\rc",
        b"  File",
        b'  File "x',
        b"\x00\xff\n" * 100,
        b'x  File "a", line 1, in b\n',
        b'  File "<frozen runpy>", line 1, in x\n',
        b'  File "<frozen runpy>", line 1, in x',
        b"    \n\n\n    a\n",
        b'  File "' + b"x" * 200_000,
        f'x  File "{ROOT}/node/runs/run_process.py", line 104, in _lead\n'.encode(),
    ],
)
def test_whatever_else_is_in_a_log_stays_there(text: bytes) -> None:
    for size in (1, 5, 1000, 1 << 16):
        if len(text) > 1000 * size:
            continue
        trim = Trim()
        pieces = [trim.feed(text[start : start + size]) for start in range(0, len(text), size)]
        assert b"".join(pieces) + trim.end() == text


def test_a_line_is_not_kept_back_that_can_be_no_frame() -> None:
    trim = Trim()
    assert trim.feed(b"part of a line") == b"part of a line"
    assert trim.feed(b"  ") == b"  "
    assert trim.feed(b"\n  F") == b"\n"
    assert trim.feed(b"orm") == b"  Form"


def test_names_of_processes_that_have_ended_are_left_out() -> None:
    assert processes.commands([0, 1 << 22]) == []
