"""What a script finds, and what of it is found afterwards."""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from broker.messages.runs import RunState
from node.runs.log_capture import LIVE_BYTES
from tests.support import wait_for
from tests.unit.runs import ROOT, Node, separate

MIB = 1 << 20


# Scripts and the modules beside them.


def test_a_class_is_run_by_its_method_and_a_plain_script_as_main(node: Node) -> None:
    node.script(
        "test/word_count",
        """
        from jobs import Job
        print(__name__)
        class Word_count(Job):
            def execute(self): return type(self).__name__
        if __name__ == "__main__": print("by hand")
        """,
    )
    outcome = node.run("test/word_count.py")
    assert (outcome.output, outcome.log) == (b'"Word_count"', b"job_scripts.test.word_count\n")
    node.script("test/word-count", "import jobs\nclass WordCount(jobs.Job):\n    def execute(self): return 'camel'\n")
    assert node.run("test/word-count").output == b'"camel"'
    # A class of the same name that is no job is none of ours
    text = "class Script(dict): pass\nif __name__ == '__main__': print('by hand', __file__)\n"
    assert node.execute(text).log == f"by hand {node.scripts}/test/script.py\n".encode()


def test_a_job_may_be_built_on_a_base_of_its_own(node: Node) -> None:
    node.script("test/base", "from jobs import Job\nclass Base(Job):\n    def execute(self): return self.answer\n")
    node.script(
        "test/derived", "from .base import Base\nclass Derived(Base):\n    answer = 42\n    execute = Base.execute\n"
    )
    node.script("test/other", "from base import Base as Job\nclass Other(Job): answer = 43\n")
    assert node.run("test/other").output == b"43"
    # By which names its base and its method go can't be told without running it
    assert node.run("test/derived").output == b"42"


def test_an_edited_script_and_an_edited_helper_count_at_once(node: Node) -> None:
    script = node.script("test/script", "from . import helper\nimport other\nprint(0, helper.value, other.value)\n")
    for number in range(140, 180):
        # When all are written again, in the same moment and with the same sizes
        node.script("test/helper", f"value = {number + 1}\n")
        node.script("test/other", f"value = {number + 2}\n")
        script.write_text(f"from . import helper\nimport other\nprint({number}, helper.value, other.value)\n")
        assert node.run("test/script").log.decode() == f"{number} {number + 1} {number + 2}\n"
    assert not list(node.scripts.rglob("__pycache__"))


def test_a_script_that_is_kept_compiled_is_compiled_again_when_it_changes(node: Node) -> None:
    script = node.script("test/script", "print('one')")
    old = time.time() - 1000
    os.utime(script, (old, old))
    for _ in range(5):
        assert node.run("test/script").log == b"one\n"
    # When another file of the same size and time takes its place
    other = node.script("test/next", "print('two')")
    os.utime(other, (old, old))
    other.rename(script)
    assert node.run("test/script").log == b"two\n"


def test_a_change_that_leaves_no_other_time_counts_too(node: Node) -> None:
    # Given files that are written again without a new time: clocks of file systems go in steps
    script = node.script("test/script", "print('one')")
    for number in range(100, 110):
        now = time.time_ns() + 5_000_000_000  # so that it is still new, however long this takes
        script.write_text(f"print({number})")
        os.utime(script, ns=(now, now))
        assert node.run("test/script").log == b"%d\n" % number
        script.write_text(f"print({number + 100})")
        os.utime(script, ns=(now, now))
        assert node.run("test/script").log == b"%d\n" % (number + 100)


def test_helpers_import_by_name_and_relatively_from_folders_of_any_name(node: Node) -> None:
    for folder in ("json", "my-folder", "jobs", "node", "2024"):
        node.script(
            f"{folder}/helper", "from . import deeper_one\nvalue = deeper_one.value\nimport json as j\nj.dumps({})"
        )
        node.script(f"{folder}/deeper_one", f"value = {folder!r}")
        node.script(f"{folder}/pack/__init__", "from .inside import value")
        node.script(f"{folder}/pack/inside", "value = 'packed'")
        text = """
            from . import helper
            from .pack import value
            import deeper_one, pack.inside
            import json
            print(helper.value, deeper_one.value, value, pack.inside.value, json.dumps([]))
        """
        node.script(f"{folder}/script", text)
        assert node.run(f"{folder}/script").log.decode() == f"{folder} {folder} packed packed []\n"


def test_modules_may_be_called_as_ours_are(node: Node) -> None:
    for name in ("node", "runs", "zygote", "master", "broker", "tests"):
        node.script(f"test/{name}", f"value = {name!r}")
    text = "import node, runs, zygote, master, broker, tests\nprint(node.value, runs.value, zygote.value, master.value, broker.value, tests.value)"
    assert node.execute(text).log == b"node runs zygote master broker tests\n"


def test_nothing_stays_between_runs_and_runs_side_by_side_do_not_meet(node: Node) -> None:
    for folder in ("one", "two"):
        node.script(f"{folder}/helper", f"name, seen = {folder!r}, []")
        text = """
            import os, sys, time, builtins, json
            import helper
            from jobs import run
            helper.seen.append(1)
            builtins.leftover = getattr(builtins, "leftover", 0) + 1
            json.leftover = getattr(json, "leftover", 0) + 1
            os.environ["LEFTOVER"] = os.environ.get("LEFTOVER", "") + "x"
            open("mine", "x").close()
            time.sleep(0.2)
            print(helper.name, helper.seen, builtins.leftover, json.leftover, os.environ["LEFTOVER"], os.listdir())
        """
        node.script(f"{folder}/script", text)
    runs = [(folder, node.begin(f"{folder}/script")) for folder in ("one", "two") * 3]
    for folder, run in runs:
        assert node.outcome(run).log.decode() == f"{folder} [1] 1 1 x ['mine']\n"


def test_random_numbers_differ_between_runs(node: Node) -> None:
    text = "import random, uuid, os, secrets\nprint(random.random(), uuid.uuid4(), os.urandom(16).hex(), secrets.token_hex())"
    assert len({word for _ in range(5) for word in node.execute(text).log.split()}) == 20


# What it finds.


def test_a_run_knows_about_itself(node: Node) -> None:
    data = node.directory / "data"
    data.write_text("the value")
    node.script(
        "test/about",
        """
        from jobs import Job
        class About(Job):
            def execute(self):
                return [self.arguments, self.job_id, self.attempt, self.data_path.read_text(), self.data_key, str(self.scratch)]
        """,
    )
    arguments = {"text": "ä\u2028\U0001f600\udc80", "list": [1, None, 2.5], "deep": {"x": {}}}
    run = node.begin("test/about", arguments, job_id=77, attempt=3, data_path=str(data), data_key="a/b c")
    output = json.loads(node.outcome(run).output)
    assert output == [arguments, 77, 3, "the value", "a/b c", str(node.work / "scratch" / run)]
    assert node.execute("from jobs import run\nassert run.data_path is None and run.data_key == ''").end.reason == ""


def test_processes_that_it_starts_know_too(node: Node) -> None:
    text = """
        import os, subprocess, sys
        code = "from jobs import run; print(run.arguments['number'], run.attempt); run.log('logged')"
        subprocess.run([sys.executable, "-c", code], check=True)
        code = "from jobs import run; run.progress(1, 2); run.output('from below')"
        subprocess.run([sys.executable, "-c", code], check=True, pass_fds=[int(os.environ["PULZAR_EVENTS"])])
        subprocess.run([sys.executable, "-c", code], check=False)
    """
    outcome = node.execute(text, {"number": 5})
    assert outcome.log.startswith(b"5 1\nlogged\nTraceback")
    assert b"pass_fds=[int(os.environ['PULZAR_EVENTS'])]" in outcome.log
    assert outcome.output == b'"from below"'


def test_arguments_too_large_for_an_environment_arrive(node: Node) -> None:
    text = """
        import os, subprocess, sys
        from jobs import run
        assert len(run.arguments["text"]) == 1000000 and "PULZAR_ARGUMENTS" not in os.environ
        code = "from jobs import run; print(len(run.arguments['text']))"
        subprocess.run([sys.executable, "-c", code], check=True)
    """
    outcome = node.execute(text, {"text": "x" * 1_000_000})
    assert (outcome.end.state, outcome.log) == (RunState.COMPLETED, b"1000000\n")


def test_arguments_that_are_no_json_fail_the_run(node: Node) -> None:
    outcome = node.execute("", {"bytes": b"x"})
    assert outcome.end.state is RunState.FAILED
    assert outcome.end.reason.startswith("the arguments can't be written as JSON")


def test_the_environment_has_no_secrets(node: Node) -> None:
    text = """
        import json, os, pathlib
        from jobs import run
        run.output([dict(os.environ), pathlib.Path("/proc/self/environ").read_text(), pathlib.Path("/proc/self/cmdline").read_text(), os.getcwd()])
    """
    run = node.begin("test/script") if node.script("test/script", text) else ""
    environment, raw, command, directory = json.loads(node.outcome(run).output)
    assert "hidden" not in raw + command + json.dumps(environment)
    scratch = str(node.work / "scratch" / run)
    assert directory == scratch
    ours = {name: value for name, value in environment.items() if name.startswith("PULZAR_")}
    assert ours.pop("PULZAR_NODE_RUNS")
    assert ours == {
        "PULZAR_RUN": run,
        "PULZAR_JOB_ID": "1",
        "PULZAR_ATTEMPT": "1",
        "PULZAR_ARGUMENTS": "{}",
        "PULZAR_DATA": "",
        "PULZAR_DATA_KEY": "",
        "PULZAR_SCRATCH": scratch,
        "PULZAR_SCRIPTS": str(node.scripts),
        "PULZAR_MASTER": "localhost:9",
        "PULZAR_EVENTS": "60",
    }
    rest = set(environment) - set(ours) - {"PULZAR_NODE_RUNS"}
    assert {"PATH", "HOME", "TMPDIR", "PYTHONPATH"} <= rest
    assert not [name for name in rest if name == "MAIL" or "PSW" in name or "SECRET" in name]
    assert environment["HOME"] == scratch
    assert environment["PYTHONPATH"].split(":")[0] == str(node.work / "path")
    assert str(ROOT) not in environment["PYTHONPATH"].split(":")


def test_it_has_the_descriptors_that_it_needs_and_no_others(node: Node) -> None:
    text = """
        import os
        print(sorted(int(number) for number in os.listdir("/proc/self/fd"))[:-1], os.readlink("/proc/self/fd/0"), os.getsid(0) == os.getpid())
        print(os.system("ls /proc/self/fd | wc -l"), flush=True)
    """
    outcome = node.execute(text)
    # 3 is the directory that is being listed; 60 goes on to programs, 61 does not
    assert outcome.log.decode() == "[0, 1, 2, 3, 60] /dev/null True\n5\n0\n"


SIGNALS = """
    import signal, subprocess
    print(*(signal.getsignal(number).name for number in (signal.SIGTERM, signal.SIGCHLD)), signal.pthread_sigmask(0, ()))
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)
    subprocess.run(["sh", "-c", "grep -E 'Sig(Blk|Ign)' /proc/self/status"])
"""
IGNORED = """
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def check_signals(log: str) -> None:
    lines = log.splitlines()
    assert lines[:2] == ["SIG_DFL SIG_DFL set()", "True"]
    assert [line.split()[1] for line in lines[2:]] == ["0" * 16, "0" * 16]


def test_signals_are_as_in_any_program(node: Node) -> None:
    check_signals(node.execute(SIGNALS).log.decode())


def test_signals_are_as_in_any_program_also_when_the_node_was_told_to_ignore_them(node: Node) -> None:
    # Given a node that was started with nohup, or in the background of a script
    node.script("test/script", SIGNALS)
    agent = separate(node.directory, sys.executable, "-c", IGNORED)
    try:
        # When it runs a job
        assert agent.stdin
        assert agent.stdout
        agent.stdin.write('"test/script"\n')
        agent.stdin.flush()
        state, reason, log = json.loads(agent.stdout.readline())
    finally:
        agent.kill()
        agent.wait()
    # Then signals end it, and the programs that it starts
    assert (state, reason) == ("completed", "")
    check_signals(log)


# What it writes.


def test_standard_output_and_standard_error_are_one_log_in_order(node: Node) -> None:
    text = """
        import os, subprocess, sys
        from jobs import run
        for number in range(100):
            print("out", number)
            print("err", number, file=sys.stderr)
            run.log("log", number)
            sys.stdout.write("part ")
            run.log("whole")
            os.write(1, b"raw\\n")
        sys.stdout.flush()
        subprocess.run(["sh", "-c", "echo child; echo error >&2"])
        print("no newline", end="")
    """
    lines = [f"out {n}\nerr {n}\nlog {n}\npart whole\nraw\n" for n in range(100)]
    assert node.execute(text).log.decode() == "".join(lines) + "child\nerror\nno newline"


def test_bytes_that_are_no_text_and_text_that_is_no_unicode(node: Node) -> None:
    text = r"""
        import sys
        from jobs import run
        sys.stdout.buffer.write(b"\xff\x00\xfe\n")
        sys.stdout.flush()
        print("\ud800 ä")
        run.log("\udc80")
    """
    assert node.execute(text).log == b"\xff\x00\xfe\n\\ud800 \xc3\xa4\n\\udc80\n"


@pytest.mark.parametrize(
    "closing",
    ["sys.stdout.close()", "os.close(1)", "sys.stdout = None", "os.close(1); os.close(2); os.closerange(3, 60)"],
)
def test_a_closed_standard_output_is_no_failure(node: Node, closing: str) -> None:
    text = f"import os, sys\nfrom jobs import run\nprint('before')\n{closing}\nrun.log('after')\nrun.output(1)"
    outcome = node.execute(text)
    assert (outcome.end.state, outcome.log, outcome.output) == (RunState.COMPLETED, b"before\nafter\n", b"1")


def test_a_script_that_closes_everything_has_its_exit_status(node: Node) -> None:
    everything = "import os\nfrom jobs import run\nrun.progress(1)\nrun.progress(2)\nos.closerange(3, 256)\n"
    outcome = node.execute(everything + "run.log('still')")
    assert (outcome.end.state, outcome.log) == (RunState.COMPLETED, b"still\n")
    # The reason stands in the log, but can't be told otherwise
    outcome = node.execute(everything + "1 / 0")
    assert (outcome.end.state, outcome.end.reason) == (RunState.FAILED, "exit status 1")
    assert outcome.log.endswith(b"ZeroDivisionError: division by zero\n")
    # Nothing is written to what took the place of the pipe
    text = everything + "os.dup2(os.open('file', os.O_CREAT | os.O_WRONLY), 60)\n"
    text += "try: run.output(1)\nexcept Exception as error: print(error)\nprint(os.path.getsize('file'))"
    assert node.execute(text).log == b"the script closed the event pipe, descriptor 60\n0\n"


def test_standard_input_is_empty(node: Node) -> None:
    assert node.execute("input()").end.reason == "EOFError: EOF when reading a line"
    assert (
        node.execute("import sys, subprocess\nassert sys.stdin.read() == ''\nsubprocess.run(['cat'])").end.reason == ""
    )


def test_a_log_of_a_gigabyte_costs_little_time_and_no_memory(node: Node) -> None:
    node.start(log=100_000)
    node.execute("")
    agent = psutil.Process()
    before = agent.memory_info().rss
    # When a script writes 1 GiB, in blocks from a program, while another wants to run
    node.script("test/flood", "import subprocess\nsubprocess.run('yes | head -c 1G', shell=True)\nprint('done')")
    began = time.monotonic()
    run = node.begin("test/flood")
    node.printed(run, "y")
    assert node.execute("print('beside')").log == b"beside\n"
    outcome = node.outcome(run, 60)
    # Then it is soon through, beginning and end are kept, and what is missing is counted
    assert outcome.end.state is RunState.COMPLETED
    assert time.monotonic() - began < 40
    assert agent.memory_info().rss - before < 8 * MIB
    kept = outcome.log.split(b"[... 1073641829 bytes left out ...]\n")
    assert kept == [b"y\n" * 25_000, b"\n" + b"y\n" * 24_997 + b"done\n"]


def test_many_lines_are_quick(node: Node) -> None:
    began = time.monotonic()
    outcome = node.execute("for number in range(1000000): print('a line of the usual length, about so long', number)")
    assert outcome.end.state is RunState.COMPLETED
    assert outcome.log.endswith(b" 999999\n")
    assert time.monotonic() - began < 40


# The output.


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("run.output({'a': [1, 2.5, None, True]})", b'{"a": [1, 2.5, null, true]}'),
        ("run.output('some text')", b'"some text"'),
        ("run.output('\U0001f600 ä')", '"\U0001f600 ä"'.encode()),
        ("run.output('\\ud800')", b'"\\ud800"'),
        ("run.output(None)", b"null"),
        ("run.output(1); run.output(2)", b"2"),
        ("run.output(1); 1 / 0", b"1"),
        ("run.output(1); import os; os._exit(0)", b"1"),
        ("run.output('x' * 1048574)", b'"' + b"x" * 1_048_574 + b'"'),
    ],
)
def test_an_output_is_json(node: Node, text: str, output: bytes) -> None:
    assert node.execute(f"from jobs import run\n{text}").output == output


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("run.output('x' * 1048575)", "jobs.errors.BadOutput: the output has 1048577 bytes and 1048576 are allowed"),
        (
            "run.output([run])",
            "jobs.errors.BadOutput: the output can't be written as JSON: output[0] is a jobs.context.Run,",
        ),
        (
            "a = []; a.append(a); run.output(a)",
            "jobs.errors.BadOutput: the output can't be written as JSON: output[0] holds",
        ),
    ],
)
def test_an_output_that_can_not_be_one_fails_the_run_and_stands_in_the_log(node: Node, text: str, reason: str) -> None:
    outcome = node.execute(f"from jobs import run\n{text}")
    assert outcome.end.state is RunState.FAILED
    assert outcome.end.reason.startswith(reason)
    assert b"the output that was refused: " in outcome.log


def test_an_output_of_what_scripts_have_at_their_end_is_written_and_what_is_not_as_it_was_is_said(node: Node) -> None:
    node.script(
        "text/area",
        """
        from datetime import date
        from jobs import Job

        class Area(Job):
            def execute(self):
                print("before")
                return {"when": date(2026, 1, 2), "gap": float("nan"), "digest": b"abc"}
        """,
    )
    outcome = node.run("text/area")
    assert (outcome.end.state, outcome.output) == (
        RunState.COMPLETED,
        b'{"when": "2026-01-02", "gap": null, "digest": "YWJj"}',
    )
    assert outcome.log.decode().splitlines() == [
        "before",
        "output.gap: nan, written as null",
        "output.digest: 3 bytes, written as base64",
    ]


def test_what_execute_returns_is_the_output_unless_there_was_one(node: Node) -> None:
    for body, output in (
        ("return {'a': 1}", b'{"a": 1}'),
        ("pass", b""),
        ("self.output(1); return 2", b"1"),
        ("return 0", b"0"),
    ):
        node.script(
            "test/job", f"from jobs import Job\nclass Job_(Job): pass\nclass Job(Job):\n    def execute(self): {body}\n"
        )
        assert node.run("test/job").output == output
    node.script("test/bad", "from jobs import Job\nclass Bad(Job):\n    def execute(self): return object()\n")
    assert node.run("test/bad").end.reason.startswith("the output can't be written as JSON")


def test_nonsense_in_the_event_pipe_fails_that_run_alone(node: Node) -> None:
    for junk in ("b'GET / HTTP/1.1\\r\\n' * 1000", "b'o\\xff\\xff\\xff\\xff'"):
        outcome = node.execute(f"import os\nos.write(60, {junk})\nprint('on')")
        assert (outcome.end.state, outcome.log) == (RunState.FAILED, b"on\n")
        assert "came through the event pipe" in outcome.end.reason
    for junk in ("b'p\\0\\0\\0\\2{}'", "b'p\\0\\0\\0\\1['", "b'p\\0\\0\\0\\x0c[1e999,1,\"\"]'", "b'p\\0'"):
        outcome = node.execute(f"import os, time\nos.write(60, {junk})\nprint('on')\ntime.sleep(0.7)")
        assert outcome.end.state is RunState.COMPLETED
    assert {progress.done for progress in node.progress} == {None}
    assert node.execute("from jobs import run\nrun.output(1)").output == b"1"


# Progress.


def test_progress_and_log_are_told_while_it_runs_but_not_too_often(node: Node) -> None:
    text = """
        import time
        from jobs import run
        until = time.monotonic() + 2.2
        done = 0
        while time.monotonic() < until:
            done += 1
            run.progress(done, 10 ** 9, f"step {done}")
            print(done)
            time.sleep(0.0001)  # what is told must not pile up where the machine has much to do
        run.progress(10 ** 9, 10 ** 9, "all")
        time.sleep(2)
    """
    outcome = node.execute(text)
    told = node.progress
    assert 2 <= len(told) <= (outcome.end.ended - outcome.end.started) / 500 + 1
    done = [progress.done for progress in told if progress.done is not None]
    assert done == sorted(done)
    assert (told[-1].done, told[-1].total, told[-1].text) == (1e9, 1e9, "all")
    # What is told of the log is what stands there in the end
    for progress in told:
        assert len(progress.log) <= LIVE_BYTES
        if progress.offset + len(progress.log) < len(outcome.log) // 2:
            assert outcome.log[progress.offset : progress.offset + len(progress.log)] == progress.log
    offsets = [progress.offset for progress in told if progress.log]
    assert offsets == sorted(offsets)


@pytest.mark.parametrize("wrong", ["float('nan')", "float('inf')", "1, float('nan')", "'x'", "None"])
def test_a_progress_that_is_no_number_is_an_error_at_its_place(node: Node, wrong: str) -> None:
    outcome = node.execute(f"from jobs import run\nrun.progress({wrong})")
    assert outcome.end.state is RunState.FAILED
    assert b'script.py", line 2' in outcome.log


def test_nothing_new_is_not_told(node: Node) -> None:
    node.execute("import time\nprint('once')\ntime.sleep(1.5)")
    assert [(progress.log, progress.offset, progress.done) for progress in node.progress] == [(b"once\n", 0, None)]
    node.execute("print('too short to tell')")
    assert len(node.progress) == 1


# The end.


def test_threads_exit_functions_and_open_files_are_seen_to(node: Node) -> None:
    kept = node.directory / "kept"
    text = """
        import atexit, gzip, threading, time
        from jobs import run
        atexit.register(print, "at exit")
        left_open = open("%s", "w")
        left_open.write("all of it")
        packed = gzip.open("%s.gz", "wt")
        packed.write("packed")
        def work():
            time.sleep(0.3)
            print("thread")
            run.output("from the thread")
        threading.Thread(target=work).start()
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        print("main")
    """
    outcome = node.execute(text % (kept, kept))
    assert (outcome.end.state, outcome.log) == (RunState.COMPLETED, b"main\nthread\nat exit\n")
    assert outcome.output == b'"from the thread"'
    assert kept.read_text() == "all of it"
    assert gzip.decompress(Path(f"{kept}.gz").read_bytes()) == b"packed"


@pytest.mark.parametrize("end", ["raise ValueError('in the child')", "return 'child'", "sys.exit('child')"])
def test_a_forked_child_that_runs_on_does_not_speak_for_the_run(node: Node, end: str) -> None:
    text = """
        from jobs import Job
        import os, sys
        class Fork(Job):
            def execute(self):
                child = os.fork()
                if not child:
                    %s
                os.waitpid(child, 0)
                sys.exit(self.arguments["status"])
    """
    node.script("test/fork", text % end)
    outcome = node.run("test/fork", {"status": 3})
    assert (outcome.end.state, outcome.end.reason, outcome.output) == (RunState.FAILED, "exit status 3", b"")
    assert node.run("test/fork", {"status": 0}).end.state is RunState.COMPLETED


def test_processes_of_multiprocessing_work(node: Node) -> None:
    text = """
        import multiprocessing, concurrent.futures
        from jobs import Job
        def square(n): return n * n
        class Pool(Job):
            def execute(self):
                with multiprocessing.Pool(2) as pool:
                    first = pool.map(square, range(10))
                with concurrent.futures.ProcessPoolExecutor(2) as pool:
                    return [first, list(pool.map(square, range(10)))]
    """
    node.script("test/pool", text)
    outcome = node.run("test/pool")
    assert outcome.end.reason == ""
    assert json.loads(outcome.output) == [[n * n for n in range(10)]] * 2


@pytest.mark.parametrize(
    "text",
    [
        "open('file', 'w').write('x')",
        "os.makedirs('a/b/c'); open('a/b/c/file', 'w').write('x'); os.chmod('a/b', 0o500); os.chmod('a', 0)",
        "os.chmod('.', 0)",
        "[open(f'file{n}', 'w').close() for n in range(3000)]",
        "[(os.mkdir('d'), os.chdir('d')) for _ in range(1500)]",
        "os.symlink('/', 'root'); os.symlink('/etc/passwd', 'file'); os.mkfifo('fifo')",
        "os.rmdir(os.getcwd())",
        "here = os.getcwd(); os.rmdir(here); os.symlink('/etc', here)",
        "here = os.getcwd(); os.rmdir(here); open(here, 'w').close()",
    ],
)
def test_the_scratch_directory_is_gone_afterwards(node: Node, text: str) -> None:
    for _ in range(2):
        outcome = node.execute(f"import os\n{text}")
        assert (outcome.end.state, outcome.end.reason) == (RunState.COMPLETED, "")
        assert not list((node.work / "scratch").iterdir())
        wait_for(
            lambda: sorted(path.name for path in node.work.iterdir()) == ["cache", "mark", "path", "scratch", "trash"]
        )
        assert not list((node.work / "trash").iterdir())
    assert Path("/etc/passwd").exists()


def test_a_runner_that_starts_removes_what_another_left(node: Node) -> None:
    left = node.work / "scratch" / "deadbeef" / "deep"
    left.mkdir(parents=True)
    (left / "file").write_text("x")
    left.chmod(0o500)
    (node.work / "anything").write_text("x")
    node.start()
    assert node.execute("import os; print(os.listdir('..'))").log.startswith(b"['")
    wait_for(lambda: sorted(path.name for path in node.work.iterdir()) == ["cache", "mark", "path", "scratch", "trash"])
    assert not list((node.work / "scratch").iterdir())
