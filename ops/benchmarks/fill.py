"""Fills a stopped node with small values, through the node's own storage and in large groups.

    python -m ops.benchmarks.fill DIRECTORY PREFIX FIRST END SIZE

Each value gets its record in the log with a digest, made durable as the agent does it; only the way through
HTTP and RabbitMQ is left out. The bodies are those that load.c expects.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

from broker import keys, settings
from broker.messages import Status, Store
from node import identity
from node.storage import Storage

GROUP = 2000  # values made durable at once
VERSIONS = 4096  # as far apart as those of one process in one microsecond (master.versions)


def body(number: int, size: int) -> bytes:
    """The value of a number, as load.c makes it."""
    pattern = bytes((at * 167 + (at >> 8) * 31 + 13) & 255 for at in range(16, size))
    return (b"%016d" % number)[:size] + pattern


def fill(directory: Path, prefix: str, first: int, end: int, size: int) -> None:
    """Store `prefix`first … `prefix`(end - 1) in the node that has `directory`; raises `RuntimeError` when one can't be."""
    config = settings.load(environ=os.environ | {"PULZAR_VOLUME_DIR": str(directory)})
    lock = identity.hold(directory)
    storage = Storage.open(config)
    tail = body(0, size)[16:]
    version = time.time_ns() // 1000 * VERSIONS
    for start in range(first, end, GROUP):
        created = time.time_ns() // 1_000_000
        commands = []
        for number in range(start, min(start + GROUP, end)):
            value = (b"%016d" % number)[:size] + tail
            version += VERSIONS
            key = keys.encode(f"{prefix}{number}")
            digest = hashlib.sha256(value).digest()
            commands.append(
                Store(0, key, version, created, 0, "application/octet-stream", digest, size, value, "")
            )  # fmt: skip
        for result in storage.apply(commands):
            if result.status is not Status.DONE:
                raise RuntimeError(f"{keys.decode(result.key)}: {Status(result.status).name} {result.reason}")
    storage.close()
    del lock  # held until here: no agent may have the directory meanwhile


if __name__ == "__main__":
    fill(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6]))
