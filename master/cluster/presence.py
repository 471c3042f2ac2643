"""Notices at once that a node's data server is gone.

Heartbeats tell it after seconds, and until then clients would be sent there. The kernel closes the connections of a
process that ends, however it ends. So each web worker keeps an idle one to every node. It tells nothing about a machine
without power or network: there, heartbeats do.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from urllib.parse import urlsplit

from master.cluster.nodes import Nodes

LOOK_SECS = 1.0  # between two looks for new nodes
RETRY_SECS = 0.5  # between two attempts to connect
AWAY_SECS = 3.0  # the same, of a node that is not heard from either
CONNECT_SECS = 3.0


class Presence:
    """Tells `Nodes` whose data servers are gone. For the event loop of a web worker alone."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._watched: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Watch all nodes, also those that come later, until it is cancelled."""
        try:
            while True:
                names = self._nodes.names()
                for name in names:
                    if name not in self._watched:
                        self._watched[name] = asyncio.create_task(self._watch(name))
                for name in self._watched.keys() - set(names):
                    self._watched.pop(name).cancel()
                await asyncio.sleep(LOOK_SECS)
        finally:
            for task in self._watched.values():
                task.cancel()

    async def _watch(self, node: str) -> None:
        """Stay connected to a node's data server, and note when that can't be done."""
        while True:
            since = time.monotonic()
            url = self._nodes.url(node)
            reached = url is not None and await self._stay(node, url)
            if not reached:
                self._nodes.note_server(node, there=False)
            # Its server may close a connection that is idle for long. It counts as there until the next attempt.
            if time.monotonic() - since < RETRY_SECS:
                await asyncio.sleep(RETRY_SECS)
            while not (reached or self._nodes.alive(node)) and time.monotonic() - since < AWAY_SECS:
                await asyncio.sleep(RETRY_SECS)

    async def _stay(self, node: str, url: str) -> bool:
        """Hold a connection until it is closed; False when there was none."""
        parts = urlsplit(url)
        try:
            async with asyncio.timeout(CONNECT_SECS):
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:  # a TimeoutError is one
            return False
        self._nodes.note_server(node, there=True)
        try:
            with suppress(OSError):  # its process was killed
                while await reader.read(4096):  # what it may say as it closes it, such as a 408
                    pass
        finally:
            writer.close()
        return True
