"""Fills a stopped node with small values, through the node's own storage and in large groups.

    python -m ops.benchmarks.fill DIRECTORY PREFIX COUNT SIZE

Each value gets its record in the log with a digest, and is made durable as by the agent. Only HTTP and RabbitMQ
are left out. The bodies are those that load.c expects.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

from broker import keys, settings
from broker.messages.store import Status, Store
from node.storage.storage import Storage

CONTENT_TYPE = "application/octet-stream"
GROUP = 2000  # values made durable at once
VERSIONS = 4096  # the distance of two versions of one process, in one microsecond (`broker.messages.versions`)


def fill(directory: Path, prefix: str, count: int, size: int) -> None:
    """Store `prefix`0 … `prefix`(count - 1), of `size` bytes each, in the node that has `directory`.

    Raises `RuntimeError` when a value can't be stored.
    """
    config = settings.load(environ=os.environ | {"PULZAR_VOLUME_DIR": str(directory)})
    tail = bytes((at * 167 + (at >> 8) * 31 + 13) & 255 for at in range(16, size))
    version = time.time_ns() // 1000 * VERSIONS
    storage = Storage.open(config)
    for start in range(0, count, GROUP):
        created = time.time_ns() // 1_000_000
        commands = []
        for number in range(start, min(start + GROUP, count)):
            value = (b"%016d" % number)[:size] + tail
            version += VERSIONS
            key = keys.encode(f"{prefix}{number}")
            digest = hashlib.sha256(value).digest()
            commands.append(Store(0, key, version, created, 0, CONTENT_TYPE, digest, size, value, ""))
        for result in storage.apply(commands):
            if result.status is not Status.DONE:
                raise RuntimeError(f"{keys.decode(result.key)}: {Status(result.status).name} {result.reason}")
    storage.close()


if __name__ == "__main__":
    fill(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:5]))
