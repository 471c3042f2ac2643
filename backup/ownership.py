"""Whose folder at the target it is.

A random id in the data directory, which the folder at the target has, too. So two nodes of one name never share a
folder. The file also names the targets that have the folder. One that has it no more is perhaps not mounted. And it
names the objects that a verification found damaged at a target, so that the next backup sends them again.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from backup.errors import BackupError, TargetGone

FILE = "backup-owner"


class Ownership:
    """The id of a data directory, and the targets that know it."""

    def __init__(self, directory: Path, target: str) -> None:
        """Reads the file, or makes it. Raises `BackupError`."""
        self.file = directory / FILE
        self._target = target
        self._damaged: dict[str, list[str]] = {}  # target -> digests
        try:
            fields = json.loads(self.file.read_text(encoding="utf-8"))
            self.id, self._targets = str(fields["id"]), [str(one) for one in fields["targets"]]
            self._damaged = {str(at): [*map(str, found)] for at, found in fields.get("damaged", {}).items()}
        except FileNotFoundError:
            self.id, self._targets = secrets.token_hex(16), []
            self._write()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            # By hand it may be the id alone, as the target has it
            self.id, self._targets = self._plain(error), []

    def check_new(self, empty: bool) -> None:
        """Raises `TargetGone` when the target, which has no id, had it before, or has objects all the same."""
        if self._target in self._targets or not empty:
            raise TargetGone(
                f"the target {self._target} had backups of this member, and now its folder has no id: is the right "
                f"disk mounted? If they were removed on purpose, remove {self.file} and what is left in the folder"
            )

    def note(self) -> None:
        """Remember that this target has the folder. Raises `BackupError`."""
        if self._target not in self._targets:
            self._targets.append(self._target)
            self._write()

    @property
    def damaged(self) -> set[str]:
        """Digests of the objects that were found damaged at this target."""
        return set(self._damaged.get(self._target, []))

    def note_damaged(self, digests: Iterable[str]) -> None:
        """Remember these damaged objects of this target, and no others. Raises `BackupError`."""
        wanted = set(digests)
        if wanted != self.damaged:
            self._damaged.pop(self._target, None)
            if wanted:
                self._damaged[self._target] = sorted(wanted)
            self._write()

    def _plain(self, error: Exception) -> str:
        try:
            text = self.file.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            text = ""
        if len(text) != 32 or set(text) - set("0123456789abcdef"):
            raise BackupError(f"{self.file} can't be read: {error}") from error
        return text

    def _write(self) -> None:
        new = self.file.with_name(f"{FILE}.new")
        try:
            with new.open("w", encoding="utf-8") as file:
                fields: dict[str, object] = {"id": self.id, "targets": self._targets}
                json.dump(fields | ({"damaged": self._damaged} if self._damaged else {}), file)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.file)
        except OSError as error:
            raise BackupError(f"{self.file} can't be written: {error.strerror or error}") from error


def give(directory: Path, owner: str) -> None:
    """Let a data directory that was restored be the owner that its folder at the target has. Raises `OSError`."""
    with (directory / FILE).open("w", encoding="ascii") as file:
        file.write(json.dumps({"id": owner, "targets": []}) + "\n")
        file.flush()
        os.fsync(file.fileno())
