"""What scripts are used to do that were written for `python script.py`, or never tried anywhere else."""

from __future__ import annotations

import json
import os
import py_compile
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from broker.messages.runs import RunState
from tests.support import wait_for
from tests.unit.runs import ROOT, Node

MIB = 1 << 20


# Standard output.


TEE = """
    import sys
    from jobs import run
    class Tee:
        def __init__(self, *streams): self.streams = streams
        def write(self, text):
            for stream in self.streams: stream.write(text)
        def flush(self):
            for stream in self.streams: stream.flush()
    sys.stdout = Tee(sys.stdout, open("copy", "w"))
    sys.stderr = Tee(sys.stderr)
    print("one")
    run.log("two")
    print("three", file=sys.stderr)
    run.output(open("copy").read())
"""
PRINT_TO_LOGGING = """
    import logging, sys
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    class Lines:
        def write(self, text):
            if text.strip(): logging.warning(text.strip())
    sys.stdout = sys.stderr = Lines()
    print("one")
    from jobs import run
    run.log("two")
"""


def test_any_class_may_stand_in_for_standard_output(node: Node) -> None:
    outcome = node.execute(TEE)
    assert (outcome.end.state, outcome.log, outcome.output) == (RunState.COMPLETED, b"one\ntwo\nthree\n", b'"one\\n"')
    outcome = node.execute(PRINT_TO_LOGGING)
    assert (outcome.end.state, outcome.log) == (RunState.COMPLETED, b"one\ntwo\n")
    for text in (TEE, PRINT_TO_LOGGING):
        outcome = node.execute(f"{text}\n    raise ValueError('of its own')\n")
        assert (outcome.end.state, outcome.end.reason) == (RunState.FAILED, "ValueError: of its own")
        assert b"of its own" in outcome.log
        assert node.execute(f"{text}\n    sys.exit('enough')\n").end.reason == "exit status 1: enough"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize(
    "change",
    [
        "sys.{0}.detach()",
        "sys.{0}.detach(); sys.{0} = None",
        "sys.{0} = 5",
        "sys.{0} = type('Bad', (), {{'__getattr__': lambda *_: 1 / 0}})()",
        "sys.{0} = type('Bad', (), {{'closed': property(lambda _: 1 / 0)}})()",
    ],
)
def test_no_stream_of_a_script_hides_how_it_ended(node: Node, change: str, name: str) -> None:
    text = f"import sys\nfrom jobs import run\nprint('before')\nrun.log('logged')\n{change.format(name)}\nrun.log('after')\n"
    outcome = node.execute(text)
    assert (outcome.end.state, outcome.end.reason, outcome.log) == (RunState.COMPLETED, "", b"before\nlogged\nafter\n")
    outcome = node.execute(f"{text}raise ValueError('of its own')")
    assert (outcome.end.state, outcome.end.reason) == (RunState.FAILED, "ValueError: of its own")
    assert node.execute(f"{text}sys.exit('enough')").end.reason == "exit status 1: enough"


STREAMS = """
    import io, sys
    sys.stdout.reconfigure(encoding="utf-8", line_buffering=True)
    sys.stderr.reconfigure(encoding="latin-1")
    print("reconfigured")
    sys.stdout.buffer.write(b"bytes\\n")
    other = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
    print("wrapped", file=other, flush=True)
    other.detach()
    print(sys.stdout.name, sys.stderr.name, sys.stdout.mode, sys.stdout.seekable(), sys.stdout.fileno())
"""


def test_standard_output_can_be_reconfigured_whatever_that_of_the_node_is(node: Node, tmp_path: Path) -> None:
    node.script("test/script", STREAMS)
    # Given a node whose own goes to a file, as under ops/up
    log = tmp_path / "node.log"
    with log.open("wb") as file:
        file.write(b"x" * 100 + b"\n")
        file.flush()
        command = [sys.executable, "-m", "tests.unit.runs", str(tmp_path)]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=file, stderr=file, text=True) as agent:
            try:
                assert agent.stdin
                agent.stdin.write('"test/script"\n')
                agent.stdin.flush()
                wait_for(lambda: log.read_text().endswith("]\n"))
                agent.stdin.close()
                agent.wait(30)
            finally:
                agent.kill()
    told = json.loads(log.read_text().splitlines()[-1])
    assert told == ["completed", "", "reconfigured\nbytes\nwrapped\n<stdout> <stderr> w False 1\n"]


def test_what_libraries_print_by_themselves_is_in_the_log(node: Node) -> None:
    text = """
        import ctypes, io, sys
        print("of Python ", end="")
        sys.stdout = io.StringIO()
        ctypes.CDLL(None).printf(b"of C")
    """
    assert node.execute(text).log == b"of Python of C"


# Which class is run.


BODY = "    def execute(self): return [type(self).__name__, type(self).__module__]\n"
JOBS = {
    "test/word_count": f"from jobs import Job\nclass WordCounter(Job):\n{BODY}",
    "test/etl_job": f"from jobs import Job\nclass ETLJob(Job):\n{BODY}",
    "test/01_load": f"import jobs\nclass Any(jobs.Job):\n{BODY}",
    "test/nightly": "from core import Nightly",
    "test/also": "from .core import Nightly as Renamed, Part",
    "test/derived": "from core import Nightly\nclass Derived(Nightly): pass",
    "test/built": f"from core import Part\nclass Whole(Part):\n{BODY}",
    "test/inner": f"from jobs import Job\nif True:\n    class Any(Job):\n    {BODY}",
    "test/guarded": f"from jobs import Job\nclass Any(Job):\n{BODY}if __name__ == '__main__': pass",
}
CORE = f"from jobs import Job\nclass Nightly(Job):\n{BODY}class Part(Job): pass\n"


@pytest.mark.parametrize(
    ("job", "output"),
    [
        ("test/word_count", ["WordCounter", "__main__"]),
        ("test/etl_job", ["ETLJob", "__main__"]),
        ("test/01_load", ["Any", "__main__"]),
        ("test/nightly", ["Nightly", "core"]),
        ("test/also", ["Nightly", "job_scripts.test.core"]),
        ("test/derived", ["Derived", "__main__"]),
        ("test/built", ["Whole", "__main__"]),
        ("test/inner", ["Any", "__main__"]),
        ("test/guarded", ["Any", "__main__"]),
    ],
)
def test_the_one_job_of_a_script_is_run_whatever_it_is_called(node: Node, job: str, output: list[str]) -> None:
    node.script("test/core", CORE)
    node.script(job, JOBS[job])
    outcome = node.run(job)
    assert outcome.end.reason == ""
    assert json.loads(outcome.output) == output


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            f"from jobs import Job\nclass A(Job):\n{BODY}class B(A): pass",
            "test/script has the jobs A and B, and none is called like the script; call the one that is to run Script",
        ),
        ("from core import Nightly, Late", "test/script has the jobs Late and Nightly, and none is called like"),
        ("from jobs import Job\nclass Any(Job): pass", "the class Any of test/script has no method execute"),
    ],
)
def test_a_script_of_which_it_is_not_clear_what_to_run_fails(node: Node, text: str, reason: str) -> None:
    node.script("test/core", f"{CORE}class Late(Job):\n{BODY}")
    outcome = node.execute(text)
    assert (outcome.end.state, outcome.end.reason[: len(reason)]) == (RunState.FAILED, reason)
    assert outcome.log.decode().startswith(reason)
    assert b"Traceback" not in outcome.log


@pytest.mark.parametrize(
    "text",
    [
        "from core import Nightly, Late\nprint(Nightly().execute()[0])",
        "from jobs import Job\nclass A(Job):\n    def execute(self): return 'A'\nif __name__ == '__main__': print('Nightly')\n"
        "if __name__ == '__main__': A()",
        "import core\nprint(core.Nightly.__name__)",
        "from core import Part, Job\nprint('Nightly')",
        "class Job: pass\nclass A(Job):\n    def execute(self): return 'A'\nprint('Nightly')",
    ],
)
def test_a_script_that_sees_to_its_jobs_itself_or_has_none_is_plain(node: Node, text: str) -> None:
    node.script("test/core", f"{CORE}class Late(Job):\n{BODY}")
    outcome = node.execute(text)
    assert (outcome.end.state, outcome.log, outcome.output) == (RunState.COMPLETED, b"Nightly\n", b"")


def test_a_job_may_be_asynchronous(node: Node) -> None:
    text = """
        import asyncio
        from jobs import Job
        class Script(Job):
            async def execute(self):
                \"\"\"Description: Waits.\"\"\"
                await asyncio.sleep(0.01)
                return self.arguments["n"] // self.arguments["by"]
    """
    assert node.execute(text, {"n": 6, "by": 2}).output == b"3"
    outcome = node.execute(text, {"n": 6, "by": 0})
    assert outcome.end.reason == "ZeroDivisionError: integer division or modulo by zero"
    assert b"asyncio/runners.py" not in outcome.log


def test_a_job_may_have_attributes_of_any_name(node: Node) -> None:
    text = """
        import unittest.mock
        from jobs import Job, run
        class Script(Job):
            def __init__(self):
                self.client, self.arguments, self.scratch, self.attempt = "own", "own", "own", "own"
            def execute(self):
                with unittest.mock.patch("jobs.client.Client.fetch", lambda _, key: key.encode()):
                    assert self.fetch("a key") == b"a key"
                return [self.client, self.arguments, self.scratch, self.attempt, self.job_id, type(run.client).__name__]
    """
    outcome = node.execute(text)
    assert (outcome.end.reason, json.loads(outcome.output)) == ("", ["own", "own", "own", "own", 1, "Client"])


# The value it works on.


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("in/orders.csv.gz", "orders.csv.gz"),
        ("in/a b%.txt", "a b%.txt"),
        ("plain", "plain"),
        ("x" * 300 + ".csv", "x" * 251 + ".csv"),
    ],
)
def test_the_file_to_work_on_is_called_like_its_key(node: Node, key: str, name: str) -> None:
    data = node.directory / ("f" * 32)
    data.write_text("value")
    data.chmod(0o444)
    text = "import os\nfrom jobs import run\nrun.output([run.data_path.name, run.data_path.read_text(), os.listdir()])"
    outcome = node.execute(text, data_path=str(data), data_key=key)
    assert outcome.end.reason == ""
    assert json.loads(outcome.output) == [name, "value", []]


@pytest.mark.parametrize(
    "text",
    [
        "import shutil; shutil.move(path, 'mine')",
        "path.unlink()",
        "path.rename(path.with_suffix('.done'))",
        "import os; open('mine', 'w').close(); os.replace('mine', path)",
        "path.with_suffix('.parquet').write_bytes(bytes(3 << 20))",
    ],
)
def test_who_moves_or_deletes_that_file_has_lost_it_for_itself(node: Node, text: str) -> None:
    data = node.directory / "data"
    data.write_bytes(b"value" * 1_000_000)
    data.chmod(0o444)
    outcome = node.execute(f"from jobs import run\npath = run.data_path\n{text}", data_path=str(data), data_key="a.csv")
    assert (outcome.end.state, outcome.end.reason) == (RunState.COMPLETED, "")
    assert data.read_bytes() == b"value" * 1_000_000
    assert not list((node.work / "scratch").iterdir())
    # What a run leaves is thrown away soon after it.
    wait_for(lambda: data.stat().st_nlink == 1 or text.startswith("import shutil"), what="the run's own link removed")


def test_a_copy_that_is_gone_is_said(node: Node) -> None:
    outcome = node.execute("", data_path=str(node.directory / "nothing"), data_key="in/a.csv")
    assert outcome.end.reason == "this node's copy of in/a.csv is gone"


# Memory.


def test_a_limit_of_memory_leaves_room_for_what_is_only_reserved(node: Node) -> None:
    # Given libraries that reserve far more than they touch, and threads with their stacks
    text = """
        import mmap, threading, time
        reserved = mmap.mmap(-1, 512 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        threads = [threading.Thread(target=time.sleep, args=(0.3,)) for _ in range(40)]
        for thread in threads: thread.start()
    """
    assert node.execute(text, memory=64 * MIB).end.reason == ""


def test_a_run_that_may_have_died_of_its_limit_says_so(node: Node) -> None:
    crash = "import ctypes; ctypes.string_at(0)"
    outcome = node.execute(crash, memory=64 * MIB)
    assert outcome.end.reason == (
        "killed by signal 11 (SIGSEGV); its memory was limited to 64 MiB, which may be too little for it"
    )
    reserve = "import mmap\nkept = mmap.mmap(-1, 1080 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
    for text, reason in (("raise RuntimeError('no thread')", "RuntimeError: no thread"), ("exit(4)", "exit status 4")):
        outcome = node.execute(reserve + text, memory=64 * MIB)
        assert outcome.end.reason.startswith(f"{reason}; it had reserved 1.0"), outcome.end.reason
        assert outcome.end.reason.endswith(" GiB of memory by then, far more than the 64 MiB that it may use")
        assert node.execute(text, memory=64 * MIB).end.reason == reason
    assert node.execute(crash).end.reason == "killed by signal 11 (SIGSEGV)"


# Programs and modules.


def test_programs_are_those_of_the_interpreter_that_runs_the_script(node: Node) -> None:
    text = """
        import os, subprocess, sys
        from jobs import run
        code = "import jobs, sys; print(sys.executable, 'ops' in sys.modules)"
        run.output([subprocess.run(["python3", "-c", code], capture_output=True, text=True, check=True).stdout.split()[0],
                    sys.executable, os.environ["PATH"].split(":")])
    """
    found, executable, path = json.loads(node.execute(text).output)
    assert os.path.dirname(found) == os.path.dirname(executable) == path[0]
    assert path.count(path[0]) == 1


@pytest.mark.parametrize("name", ["broker", "ops", "node", "tests", "master", "extensions"])
def test_modules_of_these_names_are_not_ours(node: Node, name: str) -> None:
    (node.directory / "lib").mkdir()
    (node.directory / "lib" / f"{name}.py").write_text("value = 'theirs'")
    text = f"""
        import subprocess, sys
        sys.path.append({str(node.directory / "lib")!r})
        import {name}
        print({name}.value, flush=True)
        code = "import importlib.util; print(importlib.util.find_spec({name!r}))"
        subprocess.run([sys.executable, "-P", "-c", code], check=True)
    """
    assert node.execute(text).log == b"theirs\nNone\n"


def test_zip_files_compiled_modules_and_other_scripts_beside_a_script_are_found(node: Node) -> None:
    folder = node.script("test/script", "").parent
    with zipfile.ZipFile(folder / "vendor.zip", "w") as file:
        file.writestr("packed.py", "value = 'packed'")
        file.writestr("deep/inside.py", "value = 'inside'")
    (node.directory / "compiled.py").write_text("value = 'compiled'")
    py_compile.compile(str(node.directory / "compiled.py"), str(folder / "compiled.pyc"))
    node.script("test/step", "value = __name__")
    text = """
        import os, runpy, sys
        here = os.path.dirname(os.path.abspath(__file__))
        sys.path.insert(0, os.path.join(here, "vendor.zip"))
        sys.path.insert(0, os.path.join(here, "vendor.zip", "deep"))
        import packed, inside, compiled
        print(packed.value, inside.value, compiled.value, runpy.run_path(os.path.join(here, "step.py"))["value"])
    """
    outcome = node.execute(text)
    assert (outcome.end.reason, outcome.log) == ("", b"packed inside compiled <run_path>\n")


def test_linked_scripts_and_folders_are_run(node: Node) -> None:
    shared = node.directory / "shared"
    shared.mkdir()
    (shared / "job.py").write_text("from . import helper\nimport other\nprint(__file__, helper.value, other.value)")
    (shared / "helper.py").write_text("value = 'helper'")
    (shared / "other.py").write_text("value = 'other'")
    node.script("test/noop", "")
    (node.scripts / "linked").symlink_to(shared)
    for name in ("job", "helper", "other"):
        (node.scripts / "test" / f"{name}.py").symlink_to(shared / f"{name}.py")
    for folder in ("linked", "test"):
        assert node.run(f"{folder}/job").log.decode() == f"{node.scripts}/{folder}/job.py helper other\n"
    (node.scripts / "test" / "lost.py").symlink_to("nothing")
    assert node.run("test/lost").end.reason == "no such script: test/lost"


# As in any program.


def test_what_cleans_up_when_it_goes_finds_what_it_uses(node: Node) -> None:
    text = """
        import os
        from helper import Late
        DIRECTORY = "kept"
        class Resource:
            def __init__(self, name): self.name = name
            def __del__(self): print("gone", self.name, os.path.basename(DIRECTORY), clean(self.name))
        def clean(name): return name.upper()
        one = Resource("one")
        two = Resource("two")
        ring = Resource("ring")
        ring.itself = ring
        late = Late()
        Resource.shared = Resource("shared")
        class Holder: file = open("%s", "w")
        Holder.file.write("all of it")
    """
    node.script("test/helper", "import json\nclass Late:\n    def __del__(self): print(json.dumps('late'))\n")
    kept = node.directory / "kept"
    outcome = node.execute(text % kept)
    assert outcome.log.decode().splitlines()[:3] == ['"late"', "gone two kept TWO", "gone one kept ONE"]
    rest = ["gone ring kept RING", "gone shared kept SHARED"]
    assert sorted(outcome.log.decode().splitlines()[3:]) == rest
    assert kept.read_text() == "all of it"


def test_an_interrupt_is_an_exception(node: Node) -> None:
    for text in (
        "import _thread, time; _thread.interrupt_main(); time.sleep(60)",
        "import signal; signal.raise_signal(2)",
    ):
        outcome = node.execute(f"try:\n    {text}\nexcept KeyboardInterrupt:\n    print('stopped')")
        assert (outcome.end.reason, outcome.log) == ("", b"stopped\n")
    # and programs that it starts can be interrupted
    text = "import subprocess\nprint(subprocess.run(['sh', '-c', 'kill -INT $$; sleep 60']).returncode)"
    assert node.execute(text).log == b"-2\n"


def test_builtins_are_a_module(node: Node) -> None:
    text = "assert __builtins__.len([1]) == 1 and hasattr(__builtins__, 'print')\nprint(__spec__.name, __spec__.origin)"
    assert node.execute(text).log.decode() == f"job_scripts.test.script {node.scripts}/test/script.py\n"


def test_a_process_is_right_about_itself_and_ends_what_the_script_logs(node: Node) -> None:
    text = """
        import logging, logging.handlers, os, random, sys, threading
        print(threading.main_thread().native_id == threading.get_native_id() == os.getpid())
        print(random.random(), flush=True)
        collecting = logging.handlers.MemoryHandler(100, target=logging.StreamHandler(sys.stdout))
        logging.getLogger().addHandler(collecting)
        logging.warning("written at the end")
    """
    logs = [node.execute(text).log.decode().splitlines() for _ in range(3)]
    assert [[log[0], *log[2:]] for log in logs] == 3 * [["True", "written at the end"]]
    assert len({log[1] for log in logs}) == 3
