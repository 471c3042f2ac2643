"""Snapshots made for tests of the backup engine, and its runs as real processes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from backup.__main__ import main
from broker import snapshot_files
from broker.snapshot_files import SnapshotFile, SnapshotHead
from tests.support import ROOT, clean_environment

FIRST = "20261128T023000Z"
SECOND = "20261129T023000Z"


def data(size: int, seed: int | str) -> bytes:
    """Bytes that are the same for the same seed."""
    return random.Random(seed).randbytes(size)


def contents(seed: str = "a") -> dict[str, bytes]:
    """Files like those of a node, two of them with the same bytes."""
    return {
        "log/00000001.seg": data(3 << 20, 1),
        "log/00000002.seg": data(300_000, f"{seed}-tail"),
        f"values/ab/{'0' * 32}": data(5 << 20, 2),
        f"values/cd/{'1' * 32}": data(70_000, 3),
        f"values/cd/{'2' * 32}": data(70_000, 3),
        "empty": b"",
        "node-id": b"node-1\n",
    }


def make_snapshot(directory: Path, name: str, files: Mapping[str, bytes], member: str = "node-1") -> Path:
    """A snapshot in a data directory."""
    folder = directory / snapshot_files.FOLDER / name
    rows = []
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        rows.append(SnapshotFile(path, len(content), hashlib.sha256(content).hexdigest()))
    made = snapshot_files.iso(snapshot_files.time_of(name))
    snapshot_files.write(folder, SnapshotHead("node", member, [(1, "ab")], 7, "3.1", made, 0, 0), rows)
    return folder


class Run(NamedTuple):
    """How a run of the engine ended."""

    status: int
    lines: list[dict[str, Any]]  # of standard output
    errors: str
    output: Any = None  # of `list --json`

    @property
    def outcome(self) -> dict[str, Any]:
        """The last line."""
        return self.lines[-1]

    @property
    def reason(self) -> str:
        """Why it failed."""
        assert self.outcome["outcome"] == "failed", self
        return str(self.outcome["reason"])


def engine(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Run:
    """Run `python -m backup` to its end: in this process, which is quicker, unless it is to be killed."""
    if "PULZAR_STOP_AT" in (env or {}):
        done = subprocess.run(command(*arguments), **options(env), text=True, check=False, timeout=120)
        return Run(done.returncode, _lines(done.stdout), done.stderr)
    output, errors = io.StringIO(), io.StringIO()
    environment = clean_environment() | dict(env or {})
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            status = main([str(one) for one in arguments])
        except SystemExit as end:  # argparse
            status = int(end.code or 0)
    text = output.getvalue()
    return Run(status, _lines(text), errors.getvalue(), json.loads(text) if text.startswith("[") else None)


def _lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def command(*arguments: str | Path) -> list[str]:
    """The command line of a run."""
    return [sys.executable, "-m", "backup", *map(str, arguments)]


def options(env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """How `subprocess` starts a run."""
    environment = clean_environment() | {"PYTHONPATH": str(ROOT)} | dict(env or {})
    return {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def send(
    snapshot: Path, to: str | Path, *more: str, env: Mapping[str, str] | None = None, member: str = "node-1"
) -> Run:
    """Send a snapshot."""
    return engine("send", "--snapshot", snapshot, "--member", member, "--to", to, *more, env=env)


def tree(directory: Path) -> dict[str, bytes]:
    """All files below a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def restored(to: str | Path, into: Path, *more: str, env: Mapping[str, str] | None = None) -> dict[str, bytes]:
    """Restore, and give back the files, less what says whose they are."""
    run = engine("restore", "--member", "node-1", "--into", into, "--to", to, *more, env=env)
    assert run.outcome["outcome"] == "good", run
    files = tree(into)
    files.pop("backup-owner")
    return files


def is_root() -> bool:
    """Whether this process may do everything."""
    return os.geteuid() == 0
