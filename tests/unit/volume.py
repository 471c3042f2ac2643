"""A data directory for tests of the storage, and programs that use one from another process.

`python -m tests.unit.volume write|read DIRECTORY …` are such programs; `Volume.start` starts them.
"""

from __future__ import annotations

import hashlib
import os
import random
import select
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from broker import settings
from broker.keys import encode
from broker.messages.store import Delete, Result, Status, Store
from node.storage.reader import Reader
from node.storage.staging import Staging
from node.storage.storage import Storage

ROOT = Path(__file__).parents[2]
CREATED = 1_790_000_000_000
DAY_MS = 86_400_000


def store(key: str, version: int, value: bytes | None = None, *, expires: int = 0, staged: str = "") -> Store:
    """A Store; its value is one that belongs to key and version unless given."""
    value = value_of(key, version) if value is None else value
    digest = hashlib.sha256(value).digest()
    sent = None if staged else value
    return Store(version, encode(key), version, CREATED, expires, "text/plain", digest, len(value), sent, staged)


def delete(key: str, version: int) -> Delete:
    """A Delete."""
    return Delete(version, encode(key), version)


def value_of(key: str, version: int) -> bytes:
    """A value that can be told from every other: now and then a large one, which gets a file."""
    seed = random.Random(f"{key} {version}")
    size = seed.choice([0, 10, 500, 1000, 3000, 9000])
    return f"{key} {version} ".encode() + seed.randbytes(size)


class Volume:
    """A data directory and its settings."""

    def __init__(self, directory: Path, **values: Any) -> None:
        """`values` are settings of `[volume]`; small ones here, so that little data makes many files.

        Nothing that is deleted is held, unless they say so.
        """
        self.directory = directory
        chosen = {"small": 4096, "segment": 65536, "reserve": 0, "compact_rate": "1G", "undelete_days": 0} | values
        environ = {f"PULZAR_VOLUME_{name.upper()}": str(value) for name, value in chosen.items()}
        environ |= {"PULZAR_VOLUME_DIR": str(directory), "PULZAR_SERVER_CACHED": "65536"}
        environ |= {"PULZAR_GENERAL_TOMBSTONE_DAYS": "1"}
        self.environ = environ
        self.config = settings.load(None, environ)
        self.log = directory / "log"

    def open(self) -> Storage:
        """Open its storage."""
        return Storage.open(self.config)

    def staged(self, value: bytes) -> str:
        """The token of an upload of `value`."""
        with Staging(self.directory).create() as upload:
            for start in range(0, len(value), 1000):
                upload.write(value[start : start + 1000])
            return upload.finish().token

    def log_bytes(self) -> int:
        """The size of the log."""
        return sum(path.stat().st_size for path in self.segments())

    def segments(self) -> list[Path]:
        """The files of the log."""
        return sorted(self.log.iterdir())

    def value_files(self) -> list[Path]:
        """The value files."""
        return [path for path in (self.directory / "values").rglob("*") if path.is_file()]

    def forget_index(self) -> None:
        """Remove the index, which costs nothing but time."""
        for path in (self.directory / "index").iterdir():
            path.unlink()

    def read(self, keys: list[str]) -> dict[str, bytes]:
        """What a reader finds of the keys. The storage must not be open in this process."""
        reader = Reader(self.directory)
        try:
            return {key: value for key in keys if (value := read(reader, key)) is not None}
        finally:
            reader.close()

    def start(self, program: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """Start one of the programs below; its output is a pipe."""
        command = [sys.executable, "-u", "-m", "tests.unit.volume", program, str(self.directory), *map(str, arguments)]
        environ = os.environ | self.environ
        return subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True, **options)


def read(reader: Reader, key: str) -> bytes | None:
    """The value of a key by a reader, its digest compared."""
    found = reader.get(encode(key))
    if found is None:
        return None
    with closing(found):
        value = b"".join(found.pread(5000, offset) for offset in range(0, found.size, 5000))
    assert hashlib.sha256(value).digest() == found.digest
    assert len(value) == found.size
    return value


def figures(storage: Storage) -> list[tuple[object, ...]]:
    """What the index says of the segments and of all; the same for every index of the same log."""
    index = storage._core.index
    stats = [(n, s.uid, s.size, s.live, s.dead, s.expired, s.tombs, s.held) for n, s in sorted(index.stats.items())]
    # The last segment is longer by an epoch's record after every opening.
    return [*stats[:-1], stats[-1][:2] + stats[-1][3:], storage.totals[1:]]


def done(results: list[Result]) -> bool:
    """Whether every command was carried out."""
    return all(result.status == Status.DONE for result in results)


# What the writing program does is known beforehand: version by version.


def key_of(version: int, keys: int) -> str:
    """The key of a version, one of `keys`."""
    return f"hot/{random.Random(version).randrange(keys)}"


def command_of(version: int, keys: int) -> Store | Delete:
    """The command of a version: its key is stored now or, every fifth time, deleted."""
    key = key_of(version, keys)
    if version % 5 == 0:
        return delete(key, version)
    return store(key, version)._replace(created=time.time_ns() // 1_000_000)


def state_at(version: int, keys: int) -> dict[str, bytes]:
    """What is stored when all versions up to this one have been applied."""
    newest = {key_of(number, keys): number for number in range(1, version + 1)}
    return {key: value_of(key, number) for key, number in newest.items() if number % 5}


BATCH = 8  # commands applied at once by the writing program


def write(directory: Path, first: int, keys: int) -> None:
    """Apply the commands from version `first` on until killed; prints each batch's last version when it is done."""
    storage = Storage.open(settings.load(None))
    compacted = time.monotonic()
    while True:
        assert done(storage.apply([command_of(version, keys) for version in range(first, first + BATCH)]))
        first += BATCH
        print(first - 1)
        if time.monotonic() - compacted > 0.05:
            storage.compact()
            compacted = time.monotonic()


def read_all(directory: Path, keys: int) -> None:
    """Read `keys` keys that are always there, over and over, until standard input ends; prints how many were read."""
    reader = Reader(directory, map_bytes=65536)
    names = [f"stay/{number}" for number in range(keys)]
    count = 0
    print("ready")
    while not select.select([sys.stdin], [], [], 0)[0]:
        for name in names:
            assert read(reader, name), name
        count += len(names)
    print(count)
    reader.close()


def list_deleted(directory: Path, keys: int) -> None:
    """List `stay/…`, of which `keys` versions are held, over and over, until standard input ends; prints how often."""
    reader = Reader(directory, undelete_ms=7 * DAY_MS)
    count = 0
    print("ready")
    while not select.select([sys.stdin], [], [], 0)[0]:
        found = reader.deleted("stay/", None, 1000).versions
        assert len(found) == keys, len(found)
        count += 1
    print(count)
    reader.close()


def delete_one(directory: Path, number: int, version: int) -> None:
    """Delete `stay/<number>`, and keep the storage open until standard input ends."""
    storage = Storage.open(settings.load(None))
    assert done(storage.apply([delete(f"stay/{number}", version)]))
    print("deleted")
    sys.stdin.read()
    storage.close()


if __name__ == "__main__":
    PROGRAMS = {"write": write, "read": read_all, "list": list_deleted, "delete": delete_one}
    name, where, *numbers = sys.argv[1:]
    PROGRAMS[name](Path(where), *map(int, numbers))
