"""Zygotes that load modules ahead of runs: real ones, with packages of the test's own."""

from __future__ import annotations

import json
import os
import signal
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.messages.runs import RunState
from node.runs.zygotes import fleet, packages
from tests.support import wait_for
from tests.unit.runs import Node, alive

PACKAGES = {
    # It says in which process it was loaded, and registers what must not be done in runs.
    "heavy": """
        import atexit, os, tempfile, weakref
        PID, HOME, TEMPORARY = os.getpid(), os.environ["HOME"], tempfile.gettempdir()
        class Held: pass
        held = Held()
        atexit.register(print, "not this")
        weakref.finalize(held, print, "nor this")
    """,
    "threads": "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
    "broken": "import heavy; raise RuntimeError('no licence')",
    "leaves": "import os; os._exit(3)",
    "hangs": "import time; time.sleep(1000)",
}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    site = tmp_path / "site"
    site.mkdir()
    for name, text in PACKAGES.items():
        (site / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setattr(fleet, "AGAIN_SECS", 0.1)
    node = Node(tmp_path)
    node.script("test/load", "import heavy, os; print(heavy.PID == os.getppid())")
    yield node
    node.stop()
    assert not alive(str(tmp_path))


def ready(node: Node, *modules: str) -> fleet.Member[object]:
    """The zygote with just these modules, once it is there."""

    def look() -> list[fleet.Member[object]]:
        return [each for each in node.runner._fleet.members() if each.ready and each.modules == modules]

    return wait_for(look, what=f"a zygote with {modules}")[0]


def said(node: Node, job: str, modules: tuple[str, ...] = ()) -> str:
    """The first line that a run prints. At its end the module itself may print more."""
    return node.run(job, modules=modules).log.decode().partition("\n")[0]


def test_a_run_finds_its_imports_done_and_has_nothing_else_of_the_zygote(node: Node) -> None:
    # Given a module that a script has asked for
    node.start(spares=1)
    assert said(node, "test/load", modules=("heavy",)) == "False"
    ready(node, "heavy")
    # When a script runs, its module is there
    assert node.run("test/load", modules=("heavy",)).log == b"True\n"
    # and nothing of what the module has left in the zygote is
    text = """
        import atexit, heavy, os, tempfile, weakref
        class Own: pass
        own = Own()
        weakref.finalize(own, print, "own finalizer")
        atexit.register(print, "own exit")
        print(heavy.HOME == os.environ["HOME"], tempfile.gettempdir() == os.environ["TMPDIR"], os.getcwd() == heavy.HOME)
    """
    node.script("test/surroundings", text)
    log = node.run("test/surroundings", modules=("heavy",)).log.decode().splitlines()
    assert log[0] == "False True False"
    assert sorted(log[1:]) == ["own exit", "own finalizer"]
    # and a script that wants none has a plain process
    node.script("test/plain", "import sys; print('heavy' in sys.modules)")
    assert said(node, "test/plain") == "False"


def test_random_numbers_of_a_library_differ_from_run_to_run(node: Node) -> None:
    pytest.importorskip("numpy")
    node.start(spares=1)
    node.runner.expect([("numpy",)])
    ready(node, "numpy")
    node.script("test/random", "import sys; print('numpy' in sys.modules); import numpy; print(numpy.random.rand())")
    found = {node.run("test/random", modules=("numpy",)).log for _ in range(4)}
    assert len(found) == 4
    assert all(log.startswith(b"True\n0.") for log in found)


def test_what_can_not_be_loaded_ahead_keeps_no_run_from_its_start(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a set with modules that start threads, fail, end the process, are not there, and one that is all right
    wanted = ("absent", "broken", "heavy", "leaves", "threads")
    node.start(spares=1)
    began = time.monotonic()
    assert said(node, "test/load", modules=wanted) == "False"
    assert time.monotonic() - began < 10
    # Then it alone is loaded, and what is wrong with the others is told
    ready(node, "heavy")
    assert said(node, "test/load", modules=wanted) == "True"
    assert node.left_out == {
        "absent": "No module named 'absent'",
        "broken": "RuntimeError: no licence",
        "leaves": "its import did not end: exit status 3",
        "threads": "it starts threads (1), which a fork would lack",
    }
    # While a module hangs, runs go on, and the node can be stopped
    node.runner.expect([("hangs",)])
    wait_for(lambda: [each for each in node.runner._fleet.members() if each.trying == "hangs"])
    assert said(node, "test/load", modules=("hangs", "heavy")) == "True"
    assert said(node, "test/load") == "False"
    # When its time is over
    member = next(each for each in node.runner._fleet.members() if each.trying == "hangs")
    os.kill(member.client.pid, signal.SIGALRM)
    wait_for(lambda: "hangs" in node.left_out)
    assert node.left_out["hangs"] == "its import did not end: it took longer than 60 s"


def test_the_death_of_a_zygote_with_modules_ends_its_runs_alone(node: Node) -> None:
    node.start(spares=1)
    node.runner.expect([("heavy",)])
    member = ready(node, "heavy")
    node.script("test/sleep", "import subprocess; print('on', flush=True); subprocess.run(['sleep', '1000'])")
    plain = node.begin("test/sleep")
    run = node.begin("test/sleep", modules=("heavy",))
    node.printed(plain, "on")
    node.printed(run, "on")
    # When it is killed
    os.kill(member.client.pid, signal.SIGKILL)
    # Then its run has failed, and nothing is left of it
    assert node.outcome(run).end.reason == "the node's job process ended (killed by signal 9 (SIGKILL))"
    wait_for(lambda: not (node.work / "scratch" / run).exists())
    assert len(node.others()) == 2
    # and the other run goes on, and the next one has its module soon
    node.runner.cancel(plain)
    assert node.outcome(plain).end.state is RunState.CANCELLED
    ready(node, "heavy")
    assert said(node, "test/load", modules=("heavy",)) == "True"
    # When the plain one is killed, all begin again
    plain_zygote = node.runner._zygote
    assert plain_zygote
    os.kill(plain_zygote.pid, signal.SIGKILL)
    wait_for(lambda: node.runner._zygote is not plain_zygote)
    ready(node, "heavy")
    assert said(node, "test/load", modules=("heavy",)) == "True"


def test_an_installed_package_counts_from_the_next_run(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "LOOK_SECS", 0.0)
    node.start(spares=1)
    node.runner.expect([("heavy",)])
    ready(node, "heavy")
    node.script("test/version", "import heavy; print(heavy.VERSION)")
    assert node.run("test/version", modules=("heavy",)).end.state is RunState.FAILED
    # When a module changes
    site = Path(packages.paths()[0])
    with (site / "heavy.py").open("a") as file:
        file.write("VERSION = 2\n")
    # Then no run has the old one
    assert said(node, "test/version", modules=("heavy",)) == "2"
    ready(node, "heavy")
    # and when one is added, a set that lacked it gets it
    assert json.loads(node.run("test/load", modules=("absent",)).output or b"0") == 0
    wait_for(lambda: "absent" in node.left_out)
    (site / "absent.py").touch()
    wait_for(lambda: node.run("test/load", modules=("absent",)) and not node.left_out)
    ready(node, "absent")
