"""What can go wrong in running a cluster.

PulzarError (of broker.errors)
└── ClusterError
    ├── DirectoryInUse       another cluster runs on the data directory
    ├── PortTaken            somebody else listens on a port
    ├── ProcessDied          a child process ended too early
    ├── NotHealthy           the cluster, or a part of it, is not ready in time
    ├── ConsoleError         the console's HTTP API refused a request
    └── DemonstrationFailed  the store gave another response than expected
"""

from __future__ import annotations

from broker.errors import PulzarError


class ClusterError(PulzarError):
    """Base of everything that goes wrong in running a cluster; its text is for the terminal."""


class DirectoryInUse(ClusterError):
    """Raised when another cluster runs on the data directory."""


class PortTaken(ClusterError):
    """Raised when somebody else listens on a port that the cluster needs."""


class ProcessDied(ClusterError):
    """Raised when a child process ended too early; has the end of its log."""


class NotHealthy(ClusterError):
    """Raised when the cluster, or a part of it, is not ready in time."""


class ConsoleError(ClusterError):
    """Raised when the HTTP API of RabbitMQ's console refused a request or can't be reached."""


class DemonstrationFailed(ClusterError):
    """Raised when the store gave another response than expected."""
