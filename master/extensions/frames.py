"""What a web worker and a process for extensions send each other: frames of a kind, a length and a body.

| kind      | from    | body                                  | meaning                                     |
| --------- | ------- | ------------------------------------- | ------------------------------------------- |
| `SETUP`   | worker  | msgpack, `Setup`                      | sent once, first                            |
| `READY`   | process | none                                  | sent once; the process waits for requests   |
| `REQUEST` | worker  | msgpack, `Invocation`                 | one at a time                               |
| `DATA`    | process | a piece of the response's JSON        | more follows                                |
| `END`     | process | msgpack, whether the process can stay | the response is complete                    |
| `FAILURE` | process | msgpack, `Failure`                    | there is no response, or no complete one    |
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple, Self

import msgpack

SETUP, READY, REQUEST, DATA, END, FAILURE = b"s", b"r", b"q", b"d", b"e", b"f"
KINDS = frozenset((SETUP, READY, REQUEST, DATA, END, FAILURE))

HEAD = struct.Struct(">cI")
MAX_BYTES = 1 << 20  # of a frame from a process; what says more is no frame
DATA_BYTES = 1 << 18  # of a piece
TEXT_CHARACTERS = 1 << 16  # of a message or a traceback


class Setup(NamedTuple):
    """What a process needs to know before its first request."""

    directory: str  # of the extensions
    index_directory: str  # of the master
    index_map: int  # bytes
    master: str  # its URL for clients, without a path
    listen: str = ""  # host:port where it listens
    fetch: str = ""  # hosts that extensions may fetch from, see `[extensions] fetch`
    ca: str = ""  # a file of certificates to trust; "": those of the system alone

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """The setup in a frame's body."""
        return cls(*msgpack.unpackb(body))


class Caller(NamedTuple):
    """For whom an extension acts. Without tokens, all of it is empty."""

    name: str = ""  # of the caller's token
    token: str = ""  # with which the extension itself sends requests
    reads: list[str] | None = None  # beginnings of the keys that may be read; None: all


class Invocation(NamedTuple):
    """One request to an extension."""

    name: str
    arguments: list[str]
    params: dict[str, list[str]]
    file_path: str | None
    caller: Caller = Caller()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """The request in a frame's body."""
        request = cls(*msgpack.unpackb(body))
        return request._replace(caller=Caller(*request.caller))


class Failure(NamedTuple):
    """Why a request has no data in its response."""

    status: int
    message: str
    traceback: str  # for the log; "" when there is nothing to mend
    reusable: bool  # whether the process can take another request

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """The failure in a frame's body."""
        return cls(*msgpack.unpackb(body))


def pack(kind: bytes, content: object = None) -> bytes:
    """A frame. Bytes are its body as they are, all else becomes msgpack; None is an empty body."""
    body: bytes = content if isinstance(content, bytes) else b"" if content is None else msgpack.packb(content)
    return HEAD.pack(kind, len(body)) + body


def decode_flag(body: bytes) -> bool:
    """The body of an `END`: whether the process can take another request."""
    return bool(msgpack.unpackb(body))


def receive(sock: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    """The frames that a worker sends, as kind and body, until it closes its end."""
    file = sock.makefile("rb")
    while head := file.read(HEAD.size):
        kind, length = HEAD.unpack(head)
        yield kind, file.read(length)


def printable(text: str) -> str:
    """A text as it can be sent: shortened in its middle, and without halves of surrogate pairs."""
    if len(text) > TEXT_CHARACTERS:
        half = TEXT_CHARACTERS // 2
        text = f"{text[:half]} … {text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode()
