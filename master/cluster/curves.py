"""What nodes said of themselves in the last hour and day, for the curves of the web page.

The controller writes a small file for each node, and web workers read it. Every point has its place by its time: a
later one takes the place of one that is too old. A file that is lost costs the curves alone, so nothing is synced.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from broker import logs
from broker.messages.store import Heartbeat

log = logs.get(__name__)

FOLDER = "curves"
HOUR_STEP_SECS, HOUR_POINTS = 10, 360
DAY_STEP_SECS, DAY_POINTS = 300, 288
_POINT = struct.Struct("<IfffIIQ")
_FILE_BYTES = (HOUR_POINTS + DAY_POINTS) * _POINT.size


class Point(NamedTuple):
    """What a node said at one time, or on average around it."""

    at: int  # seconds since the epoch
    load: float  # 1-minute load average divided by cores
    memory: float  # percent in use
    disk: float  # percent in use
    running: int  # runs
    slots: int
    keys: int


class Curves(NamedTuple):
    """The points of one node, the oldest first."""

    hour: list[Point]
    day: list[Point]


class Recorder:
    """Writes the points of all nodes. Used on the controller's thread."""

    def __init__(self, directory: Path) -> None:
        """`directory` is the master's."""
        self._folder = directory / FOLDER
        self._last: dict[str, int] = {}  # node → the step of its last point
        self._day: dict[str, list[Point]] = {}  # node → points since its last step of a day began
        self._broken = False

    def note(self, heartbeats: Iterable[Heartbeat], now_ms: int) -> None:
        """Write a point for each node that has none in this step."""
        now = now_ms // 1000
        for beat in heartbeats:
            step = now // HOUR_STEP_SECS
            if self._last.get(beat.node) == step:
                continue
            self._last[beat.node] = step
            self._write(beat.node, _point(beat, now))

    def forget(self, node: str) -> None:
        """Remove the file of a node."""
        with suppress(FileNotFoundError):
            _file(self._folder, node).unlink()
        self._last.pop(node, None)
        self._day.pop(node, None)

    def _write(self, node: str, point: Point) -> None:
        day_step = point.at // DAY_STEP_SECS
        since = [known for known in self._day.get(node, ()) if known.at // DAY_STEP_SECS == day_step]
        self._day[node] = [*since, point]
        try:
            self._folder.mkdir(exist_ok=True)
            descriptor = os.open(_file(self._folder, node), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(descriptor, _FILE_BYTES)
                place = point.at // HOUR_STEP_SECS % HOUR_POINTS
                os.pwrite(descriptor, _POINT.pack(*point), place * _POINT.size)
                place = HOUR_POINTS + day_step % DAY_POINTS
                os.pwrite(descriptor, _POINT.pack(*_average(self._day[node])), place * _POINT.size)
            finally:
                os.close(descriptor)
            self._broken = False
        except OSError as error:
            if not self._broken:
                log.error("the curves of nodes can't be written; everything else goes on", error=error)
            self._broken = True


def read(directory: Path, node: str, now: float) -> Curves:
    """The points of a node in the last hour and day; none when there is no file."""
    try:
        raw = _file(directory / FOLDER, node).read_bytes()
    except OSError:  # the node is new, or the controller has not written yet
        raw = b""
    if len(raw) != _FILE_BYTES:
        return Curves([], [])
    points = [Point(*fields) for fields in _POINT.iter_unpack(raw)]
    return Curves(
        _recent(points[:HOUR_POINTS], now, HOUR_STEP_SECS * HOUR_POINTS),
        _recent(points[HOUR_POINTS:], now, DAY_STEP_SECS * DAY_POINTS),
    )


def _recent(points: Iterable[Point], now: float, secs: int) -> list[Point]:
    return sorted(point for point in points if now - secs <= point.at <= now + HOUR_STEP_SECS)


def _point(beat: Heartbeat, now: int) -> Point:
    used = beat.disk_total - beat.disk_free
    disk = 100 * used / beat.disk_total if beat.disk_total else 0.0
    return Point(now, beat.load, beat.memory, disk, len(beat.running), beat.slots, beat.keys)


def _average(points: list[Point]) -> Point:
    number = len(points)
    last = points[-1]
    return last._replace(
        load=sum(point.load for point in points) / number,
        memory=sum(point.memory for point in points) / number,
        disk=sum(point.disk for point in points) / number,
        running=round(sum(point.running for point in points) / number),
    )


def _file(folder: Path, node: str) -> Path:
    """The file of a node, whose name makes no path."""
    return folder / hashlib.sha256(node.encode()).hexdigest()[:32]
