"""The base class of jobs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from jobs.context import Run


class Job(Run, ABC):
    """A job is a class named like its file, with this base and a method `execute`; see the README."""

    @abstractmethod
    def execute(self) -> Any:
        """Do the work. What is returned is the output, unless `output` was called or it is None."""
