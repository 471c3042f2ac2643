"""Scripts that hand work to processes of their own: spawned ones, their shared memory, their sockets."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.runs.model import State
from tests.support import wait_for
from tests.unit.runs import Node

SQUARES = [n * n for n in range(6)]

CLASS = """
    import concurrent.futures, multiprocessing, sys
    from jobs import Job
    from . import helper
    def square(n): return n * n
    def put(queue, n): queue.put(helper.twice(n))
    class Script(Job):
        def execute(self):
            kind = self.arguments["kind"]
            context = multiprocessing.get_context(None if kind == "max_tasks" else kind)
            with context.Pool(2) as pool:
                mapped = pool.map(square, range(6))
            queue = context.Queue()
            process = context.Process(target=put, args=(queue, 21))
            process.start()
            answer = queue.get(timeout=20)
            process.join()
            limit = {"max_tasks_per_child": 100} if kind != "fork" else {}
            given = {} if kind == "max_tasks" else {"mp_context": context}
            with concurrent.futures.ProcessPoolExecutor(2, **given, **limit) as pool:
                return [mapped, answer, list(pool.map(square, range(6)))]
"""
PLAIN = """
    import multiprocessing
    from jobs import run
    from . import helper
    import other
    def both(n): return helper.twice(n) + other.one
    if __name__ == "__main__":
        context = multiprocessing.get_context(run.arguments["kind"])
        with context.Pool(2) as pool:
            run.output(pool.map(both, range(3)) + pool.map(helper.twice, range(3)))
"""


@pytest.fixture
def helped(node: Node) -> Node:
    """A runner with modules beside a script."""
    for folder in ("test", "my-folder"):
        node.script(f"{folder}/helper", "def twice(n): return 2 * n")
        node.script(f"{folder}/other", "one = 1")
    return node


@pytest.mark.parametrize("folder", ["test", "my-folder"])
@pytest.mark.parametrize("kind", ["fork", "spawn", "forkserver", "max_tasks"])
def test_a_job_has_work_done_by_processes_of_every_kind(helped: Node, kind: str, folder: str) -> None:
    helped.script(f"{folder}/script", CLASS)
    outcome = helped.outcome(helped.begin(f"{folder}/script", {"kind": kind}), 60)
    assert (outcome.reason, outcome.log) == ("", b"")
    assert json.loads(outcome.output) == [SQUARES, 42, SQUARES]


@pytest.mark.parametrize("kind", ["fork", "spawn", "forkserver"])
def test_a_plain_script_with_relative_imports_has_too(helped: Node, kind: str) -> None:
    helped.script("test/script", PLAIN)
    outcome = helped.outcome(helped.begin("test/script", {"kind": kind}), 60)
    assert (outcome.reason, outcome.log) == ("", b"")
    assert json.loads(outcome.output) == [1, 3, 5, 0, 2, 4]


def test_a_job_whose_class_is_imported_has_too(helped: Node) -> None:
    helped.script("test/core", CLASS.replace("class Script", "class Core"))
    helped.script("test/byname", CLASS.replace("class Script", "class Named").replace("from . import", "import"))
    for text in ("from .core import Core", "from byname import Named"):
        helped.script("test/script", text)
        outcome = helped.outcome(helped.begin("test/script", {"kind": "spawn"}), 60)
        assert (outcome.reason, outcome.log) == ("", b"")
        assert json.loads(outcome.output) == [SQUARES, 42, SQUARES]


# What they leave.


SHARED = """
    import multiprocessing, os, sys, time
    from multiprocessing.shared_memory import SharedMemory
    from jobs import run
    if __name__ == "__main__":
        kept = SharedMemory(run.arguments["name"], create=True, size=1 << 20)
        lock = multiprocessing.get_context("spawn").Lock()
        print("on", flush=True)
        if run.arguments["end"] == "fork":
            if not os.fork():
                os.setsid()
                time.sleep(600)
        elif run.arguments["end"] == "raise":
            raise ValueError("before it is unlinked")
        elif run.arguments["end"] == "kill":
            os.kill(os.getpid(), 9)
        else:
            time.sleep(600)
"""


@pytest.fixture
def name() -> Iterator[str]:
    """Of shared memory that a test may leave."""
    name = f"pulzar-test-{secrets.token_hex(8)}"
    yield name
    Path(f"/dev/shm/{name}").unlink(missing_ok=True)


def semaphores() -> set[str]:
    """Those there are, of whoever it is."""
    return {found for found in os.listdir("/dev/shm") if found.startswith("sem.mp-")}


@pytest.mark.parametrize("end", ["fork", "raise", "kill", "cancel", "time"])
def test_shared_memory_goes_with_the_run_however_it_ends(node: Node, end: str, name: str) -> None:
    before = semaphores()
    node.script("test/script", SHARED)
    run = node.begin("test/script", {"name": name, "end": end}, timeout=2.0 if end == "time" else 0.0)
    if end == "cancel":
        node.printed(run, "on")
        assert Path(f"/dev/shm/{name}").exists()
        node.runner.cancel(run)
    outcome = node.outcome(run)
    assert outcome.state is {"fork": State.COMPLETED, "cancel": State.CANCELLED}.get(end, State.FAILED)
    assert not Path(f"/dev/shm/{name}").exists()
    # Those of tests beside this one go with them; what a run leaves would stay.
    wait_for(lambda: not semaphores() - before, timeout=30, what="the semaphores of the run gone")
    assert b"leaked shared_memory" in outcome.log
    assert not node.others()


UNKNOWN = """
    import multiprocessing, os
    from multiprocessing import process, util
    from multiprocessing.shared_memory import SharedMemory
    from jobs import run

    def killed(*_):
        os.kill(os.getpid(), 9)

    if __name__ == "__main__":
        util.spawnv_passfds = killed
        process.current_process()._config["semprefix"] = "/" + run.arguments["name"]
        if run.arguments["what"] == "memory":
            SharedMemory(run.arguments["name"], create=True, size=1)
        else:
            multiprocessing.get_context("spawn").Lock()
"""


@pytest.mark.parametrize("what", ["memory", "semaphore"])
def test_a_run_that_is_killed_while_the_process_starts_that_would_tidy_up_leaves_nothing(
    node: Node, what: str, name: str
) -> None:
    node.script("test/script", UNKNOWN)
    outcome = node.outcome(node.begin("test/script", {"name": name, "what": what}))
    assert outcome.reason == "killed by signal 9 (SIGKILL)"
    left = [found for found in os.listdir("/dev/shm") if name in found]
    for found in left:
        Path(f"/dev/shm/{found}").unlink()
    assert left == []


def test_shared_memory_goes_when_the_node_stops_or_its_zygote_is_killed(node: Node, name: str) -> None:
    node.script("test/script", SHARED)
    for end in (node.stop, lambda: os.kill(node.zygote, 9)):
        node.printed(node.begin("test/script", {"name": name, "end": "sleep"}), "on")
        assert Path(f"/dev/shm/{name}").exists()
        end()
        wait_for(lambda: not Path(f"/dev/shm/{name}").exists())


def test_a_process_that_only_calls_itself_a_tracker_is_killed_in_the_end(node: Node) -> None:
    text = """
        import subprocess, sys
        subprocess.Popen([sys.executable, "-c", "import time\\n# resource_tracker import main\\ntime.sleep(600)"])
        subprocess.Popen(["sleep", "600"])
    """
    outcome = node.execute(text)
    assert outcome.state is State.COMPLETED
    assert not node.others()


# Their sockets.


@pytest.mark.parametrize("deep", ["", "a/directory/of/a/name/that/is/rather/long/" + "x" * 60])
def test_sockets_have_names_that_are_short_enough_wherever_the_node_is(tmp_path: Path, deep: str) -> None:
    text = """
        import multiprocessing, multiprocessing.connection, os, tempfile
        from jobs import run
        if __name__ == "__main__":
            with multiprocessing.Manager() as manager:
                shared = manager.dict(a=1)
                print(shared["a"])
            with multiprocessing.connection.Listener(family="AF_UNIX"):
                print("listens")
            with tempfile.NamedTemporaryFile() as file:
                assert os.path.realpath(file.name).startswith(str(run.scratch) + "/")
            run.output(tempfile.gettempdir())
    """
    (tmp_path / deep).mkdir(parents=True, exist_ok=True)
    node = Node(tmp_path / deep, tmp_path / "scripts")
    node.script("test/script", text)
    try:
        outcome = node.run("test/script")
        assert (outcome.reason, outcome.log) == ("", b"1\nlistens\n")
        used = Path(json.loads(outcome.output))
        if deep:
            # Then the short name is made anew when somebody has removed it,
            used.parent.unlink()
            assert json.loads(node.run("test/script").output) != json.loads(outcome.output)
            assert used.parent.is_symlink()
            # is nobody else's,
            used.parent.unlink()
            used.parent.mkdir()
            assert "AF_UNIX path too long" in node.run("test/script").log.decode()
            used.parent.rmdir()
            assert node.run("test/script").reason == ""
            # also when nobody was left to see to it
            os.kill(node.zygote, 9)
    finally:
        node.stop()
    # and gone with the runner
    assert not os.path.lexists(used.parent)
