"""The secrets that runs get, and the masks that keep them out of sight."""

from __future__ import annotations

from broker import logs, masks
from broker.masks import Masks
from jobs.secret_file import SecretFile, Secrets

log = logs.get(__name__)


class RunSecrets:
    """Of a runner."""

    def __init__(self, file: SecretFile) -> None:
        self._file = file
        self._problem = ""

    def to(self, job: str) -> tuple[Secrets, Masks | None]:
        """What a script may have, `folder/script`."""
        secrets = self._file.of(job.partition("/")[0])
        if self._file.problem != self._problem:
            self._problem = self._file.problem
            if self._problem:
                log.error("the file of secrets can't be used; it counts as it was before", reason=self._problem)
        return secrets, masks.of(frozenset(secrets.known.values()))
