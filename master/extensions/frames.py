"""What a web worker and a process for extensions tell each other: frames of a kind, a length and that many bytes.

| kind      | from    | bytes                           | said                                                |
| --------- | ------- | ------------------------------- | --------------------------------------------------- |
| `HELLO`   | worker  | msgpack, `Hello`                | once                                                |
| `READY`   | process | none                            | once; it waits for requests from now on             |
| `REQUEST` | worker  | msgpack, `Invocation`              | one at a time                                       |
| `DATA`    | process | a piece of the answer's JSON    | while there is more                                 |
| `END`     | process | msgpack, whether it can go on   | the answer is complete                              |
| `FAILURE` | process | msgpack, `Failure`              | instead; the process can go on                      |
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgpack

HELLO, READY, REQUEST, DATA, END, FAILURE = b"h", b"r", b"q", b"d", b"e", b"f"
KINDS = frozenset((HELLO, READY, REQUEST, DATA, END, FAILURE))

HEAD = struct.Struct(">cI")
MOST_BYTES = 1 << 20  # of a frame from a process; more is no frame
DATA_BYTES = 1 << 18  # of a piece
TEXT_CHARACTERS = 1 << 16  # of a message or a traceback


class Hello(NamedTuple):
    """What a process needs to know."""

    directory: str  # of the extensions
    index_directory: str  # of the master
    index_map: int  # bytes
    master: str  # host:port
    listening: str = ""  # host:port
    fetch: str = ""  # hosts that extensions may fetch from, see `[extensions] fetch`


class Invocation(NamedTuple):
    """One request to an extension."""

    name: str
    arguments: list[str]
    params: dict[str, list[str]]
    file_path: str | None


class Failure(NamedTuple):
    """Why a request is not answered with data."""

    status: int
    message: str
    traceback: str  # for the log; "" when there is nothing to mend
    go_on: bool  # whether the process can take another request


def pack(kind: bytes, content: Any = None) -> bytes:
    """A frame: bytes as they are, all else as msgpack."""
    body: bytes = content if isinstance(content, bytes) else b"" if content is None else msgpack.packb(content)
    return HEAD.pack(kind, len(body)) + body


def receive(sock: socket.socket) -> Iterator[tuple[bytes, Any]]:
    """The frames that a worker sends, as kind and content, until it closes its end."""
    file = sock.makefile("rb")
    while head := file.read(HEAD.size):
        kind, length = HEAD.unpack(head)
        yield kind, msgpack.unpackb(file.read(length))


def printable(text: str) -> str:
    """A text as it can be sent: not too long, and without halves of surrogate pairs."""
    if len(text) > TEXT_CHARACTERS:
        half = TEXT_CHARACTERS // 2
        text = f"{text[:half]} … {text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode()
