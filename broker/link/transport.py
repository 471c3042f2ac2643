"""Fewer calls of the kernel for a connection of pika.

pika sends each frame by a call of its own, so three for a message, and reads 4 KiB at a time, until a call finds
nothing. Each call of `send` wakes the broker, too. This changes the transport of one connection, which is pika's own
affair: so pika's version is fixed in requirements.txt, and `tests/unit/test_link_transport.py` holds what is assumed.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport

JOINED_BYTES = 128 << 10  # frames up to this size together are sent by one call
READ_BYTES = 16 << 10  # pika copies what is left of it after each frame


def quicken(connection: Any) -> None:
    """Have an open connection send all frames that wait by one call, and read by one. One with TLS stays as it is."""
    transport: Any = connection._transport
    if not isinstance(transport, _AsyncPlaintextTransport):
        return
    waiting: deque[bytes] = transport._tx_buffers
    produce = transport._produce

    def send_joined() -> None:
        if len(waiting) > 1:
            join(waiting)
        produce()

    transport._produce = send_joined  # type: ignore[method-assign]
    transport._MAX_RECV_BYTES = READ_BYTES
    transport._MAX_CONSUME_BYTES = 1  # the loop calls again while there is more


def cut(connection: Any) -> None:
    """Break a connection that is not closed yet."""
    transport = connection._transport
    if transport is not None and not connection.is_closed:
        transport.abort()


def join(frames: deque[bytes], most: int = JOINED_BYTES) -> None:
    """Join neighbours, as long as they have no more than `most` bytes together."""
    joined: list[bytes] = []
    group: list[bytes] = []
    size = 0
    for frame in frames:
        if group and size + len(frame) > most:
            joined.append(b"".join(group))
            group, size = [], 0
        group.append(frame)
        size += len(frame)
    joined.append(b"".join(group))
    frames.clear()
    frames.extend(joined)
