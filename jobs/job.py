"""The base class of jobs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from jobs import context


class Job(context.Run, ABC):
    """Base of all jobs: a class with a method `execute`, named like its file or alone in it. See docs/jobs.md."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Note that the script makes its job itself, and needs nobody to do it."""
        context.note_job()
        make = super().__new__
        return make(cls) if make is object.__new__ else make(cls, *args, **kwargs)

    @abstractmethod
    def execute(self) -> Any:
        """Do the work. A result other than None is the output, unless `output` was called."""
