"""cluster.json: what scripts need to know of a cluster, passwords included; only its owner may read it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ops.cluster import files
from ops.cluster.errors import ClusterError

if TYPE_CHECKING:
    from ops.cluster.cluster import Cluster

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


def write(cluster: Cluster, running: bool) -> None:
    """Write down the cluster as it is now."""
    files.write(cluster.directory / NAME, json.dumps(_describe(cluster, running), indent=2) + "\n")


def _describe(cluster: Cluster, running: bool) -> dict[str, Any]:
    rabbit = cluster.rabbit
    broker = urlsplit(cluster.broker_url)
    return {
        "running": running,
        "pid": os.getpid(),
        "directory": str(cluster.directory),
        "logs": str(cluster.logs),
        "master": {
            "url": cluster.master_url,
            "port": cluster.base_port,
            "pid": cluster.master.pid,
            "directory": str(cluster.master_directory),
        },
        "nodes": [
            {
                "id": node.id,
                "url": node.url,
                "port": node.port,
                "pid": node.process.pid,
                "directory": str(node.directory),
            }
            for node in cluster.nodes
        ],
        "broker": {
            "url": cluster.broker_url,
            "host": broker.hostname,
            "port": broker.port,
            "user": unquote(broker.username or ""),
            "password": unquote(broker.password or ""),
            "vhost": cluster.vhost,
            "pid": rabbit.process.pid if rabbit else None,
        },
        # Of a broker that was given, the console isn't known.
        "console": {
            "url": rabbit.console_url,
            "port": rabbit.console_port,
            "user": rabbit.user,
            "password": rabbit.password,
        }
        if rabbit
        else None,
        "secret": cluster.secret,
    }
