"""Decides whether the index in a data directory may be opened.

The index is written without a flush, since the log is the truth. So it may be damaged after a crash of the machine, and
torn in a copy made by tar. Opening such a file can kill the process. So `state.json` beside it names the file. It also
says whether the file was closed and flushed, or which boot of the machine used it last.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
from contextlib import suppress
from pathlib import Path

from broker import logs
from node.errors import StorageError
from node.storage.disk import files

log = logs.get(__name__)

NOTICED_SECS = 0.1  # how soon readers notice that the index is another file

_LOOKS = 20  # at the times of a file that is being written
_STATE_BYTES = 512
_FS_IOC_GETVERSION = 0x80087601


def note(directory: Path, clean: bool) -> None:
    """Write down that the index is in use, or (`clean`) closed and flushed."""
    try:
        state = {"file": _identity(directory), "boot": _boot(), "clean": clean}
        if clean:
            state["written"] = _written(directory)
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


def objection(directory: Path) -> str:
    """Why the index must not be opened; "" when it may be opened."""
    try:
        state = json.loads((directory / "state.json").read_bytes())
        if not isinstance(state, dict):
            return "its state is not a JSON object"
        if state.get("file") != _identity(directory):
            return "it is a copy"
        if state.get("clean"):
            return "" if state.get("written") == _written(directory) else "it was changed after it was closed"
        return "" if state.get("boot") == _boot() else "the machine was restarted while it was in use"
    except FileNotFoundError:
        return "there is none"
    except (OSError, ValueError, StorageError) as error:
        return str(error)


def _identity(directory: Path) -> list[int]:
    """Device, inode and generation of the file: an inode number alone is soon used again."""
    fd = os.open(directory / "data.mdb", os.O_RDONLY)
    try:
        status = _status(fd)
        try:
            generation = struct.unpack("<q", fcntl.ioctl(fd, _FS_IOC_GETVERSION, bytes(8)))[0]
        except OSError:
            generation = 0
    finally:
        os.close(fd)
    # Both times are equal while only LMDB writes the file. Tar sets the time of modification back.
    if status.st_mtime_ns != status.st_ctime_ns:
        raise StorageError("its file was touched by something else")
    return [status.st_dev, status.st_ino, generation]


def _status(fd: int) -> os.stat_result:
    """The status of a file. While one is written the kernel sets its two times one by one, so look again."""
    for _ in range(_LOOKS):
        status = os.fstat(fd)
        if status.st_mtime_ns == status.st_ctime_ns:
            break
    return status


def _written(directory: Path) -> list[int]:
    status = (directory / "data.mdb").stat()
    return [status.st_size, status.st_mtime_ns]


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
