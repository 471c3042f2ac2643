"""What is assumed of pika's transport: frames that wait go by one call, and are read by one."""

from __future__ import annotations

import socket
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport, _AsyncSSLTransport

from broker.link.transport import READ_BYTES, join, quicken


class CountedSocket:
    """A socket that counts calls, and sends no more than `most` bytes at a time."""

    def __init__(self, end: socket.socket, most: int = 1 << 30) -> None:
        self.calls: list[str] = []
        self._end, self._most = end, most

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, data: bytes) -> int:
        self.calls.append("send")
        return self._end.send(data[: self._most])

    def recv(self, size: int) -> bytes:
        self.calls.append("recv")
        return self._end.recv(size)


class Loop:
    """pika's view of an event loop: nothing is watched."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def transport(end: Any) -> Any:
    received: list[bytes] = []
    protocol: Any = SimpleNamespace(data_received=received.append, received=received)
    loop: Any = Loop()
    return _AsyncPlaintextTransport(end, protocol, loop)


@pytest.mark.parametrize(("quick", "sends"), [(False, 30), (True, 1)])
def test_frames_that_wait_are_sent_by_one_call(quick: bool, sends: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        counted = CountedSocket(ours)
        made = transport(counted)
        if quick:
            quicken(SimpleNamespace(_transport=made))
        frames = [bytes([number]) * 20 for number in range(30)]
        for frame in frames:
            made.write(frame)
        made._on_socket_writable()
        assert counted.calls == ["send"] * sends
        assert theirs.recv(10_000) == b"".join(frames)
        assert made.get_write_buffer_size() == 0


def test_what_the_socket_did_not_take_is_sent_later() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        made = transport(CountedSocket(ours, most=7))
        quicken(SimpleNamespace(_transport=made))
        for text in (b"first ", b"second ", b"third"):
            made.write(text)
        made._on_socket_writable()
        assert theirs.recv(100) == b"first second third"


def test_what_has_come_is_read_by_one_call() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        counted = CountedSocket(ours)
        made = transport(counted)
        quicken(SimpleNamespace(_transport=made))
        theirs.sendall(b"x" * (READ_BYTES + 1))
        made._on_socket_readable()
        made._on_socket_readable()
        assert counted.calls == ["recv"] * 2
        assert [len(data) for data in made._protocol.received] == [READ_BYTES, 1]


def test_long_frames_are_joined_up_to_a_bound() -> None:
    waiting = deque([b"aa", b"b", b"cccc", b"d", b"e"])
    join(waiting, most=3)
    assert list(waiting) == [b"aab", b"cccc", b"de"]


def test_a_connection_with_tls_stays_as_it_is() -> None:
    made = object.__new__(_AsyncSSLTransport)
    quicken(SimpleNamespace(_transport=made))
    assert "_produce" not in vars(made)
