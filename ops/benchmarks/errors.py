"""What can go wrong while measuring.

BenchError
└── RunFailed    a load client, curl or nginx did not do what was asked
"""

from __future__ import annotations


class BenchError(Exception):
    """Base of everything that goes wrong while measuring."""


class RunFailed(BenchError):
    """Raised when a run gave no figures: its program failed, hung or printed something else."""
