"""Plays nodes that have no storage and run no jobs, so that one machine can show a master many of them.

    python -m ops.benchmarks.played_nodes FILE

FILE is JSON: the name of each node, and its URL of RabbitMQ with a user of its own. Each node sends a heartbeat every
second, and says of every command that it is done, as a real node does after its flush. Its data server takes
connections and answers nothing. It runs until it is stopped.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from uuid import uuid4

from broker import VERSION, topology
from broker.clock import now_ms
from broker.errors import LinkDown
from broker.link import Delivery, Link
from broker.link.roles import Sender
from broker.messages.codec import decode_any, encode
from broker.messages.runs import NodeCatalog
from broker.messages.store import Commands, Epoch, Heartbeat, Replay, Result, Results, Status

HEARTBEAT_SECS = 1.0
PREFETCH = 32
_DISK = 1 << 40  # bytes, half of them free


class PlayedNode:
    """One of them. All but `beat` belongs to its link's thread."""

    def __init__(self, name: str, url: str, data_url: str) -> None:
        self._name = name
        self._data_url = data_url
        self._epoch = Epoch(1, uuid4().hex)
        self._seq = self._sent = 1
        self._keys = 0
        self._control = topology.control_queue(name)
        sender = Sender(topology.node_user(name), topology.UP, topology.node_queue(name))
        self._link = Link(url, f"played node {name}", self._topology, sender)
        self._link.consume(topology.node_queue(name), self._receive, PREFETCH, exclusive=True)
        self._link.on_up.append(self._introduce)
        self._link.start()

    def beat(self) -> None:
        """Send a heartbeat, if there is a connection."""
        beat = Heartbeat(
            node=self._name,
            url=self._data_url,
            at=now_ms(),
            version=VERSION,
            epoch=self._epoch.id,
            epoch_seq=self._epoch.seq,
            seq=self._seq,
            disk_total=_DISK,
            disk_free=_DISK // 2,
            full=False,
            load=0.1,
            memory=10.0,
            keys=self._keys,
            slots=0,
            running=[],
            catalog="",
        )
        try:
            self._link.publish(topology.HEARTBEATS, encode(beat), ttl_ms=1500)
        except LinkDown:
            return  # the next one is a second away

    def _topology(self) -> list[topology.Declaration]:
        return list(topology.node_role(self._name, self._control))

    def _introduce(self) -> None:
        """Send what a log begins with, and a catalog without scripts."""
        self._send("", 0, [Result.of_epochs([self._epoch])])
        self._link.publish(topology.HEARTBEATS, encode(NodeCatalog(self._name, "", [])))
        self.beat()

    def _receive(self, delivery: Delivery) -> None:
        match decode_any(delivery.body):
            case Commands() as commands:
                results = []
                for item in commands.items:
                    self._seq += 1
                    value = getattr(item, "value", None)
                    results.append(item.result(Status.DONE, seq=self._seq, value=value))
                self._keys += len(results)
                self._send(commands.origin, self._sent, results)
            case Replay() as request:
                self._send("", request.after, [Result.of_epochs([self._epoch])], request.request)
        self._link.ack(delivery)

    def _send(self, origin: str, after: int, results: list[Result], request: str = "") -> None:
        self._sent = self._seq
        message = Results(
            self._name, origin, request, after=after, upto=self._seq, end=self._seq, last=bool(request), items=results
        )
        self._link.publish(topology.RESULTS, encode(message))


def main() -> None:
    """Play the nodes of the file."""
    places = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as server:  # the master looks whether it is there
        data_url = f"http://127.0.0.1:{server.getsockname()[1]}"
        nodes = [PlayedNode(name, url, data_url) for name, url in places.items()]
        while True:
            began = time.monotonic()
            for node in nodes:
                node.beat()
            time.sleep(max(0.0, HEARTBEAT_SECS - (time.monotonic() - began)))


if __name__ == "__main__":
    main()
