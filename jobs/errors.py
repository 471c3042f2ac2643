"""What can go wrong in a job.

JobError
├── BadScript            a script can't be run as it is
│   └── NoSuchScript         there is no such script
├── BadSecrets           the file of secrets can't be used
├── NoSecret             a script may not have what it asks for
├── BadOutput            an output that can't be JSON, or is too large
└── StoreError           the store said no, or could not be reached
    ├── KeyMissing           the key is unknown, or its lifetime is over
    └── KeyExists            the key is taken
"""

from __future__ import annotations


class JobError(Exception):
    """Base of everything that this package raises on purpose."""


class BadScript(JobError):
    """Raised when a script's path breaks the rules, or its class is not what it should be."""


class NoSuchScript(BadScript):
    """Raised when there is no script of this path."""


class BadSecrets(JobError):
    """Raised when the file of secrets can't be read or understood, or when others can read it."""


class NoSecret(JobError):
    """Raised when there is no secret of this name for the script that asks."""


class BadOutput(JobError):
    """Raised when an output can't be written as JSON, or is larger than allowed."""


class StoreError(JobError):
    """Raised when the store refuses something or can't be reached; `status` is that of HTTP, 0 for no answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class KeyMissing(StoreError):
    """Raised when a key is unknown, or its lifetime is over."""


class KeyExists(StoreError):
    """Raised when a key is taken and overwriting was not asked for."""
