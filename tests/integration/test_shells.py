"""Completion of the command line in real shells: what is typed, TAB, Enter, and the words that `pulzar` then gets."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.cluster import Cluster
from tests.support import ROOT, clean_environment, put, unique, wait_for

# In place of pulzar: completes as that does, and notes the words of every other call.
PROGRAM = f"""\
#!{sys.executable}
import json, os, sys
sys.path.insert(0, {str(ROOT)!r})
from pulzar.command.main import main
if sys.argv[1:2] in (["__complete"], ["__complete_line"], ["completion"]):
    sys.exit(main())
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
"""
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(pulzar completion bash)"),
    "zsh": (
        ["zsh", "-f", "-i"],
        "autoload -Uz compinit && compinit -u -d $HOME/dump && source <(pulzar completion zsh)",
    ),
    "fish": (["fish", "--no-config", "-i"], "pulzar completion fish | source"),
}
PLAIN, SPECIAL, COLON = "plain.txt", "with space & $HOME 'q'.txt", "12:30=noon.txt"


class Terminal:
    """A shell at a terminal; `close` ends it."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self._end, other = pty.openpty()
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=other,
            stdout=other,
            stderr=other,
            env=environment,
            cwd=folder,
        )
        os.close(other)
        self.shown = b""
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while not self._closing.is_set():
            if select.select([self._end], [], [], 0.1)[0]:
                try:
                    data = os.read(self._end, 1 << 16)
                except OSError:  # the shell has ended
                    return
                self.shown += data
                # A shell that asks what the terminal is gets an answer, else it waits for one
                if b"\x1b[c" in data or b"\x1b[0c" in data:
                    os.write(self._end, b"\x1b[?1;2c")

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def close(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._closing.set()
        self._reader.join()
        os.close(self._end)


class Shell:
    """A shell that has read the completion of `pulzar`."""

    def __init__(self, name: str, cluster: Cluster, folder: Path) -> None:
        command, load = SHELLS[name]
        programs, self._calls = folder / "bin", folder / "calls"
        programs.mkdir()
        self._calls.touch()
        (programs / "pulzar").write_text(PROGRAM)
        (programs / "pulzar").chmod(0o755)
        self.files = folder / "files"
        self.files.mkdir()
        environment = clean_environment() | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(folder),
            "CALLS": str(self._calls),
            "PULZAR_URL": cluster.master_url,
            "TERM": "xterm",
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "500",
        }
        self._terminal = Terminal(command, environment, self.files)
        self._terminal.type(f"{load}\n")
        self._terminal.type("pulzar loaded\n")
        self._wait(1)

    def _wait(self, calls: int) -> list[list[str]]:
        def lines() -> list[str]:
            return self._calls.read_text().splitlines()

        try:
            wait_for(lambda: len(lines()) >= calls, 60, "a call of pulzar")
        except AssertionError:
            raise AssertionError(f"shown: {self._terminal.shown[-2000:]!r}") from None
        return [json.loads(line) for line in lines()]

    def words(self, typed: str) -> list[str]:
        """What `pulzar` gets when this is typed, with TAB and Enter after it."""
        before = len(self._wait(1))
        self._terminal.type(f"pulzar {typed}\t")
        self._terminal.type("\n")
        return self._wait(before + 1)[-1]

    def close(self) -> None:
        self._terminal.close()


@pytest.fixture(scope="module", params=SHELLS)
def shell(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shell]:
    if not shutil.which(request.param):
        pytest.skip(f"{request.param} is not there: apt-get install {request.param}")
    shell = Shell(request.param, cluster, tmp_path_factory.mktemp(request.param))
    yield shell
    shell.close()


@pytest.fixture(scope="module")
def folder(cluster: Cluster) -> str:
    """A folder of keys, some with what means something to a shell."""
    folder = unique("").rstrip("/") + "/"
    for name in (PLAIN, SPECIAL, COLON, "deeper/one.txt"):
        assert put(cluster, folder + name, b"value").status == 201
    return folder


def test_commands_and_options(shell: Shell) -> None:
    assert shell.words("sched") == ["schedule"]
    assert shell.words("schedule pau") == ["schedule", "pause"]
    assert shell.words("jobs --sta") == ["jobs", "--state"]
    assert shell.words("jobs --state comp") == ["jobs", "--state", "completed"]


def test_keys_and_folders(shell: Shell, folder: str) -> None:
    assert shell.words(f"cat {folder}pl") == ["cat", folder + PLAIN]
    assert shell.words(f"ls {folder}de") == ["ls", folder + "deeper/"]
    assert shell.words(f"sync :{folder}de") == ["sync", f":{folder}deeper/"]


def test_keys_with_what_means_something_to_a_shell(shell: Shell, folder: str) -> None:
    assert shell.words(f"cat {folder}wi") == ["cat", folder + SPECIAL]
    assert shell.words(f"cat {folder}with\\ sp") == ["cat", folder + SPECIAL]
    assert shell.words(f"cat {folder}12") == ["cat", folder + COLON]
    assert shell.words(f"cat {folder}12:3") == ["cat", folder + COLON]
    assert shell.words(f"cat {folder}12:30=n") == ["cat", folder + COLON]


def test_files_of_this_machine(shell: Shell) -> None:
    (shell.files / "local file.txt").touch()
    assert shell.words("put loc") == ["put", "local file.txt"]
    assert shell.words("sync loc") == ["sync", "local file.txt"]


def test_nothing_is_made_of_what_nothing_begins_with(shell: Shell, folder: str) -> None:
    assert shell.words(f"cat {folder}none") == ["cat", f"{folder}none"]
