"""cluster.json: addresses, process ids and passwords of a cluster, for scripts. Only its owner may read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ops.cluster import files
from ops.cluster.errors import ClusterError

NAME = "cluster.json"


def read(directory: Path) -> dict[str, Any]:
    """The last description in the data directory; empty without one. Raises `ClusterError`."""
    path = directory / NAME
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ClusterError(f"{path} can't be read ({error}); delete it, it is made again") from error
    return state if isinstance(state, dict) else {}


def write(directory: Path, description: dict[str, Any]) -> None:
    """Write the description of a cluster into its data directory."""
    files.write(directory / NAME, json.dumps(description, indent=2) + "\n")
