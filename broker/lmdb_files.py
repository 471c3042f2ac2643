"""Opens LMDB files, and tells them apart. Their maps take address space, and a process may have little of it.

A file whose writes are not flushed is whole for as long as the machine runs: what a killed process wrote is in the
kernel's memory. So a note beside it says which file it is (`identity`), and in which `boot` it was used.

`python -m broker.lmdb_files DIRECTORY` audits the file there, also while another process writes it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import signal
import struct
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import lmdb

from broker.errors import NoAddressSpace

DATA = "data.mdb"
LOCK = "lock.mdb"
# Format 1: every version of LMDB reads it, Debian's `mdb_stat` too. Without this, the variable
# `LMDB_DEFAULT_LIB_VERSION` of one process would decide what all others find.
_LIBRARY = 0
_AUDIT_SECS = 3600
_MOST_SHOWN = 10  # faults of a file
_SPARE_MAP = 1 << 30  # bytes of address space beyond the file, which may grow

# What lmdb 3.0.0 says of a sound file in which a transaction has written a value over a longer one of its own.
# LMDB then keeps the pages of the longer one: findings/lmdb_verify_doubts_a_shortened_value.sh.
_SPARE_PAGES = re.compile(r"(.*) DB: overflow page \d+ header mp_pages (\d+) != OVPAGES\(\d+\)=(\d+)")
_FEWER_PAGES = re.compile(r"(.*) DB: walked (\d+) overflow pages, record says (\d+)")
_LOST_PAGES = re.compile(r"(\d+) page\(s\) are neither reachable nor in the freeDB.*")

_LOOKS = 20  # at the times of a file that is being written
_FS_IOC_GETVERSION = 0x80087601


def open_map(directory: Path, size: int, **options: Any) -> lmdb.Environment:
    """The LMDB environment in a directory, with a map of `size` bytes; `options` are those of `lmdb.open`.

    Raises `NoAddressSpace` when this process can't have such a map, `lmdb.Error` and `OSError`.
    """
    try:
        try:
            return lmdb.open(str(directory), map_size=size, lib_version=_LIBRARY, **options)
        except lmdb.InvalidError:  # the file has the other format, or is damaged: opened so, it says which
            return lmdb.open(str(directory), map_size=size, **options)
    except lmdb.MemoryError as error:
        raise NoAddressSpace(_needs(size)) from error


def check_room(size: int) -> None:
    """Raises `NoAddressSpace` when this process can't map `size` bytes more.

    To be called before a map grows: LMDB closes an environment when there is no room for its map.
    """
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE, prot=0).close()
    except OSError as error:
        raise NoAddressSpace(_needs(size)) from error


def faults(directory: Path) -> list[str]:
    """What is wrong with the LMDB file in a directory, for a person; nothing when it is sound.

    A process of its own looks at it, since a damaged file can kill a process that opens it. Takes about 10 s per GiB.
    """
    command = [sys.executable, "-m", "broker.lmdb_files", str(directory)]
    root = Path(__file__).resolve().parents[1]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=_AUDIT_SECS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"it could not be looked at: {error}"]
    if done.returncode < 0:
        return [f"the process that read it was ended by {signal.Signals(-done.returncode).name}"]
    found = done.stdout.splitlines()
    if done.returncode and not found:
        return [f"it could not be looked at: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}"]
    return found


def audit(directory: Path) -> list[str]:
    """As `faults`, in this process, which a damaged file may kill. Raises `lmdb.Error` and `OSError`.

    While this reader is open, no writer uses a page again that it or a later reader may see. So the audit of LMDB's
    library reads a whole state of the file, although that is being written. The two heads of the file are written in
    place, though. So only what two audits find is a fault.
    """
    from lmdb import verify  # no other process of ours needs it

    size = (directory / DATA).stat().st_size + _SPARE_MAP
    with open_map(directory, size, readonly=True, create=False, max_dbs=16) as environment:
        found: list[str] = []
        for _ in range(2):
            with environment.begin():
                try:
                    errors: list[object] = verify.verify(str(directory), subdir=True)  # type: ignore[no-untyped-call]
                    found = _without_spare_pages([str(error) for error in errors])
                except verify.VerifyError as error:
                    found = [str(error)]
            if not found:
                break
    return found[:_MOST_SHOWN]


def _without_spare_pages(found: list[str]) -> list[str]:
    """Faults without those that values with more pages than they need explain, page by page."""
    spare: dict[str, int] = {}  # by table
    for match in map(_SPARE_PAGES.fullmatch, found):
        if match and int(match[2]) > int(match[3]):
            spare[match[1]] = spare.get(match[1], 0) + int(match[2]) - int(match[3])

    def explained(fault: str) -> bool:
        if match := _SPARE_PAGES.fullmatch(fault):
            return int(match[2]) > int(match[3])
        if match := _FEWER_PAGES.fullmatch(fault):
            return int(match[3]) - int(match[2]) == spare.get(match[1])
        match = _LOST_PAGES.fullmatch(fault)
        return match is not None and int(match[1]) == sum(spare.values())

    return [fault for fault in found if not explained(fault)]


def boot() -> str:
    """A name of this boot of the machine; a new one at each call when the kernel doesn't tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return uuid.uuid4().hex  # equals none that was noted


def identity(file: Path) -> list[int]:
    """Device, inode and generation of a file: an inode number alone is soon used again. Raises `OSError`."""
    fd = os.open(file, os.O_RDONLY)
    try:
        status = os.fstat(fd)
        generation = 0
        with suppress(OSError):  # not every filesystem knows it
            generation = struct.unpack("<q", fcntl.ioctl(fd, _FS_IOC_GETVERSION, bytes(8)))[0]
    finally:
        os.close(fd)
    return [status.st_dev, status.st_ino, generation]


def touched(file: Path) -> bool:
    """Whether something else was done with a file than to write it. Raises `OSError`.

    Its two times are equal while it is only written. Tar sets the time of modification back.
    """
    # While a file is written the kernel sets the two one by one, so look again.
    return all(status.st_mtime_ns != status.st_ctime_ns for status in (file.stat() for _ in range(_LOOKS)))


def written(file: Path) -> list[int]:
    """Size and time of modification of a file. Raises `OSError`."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _needs(size: int) -> str:
    return f"{size:,} bytes of address space are needed, and this process can't have them (see ulimit -v, LimitAS=)"


if __name__ == "__main__":
    lines = audit(Path(sys.argv[1]))
    print("\n".join(lines), end="\n" if lines else "")
    sys.exit(1 if lines else 0)
