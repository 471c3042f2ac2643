"""The errors of the contract between master and nodes.

PulzarError
├── SettingsError        the configuration can't be used
├── InvalidKey           a key breaks the rules
├── MessageError
│   ├── MalformedMessage     bytes that are no message
│   └── UnknownProtocol      a message of another protocol version
├── BadSignature         a URL was not signed by this cluster's master
│   └── Expired              it was, and is too old
├── LinkDown             RabbitMQ can't be reached at the moment
├── Unsendable           a message that can't be put on the wire
├── NoAddressSpace       a map does not fit into the address space of this process
├── ClientGone           nobody waits for a response any more
└── Refused              a request that gets an error response; see `broker.refusals`
"""

from __future__ import annotations


class PulzarError(Exception):
    """Base of everything that Pulzar raises on purpose."""


class SettingsError(PulzarError):
    """Raised when the configuration has an unknown key or a value that can't be used."""


class InvalidKey(PulzarError):
    """Raised when a key is empty, too long, or has a character or a segment that keys can't have."""


class MessageError(PulzarError):
    """Raised when a message can't be handled; it belongs in `pulzar.dead`."""


class MalformedMessage(MessageError):
    """Raised when bytes are not a message, or a field has a wrong value."""


class UnknownProtocol(MessageError):
    """Raised when a message has another protocol version than this program."""


class BadSignature(PulzarError):
    """Raised when a signed URL is missing its signature or was changed."""


class Expired(BadSignature):
    """Raised when an authentic URL, signed by this cluster's master, is too old."""

    def __init__(self, message: str, parameters: dict[str, str]) -> None:
        super().__init__(message)
        self.parameters = parameters  # what was signed


class LinkDown(PulzarError):
    """Raised when something can't be sent because there is no connection to RabbitMQ."""


class Unsendable(PulzarError):
    """Raised when a message can't be packed, or nobody could read it; nothing was sent."""


class NoAddressSpace(PulzarError):
    """Raised when the map of an LMDB file is larger than the address space that this process may have."""


class ClientGone(PulzarError):
    """Raised when the client went away before it had its response."""
