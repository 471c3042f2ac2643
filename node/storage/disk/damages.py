"""What a node knows of its damaged values, and how other processes tell its agent of them.

The scrub finds damage in the agent. The data server finds it in another process, and reports each value by a small file
in `tmp/`, which the agent takes.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from pathlib import Path
from typing import NamedTuple

from broker import logs
from node.errors import StorageError
from node.storage.disk.files import guarded, remove
from node.storage.disk.layout import Layout

log = logs.get(__name__)

_REPORT = "damaged-"
_AGAIN_SECS = 60.0  # until the same value is reported again
_MOST_KNOWN = 10_000  # values that were reported lately


class Damage(NamedTuple):
    """A value or record that is not what was written."""

    key: bytes  # b"" when it can't be told
    version: int  # 0 when it can't be told
    where: str
    reason: str


class Damages:
    """The damaged values of an open storage. Each may be stored again under its version. Thread-safe."""

    def __init__(self) -> None:
        self.healed = 0  # values that were replaced by a good copy
        self._guard = threading.Lock()
        self._found: dict[tuple[bytes, int], Damage] = {}

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, value: tuple[bytes, int]) -> bool:
        """Whether this version of a key is known to be damaged."""
        return value in self._found

    def add(self, damage: Damage) -> None:
        """Note that a value is damaged; nothing happens when that is known."""
        with self._guard:
            self._found.setdefault((damage.key, damage.version), damage)

    def drop(self, key: bytes, version: int) -> None:
        """Forget a value: it is not here any more, or is not damaged."""
        with self._guard:
            self._found.pop((key, version), None)

    def heal(self, key: bytes, version: int) -> None:
        """Note that a good copy has taken the place of a damaged value."""
        with self._guard:
            if self._found.pop((key, version), None) is not None:
                self.healed += 1

    def all(self) -> list[Damage]:
        """Those that are known now."""
        with self._guard:
            return list(self._found.values())


class DamageReport(NamedTuple):
    """A value that a reader could not read, or that is not on this node."""

    key: bytes
    version: int  # that it should have; 0: the one that it has
    reason: str


class DamageReports:
    """Reports of one data directory, from those who read values to the agent. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        """`directory` is the node's data directory."""
        self._directory = Layout.of(directory).tmp
        self._guard = threading.Lock()
        self._lately: dict[tuple[bytes, int], float] = {}  # when a value was reported

    def report(self, report: DamageReport) -> None:
        """Tell the agent of a value, unless it was told of it within the last minute."""
        now, value = time.monotonic(), (report.key, report.version)
        with self._guard:
            if now - self._lately.get(value, float("-inf")) < _AGAIN_SECS:
                return
            if len(self._lately) >= _MOST_KNOWN:
                self._lately.clear()
            self._lately[value] = now
        name = secrets.token_hex(8)
        draft = self._directory / f"new-{name}"
        try:
            draft.write_text(f"{report.version}\n{report.key.decode('ascii')}\n{report.reason}")
            draft.rename(self._directory / f"{_REPORT}{name}")
        except OSError as error:
            log.warning("damage can't be reported to the agent", key=report.key, reason=error)

    def take(self) -> list[DamageReport]:
        """The reports that have come, which are removed. Raises `StorageError`."""
        found: list[DamageReport] = []
        with guarded("reports of damage can't be read"):
            names = [name for name in os.listdir(self._directory) if name.startswith(_REPORT)]
        for name in names:
            file = self._directory / name
            try:
                with guarded("a report of damage can't be read"):
                    content = file.read_bytes()
                    remove(file)
                version, key, reason = content.decode().split("\n", 2)
                found.append(DamageReport(key.encode("ascii"), int(version), reason))
            except (StorageError, ValueError) as error:
                log.warning("a report of damage is of no use", file=name, reason=error)
        return found
