"""The benchmark's way to fill a node without its cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from broker import keys, settings
from node.storage.storage import Storage

ROOT = Path(__file__).parents[2]


def test_a_stopped_node_is_filled_with_values_that_it_then_has(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ops.benchmarks.fill", str(tmp_path), "bench/", "5000", "100"]
    subprocess.run(command, cwd=ROOT, check=True)
    storage = Storage.open(settings.load(environ={"PULZAR_VOLUME_DIR": str(tmp_path)}))
    try:
        replayed = [item.key for _, _, items in storage.replay(0) for item in items if item.key]
        wanted = {keys.encode(f"bench/{number}") for number in range(5000)}
        assert wanted <= set(replayed)
    finally:
        storage.close()


def test_values_of_many_sizes_lie_in_folders(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ops.benchmarks.fill", str(tmp_path), "bench/", "2000", "20-1024", "100"]
    subprocess.run(command, cwd=ROOT, check=True)
    storage = Storage.open(settings.load(environ={"PULZAR_VOLUME_DIR": str(tmp_path)}))
    try:
        replayed = {item.key: item.size for _, _, items in storage.replay(0) for item in items if item.key}
        assert {keys.encode(f"bench/{number // 100:04}/{number}") for number in range(2000)} <= set(replayed)
        assert set(replayed.values()) == {20, 40, 80, 160, 320, 640, 1024}
    finally:
        storage.close()
