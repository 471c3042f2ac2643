"""`put`, `get`, `cat`: values in and out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pulzar import names
from pulzar.command.screen import size_text
from pulzar.command.task import OK, Task, found, key_of, last_part
from pulzar.errors import BadRequest
from pulzar.models import Stored
from pulzar.wire.connection import CHUNK_BYTES


def put(task: Task) -> int:
    """Store files."""
    *sources, target = task.options.paths
    if not sources:
        raise BadRequest("give a file and a key: pulzar put FILE… KEY, where a KEY with / at its end is a folder")
    target = key_of(target)
    folder = target.endswith("/") or not target
    if len(sources) > 1 and not folder:
        raise BadRequest(f"several files need a folder as their target; {target!r} has no / at its end")
    if "-" in sources and folder:
        raise BadRequest("what comes from standard input needs a key: pulzar put - KEY")
    total = sum(os.path.getsize(source) for source in sources if os.path.isfile(source))
    with task.screen.progress("put", total) as progress:
        for source in sources:
            if os.path.isdir(source):
                raise BadRequest(f"{source} is a folder; pulzar sync {source} :{target} stores all files in it")
            key = target + names.key_of(os.path.basename(source)) if folder else target
            _stored(task, _put(task, source, key, progress.add))
    return OK


def _put(task: Task, source: str, key: str, told: object) -> Stored:
    options = task.options
    value = _pieces(sys.stdin.buffer) if source == "-" else source
    return task.client.put(
        key,
        value,
        overwrite=options.overwrite,
        match=options.match or "",
        ttl=options.ttl,
        content_type=options.content_type or "",
        replicas=options.replicas,
        told=told,  # type: ignore[arg-type]
    )


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.read(CHUNK_BYTES), b"")


def _stored(task: Task, stored: Stored) -> None:
    data = {"key": stored.key, "size": stored.size, "sha256": stored.digest}
    task.screen.line(f"{stored.key}  {size_text(stored.size)}", data)


def get(task: Task) -> int:
    """Write values to files."""
    keys = list(task.options.keys)
    target = keys.pop() if len(keys) > 1 else "."
    if target == "-":
        return _copy_out(task, keys)
    entries = [entry for key in keys for entry in found(task, key)]
    path = Path(target)
    if len(entries) > 1 and not path.is_dir():
        raise BadRequest(f"several keys need a folder as their target; {target} is none")
    with task.screen.progress("get", sum(entry.size for entry in entries)) as progress:
        for entry in entries:
            file = path / last_part(entry.key) if path.is_dir() or target.endswith("/") else path
            if not file.parent.is_dir():
                raise BadRequest(f"there is no folder {file.parent}")
            got = task.client.fetch(entry.key, file, told=progress.add)
            data = {"key": got.key, "file": str(file), "size": got.size, "sha256": got.digest}
            task.screen.line(f"{file}  {size_text(got.size)}", data)
    return OK


def cat(task: Task) -> int:
    """Write values to standard output."""
    return _copy_out(task, task.options.keys)


def _copy_out(task: Task, keys: list[str]) -> int:
    for key in keys:
        for each in [key_of(key)] if task.options.literal or not names.is_pattern(key) else found(task, key):
            with task.client.open(each if isinstance(each, str) else each.key) as value:
                for piece in value.pieces():
                    task.screen.raw(piece)
    return OK
