"""What can go wrong on a node.

PulzarError
└── StorageError         something on the disk went wrong
    ├── DiskFull             no room, or less free than the reserve
    ├── Corrupt              bytes on the disk are not what was written
    ├── Unavailable          the index is not there just now; worth trying again
    ├── TooSmall             the process has no address space for the index
    └── Broken               the storage can't go on; the process must start again
"""

from __future__ import annotations

from broker.errors import PulzarError


class StorageError(PulzarError):
    """Raised when the disk refuses something; the base of all errors of the storage."""


class DiskFull(StorageError):
    """Raised when there is no room on the disk, or less than must stay free."""


class Corrupt(StorageError):
    """Raised when a value or its record is not what was written."""


class StorageUnavailable(StorageError):
    """Raised when the index is missing, being rebuilt, or closed; trying again later may work."""


class TooSmall(StorageError):
    """Raised when the index needs more address space than this process may have; nothing is wrong with the index."""


class Broken(StorageError):
    """Raised when a failed write could not be undone; a new start of the process puts it right."""
