"""A node's heartbeat: who and where it is, how it feels, and where its log ends."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

from broker import VERSION
from broker.messages.store import Heartbeat
from node.jobs.service import Jobs
from node.storage.storage import Storage


def room(directory: Path) -> tuple[int, int]:
    """Bytes that a directory's filesystem has for users, and those of them that are free.

    What it reserves for root is in neither, as in df's percentage: it is not used, and nobody can use it.
    """
    disk = psutil.disk_usage(str(directory))
    return disk.used + disk.free, disk.free


def measure(node: str, url: str, storage: Storage, jobs: Jobs, directory: Path) -> Heartbeat:
    """The heartbeat of this moment."""
    disk_total, disk_free = room(directory)
    return Heartbeat(
        node=node,
        url=url,
        at=time.time_ns() // 1_000_000,
        version=VERSION,
        epoch=storage.epoch.id,
        epoch_seq=storage.epoch.seq,
        seq=storage.seq,
        disk_total=disk_total,
        disk_free=disk_free,
        full=storage.full(),
        load=psutil.getloadavg()[0] / (os.cpu_count() or 1),
        memory=psutil.virtual_memory().percent,
        keys=storage.keys,
        slots=jobs.slots,
        running=jobs.running(),
        catalog=jobs.catalog.digest,
    )
