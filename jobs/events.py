"""Events that a run sends its node through a pipe: frames of a kind, a length and that many bytes.

| kind       | bytes                                | said                                        |
| ---------- | ------------------------------------ | ------------------------------------------- |
| `PROGRESS` | JSON `[done, total or null, "text"]` | now and then                                |
| `OUTPUT`   | JSON                                 | when there is one; the last one counts      |
| `FAILURE`  | text                                 | before a run ends that did not succeed: why |

Any process of a run may write to the pipe, so the reader checks everything.
"""

from __future__ import annotations

import struct

PROGRESS = b"p"
OUTPUT = b"o"
FAILURE = b"f"

TEXT_CHARACTERS = 1000  # of a progress or a failure, at most

_HEAD = struct.Struct(">cI")


def frame(kind: bytes, content: bytes) -> bytes:
    """A frame as it goes through the pipe."""
    return _HEAD.pack(kind, len(content)) + content


class Decoder:
    """Turns bytes into frames. After bytes that are no frame, `broken` says why, and no more frames come."""

    def __init__(self, limit: int) -> None:
        """`limit`: most bytes of a frame."""
        self.broken = ""
        self._limit = max(limit, 8 * TEXT_CHARACTERS)
        self._waiting = bytearray()

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The frames that are complete now, as kind and content."""
        frames: list[tuple[bytes, bytes]] = []
        if self.broken:
            return frames
        self._waiting += data
        while len(self._waiting) >= _HEAD.size:
            kind, length = _HEAD.unpack_from(self._waiting)
            if kind not in (PROGRESS, OUTPUT, FAILURE):
                self._break("something that is no event came through the event pipe")
            elif length > self._limit:
                self._break(f"an event of {length} bytes came through the event pipe; {self._limit} are allowed")
            elif len(self._waiting) >= _HEAD.size + length:
                frames.append((kind, bytes(self._waiting[_HEAD.size : _HEAD.size + length])))
                del self._waiting[: _HEAD.size + length]
                continue
            break
        return frames

    def _break(self, reason: str) -> None:
        self.broken = reason
        self._waiting.clear()
