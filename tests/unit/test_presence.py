"""A node whose data server ends is known at once, and one that comes back is, too."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from master.cluster import presence
from master.cluster.presence import Presence

LIMIT_SECS = 30.0


class Known:
    """Nodes by name and address, and what was noted about them."""

    def __init__(self, **urls: str) -> None:
        self.urls = urls
        self.there: dict[str, bool] = {}

    def names(self) -> list[str]:
        return sorted(self.urls)

    def url(self, node: str) -> str | None:
        return self.urls.get(node)

    def alive(self, node: str) -> bool:
        return True

    def note_server(self, node: str, *, there: bool) -> None:
        self.there[node] = there


def listen(port: int = 0) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), reuse_port=False)


def url_of(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_SECS):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "LOOK_SECS", 0.05)
    monkeypatch.setattr(presence, "RETRY_SECS", 0.05)


def test_the_end_of_a_server_is_noted_and_its_return(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        # Given two servers
        first, second = listen(), listen()
        nodes = Known(a=url_of(first), b=url_of(second))
        watching = asyncio.create_task(Presence(nodes).run())  # type: ignore[arg-type]
        held, _ = await asyncio.to_thread(first.accept)
        await until(lambda: nodes.there == {"a": True, "b": True})
        # When one ends
        port = first.getsockname()[1]
        first.close()
        held.close()
        # Then it is noted, and the other stays
        await until(lambda: not nodes.there["a"])
        assert nodes.there["b"]
        # When it listens again, and a third comes, then both are there
        again, third = listen(port), listen()
        nodes.urls["c"] = url_of(third)
        await until(lambda: nodes.there == {"a": True, "b": True, "c": True})
        # When one is forgotten, nobody stays connected to it
        del nodes.urls["b"]
        left, _ = await asyncio.to_thread(second.accept)
        assert await asyncio.to_thread(left.recv, 1) == b""
        watching.cancel()
        for each in (again, second, third, left):
            each.close()

    asyncio.run(story())


def test_a_server_that_closes_an_idle_connection_is_still_there() -> None:
    async def story() -> None:
        with listen() as server:
            nodes = Known(a=url_of(server))
            noted: list[bool] = []
            nodes.note_server = lambda node, *, there: noted.append(there)  # type: ignore[method-assign]
            watching = asyncio.create_task(Presence(nodes).run())  # type: ignore[arg-type]
            for _ in range(3):
                connection, _ = await asyncio.to_thread(server.accept)
                connection.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
                connection.close()
            await until(lambda: len(noted) >= 3)
            assert all(noted)
            watching.cancel()

    asyncio.run(story())
