"""The base class of jobs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from jobs import context


class Job(context.Run, ABC):
    """A job is a class with this base and a method `execute`, named like its file or alone in it; see docs/jobs.md."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """A script that makes a job itself needs nobody to find and make it."""
        context.note_job()
        make = super().__new__
        return make(cls) if make is object.__new__ else make(cls, *args, **kwargs)

    @abstractmethod
    def execute(self) -> Any:
        """Do the work. What is returned is the output, unless `output` was called or it is None."""
