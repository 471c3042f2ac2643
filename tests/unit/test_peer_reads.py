"""GETs at a peer over connections that are kept: one that breaks, stands still or has closed them meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from broker.http.peer_client import PeerFailed
from broker.http.peer_reads import PeerReads

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A server that answers each request with what its script says."""

    def __init__(self, answers: list[bytes], *, closes: bool = False) -> None:
        self.answers = answers
        self.closes = closes  # after each answer, without a word
        self.connections = 0
        self.targets: list[str] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.targets.append(head.split()[1].decode())
                answer = self.answers.pop(0)
                writer.write(answer)
                await writer.drain()
                if self.closes or answer.endswith(b"broken"):
                    break
        except asyncio.IncompleteReadError:
            pass  # the client has closed it
        finally:
            writer.close()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        async with await asyncio.start_server(self.talk, "127.0.0.1", 0) as server:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def answer(body: bytes, length: int | None = None, more: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body) if length is None else length}\r\n{more}\r\n".encode() + body


async def read(peers: PeerReads, address: str, target: str = "/a") -> bytes:
    response = await peers.get(f"http://{address}" + target)
    try:
        return await response.body()
    finally:
        response.close()


def test_a_connection_is_used_again_when_its_response_was_read_to_the_end() -> None:
    async def ask() -> None:
        peer = Peer([answer(b"one"), answer(b""), answer(b"x" * 3_000_000), answer(b"last")])
        peers = PeerReads(5)
        async with peer.listening() as address:
            assert [await read(peers, address, f"/{number}") for number in range(3)] == [b"one", b"", b"x" * 3_000_000]
            assert (peer.connections, peer.targets) == (1, ["/0", "/1", "/2"])
            peers.close()
            assert await read(peers, address) == b"last"
            assert peer.connections == 2
            peers.close()

    asyncio.run(ask())


@pytest.mark.parametrize("more", ["", "Connection: close\r\n"])
def test_one_that_was_closed_meanwhile_or_not_read_is_replaced(more: str) -> None:
    async def ask() -> None:
        peer = Peer([answer(b"one", more=more), answer(b"two"), answer(b"x" * 2_000_000), answer(b"four")], closes=True)
        peers = PeerReads(5)
        async with peer.listening() as address:
            assert await read(peers, address) == b"one"
            assert await read(peers, address) == b"two"
            unread = await peers.get(f"http://{address}" + "/a")
            unread.close()
            assert await read(peers, address) == b"four"
            assert peer.connections == 4
            peers.close()

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (answer(b"half broken", 30), "broke off 19 bytes before the end"),
        (b"HTTP/1.1 200 OK\r\n\r\nbroken", "does not say how long it is"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nbroken", "does not say how long it is"),
        (b"SSH-2.0-other\r\n\r\nbroken", "did not answer"),
        (b"broken", "did not answer"),
    ],
)
def test_a_peer_that_breaks_the_exchange_is_an_error(said: bytes, reason: str) -> None:
    async def ask() -> None:
        peers = PeerReads(5)
        async with Peer([said]).listening() as address:
            with pytest.raises(PeerFailed, match=reason):
                await read(peers, address)
            assert not any(peers._idle.values())

    asyncio.run(ask())


@pytest.mark.parametrize("said", [b"", answer(b"begun", 30)])
def test_a_peer_that_stands_still_is_given_up(said: bytes) -> None:
    async def ask() -> None:
        peers = PeerReads(0.2)
        async with Peer([said]).listening() as address:
            with pytest.raises(PeerFailed, match=r"did not answer|broke off"):
                await read(peers, address)

    asyncio.run(ask())


def test_one_that_does_not_listen_can_not_be_reached() -> None:
    async def ask() -> None:
        async with Peer([]).listening() as address:
            pass
        with pytest.raises(PeerFailed, match="can't be reached"):
            await PeerReads(5).get(f"http://{address}/a")

    asyncio.run(ask())
