"""A node's data server alone: a real one, on a real data directory, with a master that does as the test says."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psutil
import pytest

from broker import VERSION, keys, settings
from broker.http import request_fields, responses, signing
from broker.messages.store import Status, Store
from node.storage.storage import Storage
from node.storage.value_files import BLOCK_BYTES, HEAD_BYTES
from node.web.downloads import CHECKED_FIRST_BYTES
from tests.integration.wire import Answer, Client, Closed, follow_to, good, payload, refused, target_of
from tests.support import unique, wait_for
from tests.unit.volume import Volume

RUN = """
import multiprocessing, sys
from granian.constants import HTTPModes, Interfaces
from granian.server import Server
multiprocessing.set_start_method("spawn", force=True)
Server("node.web.application:create", factory=True, address="127.0.0.1", port=int(sys.argv[1]), interface=Interfaces.ASGINL,
       http=HTTPModes.http1, workers=1, backpressure=2000, websockets=False, log_enabled=False).serve()
"""
ROOT = Path(__file__).parents[2]
PUT_TIMEOUT = 0.5
LARGE = CHECKED_FIRST_BYTES + 1_000_000


class DataServer:
    """A process that serves a data directory."""

    def __init__(self, volume: Volume, log: Path, **more: str) -> None:
        with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as free:
            port = free.server_address[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        environ = os.environ | volume.environ | more
        environ |= {"PULZAR_VOLUME_PORT": str(port), "PULZAR_VOLUME_HOST": "127.0.0.1", "PULZAR_VOLUME_NODE": "tested"}
        environ |= {"PULZAR_GENERAL_SECRET": "secret", "PULZAR_SERVER_PUT_TIMEOUT": str(PUT_TIMEOUT)}
        self.secret = settings.load(environ={"PULZAR_GENERAL_SECRET": "secret"}).secret()
        with log.open("wb") as file:
            self._process = subprocess.Popen([sys.executable, "-c", RUN, str(port)], cwd=ROOT, env=environ, stderr=file)
        wait_for(self._answers, what="the data server's first answer")

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError, Closed):
            return follow_to(f"{self.url}/health").status == 200
        return False

    @property
    def worker(self) -> psutil.Process:
        """The process that answers."""
        return max(psutil.Process(self._process.pid).children(), key=lambda child: child.memory_info().rss)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def logged(self, what: str) -> list[str]:
        """The lines of its log that have this."""
        return [line for line in self.log.read_text().splitlines() if what in line]


class StandIn(ThreadingHTTPServer):
    """A master that commits uploads to the storage, or does what `instead` says."""

    daemon_threads = True

    def __init__(self, storage: Storage, secret: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Commit)
        self.storage = storage
        self.secret = secret
        self.told: list[dict[str, Any]] = []
        self.instead: Callable[[BaseHTTPRequestHandler], None] | None = None
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        """Its `host:port`."""
        return f"127.0.0.1:{self.server_address[1]}"

    def store(self, key: str, value: bytes | None, upload: dict[str, Any] | None = None, expires: int = 0) -> None:
        """Have the storage keep a value, or an upload."""
        digest = bytes.fromhex(upload["digest"]) if upload else hashlib.sha256(value or b"").digest()
        size = upload["size"] if upload else len(value or b"")
        now = time.time_ns()
        staged, content_type = (upload["staged"], upload["content_type"]) if upload else ("", "")
        command = Store(
            1, keys.encode(key), now // 1000, now // 1_000_000, expires, content_type, digest, size, value, staged
        )
        with self.lock:
            (result,) = self.storage.apply([command])
        assert result.status is Status.DONE, result


class _Commit(BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path, _, query = self.path.partition("?")
        key = unquote(path.removeprefix("/internal/commit/"))
        signing.verify_body(self.server.secret, body, self.headers["X-Pulzar-Signature"])
        signing.verify(self.server.secret, "PUT", key, query, time.time())
        upload = json.loads(body)
        self.server.told.append(upload)
        if self.server.instead:
            self.server.instead(self)
            return
        self.server.store(key, None, upload)
        answer(self, 201, {"ETag": f'"{upload["digest"]}"'}, {"url": "http://x"}, "key added")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def answer(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: Any, message: str) -> None:
    """Answer as a master does."""
    body = responses.envelope(status, data, message)
    request.send_response(status)
    for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return Volume(tmp_path_factory.mktemp("volume"))


@pytest.fixture(scope="module")
def storage(volume: Volume) -> Iterator[Storage]:
    storage = volume.open()
    yield storage
    storage.close()


@pytest.fixture(scope="module")
def server(volume: Volume, storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataServer]:
    server = DataServer(volume, tmp_path_factory.mktemp("logs") / "open")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def closed(volume: Volume, storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataServer]:
    """A data server that wants every read signed."""
    server = DataServer(
        volume,
        tmp_path_factory.mktemp("logs") / "closed",
        PULZAR_VOLUME_OPEN_READS="False",
    )
    yield server
    server.stop()


@pytest.fixture(scope="module")
def stand_in(storage: Storage, server: DataServer) -> Iterator[StandIn]:
    with StandIn(storage, server.secret) as stand_in:
        yield stand_in
        stand_in.shutdown()


@pytest.fixture
def master(stand_in: StandIn) -> StandIn:
    stand_in.instead = None
    stand_in.told.clear()
    return stand_in


@pytest.fixture
def node(server: DataServer) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def target(server: DataServer, master: StandIn | str, key: str, *, until: float = 60, method: str = "PUT") -> str:
    """The request target that a master sends a client to."""
    route = "add_key" if method == "PUT" else "get_key"
    address = master if isinstance(master, str) else master.address
    fields = {"node": "tested"} | ({"url": address} if address else {})
    query = signing.sign(server.secret, method, key, fields, int(time.time() + until))
    return f"/{route}/{request_fields.quote_key(key)}?{query}"


def staged(volume: Volume) -> list[str]:
    """Uploads that are on their way, or left."""
    return sorted(os.listdir(volume.directory / "staging"))


# Reading


@pytest.fixture(scope="module", params=["log", "file"])
def stored(request: pytest.FixtureRequest, stand_in: StandIn) -> tuple[str, bytes]:
    """A key and its value, in the log or in a file of its own."""
    key, value = unique("a.txt"), payload(3_000 if request.param == "log" else 3 * BLOCK_BYTES + 5)
    stand_in.store(key, value)
    return key, value


def test_a_value_comes_whole_with_all_its_headers(node: Client, stored: tuple[str, bytes]) -> None:
    key, value = stored
    answer = node.get(key)
    assert (answer.status, answer.body) == (200, value)
    assert answer.headers["etag"] == f'"{hashlib.sha256(value).hexdigest()}"'
    assert answer.headers["content-type"] == "text/plain"
    assert answer.headers["accept-ranges"] == "bytes"
    head = node.head(key)
    assert (head.status, head.body) == (200, b"")
    assert {**head.headers, "date": ""} == {**answer.headers, "date": ""}


@pytest.mark.parametrize("edge", [-1, 0, 1])
def test_a_range_comes_exactly_wherever_blocks_begin(node: Client, stored: tuple[str, bytes], edge: int) -> None:
    key, value = stored
    size = len(value)
    for start, stop in (
        (0, 1),
        (BLOCK_BYTES + edge, 2 * BLOCK_BYTES + edge),
        (2 * BLOCK_BYTES + edge, size),
        (5, size - 5),
    ):
        if start >= size:
            continue
        answer = node.get(key, {"Range": f"bytes={start}-{stop - 1}"})
        stop = min(stop, size)
        assert (answer.status, answer.headers["content-range"]) == (206, f"bytes {start}-{stop - 1}/{size}")
        assert answer.body == value[start:stop]


def test_several_ranges_come_in_parts(node: Client, stored: tuple[str, bytes]) -> None:
    key, value = stored
    answer = node.get(key, {"Range": "bytes=1-2,-3"})
    boundary = answer.headers["content-type"].removeprefix("multipart/byteranges; boundary=")
    parts = re.split(rb"\r\n--" + boundary.encode() + rb"(?:--\r\n)?", answer.body)
    assert answer.status == 206
    assert [part.partition(b"\r\n\r\n")[2] for part in parts[1:-1]] == [value[1:3], value[-3:]]


def test_conditions_and_bad_ranges_are_answered_as_everywhere(node: Client, stored: tuple[str, bytes]) -> None:
    key, value = stored
    etag = f'"{hashlib.sha256(value).hexdigest()}"'
    assert node.get(key, {"If-None-Match": etag}).status == 304
    refused(node.get(key, {"If-Match": '"x"'}), 412)
    answer = node.get(key, {"Range": f"bytes={len(value)}-"})
    refused(answer, 416)
    assert answer.headers["content-range"] == f"bytes */{len(value)}"
    assert node.head(key, {"Range": "bytes=0-1"}).headers["content-length"] == str(len(value))


@pytest.mark.parametrize("key", ["a b.txt", "100%", "a+b~c", 'x/"<>\\^`{|}', "é".encode().hex(), "k" * 300])
def test_a_key_may_have_every_printable_character(node: Client, master: StandIn, key: str) -> None:
    key = unique("") + key
    master.store(key, key.encode())
    assert node.get(key).body == key.encode()


def test_a_key_that_is_not_there_or_whose_life_has_ended_is_404(node: Client, master: StandIn) -> None:
    key = unique()
    assert key in refused(node.get(key), 404)
    master.store(key, b"short-lived", expires=int(time.time() * 1000) + 3_000)
    assert node.get(key).body == b"short-lived"
    wait_for(lambda: node.get(key).status == 404, what="the end of the value's life")


def test_an_empty_value_comes_empty(node: Client, master: StandIn) -> None:
    key = unique()
    master.store(key, b"")
    answer = node.get(key)
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "0", b"")
    assert node.get(key, {"Range": "bytes=0-"}).status == 416


def test_a_signed_read_is_good_until_it_expires(server: DataServer, closed: DataServer, master: StandIn) -> None:
    key = unique()
    master.store(key, b"value")
    for asked in (server, closed):
        with Client(asked.url) as node:
            assert node.request("GET", target(asked, "", key, method="GET")).body == b"value"
            assert node.request("HEAD", target(asked, "", key, method="GET")).status == 200
            refused(node.request("GET", target(asked, "", key, method="GET")[:-1]), 403)
            refused(node.request("GET", target(asked, "", key).replace("add_key", "get_key")), 403)


def test_a_read_that_comes_too_late_is_answered_or_sent_back_to_the_master(
    server: DataServer, closed: DataServer, master: StandIn
) -> None:
    key = unique("a b+c.txt")
    master.store(key, b"value")
    late = target(server, "master:31414", key, method="GET", until=-2)
    for method in ("GET", "HEAD"):
        assert follow_to(server.url + late, method, headers={"Range": "bytes=1-"}).status in (200, 206)
        answer = follow_to(closed.url + late, method)
        assert (answer.status, answer.headers["location"]) == (
            307,
            f"http://master:31414/get_key/{request_fields.quote_key(key)}",
        )
        assert answer.headers["content-type"] == "text/plain"
    assert follow_to(server.url + late).body == b"value"
    for asked in (server, closed):
        for wrong in (late[:-1], late.replace("master:31414", "evil:31414"), late.replace("&until", "&x=1&until")):
            refused(follow_to(asked.url + wrong), 403)
    # An address of a master that did not yet say where it is.
    refused(follow_to(closed.url + target(closed, "", key, method="GET", until=-2)), 403)


def test_pages_of_one_origin_may_follow_a_redirect_here(
    volume: Volume, storage: Storage, stand_in: StandIn, tmp_path: Path
) -> None:
    stand_in.instead = None
    key, new, origin = unique(), unique(), "https://ui.example"
    stand_in.store(key, b"value")
    server = DataServer(volume, tmp_path / "log", PULZAR_SERVER_CORS=origin)
    try:
        read, late = (target(server, stand_in, key, method="GET", until=until) for until in (60, -2))
        put = target(server, stand_in, new)
        for method, where, allowed, status in (
            ("OPTIONS", read, "*", 204),
            ("OPTIONS", late, "*", 204),
            ("OPTIONS", put, "*", 204),
            ("GET", read, "*", 200),
            ("HEAD", read, "*", 200),
            ("GET", late, "*", 200),
            ("GET", target(server, stand_in, unique(), method="GET"), "*", 404),
            ("PUT", put, "*", 201),
            ("PUT", target(server, stand_in, new, until=-2), "*", 403),
            ("OPTIONS", put[:-1], None, 204),
            ("OPTIONS", f"/add_key/{new}", None, 204),
            ("OPTIONS", "/add_key/?signature=x", None, 204),
            ("GET", read[:-1], None, 403),
            ("GET", f"/get_key/{key}", None, 200),
            ("PUT", put[:-1], None, 403),
            ("PUT", put.replace("add_key", "get_key"), None, 403),
            ("GET", "/health?signature=x", None, 200),
        ):
            with Client(server.url) as node:
                answer = node.request(method, where, b"value" if method == "PUT" else b"", {"Origin": "null"})
            assert (answer.status, answer.headers.get("access-control-allow-origin")) == (status, allowed), where
    finally:
        server.stop()


def test_whether_a_plain_read_is_answered_is_a_setting(server: DataServer, closed: DataServer, master: StandIn) -> None:
    key = unique()
    master.store(key, b"value")
    assert follow_to(f"{server.url}/get_key/{key}").body == b"value"
    assert "not signed" in refused(follow_to(f"{closed.url}/get_key/{key}"), 403)


# Damage


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def newest_value_file(volume: Volume) -> Path:
    return max(volume.value_files(), key=lambda path: path.stat().st_mtime_ns)


def test_a_flipped_bit_in_a_value_file_is_a_500_and_a_log_line(
    server: DataServer, node: Client, master: StandIn, volume: Volume
) -> None:
    for size in (5 * BLOCK_BYTES, 40 * BLOCK_BYTES):  # put together in memory, and streamed
        key, value = unique(), payload(size)
        master.store(key, value)
        assert node.get(key).body == value
        flip(newest_value_file(volume), HEAD_BYTES + 4 * BLOCK_BYTES + 77)
        assert "damaged" in refused(node.get(key), 500)
        assert any(key in line and "ERROR" in line for line in server.logged("value damaged"))
        # Bytes that are good can still be had.
        assert node.get(key, {"Range": f"bytes=0-{4 * BLOCK_BYTES - 1}"}).body == value[: 4 * BLOCK_BYTES]
        refused(node.get(key, {"Range": f"bytes={4 * BLOCK_BYTES + 500}-{4 * BLOCK_BYTES + 501}"}), 500)
        refused(node.get(key, {"Range": f"bytes=0-0,{4 * BLOCK_BYTES}-{4 * BLOCK_BYTES + 1}"}), 500)


def test_a_flipped_bit_far_into_a_large_value_ends_the_answer_before_it(
    server: DataServer, node: Client, master: StandIn, volume: Volume
) -> None:
    key, value = unique(), bytes(1000) * (LARGE // 1000)
    master.store(key, value)
    path = newest_value_file(volume)
    flip(path, HEAD_BYTES + len(value) - 10)
    with pytest.raises(Closed):
        node.get(key)
    assert wait_for(lambda: [line for line in server.logged("cut short") if key in line], what="a line in the log")
    assert node.get(key, {"Range": "bytes=0-99"}).body == bytes(100)


def test_a_flipped_bit_in_the_log_is_a_500(node: Client, master: StandIn, volume: Volume) -> None:
    key, value = unique(), payload(2_000)
    master.store(key, value)
    segment = next(path for path in volume.segments() if value in path.read_bytes())
    at = segment.read_bytes().index(value) + 1_000
    flip(segment, at)
    try:
        refused(node.get(key), 500)
    finally:
        flip(segment, at)
    assert node.get(key).body == value


# Uploads


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
@pytest.mark.parametrize("how", ["length", "chunks", "waiting"])
def test_an_upload_is_committed_and_can_be_read(
    server: DataServer, node: Client, master: StandIn, volume: Volume, size: int, how: str
) -> None:
    key, value = unique("name.bin"), payload(size)
    headers = {"Content-Type": "image/x-test"} | ({"Expect": "100-continue"} if how == "waiting" and size else {})
    body = value if how != "chunks" else (value[at : at + 70_000] for at in range(0, size, 70_000))
    answer = node.request("PUT", target(server, master, key), body, headers)
    digest = hashlib.sha256(value).hexdigest()
    assert good(answer, 201, "key added") == {"url": "http://x"}
    assert answer.headers["etag"] == f'"{digest}"'
    (told,) = master.told
    assert told == {
        "node": "tested",
        "staged": told["staged"],
        "size": size,
        "digest": digest,
        "content_type": "image/x-test",
        "if_match": None,
        "if_none_match": None,
        "if_unmodified_since": None,
    }
    got = node.get(key)
    assert (got.body, got.headers["content-type"], got.headers["etag"]) == (value, "image/x-test", f'"{digest}"')
    assert staged(volume) == []


def test_conditions_are_passed_on_to_the_master(server: DataServer, node: Client, master: StandIn) -> None:
    headers = {"If-Match": '"a", "b"', "If-None-Match": "*", "If-Unmodified-Since": "a date"}
    good(node.request("PUT", target(server, master, unique()), b"value", headers), 201)
    told = [master.told[0][name] for name in ("if_match", "if_none_match", "if_unmodified_since")]
    assert told == list(headers.values())


def test_an_upload_that_no_master_sent_is_refused_before_its_body(server: DataServer, master: StandIn) -> None:
    key = unique()
    for wrong in (
        f"/add_key/{key}",
        f"/add_key/{key}?url={master.address}",
        target(server, master, key)[:-1],
        target(server, master, key).replace(key, key + "x"),
        target(server, master, key, until=-2),
        target(server, master, key, method="GET").replace("get_key", "add_key"),
    ):
        with Client(server.url) as node:
            refused(node.request("PUT", wrong, b"value" * 1000, {"Expect": "100-continue"}), 403)
        with Client(server.url) as node:
            refused(node.request("PUT", wrong, payload(5_000_000)), 403)
    assert not master.told


def digests(value: bytes) -> dict[str, str]:
    return {
        "Content-MD5": base64.b64encode(hashlib.md5(value).digest()).decode(),
        "X-Checksum-Sha256": hashlib.sha256(value).hexdigest(),
    }


def test_promised_digests_are_held(server: DataServer, node: Client, master: StandIn, volume: Volume) -> None:
    value = payload(200_000)
    right, wrong = digests(value), digests(b"other")
    good(node.request("PUT", target(server, master, unique()), value, right), 201)
    master.told.clear()
    for name in right:
        assert (
            name.lower().partition("-")[2][:3]
            in refused(
                node.request("PUT", target(server, master, unique()), value, {**right, name: wrong[name]}), 400
            ).lower()
        )
        with Client(server.url) as other:  # and one that is none is refused before the body
            headers = {name: "nonsense", "Expect": "100-continue"}
            refused(other.request("PUT", target(server, master, unique()), value, headers), 400)
    assert not master.told
    assert staged(volume) == []


def send_part(server: DataServer, master: StandIn, key: str, head: str, body: bytes) -> Client:
    """A client that has sent a part of its upload."""
    client = Client(server.url)
    client.send(f"PUT {target(server, master, key)} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode() + body)
    return client


ENDS: dict[str, Callable[[Client], None]] = {
    "closes": Client.close,
    "resets": Client.reset,
    "says the end": Client.finish_sending,
}
CHUNKED = "Transfer-Encoding: chunked"
PARTS = {
    "length": ("Content-Length: 300000", payload(200_000)),
    "chunk cut": (CHUNKED, b"30d40\r\n" + payload(100_000)),
    "chunk whole": (CHUNKED, b"186a0\r\n" + payload(100_000) + b"\r\n"),
    "chunk last": (CHUNKED, b"186a0\r\n" + payload(100_000) + b"\r\n0\r\n"),
    "chunk bad": (CHUNKED, b"186a0\r\n" + payload(100_000) + b"\r\nxyz\r\n"),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("end", ENDS)
def test_an_upload_whose_client_stops_halfway_leaves_nothing(
    server: DataServer, node: Client, master: StandIn, volume: Volume, part: str, end: str
) -> None:
    key = unique()
    node.get(key)  # a connection that stays
    client = send_part(server, master, key, *PARTS[part])
    if part != "chunk bad":
        wait_for(lambda: staged(volume), what="the upload begun")
    ENDS[end](client)
    if end == "says the end":
        with contextlib.suppress(Closed):
            refused(client.receive("PUT"), 400)
        client.close()
    wait_for(lambda: not staged(volume), what="the upload removed")
    assert not master.told
    refused(node.get(key), 404)


def test_many_clients_may_send_chunks_while_others_come_and_go(server: DataServer, master: StandIn) -> None:
    answers: list[Answer] = []

    def upload() -> None:
        with Client(server.url) as client:
            parts = iter([payload(50_000), payload(50_000)])
            answers.append(client.request("PUT", target(server, master, unique()), parts))

    def others(stop: threading.Event) -> None:
        while not stop.is_set():
            follow_to(f"{server.url}/health")

    stop = threading.Event()
    crowd = [threading.Thread(target=others, args=(stop,)) for _ in range(3)]
    clients = [threading.Thread(target=upload) for _ in range(20)]
    for thread in crowd + clients:
        thread.start()
    for thread in clients:
        thread.join()
    stop.set()
    for thread in crowd:
        thread.join()
    assert [answer.status for answer in answers] == [201] * 20


@pytest.mark.parametrize(("status", "headers"), [(409, {}), (412, {}), (507, {}), (503, {"Retry-After": "7"})])
def test_the_masters_refusal_is_the_clients_answer(
    server: DataServer, node: Client, master: StandIn, volume: Volume, status: int, headers: dict[str, str]
) -> None:
    master.instead = lambda request: answer(request, status, headers, None, "not this time")
    got = node.request("PUT", target(server, master, unique()), payload(100_000))
    assert refused(got, status) == "not this time"
    assert got.headers.get("retry-after") == headers.get("Retry-After")
    assert staged(volume) == []


def test_a_master_that_is_not_there_is_a_503_and_leaves_nothing(
    server: DataServer, node: Client, volume: Volume
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as free:
        nobody = f"127.0.0.1:{free.server_address[1]}"
    got = node.request("PUT", target(server, nobody, unique()), b"value")
    assert "not stored" in refused(got, 503)
    assert got.headers["retry-after"] == "1"
    assert staged(volume) == []


def test_a_master_that_comes_back_in_time_gets_the_commit(
    server: DataServer, node: Client, storage: Storage, volume: Volume
) -> None:
    first = StandIn(storage, server.secret)
    where = target(server, first, unique())
    port = first.server_address[1]
    first.shutdown()
    first.server_close()
    got: list[Answer] = []
    client = threading.Thread(target=lambda: got.append(node.request("PUT", where, b"value")))
    client.start()
    time.sleep(PUT_TIMEOUT / 4)

    class Again(StandIn):
        def server_bind(self) -> None:
            self.server_address = ("127.0.0.1", port)
            super().server_bind()

    with Again(storage, server.secret) as again:
        client.join()
        again.shutdown()
    good(got[0], 201)


def test_when_the_masters_answer_is_lost_the_upload_waits_for_the_agent(
    server: DataServer, node: Client, master: StandIn, volume: Volume
) -> None:
    master.instead = lambda request: request.connection.close()
    got = node.request("PUT", target(server, master, unique()), b"value")
    assert "may be stored" in refused(got, 503)
    assert got.headers["retry-after"] == "1"
    (left,) = staged(volume)
    assert left == master.told[0]["staged"]
    (volume.directory / "staging" / left).unlink()


def test_a_value_there_is_no_room_for_is_507_before_its_body(
    server: DataServer, node: Client, master: StandIn, volume: Volume
) -> None:
    where = target(server, master, unique())
    for length in (2**50, 2**63 - 1):
        head = f"PUT {where} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        refused(node.raw(head.encode(), "PUT"), 507)
        node.close()
    assert staged(volume) == []
    assert not master.told


# The rest


def test_who_this_is(server: DataServer, node: Client) -> None:
    assert good(node.request("GET", "/autodiscovery")) == {"node": "tested", "url": server.url, "version": VERSION}
    assert good(node.request("GET", "/health")) == {"node": "tested", "version": VERSION}
    assert node.request("HEAD", "/health").status == 200


@pytest.mark.parametrize(
    "path", ["", "/", "/nothing", "/get_key", "/health/x", "/add_keys/x", "/internal/commit/x", "//"]
)
def test_a_path_that_is_not_there_is_404(node: Client, path: str) -> None:
    refused(node.request("GET", path or "/?x"), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/get_key/a", "GET, HEAD, OPTIONS"),
        ("PUT", "/get_key/a", "GET, HEAD, OPTIONS"),
        ("GET", "/add_key/a", "OPTIONS, PUT"),
        ("DELETE", "/health", "GET, HEAD, OPTIONS"),
        ("get", "/health", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_wrong_method_is_405_with_those_that_are_right(node: Client, method: str, path: str, allowed: str) -> None:
    answer = node.request(method, path)
    refused(answer, 405)
    assert answer.headers["allow"] == allowed


def test_browsers_may_ask_before_they_upload(node: Client) -> None:
    for path in ("/add_key/a", "/get_key/a", "/nothing", "*"):
        answer = node.request("OPTIONS", path, headers={"Origin": "http://ui", "Access-Control-Request-Method": "PUT"})
        assert (answer.status, answer.body) == (204, b"")
    assert "PUT" in node.request("OPTIONS", "/add_key/a").headers["allow"]


@pytest.mark.parametrize("path", ["", "a//b", "a/../b", "%2e%2e/a", "a%00b", "a%0ab", "%C3%A9", "%E9", "k" * 384])
def test_a_bad_key_is_400_with_the_reason(node: Client, path: str) -> None:
    assert "key" in refused(node.request("GET", f"/get_key/{path}"), 400)
    assert "key" in refused(node.request("PUT", f"/add_key/{path}", b"value"), 400)


def test_a_body_nobody_wants_does_not_spoil_the_connection(node: Client) -> None:
    refused(node.request("PUT", "/nothing", payload(100_000)), 404)
    good(node.request("GET", "/health"))


def test_a_large_value_streams_with_little_memory_and_nothing_stays_open(
    server: DataServer, node: Client, master: StandIn
) -> None:
    size = 200 << 20
    key, block = unique(), payload(1 << 20)
    good(node.request("PUT", target(server, master, key), (block for _ in range(200))), 201)
    digest = hashlib.sha256(block * 200).hexdigest()
    assert master.told[0]["digest"] == digest

    open_before = server.worker.num_fds()
    with Client(server.url) as slow:
        slow.send(f"GET /get_key/{key} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        wait_for(lambda: server.worker.num_fds() > open_before, what="the value opened")
    wait_for(lambda: server.worker.num_fds() <= open_before, what="the value closed after its client went away")

    got = hashlib.sha256()
    with contextlib.closing(Client(server.url)) as client:
        client.send(f"GET /get_key/{key} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        body = client.receive().body
        got.update(body)
    assert (len(body), got.hexdigest()) == (size, digest)
    status = Path(f"/proc/{server.worker.pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match
    assert int(match[1]) < 160_000, "most memory the data server ever had, in kB"


def test_the_url_that_is_logged_holds_no_signature(server: DataServer, node: Client, master: StandIn) -> None:
    where = target(server, master, unique())
    node.request("PUT", where, b"value")
    assert urlsplit(where).query.rpartition("=")[2] not in server.log.read_text()
    assert target_of(where) not in server.log.read_text()
