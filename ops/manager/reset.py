"""The removal of all data of this machine's master and nodes."""

from __future__ import annotations

import shutil
from pathlib import Path

from ops.manager.place import Place
from ops.manager.screen import answer

# All that Pulzar makes in its directories. Nothing else in them is removed. The folder `extensions` may be the
# operator's own, with scripts: only those of web workers below it are Pulzar's, which have numbers.
MASTER_FILES = (
    "curves",
    "metrics",
    "tls",
    "index",
    "ledger",
    "processes.lock",
    "keys.lock",
    "controller.sock",
    "extensions/[0-9]*",
    "snapshots",
    "backup.json",
    "backup-plan.json",
    "backup-owner",
    "audit.log",
    *(f"audit.log.{number}" for number in range(1, 9)),
)
NODE_FILES = (
    "metrics",
    "tls",
    "log",
    "values",
    "staging",
    "index",
    "tmp",
    "node-id",
    "node-address",
    "runs",
    "digests",
    "snapshots",
    "backup.json",
    "backup-owner",
)


def reset(place: Place, *, sure: bool) -> int:
    """Remove what Pulzar has made in its directories, after a question. Raises `ManageError`."""
    targets = [(place.master_directory, name) for name in MASTER_FILES]
    targets += [(directory, name) for directory in place.node_directories for name in NODE_FILES]
    there = [path for directory, name in targets for path in sorted(directory.glob(name))]
    if not there:
        print("there is no data to remove")
        return 0
    place.check_unused()
    print("This removes every key, value and job kept on this machine:")
    for path in there:
        print(f"  {path}")
    if not sure and answer("Type 'remove all' to go on: ") != "remove all":
        print("nothing was removed")
        return 1
    for path in there:
        _remove(path)
    extensions = place.master_directory / "extensions"
    if extensions.is_dir() and not any(extensions.iterdir()):
        extensions.rmdir()
    print(f"removed {len(there)} files and folders")
    return 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
