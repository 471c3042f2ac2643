"""Clients for the benchmark of events, as processes of their own: they read streams, or put at a fixed rate.

python -m ops.benchmarks.event_clients listen HOST PORT NUMBER    until standard input ends
python -m ops.benchmarks.event_clients put HOST PORT PREFIX RATE SECONDS SIZE

Both print a line of JSON at their end.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import threading
import time
from statistics import quantiles

CONNECTIONS = 8  # that put
_PIECE_BYTES = 1 << 18
_MARK = b"\nevent: "


def listen(host: str, port: int, number: int) -> None:
    """Count the events that come to so many listeners. Prints "ready" once all have a response."""
    selector = selectors.DefaultSelector()
    counts: dict[socket.socket, int] = {}
    tails: dict[socket.socket, bytes] = {}
    for _ in range(number):
        stream = socket.create_connection((host, port), 30)
        stream.sendall(f"GET /events?types=key HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        first = stream.recv(_PIECE_BYTES)
        if not first.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"a listener was refused: {first[:200]!r}")
        stream.setblocking(False)
        selector.register(stream, selectors.EVENT_READ)
        counts[stream], tails[stream] = 0, b""
    selector.register(sys.stdin, selectors.EVENT_READ)
    print("ready", flush=True)
    closed = 0
    while True:
        for key, _ in selector.select():
            stream = key.fileobj
            if not isinstance(stream, socket.socket):
                told = {"events": sum(counts.values()), "least": min(counts.values()), "closed": closed}
                print(json.dumps(told), flush=True)
                return
            piece = stream.recv(_PIECE_BYTES)
            if not piece:
                closed += 1
                selector.unregister(stream)
                continue
            text = tails[stream] + piece
            counts[stream] += text.count(_MARK)
            tails[stream] = text[-len(_MARK) + 1 :]


def put(place: tuple[str, int], prefix: str, rate: float, seconds: float, size: int) -> None:
    """Put new keys at a rate, and time each."""
    times: list[list[float]] = [[] for _ in range(CONNECTIONS)]
    errors = [0] * CONNECTIONS
    began = time.monotonic()

    def run(own: int) -> None:
        with socket.create_connection(place, 30) as connection, connection.makefile("rb") as file:
            number = 0
            # Where the rate is not reached, it ends at its time nevertheless.
            while max(due := began + (own + number * CONNECTIONS) / rate, time.monotonic()) < began + seconds:
                time.sleep(max(0.0, due - time.monotonic()))
                head = f"PUT /add_key/{prefix}{own}-{number} HTTP/1.1\r\nHost: {place[0]}\r\n"
                head += f"Content-Length: {size}\r\n\r\n"
                sent = time.perf_counter()
                connection.sendall(head.encode() + bytes(size))
                status, length = file.readline(), 0
                while (line := file.readline().strip().lower()) != b"":
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                file.read(length)
                times[own].append((time.perf_counter() - sent) * 1e3)
                errors[own] += b" 201 " not in status
                number += 1

    threads = [threading.Thread(target=run, args=(own,)) for own in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took, found = time.monotonic() - began, [each for part in times for each in part]
    cuts = quantiles(found, n=100)
    told = {"rate": len(found) / took, "p50_ms": cuts[49], "p99_ms": cuts[98], "errors": sum(errors)}
    print(json.dumps(told | {"operations": len(found), "seconds": took}), flush=True)


if __name__ == "__main__":
    command, given_host, given_port, *rest = sys.argv[1:]
    if command == "listen":
        listen(given_host, int(given_port), int(rest[0]))
    else:
        put((given_host, int(given_port)), rest[0], float(rest[1]), float(rest[2]), int(rest[3]))
