"""What can go wrong in the contract between master and nodes.

PulzarError
├── SettingsError        the configuration can't be used
├── InvalidKey           a key breaks the rules
├── MessageError
│   ├── MalformedMessage     bytes that are no message
│   └── UnknownProtocol      a message of another protocol version
├── BadSignature         a URL was not signed by this cluster's master, or is too old
├── LinkDown             RabbitMQ can't be reached just now
├── NoAddressSpace       a map does not fit into the address space of this process
└── Refused              a request that is not done; see `broker.refusals`
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
    """Raised when bytes are no message, or a field has the wrong type."""


class UnknownProtocol(MessageError):
    """Raised when a message has another protocol version than this program."""


class BadSignature(PulzarError):
    """Raised when a signed URL is missing its signature, was changed, or has expired."""


class LinkDown(PulzarError):
    """Raised when something can't be sent because there is no connection to RabbitMQ."""


class NoAddressSpace(PulzarError):
    """Raised when the map of an LMDB file is larger than the address space that this process may have."""
