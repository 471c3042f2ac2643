"""Packs commands one at a time, and puts many of them together as one message."""

from __future__ import annotations

from collections.abc import Sequence

import msgpack

from broker.errors import InvalidKey, Unsendable
from broker.messages.codec import CODES, PROTOCOL, packed, read_command
from broker.messages.store import Command, Commands


class CommandPacker:
    """Packs commands for `batch`, one at a time; not thread-safe."""

    def __init__(self) -> None:
        self._packer = msgpack.Packer(use_bin_type=True)

    def pack(self, command: Command) -> bytes:
        """One command. Raises `Unsendable` when no node could read it: a batch with it would be lost."""
        fields = [command.kind, *command]
        try:
            body: bytes = self._packer.pack(fields)
            read_command(fields)
        except (TypeError, ValueError, OverflowError, InvalidKey) as error:
            self._packer = msgpack.Packer(use_bin_type=True)  # it may hold a part of this one
            raise Unsendable(f"no node could read this command: {error}") from error
        return body


def batch(origin: str, commands: Sequence[bytes]) -> bytes:
    """The `Commands` message of commands that are packed already."""
    header = msgpack.Packer()
    head = header.pack_array_header(4) + packed(PROTOCOL) + packed(CODES[Commands]) + packed(origin)
    return b"".join([head, header.pack_array_header(len(commands)), *commands])
