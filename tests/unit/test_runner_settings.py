"""What the settings of a node give its runs: variables, secrets, words, caches."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.messages.runs import RunState
from tests.support import wait_for
from tests.unit.runs import Node

SECRETS = """
[reports]
DB = hunter2-hunter2
NUMBER = 12345678
[variables reports]
PGPASSWORD = tr0ub4dor
[*]
TOKEN = token-of-all
"""
SHOW = "import os\nfrom jobs import run\n"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.stop()


@pytest.fixture
def confided(node: Node, tmp_path: Path) -> Node:
    file = tmp_path / "secrets"
    file.write_text(SECRETS)
    file.chmod(0o600)
    node.secrets = str(file)
    return node


def show(node: Node, text: str, folder: str = "reports", **fields: Any) -> Any:
    node.script(f"{folder}/show", SHOW + text)
    return node.run(f"{folder}/show", **fields)


def test_listed_variables_of_the_node_reach_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    node = Node(tmp_path, passed=("HTTPS_PROXY", "NOT_SET"))
    try:
        outcome = show(
            node, "run.output([os.environ.get(name) for name in ('HTTPS_PROXY', 'NOT_SET', 'OMP_NUM_THREADS')])"
        )
        assert json.loads(outcome.output) == ["http://proxy:1", None, None]
    finally:
        node.stop()


def test_scripts_ask_for_secrets_and_find_those_that_are_variables(confided: Node) -> None:
    text = "print(len(run.secret('DB')), len(os.environ['PGPASSWORD']), 'DB' in os.environ, len(run.secret('TOKEN')))"
    assert show(confided, text).log == b"15 9 False 12\n"
    outcome = show(confided, "print('PGPASSWORD' in os.environ); run.secret('DB')", "others")
    assert outcome.end.state is RunState.FAILED
    assert outcome.log.startswith(b"False\n")
    assert outcome.end.reason == (
        "jobs.errors.NoSecret: there is no secret DB for scripts of this folder, there are TOKEN; "
        "they stand in the file [jobs] secrets of the node"
    )


def test_secrets_are_seen_nowhere(confided: Node) -> None:
    outcome = show(
        confided,
        """
import subprocess, sys, time
secret = run.secret("DB")
sys.stdout.write("<" + secret[:5]); sys.stdout.flush(); time.sleep(0.7)
print(secret[5:] + ">", repr(secret))
subprocess.run(["echo", run.secret("PGPASSWORD")])
run.log("token", run.secret("TOKEN"))
run.progress(1, 2, "with " + secret)
run.output({"dsn": "x" + secret, "number": int(run.secret("NUMBER")), secret: 1})
time.sleep(0.7)
child = subprocess.Popen(["sh", "-c", "sleep 1000; :", 70 * "x" + secret])
while not open(f"/proc/{child.pid}/cmdline").read(): pass
raise ValueError("could not log in with " + secret + "." * 445 + secret)
""",
    )
    log = outcome.log.decode()
    assert log.startswith("<***> '***'\n***\ntoken ***\n")
    assert "ValueError: could not log in with ***" in log
    assert "killed at the end: sh -c sleep 1000; : xxx" in log
    assert json.loads(outcome.output) == {"dsn": "x***", "number": "***", "***": 1}
    assert outcome.end.reason == "ValueError: could not log in with ***" + "." * 445 + "***"
    told = [json.dumps([progress.text, progress.log.decode()]) for progress in confided.progress]
    assert any("with ***" in text for text in told)
    for secret in ("hunter2", "tr0ub4dor", "token-of-all", "12345678"):
        assert secret not in log + outcome.end.reason + outcome.output.decode() + "".join(told)


def test_a_new_secret_counts_for_the_next_run(confided: Node) -> None:
    assert show(confided, "print(len(run.secret('DB')))").log == b"15\n"
    Path(confided.secrets).write_text("[reports]\nDB = another-one\n")
    assert show(confided, "print(len(run.secret('DB')))").log == b"11\n"


def test_processes_of_a_run_have_what_is_a_variable(confided: Node) -> None:
    text = """
import subprocess, sys
code = "from jobs import run; print(len(run.secret('PGPASSWORD'))); run.secret('DB')"
done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
print(done.stderr.splitlines()[-1])
"""
    assert show(confided, text).log.decode() == (
        "9\njobs.errors.NoSecret: there is no environment variable DB, which stands for the secret here\n"
    )


def test_words_stand_in_argv(node: Node) -> None:
    text = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--count', type=int)\nparser.add_argument('file')\n"
    outcome = show(node, text + "print(vars(parser.parse_args()))", argv=("--count", "5", "ä b"))
    assert outcome.log.decode() == "{'count': 5, 'file': 'ä b'}\n"
    assert show(node, "import sys\nprint(sys.argv[1:])").log == b"[]\n"


def test_a_run_knows_its_user_and_has_a_home_and_caches_that_last(node: Node) -> None:
    text = """
import json, pathlib
place = pathlib.Path(os.environ["XDG_CACHE_HOME"], "fonts")
print(place.exists())
place.mkdir(parents=True, exist_ok=True)
run.output({name: os.environ[name] for name in ("USER", "LOGNAME", "HOME", "TMPDIR", "NUMBA_CACHE_DIR")})
"""
    first, second = show(node, text), show(node, text)
    assert (first.log, second.log) == (b"False\n", b"True\n")
    one, two = json.loads(first.output), json.loads(second.output)
    assert one["USER"] == one["LOGNAME"] == getpass.getuser()
    assert one["NUMBA_CACHE_DIR"] == two["NUMBA_CACHE_DIR"]
    assert one["HOME"] != two["HOME"]  # what one run leaves there is not the next one's


def test_caches_outlive_the_node_until_they_are_too_large(node: Node) -> None:
    text = "from pathlib import Path\nplace = Path(os.environ['XDG_CACHE_HOME'])\nprint(place.exists())\n"
    text += "place.mkdir(exist_ok=True)\n(place / 'file').write_bytes(bytes(100_000))"
    assert show(node, text).log == b"False\n"
    node.stop()
    node.start(cache=1 << 20)
    assert show(node, text).log == b"True\n"
    node.stop()
    node.start(cache=50_000)
    assert show(node, text).log == b"False\n"
    node.stop()
    node.start(cache=0)
    assert show(node, "print('XDG_CACHE_HOME' in os.environ)").log == b"False\n"
    assert not (node.work / "cache").exists()


def test_a_package_without_compiled_modules_is_compiled_once(node: Node, tmp_path: Path) -> None:
    package = tmp_path / "packages/slow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("value = 1\n")
    text = f"import sys\nsys.path.insert(0, {str(package.parent)!r})\nimport slow, helper\nprint(slow.value, helper.value, slow.__cached__)"
    node.script("reports/helper", "value = 1")
    log = show(node, text).log.decode().split()
    kept = Path(log[2])
    assert log[:2] == ["1", "1"]
    assert kept.is_relative_to(node.work / "cache/python")
    assert kept.exists()
    before = kept.stat().st_mtime_ns
    assert show(node, text).log.decode().split() == log
    assert kept.stat().st_mtime_ns == before
    # Nothing beside it, and nothing of the scripts, which count as they are from one moment to the next
    assert not list(package.glob("__pycache__"))
    assert [path.name for path in (node.work / "cache/python").rglob("*.pyc")] == [kept.name]
    assert not list(node.scripts.rglob("__pycache__"))
    # A module that has changed is compiled again
    (package / "__init__.py").write_text("value = 2000\n")
    wait_for(lambda: show(node, text).log.startswith(b"2000 "))
    # One that has its compiled module beside it is taken from there
    beside = package / "__pycache__" / kept.name
    beside.parent.mkdir()
    kept.rename(beside)
    assert show(node, text).log.decode().split()[2] == str(beside)
    assert os.listdir(kept.parent) == []
