"""Reads what the processes of a program have counted, and adds it up."""

from __future__ import annotations

import time
from array import array
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from broker import lmdb_files
from broker.metrics.keeper import FOLDER, GAUGES_AT, HEAD
from broker.metrics.layout import Layout

SILENT_SECS = 10.0  # a process that has written nothing for so long is gone, or stands still


class Process(NamedTuple):
    """A process that lives."""

    name: str
    age: float  # seconds since it started
    gauges: array[float]


class Reading(NamedTuple):
    """The figures of a program."""

    counts: array[int]  # of all processes, also of those that are gone
    processes: list[Process]


def read(layout: Layout, directory: Path) -> Reading:
    """The figures in a data directory. Files of other versions count for nothing. Raises `OSError`."""
    digest, boot, now = layout.digest, lmdb_files.boot().encode().ljust(36)[:36], time.monotonic()
    begin, length = GAUGES_AT + 8 * len(layout.gauges), 8 * len(layout.counts)
    total = 0
    processes: list[Process] = []
    for file in sorted((directory / FOLDER).glob("*-*")):
        found = b""
        with suppress(FileNotFoundError):  # somebody has removed it
            found = file.read_bytes()
        if len(found) != begin + length or found[:16] != digest:
            continue
        _, of_boot, started, written = HEAD.unpack_from(found)
        # All cells in one addition: none of them will ever overflow into the next one.
        total += int.from_bytes(found[begin:], "little")
        if of_boot == boot and 0 <= now - written < SILENT_SECS:
            processes.append(Process(file.name, now - started, array("d", found[GAUGES_AT:begin])))
    return Reading(array("Q", total.to_bytes(length, "little")), processes)
