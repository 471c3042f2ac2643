"""Python client and command line of Pulzar. It needs nothing but the standard library.

with Client("http://localhost:31414") as client:
    client.put("docs/readme.md", Path("README.md"))
    print(client.get("docs/readme.md"))
"""

from pulzar.client import Client
from pulzar.errors import (
    BadRequest,
    Changed,
    Conflict,
    Damaged,
    Forbidden,
    Full,
    NotFound,
    PulzarError,
    ServerError,
    Unavailable,
    UnknownOutcome,
)
from pulzar.events import Event
from pulzar.models import Entry, Folder, Health, Job, Launched, Node, Page, Stored
from pulzar.reading import Value

VERSION = "0.1.0"

__all__ = [
    "VERSION",
    "BadRequest",
    "Changed",
    "Client",
    "Conflict",
    "Damaged",
    "Entry",
    "Event",
    "Folder",
    "Forbidden",
    "Full",
    "Health",
    "Job",
    "Launched",
    "Node",
    "NotFound",
    "Page",
    "PulzarError",
    "ServerError",
    "Stored",
    "Unavailable",
    "UnknownOutcome",
    "Value",
]
