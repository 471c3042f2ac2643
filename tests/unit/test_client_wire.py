"""The client's HTTP against a server that breaks off, redirects, and lies. It is played; each answer is a script."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pulzar import (
    BadRequest,
    Changed,
    Client,
    Conflict,
    Damaged,
    Forbidden,
    NotFound,
    ServerError,
    Unavailable,
    UnknownOutcome,
)
from pulzar.wire import exchange

VALUE = bytes(range(256)) * 400
DIGEST = hashlib.sha256(VALUE).hexdigest()
ETAG = f'"{DIGEST}"'


class Played:
    """A server: `answer` gets the number of a request and its text, and gives the bytes to send before it closes."""

    def __init__(self, answer: Callable[[int, str], bytes]) -> None:
        self.requests: list[str] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):  # the client may close when it likes
                connection.settimeout(30)
                text = self._read(connection)
                if text:
                    self.requests.append(text)
                    connection.sendall(self._answer(len(self.requests), text))
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        continue

    def _read(self, connection: socket.socket) -> str:
        found = b""
        while b"\r\n\r\n" not in found:
            data = connection.recv(65536)
            if not data:
                return ""
            found += data
        head, _, body = found.partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        length = next((int(line[16:]) for line in lines if line.startswith("content-length: ")), 0)
        while "expect: 100-continue" not in lines and len(body) < length:
            body += connection.recv(65536)
        return head.decode()

    def close(self) -> None:
        self._listener.close()


@contextmanager
def played(answer: Callable[[int, str], bytes]) -> Iterator[Played]:
    server = Played(answer)
    try:
        yield server
    finally:
        server.close()


def response(status: int, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def ko(status: int, text: str) -> bytes:
    return response(status, f'{{"data": null, "msg": "{text}", "status": "ko"}}'.encode())


OK = response(201, b'{"data": {"url": ""}, "msg": "key added", "status": "ok"}', f"ETag: {ETAG}")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_PAUSES_SECS", (0.0, 0.01))


def client(server: Played, patience: float = 30, token: str = "") -> Client:
    return Client(server.url, token=token, ca="", patience=patience)


def test_the_token_goes_to_the_master_alone() -> None:
    # Given a master that sends its client to a node
    with (
        played(lambda n, text: response(200, VALUE, f"ETag: {ETAG}")) as node,
        played(lambda n, text: response(307, b"", f"Location: {node.url}/get_key/k?signature=x")) as master,
        client(master, token="secret") as store,
    ):
        # Then the node gets the request without the token
        assert store.get("k") == VALUE
        assert "Authorization: Bearer secret" in master.requests[0]
        assert "Authorization" not in node.requests[0]


def test_a_large_value_is_sent_where_the_master_says(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(VALUE * 30)
    etag = hashlib.sha256(VALUE * 30).hexdigest()
    stored = response(201, b'{"data": {"url": ""}, "msg": "", "status": "ok"}', f'ETag: "{etag}"')
    with (
        played(lambda n, text: stored) as node,
        played(lambda n, text: response(307, b"", f"Location: {node.url}/add_key/k?signature=x")) as master,
        client(master) as store,
    ):
        assert store.put("k", file).digest == etag
        assert "Expect: 100-continue" in master.requests[0]
        assert "Expect" not in node.requests[0]
        assert f"Content-Length: {len(VALUE) * 30}" in node.requests[0]


def test_a_read_that_breaks_off_goes_on_where_it_was() -> None:
    def answer(number: int, text: str) -> bytes:
        if number == 1:
            return response(200, VALUE[:1000], f"ETag: {ETAG}", length=len(VALUE))
        return response(206, VALUE[1000:], f"ETag: {ETAG}", f"Content-Range: bytes 1000-{len(VALUE) - 1}/{len(VALUE)}")

    with played(answer) as server, client(server) as store:
        with store.open("k") as value:
            assert b"".join(value.pieces(500)) == VALUE
        assert "Range: bytes=1000-" in server.requests[1]
        assert f"If-Range: {ETAG}" in server.requests[1]


def test_a_value_that_was_replaced_meanwhile_is_told() -> None:
    def answer(number: int, text: str) -> bytes:
        return response(200, VALUE[:1000], f"ETag: {ETAG}", length=len(VALUE))

    with played(answer) as server, client(server) as store, pytest.raises(Changed):
        list(store.open("k").pieces(500))


def test_another_holder_is_asked_when_the_first_one_is_away() -> None:
    with (
        played(lambda n, text: response(200, VALUE, f"ETag: {ETAG}")) as second,
        played(lambda n, text: b"") as gone,
    ):
        gone.close()
        there = f"Location: {gone.url}/get_key/k?version=1&next={second.url.replace(':', '%3A')}/get_key/k%3Fs=1&signature=x"
        with played(lambda n, text: response(307, b"", there)) as master, client(master) as store:
            assert store.get("k") == VALUE
            assert len(master.requests) == 1


def test_damaged_bytes_are_never_a_value(tmp_path: Path) -> None:
    with played(lambda n, text: response(200, VALUE[:-1] + b"x", f"ETag: {ETAG}")) as server, client(server) as store:
        with pytest.raises(Damaged):
            store.get("k")
        with pytest.raises(Damaged):
            store.fetch("k", tmp_path / "k")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, NotFound), (409, Conflict), (412, Conflict), (401, Forbidden), (403, Forbidden), (400, BadRequest)],
)
def test_each_status_has_its_error(status: int, kind: type[Exception]) -> None:
    with played(lambda n, text: ko(status, "the reason")) as server, client(server) as store:
        with pytest.raises(kind, match="the reason"):
            store.put("k", b"v")
        assert len(server.requests) == 1


def test_503_is_asked_again_until_the_patience_is_over() -> None:
    with played(lambda n, text: ko(503, "busy") if n < 3 else response(200, VALUE, f"ETag: {ETAG}")) as server:
        with client(server) as store:
            assert store.get("k") == VALUE
        assert len(server.requests) == 3
    with played(lambda n, text: ko(503, "busy")) as server, client(server, patience=0.2) as store:
        with pytest.raises(Unavailable, match="busy"):
            store.get("k")
        assert len(server.requests) > 2


def listed(digest: str) -> bytes:
    entry = f'{{"key": "k", "size": 1, "etag": "\\"{digest}\\"", "nodes": [], "created": 1, "expires": null}}'
    return response(200, f'{{"data": {{"keys": [{entry}], "next": null}}, "msg": "", "status": "ok"}}'.encode())


def test_a_put_with_an_unknown_outcome_is_looked_at() -> None:
    # Given a PUT whose response was lost, and a key that has the value by then
    with played(lambda n, text: b"" if n == 1 else listed(DIGEST)) as server, client(server) as store:
        # Then it is stored, and not sent again
        assert store.put("k", VALUE).digest == DIGEST
        assert [text.split()[0] for text in server.requests] == ["PUT", "GET"]


def test_a_put_with_an_unknown_outcome_never_replaces_another_value() -> None:
    other = "0" * 64

    def answer(number: int, text: str) -> bytes:
        return b"" if number == 1 else listed(other) if text.startswith("GET") else ko(409, "key exists")

    with played(answer) as server, client(server) as store, pytest.raises(Conflict):
        store.put("k", VALUE)


def test_a_put_with_overwrite_is_sent_again() -> None:
    with played(lambda n, text: b"" if n == 1 else OK) as server, client(server) as store:
        store.put("k", VALUE, overwrite=True)
        assert [text.split()[0] for text in server.requests] == ["PUT", "PUT"]


def test_a_delete_without_a_condition_is_never_sent_again() -> None:
    with played(lambda n, text: b"") as server, client(server) as store:
        with pytest.raises(UnknownOutcome):
            store.delete("k")
        assert len(server.requests) == 1


def test_a_delete_of_one_value_is_sent_again() -> None:
    with played(lambda n, text: b"" if n == 1 else ko(404, "no key")) as server, client(server) as store:
        store.delete("k", match=DIGEST)
        assert len(server.requests) == 2


def test_a_launch_is_sent_again_with_its_token() -> None:
    launched = response(200, b'{"data": {"job_id": 7}, "msg": "", "status": "ok"}')
    with played(lambda n, text: b"" if n == 1 else launched) as server, client(server) as store:
        assert store.launch("a/b", {"x": 1}).job_id == 7


def test_arguments_that_are_no_json_are_refused() -> None:
    with client(Played(lambda n, text: b"")) as store, pytest.raises(BadRequest):
        store.launch("a/b", {"x": float("nan")})


def test_a_download_that_broke_off_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pulzar.reading.RESUMED_BYTES", 1)
    part = tmp_path / f"k.{DIGEST[:16]}.part"

    # Given a server that is gone in the middle of a value
    def broken(number: int, text: str) -> bytes:
        return response(200, VALUE[:5000], f"ETag: {ETAG}", length=len(VALUE)) if number == 1 else ko(404, "gone")

    with played(broken) as server, client(server, patience=0) as store, pytest.raises(NotFound):
        store.fetch("k", tmp_path / "k")
    assert part.read_bytes() == VALUE[:5000]
    (tmp_path / f"k.{'0' * 16}.part").write_bytes(b"of a former value")

    # When it is fetched again
    def whole(number: int, text: str) -> bytes:
        if "Range: bytes=5000-" not in text:
            return response(200, VALUE, f"ETag: {ETAG}")
        return response(206, VALUE[5000:], f"ETag: {ETAG}", f"Content-Range: bytes 5000-{len(VALUE) - 1}/{len(VALUE)}")

    with played(whole) as server, client(server) as store:
        store.fetch("k", tmp_path / "k")
        # Then it goes on from there, and leaves nothing beside the file
        assert len(server.requests) == 2
    assert (tmp_path / "k").read_bytes() == VALUE
    assert list(tmp_path.iterdir()) == [tmp_path / "k"]


def test_a_body_in_chunks_is_read() -> None:
    body = b'{"data": 1, "msg": "", "status": "ok"}'
    text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n3\r\n   \r\n0\r\nX: y\r\n\r\n" % (
        len(body),
        body,
    )
    with played(lambda n, _: text) as server, client(server) as store:
        assert store.catalog() == 1


def test_what_is_no_pulzar_is_told() -> None:
    for said, kind, message in (
        (response(200, b"<html>"), ServerError, "no Pulzar"),
        (b"SSH-2.0-x\r\n", Unavailable, "no HTTP"),
    ):
        with (
            played(lambda n, text, said=said: said) as server,  # type: ignore[misc]
            client(server, patience=0) as store,
            pytest.raises(kind, match=message),
        ):
            store.nodes()


def test_a_client_that_is_aborted_fails_at_once() -> None:
    def answer(number: int, text: str) -> bytes:
        threading.Timer(0.1, store.abort).start()
        return response(200, VALUE[:10], f"ETag: {ETAG}", length=len(VALUE)) if number == 1 else b""

    with played(answer) as server:
        store = client(server, patience=60)
        began = time.monotonic()
        with pytest.raises(Unavailable):
            store.get("k")
        assert time.monotonic() - began < 30


def test_a_line_break_in_a_header_is_refused() -> None:
    with played(lambda n, text: OK) as server, client(server, patience=0) as store:
        with pytest.raises(Unavailable, match="line break"):
            store.put("k", b"v", content_type="a\r\nX: y")
        assert server.requests == []
