"""An upload on its way to other nodes: one that fails is left behind, and nothing useless stays."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import pytest

from broker import tls
from broker.messages.upload import FurtherNode, StagedCopy
from node.storage.staging import StagedUpload
from node.web.copy_streams import CopyStreams

PIECES = [b"a" * 300_000, b"b" * 200_000, b"c"]
BODY = b"".join(PIECES)
STAGED = StagedUpload("00" * 16, len(BODY), hashlib.sha256(BODY).digest(), b"")


class Node:
    """Another node, which behaves as it is told."""

    def __init__(self, manner: str) -> None:
        self.manner = manner
        self.requests: list[tuple[str, str]] = []  # method and token
        self.received = b""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split(" ", 2)
            self.requests.append((method, parse_qs(urlsplit(target).query)["token"][0]))
            if method == "POST":
                await self._take(reader, writer, chunked="chunked" in head)
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.requests.append(("broken off", ""))
        finally:
            writer.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, chunked: bool) -> None:
        if self.manner == "refuses":
            writer.write(b"HTTP/1.1 507 No Room\r\nContent-Length: 2\r\n\r\n{}")
            return
        if self.manner == "breaks off":
            await reader.readexactly(100_000)
            writer.transport.abort()
            return
        while chunked and (size := int(await reader.readline(), 16)):
            self.received += (await reader.readexactly(size + 2))[:-2]
        if not chunked:
            self.received = await reader.readexactly(len(BODY))
        other = self.manner == "has other bytes"
        answer = json.dumps({"data": {"digest": hashlib.sha256(b"" if other else self.received).hexdigest()}})
        writer.write(f"HTTP/1.1 201 OK\r\nContent-Length: {len(answer)}\r\n\r\n{answer}".encode())

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[FurtherNode]:
        async with await asyncio.start_server(self.talk, "127.0.0.1", 0) as server:
            yield FurtherNode("other", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


async def sent(nodes: list[FurtherNode], *, length: int | None, keep: bool) -> list[StagedCopy]:
    streams = CopyStreams(nodes, length, b"secret", tls.trust(""))
    await streams.open()
    for piece in PIECES:
        await streams.send(piece)
        await asyncio.sleep(0.01)  # so that a refusal may come
    await streams.end(len(BODY))
    copies = streams.copies(STAGED)
    await streams.close(keep=keep)
    return copies


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(limited())


@pytest.mark.parametrize("length", [len(BODY), None])
def test_every_node_gets_all_bytes_under_a_name_of_its_own(length: int | None) -> None:
    async def test() -> None:
        one, two = Node("good"), Node("good")
        async with one.listening() as first, two.listening() as second:
            copies = await sent([first, second._replace(node="second")], length=length, keep=True)
        assert [copy.node for copy in copies] == ["other", "second"]
        assert [node.received for node in (one, two)] == [BODY, BODY]
        assert [node.requests for node in (one, two)] == [[("POST", copy.staged)] for copy in copies]
        assert copies[0].staged != copies[1].staged

    run(test)


@pytest.mark.parametrize("manner", ["refuses", "breaks off", "has other bytes", "is not there"])
def test_one_that_fails_is_left_behind_and_the_others_go_on(manner: str) -> None:
    async def test() -> None:
        good, bad = Node("good"), Node(manner)
        async with good.listening() as first:
            async with bad.listening() as second:
                if manner != "is not there":
                    copies = await sent([second, first._replace(node="good")], length=len(BODY), keep=True)
            if manner == "is not there":
                copies = await sent([second, first._replace(node="good")], length=len(BODY), keep=True)
        assert [copy.node for copy in copies] == ["good"]
        assert good.received == BODY
        assert [method for method, _ in good.requests] == ["POST"]
        # What it may have of the upload is removed
        found = [method for method, _ in bad.requests if method != "broken off"]
        assert found == ([] if manner == "is not there" else ["POST", "DELETE"])

    run(test)


def test_of_an_upload_that_came_to_nothing_nothing_stays() -> None:
    async def test() -> None:
        node = Node("good")
        async with node.listening() as address:
            ((_, token),) = await sent([address], length=len(BODY), keep=False)
        assert node.requests == [("POST", token), ("DELETE", token)]

    run(test)
