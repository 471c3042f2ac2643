"""cluster.json: what scripts need to know of a cluster, passwords included; only its owner may read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ops.cluster import files
from ops.cluster.errors import ClusterError

NAME = "cluster.json"


def read(directory: Path) -> dict[str, Any]:
    """What was written last in the data directory; empty when nothing was."""
    path = directory / NAME
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ClusterError(f"{path} can't be read ({error}); delete it, it is made again") from error
    return state if isinstance(state, dict) else {}


def write(directory: Path, description: dict[str, Any]) -> None:
    """Write down what a cluster is now."""
    files.write(directory / NAME, json.dumps(description, indent=2) + "\n")
