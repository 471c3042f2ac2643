"""Fills a stopped node with small values, through the node's own storage and in large groups.

    python -m ops.benchmarks.fill DIRECTORY PREFIX COUNT SIZE [FOLDER]

SIZE is one for all, or two with a hyphen between them: 20-1024 has as many small values as large ones. With FOLDER
there are so many keys in a folder, and their order in the log is not that of their names.

Each value gets its record in the log with a digest, and is made durable as by the agent. Only HTTP and RabbitMQ
are left out. The bodies are those that load.c expects.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from broker import keys, settings
from broker.messages.store import Status, Store
from node.storage.storage import Storage

CONTENT_TYPE = "application/octet-stream"
GROUP = 2000  # values made durable at once
VERSIONS = 4096  # the distance of two versions of one process, in one microsecond (`broker.messages.versions`)


_SCATTER = 7919  # a prime: number × this, modulo the count, is another order of the numbers


def fill(directory: Path, prefix: str, count: int, sizes: Sequence[int], folder: int = 0) -> None:
    """Store `prefix`0 … `prefix`(count - 1), each of one of `sizes` in bytes, in the node that has `directory`.

    With `folder`, so many of them lie in a folder, in another order. Raises `RuntimeError` when one can't be stored.
    """
    config = settings.load(environ=os.environ | {"PULZAR_VOLUME_DIR": str(directory)})
    tail = bytes((at * 167 + (at >> 8) * 31 + 13) & 255 for at in range(16, max(16, *sizes)))
    version = time.time_ns() // 1000 * VERSIONS
    storage = Storage.open(config)
    for start in range(0, count, GROUP):
        created = time.time_ns() // 1_000_000
        commands = []
        for number in range(start, min(start + GROUP, count)):
            size = sizes[number % len(sizes)]
            value = (b"%016d" % number)[:size] + tail[: max(0, size - 16)]
            version += VERSIONS
            place = number * _SCATTER % count if folder else number
            key = keys.encode(f"{prefix}{place // folder:04}/{place}" if folder else f"{prefix}{number}")
            digest = hashlib.sha256(value).digest()
            commands.append(Store(0, key, version, created, 0, CONTENT_TYPE, digest, size, value, ""))
        for result in storage.apply(commands):
            if result.status is not Status.DONE:
                raise RuntimeError(f"{keys.decode(result.key)}: {Status(result.status).name} {result.reason}")
    storage.close()


if __name__ == "__main__":
    least, _, most = sys.argv[4].partition("-")
    # Each about twice the one before.
    steps = max(1, (int(most or 1) // int(least)).bit_length())
    mixed = [min(int(least) << step, int(most)) for step in range(steps + 1)] if most else [int(least)]
    fill(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), mixed, *map(int, sys.argv[5:6]))
