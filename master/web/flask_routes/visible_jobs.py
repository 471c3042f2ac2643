"""Jobs and schedules as they are shown: without secrets, and without the passwords among their arguments."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TypeVar

from broker import masks
from jobs.secret_file import SecretFile
from master.jobs import script_catalog
from master.jobs.ledger import LedgerView
from master.jobs.model import Job, Schedule, arguments_text

Shown = TypeVar("Shown", Job, Schedule)


class VisibleJobs:
    """Gives what a reader of one transaction may see. Arguments that a script declares as `password` become `***`."""

    def __init__(self, view: LedgerView, secrets: SecretFile) -> None:
        """`secrets`: masked wherever they stand in arguments."""
        self._view = view
        self._hiding = masks.of(secrets.values())
        self._passwords: dict[str, Collection[str]] = {}  # names of arguments, by path of the script

    def __call__(self, found: Shown) -> Shown:
        """A job or a schedule as it is shown."""
        arguments = self._without_passwords(found.path, found.arguments)
        if self._hiding is None:
            return found if arguments is found.arguments else found._replace(arguments=arguments)
        options = found.options._replace(argv=tuple(map(self._hiding.text, found.options.argv)))
        return found._replace(arguments=self._hiding.json(arguments.encode()).decode(), options=options)

    def _without_passwords(self, path: str, arguments: str) -> str:
        names = self._passwords.get(path)
        if names is None:
            names = self._passwords[path] = script_catalog.password_names(self._view, path)
        if not names:
            return arguments
        given = json.loads(arguments)
        if not any(name in given for name in names):
            return arguments
        return arguments_text({name: masks.MASK if name in names else value for name, value in given.items()})
