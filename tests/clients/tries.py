"""One try: a client sends or reads one value, and what is stored afterwards is read by plain urllib and compared."""

from __future__ import annotations

import contextlib
import functools
import random
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from ops.cluster import Cluster
from tests.clients import outcomes, programs
from tests.clients.outcomes import Seen
from tests.clients.rows import COLUMNS, RELAY, SMALL, TOLD, Column, Row
from tests.support import Clusters, http_request, put, unique, wait_for

SECS = 30
# A client that has nothing left to send waits for the node, which gives up after 60 s without a byte.
RELAY_SECS = 100
ODD = """50% of a+b & #1? 'one' "two".wav"""  # the name of a key
TINY = 1000  # bytes, that the master has
HAVE_BYTES = 1_000_000  # of a download that is to go on


class Try(NamedTuple):
    """What came of it."""

    word: str
    seen: Seen
    secs: float


@functools.cache
def value(size: int) -> bytes:
    """A value of so many bytes, no part of which is like another: a sound, so that browsers can play it."""
    if not size:
        return b""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 2, 44100, 4 * 44100, 4, 16)
    head = struct.pack("<4sI4s", b"RIFF", size - 8, b"WAVE") + form + struct.pack("<4sI", b"data", size - 44)
    return head + random.Random(size).randbytes(size - len(head))


def stored(cluster: Cluster, key: str) -> bytes | None:
    """The key's value as the master gives it, or None."""
    try:
        with urllib.request.urlopen(f"{cluster.master_url}/get_key/{quote(key)}", timeout=SECS) as answer:
            body: bytes = answer.read()
            return body
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 404:
                raise
        return None


class Proxy(BaseHTTPRequestHandler):
    """A proxy that carries nothing on."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(502)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def proxy() -> Iterator[str]:
    """The address of such a proxy."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Bench:
    """Clusters and files for the tries of one module."""

    def __init__(self, clusters: Clusters, directory: Path) -> None:
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]  # of pages that browsers work in
        self._clusters = clusters
        self._directory = directory
        self._made: dict[str, Cluster] = {}
        self._keys: dict[str, str] = {}

    def cluster(self, row: Row, column: Column) -> Cluster:
        """The one with the settings that this try needs."""
        settings = {}
        if column.relay:
            settings["PULZAR_SERVER_RELAY"] = RELAY
        settings["PULZAR_SERVER_CORS"] = f"http://127.0.0.1:{self.port}" if row.cors else "*"
        kind = str(settings)
        if kind not in self._made:
            self._made[kind] = self._clusters(env=settings)
        return self._made[kind]

    def attempt(self, row: Row, name: str) -> Try:
        """Have the client of this row do what the column of this name says."""
        column = COLUMNS[name]
        cluster = self.cluster(row, column)
        file = self._directory / f"value-{column.size}.wav"
        if column.reads:
            return self._read(row, column, cluster, file)
        file.write_bytes(value(column.size))
        key = unique(ODD if column.odd else "value.wav")
        # What is read on the same connection comes from the master itself
        before = value(TINY if column.operation == "again" else SMALL + 1) if column.exists else None
        if before is not None:
            assert put(cluster, key, before).status == TOLD
        seen, secs = self._run(row, column, cluster, key, file)
        if column.operation == "again":
            return Try(outcomes.of_again(seen, before or b"", file.read_bytes(), stored(cluster, key)), seen, secs)
        after = stored(cluster, key)
        if after is None and seen.status is not None and 200 <= seen.status < 300:
            # The client was told so: then it may be a moment until the index knows
            with contextlib.suppress(AssertionError):
                after = wait_for(lambda: stored(cluster, key), timeout=30, what="the value")
        return Try(outcomes.of_put(seen, value(column.size), before, after), seen, secs)

    def _read(self, row: Row, column: Column, cluster: Cluster, file: Path) -> Try:
        whole = value(column.size)
        if cluster.master_url not in self._keys:
            key = unique("value.wav")
            node = http_request("GET", f"{cluster.master_url}/get_node/{key}").data["node"]
            assert http_request("PUT", node, whole).status == TOLD
            self._keys[cluster.master_url] = key
        file = file.with_name("read.wav")
        file.unlink(missing_ok=True)
        if column.operation == "resume":
            file.write_bytes(whole[:HAVE_BYTES])
        seen, secs = self._run(row, column, cluster, self._keys[cluster.master_url], file)
        if column.operation == "head":
            return Try(outcomes.of_head(seen, column.size), seen, secs)
        return Try(outcomes.of_get(seen, whole, file.read_bytes() if file.exists() else None), seen, secs)

    def _run(self, row: Row, column: Column, cluster: Cluster, key: str, file: Path) -> tuple[Seen, float]:
        arguments = [row.client, column.operation, f"{cluster.master_url}/{column.route}/{quote(key)}", str(file)]
        began = time.monotonic()
        secs = RELAY_SECS if column.relay else SECS
        variables = {"CLIENTS_PORT": str(self.port)}
        with proxy() if column.proxy else contextlib.nullcontext("") as address:
            if address:
                variables |= dict.fromkeys(("http_proxy", "HTTP_PROXY"), address)
                variables |= dict.fromkeys(("no_proxy", "NO_PROXY"), "")
            seen = programs.run(row.driver, arguments, secs, variables)
        return seen, time.monotonic() - began
