"""The secrets that runs get, and the masks that keep them out of sight."""

from __future__ import annotations

from broker import logs, masks
from broker.masks import Masks
from jobs.secret_file import SecretFile, Secrets

log = logs.get(__name__)


class RunSecrets:
    """The secrets of scripts, from the file that the settings name."""

    def __init__(self, file: SecretFile) -> None:
        self._file = file
        self._problem = ""

    def of(self, job: str) -> tuple[Secrets, Masks | None]:
        """The secrets of a script `folder/script`, and what hides them."""
        secrets = self._file.of(job.partition("/")[0])
        if self._file.problem != self._problem:
            self._problem = self._file.problem
            if self._problem:
                log.error("file of secrets can't be used; its last good content counts", reason=self._problem)
        return secrets, masks.of(frozenset(secrets.known.values()))
