"""The `jobs` package without any node: paths and classes of scripts, events, and the program that runs a script by hand."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.errors import MalformedMessage
from broker.messages.jobs import check_path
from jobs import events, scripts
from jobs.errors import BadScript
from node.jobs.catalog import Catalog

ROOT = Path(__file__).parents[2]


def run_by_hand(*arguments: str, directory: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jobs", *arguments]
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "jobs" / "test").mkdir(parents=True)
    return tmp_path


# Paths.


@pytest.mark.parametrize("path", ["a/b", "a/b.py", "A-1/b_2", "0/0", "a" * 64 + "/" + "b" * 64])
def test_a_path_names_a_file(path: str) -> None:
    script = scripts.locate("/srv/jobs", path)
    assert script.path == path.removesuffix(".py")
    assert script.file == f"/srv/jobs/{script.path}.py"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "/a/b",
        "a/b/",
        "a//b",
        "a/b/c",
        "../b",
        "a/..",
        "./b",
        "-a/b",
        "a/-b",
        "_a/b",
        "a/_b",
        "a b/c",
        "a/b\n",
        "a/b.py.py",
        "ä/b",
        "a/b\0",
        "a" * 65 + "/b",
    ],
)
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(BadScript, match="is no path of a script"):
        scripts.locate("/srv/jobs", path)


def test_the_scripts_of_a_directory_are_found_in_order(place: Path) -> None:
    for name in (
        "b/two.py",
        "b/one.py",
        "a/x-1.py",
        "a/not a script.py",
        "a/text.txt",
        ".hidden/x.py",
        "a/__init__.py",
        "top.py",
    ):
        file = place / "jobs" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
    assert [script.path for script, _ in scripts.walk(place / "jobs", print)] == ["a/x-1", "b/one", "b/two"]


@pytest.mark.parametrize(
    "name", ["a", "A-1", "b_2", "0", "x" * 64, "_a", "-a", "__init__", "a b", "x" * 65, "ä", "a.b"]
)
def test_the_rule_for_names_is_the_same_wherever_one_is_said(place: Path, name: str) -> None:
    def good(check: Callable[[str], object]) -> bool:
        try:
            check(f"{name}/{name}")
        except (BadScript, MalformedMessage):
            return False
        return True

    (place / "jobs" / name).mkdir()
    (place / "jobs" / name / f"{name}.py").write_text("")
    catalog = Catalog(place / "jobs")
    catalog.scan()
    found = good(lambda path: scripts.locate(place, path))
    assert good(check_path) == found == ([row["path"] for row in catalog.rows] == [f"{name}/{name}"])
    assert run_by_hand("list", directory=place).stdout.startswith(f"{name}/{name} ") == found


# Classes.


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("factorial", "class Factorial(Job): pass", "Factorial"),
        ("factorial", "class Factorial(jobs.Job): pass", "Factorial"),
        ("word_count", "class Word_count(Job): pass", "Word_count"),
        ("word_count", "class WordCount(Job): pass", "WordCount"),
        ("word-count", "class WordCount(Job): pass", "WordCount"),
        ("HTTPGet", "class Httpget(Job): pass", "Httpget"),
        ("HTTPGet", "class HTTPGet(Job): pass", "HTTPGet"),
        ("a", "class A(Base):\n  def execute(self): pass", "A"),
        ("a", "class A(Base): pass", ""),
        ("a", "class A:\n  def execute(self): pass", ""),
        ("a", "class B(Job): pass", ""),
        ("a", "def A(): pass", ""),
        ("a", "if True:\n  class A(Job): pass", ""),
        ("a", "class A(Job): x = 1\nclass A(Job): x = 2", "A"),
    ],
)
def test_the_class_of_a_script_is_found_without_running_it(name: str, text: str, found: str) -> None:
    part = scripts.job_class(ast.parse(text), name)
    assert (part.name if part else "") == found


# Events.


def test_events_come_out_as_they_went_in_however_they_are_cut() -> None:
    sent = [(events.OUTPUT, b"x" * size) for size in (0, 1, 5, 8000)] + [
        (events.PROGRESS, b"[1,2]"),
        (events.FAILURE, b"no"),
    ]
    wire = b"".join(events.frame(*event) for event in sent)
    for step in (1, 3, 4096, len(wire)):
        decoder = events.Decoder(8000)
        received = [event for start in range(0, len(wire), step) for event in decoder.feed(wire[start : start + step])]
        assert received == sent
        assert not decoder.broken


@pytest.mark.parametrize("junk", [b"hello world", events.frame(events.OUTPUT, bytes(9000)), b"o\xff\xff\xff\xff"])
def test_nothing_follows_what_is_no_event(junk: bytes) -> None:
    decoder = events.Decoder(8000)
    good = events.frame(events.OUTPUT, b"1")
    assert decoder.feed(good + junk + good) == [(events.OUTPUT, b"1")]
    assert "came through the event pipe" in decoder.broken
    assert decoder.feed(good) == []


# By hand.


def test_a_script_runs_by_hand(place: Path) -> None:
    (place / "jobs/test/helper.py").write_text("def twice(n): return 2 * n\n")
    (place / "jobs/test/double.py").write_text(
        "from jobs import Job\nfrom .helper import twice\nimport os\n"
        "class Double(Job):\n"
        "    def execute(self):\n"
        "        self.log('working in', self.scratch == __import__('pathlib').Path(os.getcwd()))\n"
        "        self.progress(1, 2, 'half')\n"
        "        self.progress(2, 2, 'all')\n"
        "        open('left', 'w').close()\n"
        "        return [twice(self.arguments['n']), self.data_path.read_text(), self.data_key, self.job_id, self.attempt]\n"
    )
    (place / "file.txt").write_text("data")
    done = run_by_hand("run", "test/double", '{"n": 21}', "--data", "file.txt", directory=place)
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["working in True", 'output: [42, "data", "file.txt", 0, 1]']
    assert done.stderr.splitlines() == ["progress: 1 of 2 half", "progress: 2 of 2 all"]
    assert not list((place / "jobs").rglob("__pycache__"))


@pytest.mark.parametrize(
    ("text", "status", "stdout", "stderr"),
    [
        ("import sys; sys.exit(3)", 3, "", ""),
        ("import sys; sys.exit('enough')", 1, "", "enough"),
        ("print('x'); 1 / 0", 1, "x", "ZeroDivisionError: division by zero"),
        ("if True", 1, "", "SyntaxError: expected ':'"),
        ("from jobs import run\nrun.output({'a': run.arguments})", 0, 'output: {"a": {}}', ""),
        (
            "from jobs import run\nrun.output({1: object})",
            1,
            "the output that was refused: {1: <class 'object'>}",
            "output['1'] is the class object, which JSON has not",
        ),
    ],
)
def test_a_script_by_hand_ends_as_it_would_on_a_node(
    place: Path, text: str, status: int, stdout: str, stderr: str
) -> None:
    (place / "jobs/test/script.py").write_text(text)
    done = run_by_hand("run", "test/script", directory=place)
    assert done.returncode == status
    assert done.stdout.strip() == stdout
    assert done.stderr.strip().endswith(stderr)
    assert "jobs/loader.py" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "required: job\n"),
        (["run", "nothing/here"], "no such script: nothing/here"),
        (["run", "../x"], "is no path of a script"),
        (["run", "test/script", "{"], "the arguments are no JSON"),
        (["run", "test/script", "[1]"], "the arguments are no JSON object"),
        (["run", "test/script", '{"n": NaN}'], "the arguments are no JSON: NaN is no JSON"),
        (["run", "test/script", '{"n": [1e999]}'], "the arguments have the number inf, which JSON has not"),
        (["run", "test/script", '{"n": 18446744073709551616}'], "an integer of more than 64 bits; send it as text"),
        (["run", "test/script", '{"n": -9223372036854775809}'], "an integer of more than 64 bits; send it as text"),
        (["run", "test/script", '{"n": "\\ud800"}'], "the arguments have half of a character"),
        (["run", "test/script", '{"\\ud800": 1}'], "the arguments have half of a character"),
        (["run", "test/script", '{"n": ' + "[" * 40 + "]" * 40 + "}"], "more than 32 lists or objects in each other"),
        (["run", "test/script", '{"n": ' + "[" * 9999 + "]" * 9999 + "}"], "more than 32 lists or objects in each"),
        (["run", "test/script", "--data", "nothing"], "nothing is no file"),
        (["list", "--dir", "nowhere"], "nowhere is no directory"),
        ([], "required: COMMAND"),
    ],
)
def test_mistakes_by_hand_are_explained(place: Path, arguments: list[str], message: str) -> None:
    done = run_by_hand(*arguments, directory=place)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ({"tools": "x = 1\n", "user": "from . import tools\n"}, "a helper of test/user, which imports it"),
        ({"tools": "# pulzar: helper\nx = 1\n"}, "a helper, as its line `# pulzar: helper` says"),
    ],
)
def test_a_helper_by_hand_is_refused_as_a_launch_of_it_is(place: Path, texts: dict[str, str], why: str) -> None:
    for name, text in texts.items():
        (place / f"jobs/test/{name}.py").write_text(text)
    done = run_by_hand("run", "test/tools", directory=place)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"test/tools is no job; it is {why}" in done.stderr


def test_a_list_shows_every_script_also_what_does_not_compile(place: Path) -> None:
    (place / "jobs/test/good.py").write_text(
        'from jobs import Job\nclass Good(Job):\n    def execute(self):\n        """Description: Does good.\n        """\n'
    )
    (place / "jobs/test/bad.py").write_text("if True")
    (place / "jobs/test/worse.py").write_bytes(b"\0")
    (place / "jobs/test/odd.py").write_text("# pulzar: reuse=lots")
    lines = run_by_hand("list", directory=place).stdout.splitlines()
    assert "  warning: `# pulzar: reuse=lots` is not counted" in lines.pop(3)
    assert lines.pop(2).split() == ["test/odd", "-"]
    by_hand = run_by_hand("run", "test/odd", directory=place)
    assert (by_hand.returncode, by_hand.stderr[:40]) == (0, "warning: `# pulzar: reuse=lots` is not c")
    assert [line.split()[0] for line in lines] == ["test/bad", "test/good", "test/worse"]
    assert lines[0].endswith("  line 1: expected ':'")
    assert lines[1].endswith("  Does good.")


def test_a_list_shows_what_a_node_shows(place: Path) -> None:
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "linked.py").write_text('"""From afar."""')
    (place / "jobs" / "linked").symlink_to(place / "elsewhere")
    (place / "jobs" / "lost").symlink_to("nothing")
    (place / "jobs/test/helper.py").write_text("x = 1")
    (place / "jobs/test/user.py").write_text('"""Uses it."""\nfrom . import helper')
    (place / "jobs/test/two.py").write_text(
        "from jobs import Job\nclass A(Job):\n    def execute(self): 1\nclass B(A): pass"
    )
    catalog = Catalog(place / "jobs")
    catalog.scan()
    done = run_by_hand("list", directory=place)
    shown = {line.split("  ")[0]: line.rpartition("  ")[2] for line in done.stdout.splitlines()}
    assert shown == {row["path"]: row["error"] or row["description"] or "-" for row in catalog.rows}
    assert shown["linked/linked"] == "From afar."
    assert done.stderr == f"{place}/jobs/lost: it is a link to nothing, where nothing is\n"


def test_a_script_by_hand_finds_what_it_finds_on_a_node(place: Path) -> None:
    (place / "jobs/test/helper.py").write_text("def twice(n): return 2 * n\n")
    (place / "jobs/test/broker.py").write_text("mine = True\n")
    (place / "jobs/test/script.py").write_text(
        "import atexit, multiprocessing, os, subprocess, sys, tempfile, threading, time\n"
        "from jobs import run\n"
        "from .helper import twice\n"
        "import broker\n"
        "def late(word):\n"
        "    time.sleep(0.3)\n"
        "    (run.scratch / word).write_text(word)\n"
        "    open(word + '2', 'w').close()\n"
        "    print(word, sorted(os.listdir()))\n"
        "if __name__ == '__main__':\n"
        "    assert broker.mine\n"
        "    assert os.environ['HOME'] == os.environ['TMPDIR'] == tempfile.gettempdir() == os.getcwd() == str(run.scratch)\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map(twice, [21]))\n"
        "    subprocess.run(['python3', '-c', 'import jobs, sys; print(sys.executable)'], check=True)\n"
        "    threading.Thread(target=late, args=('thread',)).start()\n"
        "    atexit.register(late, 'atexit')\n"
    )
    done = run_by_hand("run", "test/script", directory=place)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "[42]"
    assert os.path.dirname(lines[1]) == os.path.dirname(sys.executable)
    assert lines[2:] == [
        "thread ['thread', 'thread2']",
        "atexit ['atexit', 'atexit2', 'thread', 'thread2']",
    ]


def test_a_script_started_by_python_itself_speaks_to_the_terminal(place: Path) -> None:
    (place / "script.py").write_text(
        "from jobs import run\nrun.log('a', 1)\nrun.output(run.arguments)\nrun.progress(1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PULZAR_ARGUMENTS": '{"x": 1}'}
    done = subprocess.run(
        [sys.executable, place / "script.py"], env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ('a 1\noutput: {"x": 1}\n', "progress: 1\n")


def test_the_package_is_cheap_to_import() -> None:
    code = "import sys, jobs; print(*sorted(set(sys.modules) & {'http.client', 'socket', 'ssl', 'msgpack', 'tempfile', 'urllib.parse', 'broker'}))"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.dumps(done.stdout.split()) in ("[]", '["urllib.parse"]')
