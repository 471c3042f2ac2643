"""The scripts of this node, found out by reading them, never by running them: `<[jobs] dir>/<folder>/<script>.py`.

A module that another one in its folder imports, and that has neither a job's class nor `if __name__ == "__main__"`, is no
job but a helper; so is what says `# pulzar: helper` in one of its first lines, and whatever lies in a deeper folder.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from broker import logs
from jobs.scripts import execute_method, job_class
from node import docstrings

log = logs.get(__name__)

MOST_BYTES = 4 << 20  # of a script; a larger one is listed as unreadable
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_HELPER = re.compile(rb"#\s*pulzar:\s*helper\b")
_FIRST_LINES = 5


class _File(NamedTuple):
    """What a script says."""

    stamp: tuple[int, int, int]  # mtime in ns, size, inode
    row: dict[str, Any]
    helper: bool  # it says so
    runs: bool  # it has a class or a main guard
    imports: frozenset[str]  # names that may be those of modules beside it


class Catalog:
    """Any thread may use it. `rows` and `digest` are of the last scan."""

    def __init__(self, directory: Path) -> None:
        self._directory = os.path.realpath(directory)
        self._given = directory
        self._files: dict[str, _File] = {}  # by path of the job
        self._guard = threading.Lock()
        self._paths: frozenset[str] = frozenset()
        self._problem = ""
        self.rows: list[dict[str, Any]] = []
        self.digest = ""

    def has(self, path: str) -> bool:
        """Whether the node has this script, perhaps since just now."""
        if path not in self._paths:
            self.scan()
        return path in self._paths

    def scan(self) -> bool:
        """Look what there is; whether that is something else than before."""
        with self._guard:
            before = self._files
            self._files = {path: self._look(path, entry, before.get(path)) for path, entry in self._entries()}
            if self._files == before and self.digest:
                return False
            helpers = self._helpers()
            self.rows = [file.row for path, file in sorted(self._files.items()) if path not in helpers]
            self._paths = frozenset(row["path"] for row in self.rows)
            digest = hashlib.sha256(msgpack.packb(self.rows)).hexdigest()[:16]
            changed, self.digest = digest != self.digest, digest
            if changed:
                log.info("catalog read", directory=self._given, scripts=len(self.rows), digest=digest)
            return changed

    def _entries(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Paths of jobs, and their files."""
        for folder in self._inside(self._directory):
            if _NAME.fullmatch(folder.name) and folder.is_dir():
                for file in self._inside(folder.path):
                    name = file.name.removesuffix(".py")
                    if name != file.name and _NAME.fullmatch(name) and file.is_file():
                        yield f"{folder.name}/{name}", file

    def _inside(self, directory: str) -> list[os.DirEntry[str]]:
        """What is in a directory, without links to elsewhere."""
        try:
            with os.scandir(directory) as entries:
                found = [entry for entry in entries if not entry.is_symlink() or self._is_ours(entry.path)]
        except OSError as error:
            problem = f"{directory}: {error.strerror}"
            if problem != self._problem:
                log.warning("scripts can't be looked at", directory=directory, reason=error.strerror)
            self._problem = problem
            return []
        return found

    def _is_ours(self, link: str) -> bool:
        return os.path.realpath(link).startswith(self._directory + os.sep)

    def _look(self, path: str, entry: os.DirEntry[str], known: _File | None) -> _File:
        stamp = (0, 0, 0)
        try:
            status = entry.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if known and known.stamp == stamp:
                return known
            if status.st_size > MOST_BYTES:
                return _broken(stamp, path, f"it has {status.st_size} bytes, and {MOST_BYTES} is the limit")
            source = Path(entry.path).read_bytes()
        except OSError as error:
            return _broken(stamp, path, f"it can't be read: {error.strerror}")
        return _parse(stamp, path, source)

    def _helpers(self) -> set[str]:
        """Paths of modules that are no jobs."""
        imported: dict[str, set[str]] = {}  # folder → names
        for path, file in self._files.items():
            folder, _, name = path.partition("/")
            imported.setdefault(folder, set()).update(file.imports - {name})
        helpers = set()
        for path, file in self._files.items():
            folder, _, name = path.partition("/")
            if file.helper or (not file.runs and not file.row["error"] and name in imported[folder]):
                helpers.add(path)
        return helpers


def _parse(stamp: tuple[int, int, int], path: str, source: bytes) -> _File:
    helper = any(_HELPER.search(line) for line in source.split(b"\n", _FIRST_LINES)[:_FIRST_LINES])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd in a script, its own run tells
            return _described(stamp, path, ast.parse(source, f"{path}.py"), helper)
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno else ""
        return _broken(stamp, path, f"{where}{error.msg}", helper)
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes, or far too deep
        return _broken(stamp, path, str(error) or type(error).__name__, helper)


def _described(stamp: tuple[int, int, int], path: str, tree: ast.Module, helper: bool) -> _File:
    found = job_class(tree, path.partition("/")[2])
    documented = dict.fromkeys(docstrings.FIELDS, "")
    # What the method does not say, its class may, or the module: which is all there is to a plain script.
    for part in (execute_method(found) if found else None, found, tree):
        for name, text in docstrings.read((ast.get_docstring(part, clean=False) if part else "") or "").items():
            documented[name] = documented[name] or text
    row = _row(path, "class" if found else "script", documented)
    return _File(stamp, row, helper, bool(found) or _has_main_guard(tree), frozenset(_imports(tree)))


def _broken(stamp: tuple[int, int, int], path: str, error: str, helper: bool = False) -> _File:
    row = _row(path, "script", dict.fromkeys(docstrings.FIELDS, ""), error)
    return _File(stamp, row, helper, False, frozenset())


def _row(path: str, kind: str, documented: dict[str, str], error: str = "") -> dict[str, Any]:
    args = documented["arguments"]
    return {
        "path": path, "description": documented["description"], "args": args, "category": documented["category"],
        "author": documented["author"], "error": error[:500].encode("utf-8", "replace").decode(), "kind": kind,
        "arguments": docstrings.parse_arguments(args),
    }  # fmt: skip


def _has_main_guard(tree: ast.Module) -> bool:
    for part in tree.body:
        if isinstance(part, ast.If) and isinstance(part.test, ast.Compare):
            names = {leaf.id for leaf in ast.walk(part.test) if isinstance(leaf, ast.Name)}
            texts = {leaf.value for leaf in ast.walk(part.test) if isinstance(leaf, ast.Constant)}
            if "__name__" in names and "__main__" in texts:
                return True
    return False


def _imports(tree: ast.Module) -> Iterator[str]:
    """Names of modules beside this one that it may import, anywhere in it."""
    for part in ast.walk(tree):
        if isinstance(part, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in part.names)
        elif isinstance(part, ast.ImportFrom):
            if part.module:
                yield part.module.partition(".")[0]
            if part.level == 1 and not part.module:
                yield from (alias.name for alias in part.names)
