"""What can go wrong in trying the images.

PulzarError (of broker.errors)
└── ImagesError
    ├── Unreadable    compose.yaml says something that can't be carried out here
    ├── CommandFailed a program (podman, buildah, debootstrap, pip) ended with an error
    └── TrialFailed   the cluster does something wrong
"""

from __future__ import annotations

from broker.errors import PulzarError


class ImagesError(PulzarError):
    """Base of everything that goes wrong in trying the images; its text is for the terminal."""


class Unreadable(ImagesError):
    """Raised when compose.yaml says something that can't be carried out here."""


class CommandFailed(ImagesError):
    """Raised when a program ended with an error; has the end of what it printed."""


class TrialFailed(ImagesError):
    """Raised when the cluster does something wrong."""
