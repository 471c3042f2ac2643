"""Values in files of a backup, compared with a node's index: by a process of the node, which knows their format."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from backup.errors import BackupError

_MODULE = "node.backup_values"
ROOT = Path(__file__).resolve().parents[1]


class ValueCheck:
    """The process that reads values. It begins with the first file."""

    def __init__(self, data: Path) -> None:
        """`data` is the data directory of the node, which may run."""
        self._data = data
        self._process: subprocess.Popen[str] | None = None
        self.scratch = data / "tmp" if (data / "tmp").is_dir() else None  # for files that are read back

    def __enter__(self) -> ValueCheck:
        """Nothing is started yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()

    def check(self, path: str, file: Path) -> tuple[int, list[str]]:
        """How many values were compared, and what is wrong, for the file that is `path` in the snapshot.

        Raises `BackupError` when the process ends.
        """
        if self._process is None:
            command = [sys.executable, "-m", _MODULE, "--data", str(self._data)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([path, str(file)]) + "\n")
            self._process.stdin.flush()
            fields = json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            raise BackupError(f"the values can't be compared: {_MODULE} has ended ({error})") from error
        return int(fields["values"]), [f"{path}: {fault}" for fault in fields["faults"]]
