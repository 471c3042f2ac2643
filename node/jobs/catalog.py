"""The scripts of this node, `<[jobs] dir>/<folder>/<script>.py`: they are read here, and never run.

`jobs/reading.py` tells jobs from their helper modules. Helpers are listed too, but not run.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import NamedTuple

import msgpack

from broker import logs
from broker.messages.runs import CatalogRow
from jobs import docstrings, reading, scripts
from jobs.reading import Text, Verdict
from node.runs.zygotes.demand import Demand
from node.runs.zygotes.wishes import Wish

log = logs.get(__name__)


class _File(NamedTuple):
    """A script and its text."""

    stamp: tuple[int, int, int]  # mtime in ns, size, inode
    text: Text


class Catalog:
    """The scripts of a node; `rows` and `digest` are those of the last scan. Thread-safe."""

    def __init__(self, directory: Path, demand: Demand | None = None) -> None:
        """`demand` is told which modules the scripts want to have loaded ahead."""
        self._directory = directory
        self._demand = demand or Demand()
        self._version = 0  # of what is left out of that
        self._files: dict[str, _File] = {}  # by path of the job
        self._verdicts: dict[str, tuple[Verdict, CatalogRow]] = {}  # by path
        self._guard = threading.Lock()
        self._paths: frozenset[str] = frozenset()
        self._problems: dict[str, str] = {}
        self.rows: list[CatalogRow] = []
        self.digest = ""

    def has(self, path: str) -> bool:
        """Whether the node has this script, perhaps since just now."""
        if path not in self._paths:
            self.scan()
        return path in self._paths

    def scan(self) -> bool:
        """Read the scripts that are new or changed; whether the catalog differs from the one before."""
        with self._guard:
            before, problems = self._files, self._problems
            self._files, self._problems = {}, {}
            for script, entry in scripts.walk(self._directory, self._problems.__setitem__):
                self._files[script.path] = _look(script.path, entry, before.get(script.path))
            for directory, reason in self._problems.items() - problems.items():
                log.warning("scripts can't be looked at", directory=directory, reason=reason)
            version = self._demand.version
            if self._files == before and self._version == version and self.digest:
                return False
            self._version = version
            self._verdicts = self._judge()
            wishes = {path: self._wish(verdict, row) for path, (verdict, row) in self._verdicts.items()}
            self._demand.catalog(wishes)
            self.rows = [self._with_wish(row, wishes[path]) for path, (_, row) in self._verdicts.items()]
            self._paths = frozenset(row["path"] for row in self.rows if row["kind"] != "helper")
            digest = hashlib.sha256(msgpack.packb(self.rows)).hexdigest()[:16]
            changed, self.digest = digest != self.digest, digest
            if changed:
                log.info("catalog read", directory=self._directory, scripts=len(self._paths), digest=digest)
            return changed

    def _wish(self, verdict: Verdict, row: CatalogRow) -> Wish:
        """The modules that a script is to find loaded."""
        if verdict.kind == "helper":
            return Wish()
        return self._demand.wish(verdict.documented()["preload"], verdict.head)

    def _with_wish(self, row: CatalogRow, wish: Wish) -> CatalogRow:
        row = {**row}
        if wish.often:
            row["preload"] = list(wish.often)
        if left_out := self._demand.left_out(wish):
            row["preload_left_out"] = left_out
        return row

    def _judge(self) -> dict[str, tuple[Verdict, CatalogRow]]:
        """The verdict on each script, with its row."""
        folders: dict[str, dict[str, Text]] = {}
        for path, file in self._files.items():
            folder, _, name = path.partition("/")
            folders.setdefault(folder, {})[name] = file.text
        judged = {}
        for folder, texts in folders.items():
            for name, verdict in reading.judge(folder, texts).items():
                path = f"{folder}/{name}"
                known = self._verdicts.get(path)
                judged[path] = known if known and known[0] == verdict else (verdict, _row(path, verdict))
        return dict(sorted(judged.items()))


def _look(path: str, entry: os.DirEntry[str], known: _File | None) -> _File:
    try:
        status = entry.stat()
    except OSError:  # the text says why, since it can't be read either
        return _File((0, 0, 0), reading.look(path, entry))
    stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
    return known if known and known.stamp == stamp else _File(stamp, reading.look(path, entry))


def _row(path: str, verdict: Verdict) -> CatalogRow:
    documented = verdict.documented()
    args = documented["arguments"]
    row: CatalogRow = {
        "path": path,
        "description": documented["description"],
        "args": args,
        "category": documented["category"],
        "author": documented["author"],
        "error": verdict.error[:500].encode("utf-8", "replace").decode(),
        "kind": verdict.kind,
        "arguments": docstrings.parse_arguments(args),
    }
    if problems := verdict.problems():
        row["problems"] = [text.encode("utf-8", "replace").decode() for text in problems]
    return row
