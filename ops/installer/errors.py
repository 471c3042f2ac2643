"""What can go wrong in an installation.

PulzarError (of broker.errors)
└── InstallError        the installation can't go on
    └── CommandFailed   a program (apt-get, pip, systemctl, rabbitmqctl) ended with an error
"""

from __future__ import annotations

from broker.errors import PulzarError


class InstallError(PulzarError):
    """Raised when the installation can't go on; its text is for the terminal."""


class CommandFailed(InstallError):
    """Raised when a program ended with an error; has the end of what it printed."""
