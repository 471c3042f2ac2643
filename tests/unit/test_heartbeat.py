"""What a heartbeat says of a node's disk."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from node import heartbeat


def test_what_is_reserved_for_root_is_neither_used_nor_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Of 1,000 blocks 220 are used; users may have 280 of the other 780, root all of them.
    figures = SimpleNamespace(f_frsize=4096, f_blocks=1_000, f_bfree=780, f_bavail=280)
    monkeypatch.setattr(os, "statvfs", lambda _: figures)
    total, free = heartbeat.room(tmp_path)
    assert (total, free) == (500 * 4096, 280 * 4096)
    assert 100 * (total - free) / total == psutil.disk_usage(str(tmp_path)).percent == 44.0


def test_the_room_of_a_real_directory_is_what_a_user_has(tmp_path: Path) -> None:
    total, free = heartbeat.room(tmp_path)
    usage = os.statvfs(tmp_path)
    assert 0 < free <= total <= usage.f_blocks * usage.f_frsize
    assert free == pytest.approx(usage.f_bavail * usage.f_frsize, rel=0.02)
