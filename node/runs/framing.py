"""Messages between the agent, its zygote and a run's process.

Each is its length (u32, big-endian) and msgpack, over a Unix socket, with descriptors beside it.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgpack

Message = list[Any]  # see `protocol.py`

_LENGTH = struct.Struct(">I")
_READ_BYTES = 1 << 16
_MOST_DESCRIPTORS = 16
_FIELD_BYTES = array.array("i").itemsize
_SPACE = socket.CMSG_SPACE(_MOST_DESCRIPTORS * _FIELD_BYTES)


class Frames:
    """One end of a stream socket, blocking or not."""

    def __init__(self, sock: socket.socket, most: int = 0) -> None:
        """`most`: bytes of a message from a process that is not trusted, 0: no limit."""
        self.socket = sock
        self._most = most
        self.descriptors: deque[int] = deque()  # those that came, in order; whoever takes one owns it
        self._incoming = bytearray()
        self._outgoing: deque[tuple[memoryview, Sequence[int]]] = deque()

    def send(self, message: Sequence[object], descriptors: Sequence[int] = ()) -> bool:
        """Send a message, close its descriptors; False: the rest waits for `flush`. Raises `OSError` as that does."""
        body = msgpack.packb(message)
        first = not self._outgoing
        self._outgoing.append((memoryview(_LENGTH.pack(len(body)) + body), descriptors))
        return first and self.flush()

    def flush(self) -> bool:
        """Send what waits; whether that was all. Raises `OSError` when the other end is gone."""
        while self._outgoing:
            data, descriptors = self._outgoing[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
            try:
                sent = self.socket.sendmsg([data], rights)
            except BlockingIOError:  # the socket is full
                return False
            for descriptor in descriptors:
                os.close(descriptor)
            if sent < len(data):
                self._outgoing[0] = (data[sent:], ())
            else:
                self._outgoing.popleft()
        return True

    def receive(self, wait: bool = True) -> list[Message]:
        """Read once; the messages that are complete then. Raises `EOFError` or `OSError` when the other end is gone.

        `wait`: until something comes, unless the socket does not block. Raises `ValueError` for what is no message.
        """
        try:
            data, ancillary, flags, _ = self.socket.recvmsg(_READ_BYTES, _SPACE, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:  # nothing has come
            return []
        if flags & socket.MSG_CTRUNC:
            raise OSError("this process has no room for more descriptors")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % _FIELD_BYTES])
                self.descriptors.extend(numbers)
        if not data:
            raise EOFError("the other end is closed")
        self._incoming += data
        messages = []
        while len(self._incoming) >= _LENGTH.size:
            length = _LENGTH.unpack_from(self._incoming)[0]
            if self._most and length > self._most:
                raise ValueError(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._incoming) < end:
                break
            messages.append(msgpack.unpackb(memoryview(self._incoming)[_LENGTH.size : end]))
            del self._incoming[:end]
        return messages

    def close(self) -> None:
        """Close the socket, and the descriptors that were not taken or not sent."""
        self.socket.close()
        for _, descriptors in self._outgoing:
            for descriptor in descriptors:
                os.close(descriptor)
        self._outgoing.clear()
        while self.descriptors:
            os.close(self.descriptors.popleft())
