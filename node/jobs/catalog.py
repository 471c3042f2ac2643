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

log = logs.get(__name__)


class _File(NamedTuple):
    """A script and its text."""

    stamp: tuple[int, int, int]  # mtime in ns, size, inode
    text: Text


class Catalog:
    """The scripts of a node; `rows` and `digest` are those of the last scan. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
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
            if self._files == before and self.digest:
                return False
            self._verdicts = self._judge()
            self.rows = [row for _, row in self._verdicts.values()]
            self._paths = frozenset(row["path"] for row in self.rows if row["kind"] != "helper")
            digest = hashlib.sha256(msgpack.packb(self.rows)).hexdigest()[:16]
            changed, self.digest = digest != self.digest, digest
            if changed:
                log.info("catalog read", directory=self._directory, scripts=len(self._paths), digest=digest)
            return changed

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
    documented = dict.fromkeys(docstrings.FIELDS, "")
    # What the method does not say, its class or its module may. A plain script has only its module.
    for docstring in verdict.docstrings:
        for name, text in docstrings.read(docstring).items():
            documented[name] = documented[name] or text
    args = documented["arguments"]
    return {
        "path": path,
        "description": documented["description"],
        "args": args,
        "category": documented["category"],
        "author": documented["author"],
        "error": verdict.error[:500].encode("utf-8", "replace").decode(),
        "kind": verdict.kind,
        "arguments": docstrings.parse_arguments(args),
    }
