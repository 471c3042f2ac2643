"""Makes a folder of files and the keys below a prefix alike. Values are compared by size and SHA-256."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pulzar import names
from pulzar.client import Client
from pulzar.errors import BadRequest, NotFound, PulzarError
from pulzar.models import Entry
from pulzar.sending import Told, digest_of_file, nobody
from pulzar.workers import each

THREADS = 32
_PART = re.compile(r".*\.[0-9a-f]{16}\.part")  # what an interrupted download has left

Wanted = Callable[[str], bool]


class File(NamedTuple):
    """A file of the folder; `size` in bytes."""

    path: str
    size: int


class Step(NamedTuple):
    """What became of a name, relative to folder and prefix: `up`, `down`, `delete` or `same`. `size` in bytes."""

    kind: str
    name: str
    size: int = 0


class Pair(NamedTuple):
    """A name with its file and its key, as far as they are there."""

    name: str
    file: File | None
    entry: Entry | None


@dataclass
class Result:
    """What a sync has done. `left_out` has what is neither a file nor a folder."""

    steps: list[Step] = field(default_factory=list)
    failures: list[tuple[str, PulzarError]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def count(self, kind: str) -> int:
        """How many steps of a kind there are."""
        return sum(step.kind == kind for step in self.steps)

    @property
    def bytes(self) -> int:
        """Bytes of the values that were sent or received, or would be."""
        return sum(step.size for step in self.steps if step.kind in ("up", "down"))


@dataclass(frozen=True)
class Sync:
    """One sync. `prefix` is empty or ends with a slash. `dry`: nothing is changed. `told` gets bytes as they go."""

    client: Client
    folder: Path
    prefix: str
    delete: bool = False
    dry: bool = False
    threads: int = THREADS
    wanted: Wanted = lambda name: True
    told: Told = nobody

    def up(self) -> Result:
        """Store the files that differ from their keys. Raises `PulzarError` when nothing could be compared."""
        result = Result()
        if not self.folder.is_dir():
            raise BadRequest(f"{self.folder} is no folder")
        files = {names.key_of(name): file for name, file in self._files(result).items()}
        entries = self._entries()
        if self.delete and not files and entries:
            raise BadRequest(f"{self.folder} is empty, so --delete would delete every key; use rm -r for that")
        pairs = [Pair(name, file, entries.get(name)) for name, file in files.items()]
        self._each(pairs, lambda pair: self._up(pair, result), result)
        if self.delete and not result.failures:
            gone = [Pair(name, None, entry) for name, entry in entries.items() if name not in files]
            self._each(gone, lambda pair: self._delete_key(pair, result), result)
        return result

    def down(self) -> Result:
        """Write the values that differ from their files. Raises `PulzarError` when nothing could be compared."""
        result = Result()
        entries = self._entries()
        if not entries:
            raise NotFound(f"no key begins with {self.prefix!r}")
        files = self._files(result) if self.folder.is_dir() else {}
        if not self.dry:
            _make(self.folder)
        pairs = list(self._targets(entries, files, result))
        self._each(pairs, lambda pair: self._down(pair, result), result)
        if self.delete and not result.failures:
            for name in files.keys() - set(map(names.name_of, entries)):
                self._delete_file(name, files[name], result)
        return result

    def _entries(self) -> dict[str, Entry]:
        """Keys by the name of their file, relative to the prefix."""
        found = {}
        for entry in self.client.list(self.prefix):
            name = entry.key[len(self.prefix) :]
            if name and self.wanted(name):
                found[name] = entry
        return found

    def _files(self, result: Result) -> dict[str, File]:
        """Files by their name, relative to the folder."""
        found = _walk(str(self.folder), "", result.left_out)
        return {name: file for name, file in found if self.wanted(names.key_of(name))}

    def _targets(self, entries: dict[str, Entry], files: dict[str, File], result: Result) -> Iterator[Pair]:
        """Each key with its file. A name that no file can have, or that two keys would have, is a failure."""
        root = os.path.realpath(self.folder)
        safe: dict[str, bool] = {}
        taken: dict[str, str] = {}
        for name, entry in entries.items():
            local = names.name_of(name)
            path = os.path.join(root, *local.split("/"))
            parent = os.path.dirname(path)
            if parent not in safe:
                real = os.path.realpath(parent)
                safe[parent] = real == root or real.startswith(root.rstrip(os.sep) + os.sep)
            if "\0" in local or not safe[parent] or (os.sep != "/" and re.search(r'[\\:*?"<>|]', local)):
                result.failures.append((name, BadRequest("no file below the folder can have this name")))
            elif taken.setdefault(local, name) != name:
                result.failures.append((name, BadRequest(f"its file would be that of {taken[local]}")))
            else:
                yield Pair(name, File(path, files[local].size if local in files else -1), entry)

    def _each(self, pairs: list[Pair], work: Callable[[Pair], None], result: Result) -> None:
        threads = max(1, min(self.threads, len(pairs)))
        failed = each(pairs, work, threads, self.client.abort)
        result.failures += [(failure.item.name, failure.error) for failure in failed]

    def _up(self, pair: Pair, result: Result) -> None:
        file, entry = pair.file, pair.entry
        assert file is not None
        if entry and entry.size == file.size and self._digest(file) == entry.digest:
            result.steps.append(Step("same", pair.name))
            return
        if not self.dry:
            match = entry.digest if entry else ""
            self.client.put(self.prefix + pair.name, file.path, match=match, told=self.told)
        result.steps.append(Step("up", pair.name, file.size))

    def _down(self, pair: Pair, result: Result) -> None:
        file, entry = pair.file, pair.entry
        assert file is not None
        assert entry is not None
        if entry.size == file.size and self._digest(file) == entry.digest:
            result.steps.append(Step("same", pair.name))
            return
        if not self.dry:
            path = Path(file.path)
            _make(path.parent)
            if path.is_dir():
                raise BadRequest(f"{path} is a folder")
            self.client.fetch(entry.key, path, told=self.told)
        result.steps.append(Step("down", pair.name, entry.size))

    def _delete_key(self, pair: Pair, result: Result) -> None:
        assert pair.entry is not None
        if not self.dry:
            self.client.delete(pair.entry.key, match=pair.entry.digest)
        result.steps.append(Step("delete", pair.name))

    def _delete_file(self, name: str, file: File, result: Result) -> None:
        try:
            if not self.dry:
                os.unlink(file.path)
                _remove_empty(Path(file.path).parent, self.folder)
        except OSError as error:
            result.failures.append((name, BadRequest(f"{file.path} can't be deleted: {error.strerror or error}")))
        else:
            result.steps.append(Step("delete", name))

    def _digest(self, file: File) -> str:
        try:
            return digest_of_file(file.path)
        except OSError as error:
            raise BadRequest(f"{file.path} can't be read: {error.strerror or error}") from error


def _walk(folder: str, beginning: str, left_out: list[str]) -> Iterator[tuple[str, File]]:
    """Files below a folder by their relative name with slashes. Links to files count, links to folders do not."""
    try:
        found = sorted(os.scandir(folder), key=lambda each: each.name)
    except OSError as error:
        raise BadRequest(f"{folder} can't be read: {error.strerror or error}") from error
    for each_ in found:
        name = f"{beginning}{each_.name}"
        try:
            if each_.is_dir(follow_symlinks=False):
                yield from _walk(each_.path, f"{name}/", left_out)
            elif not each_.is_file():
                left_out.append(f"{name}: neither a file nor a folder, or a link to a folder")
            elif not _PART.fullmatch(each_.name):
                yield name, File(each_.path, each_.stat().st_size)
        except FileNotFoundError:  # it went while we looked
            continue


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadRequest(f"the folder {folder} can't be made: {error.strerror or error}") from error


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder, and those around it, that have nothing left, up to the root."""
    while folder != root and root in folder.parents:
        try:
            folder.rmdir()
        except OSError:  # it is not empty
            return
        folder = folder.parent
