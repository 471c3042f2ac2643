"""What job scripts import: `Job`, the base class; `run`, the same things for plain scripts; and the errors."""

from jobs.context import Run, run
from jobs.errors import BadOutput, JobError, KeyExists, KeyMissing, NoSecret, StoreError
from jobs.job import Job

__all__ = ["BadOutput", "Job", "JobError", "KeyExists", "KeyMissing", "NoSecret", "Run", "StoreError", "run"]
