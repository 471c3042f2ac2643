"""Where the cluster is: the master's address and all data directories of this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from broker import settings
from broker.process import hold
from ops.manager.errors import ManageError


class Place:
    """Where the cluster is: the master's URL and all data directories."""

    def __init__(self, master: str, master_directory: Path, node_directories: Sequence[Path], ca: str = "") -> None:
        """`master` is its URL, without a path; `ca` a file of certificates to trust."""
        self.master = master
        self.ca = ca
        self.master_directory = master_directory
        self.node_directories = list(node_directories)

    @classmethod
    def find(cls, config: Path | None, data: Path | None) -> Place:
        """The place from `cluster.json` in a data directory of `ops/up`, else from the settings.

        Raises `ManageError` or `SettingsError`.
        """
        if data is None:
            loaded = settings.load(config)
            directories = Path(loaded.server.dir), [Path(loaded.volume.dir)]
            return cls(loaded.url(loaded.server), *directories, loaded.security.ca)
        try:
            cluster = json.loads((data / "cluster.json").read_text())
            nodes = [Path(node["directory"]) for node in cluster["nodes"]]
            return cls(
                cluster["master"]["url"].rstrip("/"),
                Path(cluster["master"]["directory"]),
                nodes,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ManageError(f"{data} is no data directory of ops/up: {error!r}") from error

    def check_unused(self) -> None:
        """Raise `ManageError` when a master or a node runs in one of the directories."""
        for folder in (self.master_directory, *(directory / "log" for directory in self.node_directories)):
            if not folder.is_dir():
                continue
            try:
                os.close(hold(folder))  # its process holds it as long as it runs
            except BlockingIOError:
                raise ManageError(f"{folder} is in use; stop its process first") from None
