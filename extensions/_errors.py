"""What extensions raise for a response other than 200 or 500."""

from __future__ import annotations


class ExtensionError(Exception):
    """Base of what extensions raise for a response other than 500."""


class Refused(ExtensionError):
    """Raised for a response with a status from 400 to 599 and a message. It is not logged as a failure."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        if not 400 <= status <= 599:
            raise ValueError(f"a status of {status} is no refusal; give one from 400 to 599")
        self.status = status


class MissingLibrary(ExtensionError):
    """Raised when something is not installed. The response is 501 with the command that installs it."""

    def __init__(self, name: str, command: str) -> None:
        super().__init__(f"{name} is not installed on the master; install it there with: {command}")
        self.name = name
        self.command = command
