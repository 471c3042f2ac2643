"""The log of a run: its beginning and its end are kept."""

from __future__ import annotations

LIVE_BYTES = 16 << 10


class LogCapture:
    """A buffer of fixed size for a log of any length."""

    def __init__(self, limit: int) -> None:
        """`limit` is how many bytes are kept; half of them from the beginning."""
        self._head_bytes = limit // 2
        self._tail_bytes = limit - self._head_bytes
        self._head = bytearray()
        self._tail = bytearray()
        self._told = 0
        self.total = 0

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self.total += len(data)
        room = self._head_bytes - len(self._head)
        if room:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        # Only now and then: otherwise every write would move all of it.
        if len(self._tail) > 2 * self._tail_bytes + LIVE_BYTES:
            del self._tail[: -max(self._tail_bytes, LIVE_BYTES)]

    @property
    def news(self) -> int:
        """How many bytes have come since the last call of `take_news`."""
        return self.total - self._told

    def take_news(self) -> tuple[bytes, int]:
        """The newest bytes since the last call, at most LIVE_BYTES, and where they begin."""
        count = min(self.news, LIVE_BYTES)
        start = self.total - count
        self._told = self.total
        # The news may begin in the head and end in the tail.
        from_head = bytes(self._head[start:]) if start < len(self._head) else b""
        from_tail = bytes(self._tail[-(count - len(from_head)) :]) if count > len(from_head) else b""
        return from_head + from_tail, start

    def text(self) -> bytes:
        """All that is kept; a line in the middle says how many bytes are left out."""
        tail = self._tail[-self._tail_bytes :] if self._tail_bytes else self._tail[:0]
        left_out = self.total - len(self._head) - len(tail)
        if not left_out:
            return bytes(self._head + tail)
        newline = b"" if self._head.endswith(b"\n") or not self._head else b"\n"
        return bytes(self._head) + newline + b"[... %d bytes left out ...]\n" % left_out + bytes(tail)
