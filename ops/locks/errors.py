"""Errors of `ops/lock`, `ops/audit` and `ops/sbom`.

LockError
├── Unreadable
└── CommandFailed
"""

from __future__ import annotations


class LockError(Exception):
    """Base class of these errors; its text is for the person at the terminal."""


class Unreadable(LockError):
    """Raised when a line of a lock is none that `ops/lock` writes."""


class CommandFailed(LockError):
    """Raised when uv can't be run, or can't make a lock."""
