"""What job scripts import: the base class `Job`, `run` for plain scripts, and the errors."""

from jobs.context import Run, run
from jobs.errors import BadOutput, JobError, KeyExists, KeyMissing, NoSecret, StoreError
from jobs.job import Job

__all__ = ["BadOutput", "Job", "JobError", "KeyExists", "KeyMissing", "NoSecret", "Run", "StoreError", "run"]
