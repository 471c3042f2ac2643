"""Decides whether the index in a data directory may be opened.

The index is written without a flush, since the log is the truth. So it may be damaged after a crash of the machine, and
torn in a copy made by tar. Opening such a file can kill the process. So `state.json` beside it names the file. It also
says whether the file was closed and flushed, or which boot of the machine used it last.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from broker import lmdb_files, logs
from node.storage.disk import files

log = logs.get(__name__)

NOTICED_SECS = 0.1  # how soon readers notice that the index is another file

_FORMAT = 2  # of the rows in the index; a Pulzar of before finds no `file` here, and builds its own
_STATE_BYTES = 512


def note(directory: Path, *, clean: bool, undelete_ms: int = 0) -> None:
    """Write down that the index is in use, or (`clean`) closed and flushed. It holds records for `undelete_ms`."""
    try:
        file = directory / lmdb_files.DATA
        state = {"format": _FORMAT, "index": lmdb_files.identity(file), "boot": lmdb_files.boot(), "clean": clean}
        state["undelete_ms"] = undelete_ms
        if clean:
            state["written"] = lmdb_files.written(file)
        # In place and of the same length: that works on a full disk, and a sector is written whole or not at all.
        fd = os.open(directory / "state.json", os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            files.write_at(fd, json.dumps(state).encode().ljust(_STATE_BYTES), 0)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        # Without it the index is rebuilt at the next start, which is slow but right.
        log.warning("state of the index can't be noted", error=error)
        with suppress(OSError):  # logged above
            files.remove(directory / "state.json")


def objection(directory: Path, undelete_ms: int | None = None) -> str:
    """Why the index must not be opened; "" when it may be opened.

    With `undelete_ms`: by a writer that holds superseded records for so long.
    """
    file = directory / lmdb_files.DATA
    try:
        state = json.loads((directory / "state.json").read_bytes())
        if not isinstance(state, dict):
            return "its state is not a JSON object"
        if state.get("format") != _FORMAT:
            return "it is of another version of Pulzar"
        if lmdb_files.touched(file):
            return "its file was touched by something else"
        if state.get("index") != lmdb_files.identity(file):
            return "it is a copy"
        if undelete_ms not in (None, state.get("undelete_ms")):
            return "[volume] undelete_days is another than before"
        if state.get("clean"):
            return "" if state.get("written") == lmdb_files.written(file) else "it was changed after it was closed"
        return "" if state.get("boot") == lmdb_files.boot() else "the machine was restarted while it was in use"
    except FileNotFoundError:
        return "there is none"
    except (OSError, ValueError) as error:
        return str(error)
