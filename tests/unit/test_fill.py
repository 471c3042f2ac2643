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
