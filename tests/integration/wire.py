"""HTTP as it goes over the wire: requests that other clients would tidy up, and what every answer must have.

`Client` talks to a master or a node by one kept connection, sends what it is told, byte for byte, and follows
a redirect only when asked to. `good` and `refused` hold an answer to the envelope.
"""

from __future__ import annotations

import errno
import json
import random
import socket
import struct
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from broker.messages.upload import UploadCommit

INLINE = 1 << 20  # [volume] inline: the most that the master takes itself
CACHED = 4096  # [server] cached: the most that the master answers itself
SMALL = 65536  # [volume] small: the most that lives in the value log


class Answer(NamedTuple):
    """What a server answered. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def sent_first(url: str, method: str, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
    """The answer to a client that sends all of its request before it looks for one, as many do.

    A connection that breaks while it sends is an error (`OSError`).
    """
    parts = urlsplit(url)
    lines = [f"{method} {target_of(url)} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items()]
    with Client(url) as client, socket.create_connection(client.address, 30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        for at in range(0, len(body), 65536):
            connection.sendall(body[at : at + 65536])
        client.use(connection)
        return client.receive(method)


class Closed(Exception):
    """Raised when the server closed the connection without an answer."""


class Client:
    """A client of one server; used by one thread at a time."""

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        parts = urlsplit(url)
        self.address = (parts.hostname or "", parts.port or 80)
        self.host = parts.netloc
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._received = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request makes a new one."""
        if self._socket:
            self._socket.close()
        self._socket = None
        self._received = b""

    def use(self, connection: socket.socket) -> None:
        """Go on with a connection that somebody else has made; `close` closes it."""
        self._socket = connection

    # Requests.

    def request(
        self,
        method: str,
        target: str,
        body: bytes | Iterable[bytes] = b"",
        headers: Mapping[str, str] | None = None,
        follow: bool = False,
    ) -> Answer:
        """One request and its answer; an iterable body is sent chunked, its length unknown to the server."""
        headers = dict(headers or {})
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.host}", *(f"{n}: {v}" for n, v in headers.items())]
        if not isinstance(body, bytes):
            lines.append("Transfer-Encoding: chunked")
        elif (body or method in ("PUT", "POST")) and "Content-Length" not in headers:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        kept = self._socket is not None
        try:
            answer = self._exchange(head, body, method, headers.get("Expect") == "100-continue")
        except Closed:
            if not kept:
                raise
            answer = self._exchange(head, body, method, headers.get("Expect") == "100-continue")
        if follow and answer.status == 307:
            return follow_to(answer.headers["location"], method, body, headers)
        return answer

    def raw(self, request: bytes, method: str = "GET") -> Answer:
        """Send these bytes and read one answer; raises `Closed` when none comes."""
        self.send(request)
        return self.receive(method)

    def send(self, data: bytes) -> None:
        """Send bytes. That the server no longer reads is no error here: its answer may be waiting."""
        if self._socket is None:
            self._socket = socket.create_connection(self.address, self._timeout)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def finish_sending(self) -> None:
        """Say that nothing more will be sent."""
        assert self._socket
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # the server was faster
                raise

    def reset(self) -> None:
        """End the connection the hard way, as a crash of the client's machine would."""
        assert self._socket
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def receive(self, method: str = "GET") -> Answer:
        """Read the next answer, informational ones too."""
        head = self._until(b"\r\n\r\n").decode("latin-1")
        first, *lines = head.split("\r\n")
        status = int(first.split(" ")[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        if status < 200 or status in (204, 304) or method == "HEAD":
            body = b""
        elif "chunked" in headers.get("transfer-encoding", ""):
            body = self._chunks()
        elif "content-length" in headers:
            body = self._exactly(int(headers["content-length"]))
        else:
            body = self._rest()
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, headers, body)

    def _exchange(self, head: bytes, body: bytes | Iterable[bytes], method: str, waits: bool) -> Answer:
        if waits:
            answer = self.raw(head, method)
            if answer.status != 100:
                return answer
            head = b""
        if isinstance(body, bytes):
            self.send(head + body)
        else:
            self.send(head)
            for chunk in body:
                self.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.send(b"0\r\n\r\n")
        answer = self.receive(method)
        return self.receive(method) if answer.status == 100 else answer

    # Keys.

    def put(
        self, key: str, value: bytes | Iterable[bytes], query: str = "", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """PUT a value, the way a client does that follows redirects and waits to be told where to send it."""
        headers = dict(headers or {})
        if isinstance(value, bytes) and len(value) > INLINE:
            headers.setdefault("Expect", "100-continue")
        return self.request("PUT", f"/add_key/{quote(key)}{query}", value, headers, follow=True)

    def get(self, key: str, headers: Mapping[str, str] | None = None, follow: bool = True) -> Answer:
        """GET a value."""
        return self.request("GET", f"/get_key/{quote(key)}", headers=headers, follow=follow)

    def head(self, key: str, headers: Mapping[str, str] | None = None) -> Answer:
        """The headers of a value; a redirect is never followed."""
        return self.request("HEAD", f"/get_key/{quote(key)}", headers=headers)

    def delete(self, key: str, headers: Mapping[str, str] | None = None) -> Answer:
        """DELETE a key."""
        return self.request("DELETE", f"/delete_key/{quote(key)}", headers=headers)

    # Reading.

    def _more(self) -> bytes:
        assert self._socket
        try:
            data = self._socket.recv(1 << 20)
        except ConnectionResetError as error:
            self.close()
            raise Closed("reset") from error
        if not data:
            received = self._received
            self.close()
            raise Closed(f"closed after {received[:200]!r}")
        return data

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._received:
            self._received += self._more()
        found, _, self._received = self._received.partition(mark)
        return found

    def _exactly(self, length: int) -> bytes:
        parts = [self._received]
        size = len(self._received)
        while size < length:
            parts.append(self._more())
            size += len(parts[-1])
        data = b"".join(parts)
        self._received = data[length:]
        return data[:length]

    def _rest(self) -> bytes:
        data = self._received
        self._received = b""
        try:
            while True:
                data += self._more()
        except Closed:
            return data

    def _chunks(self) -> bytes:
        data = b""
        while size := int(self._until(b"\r\n").split(b";")[0], 16):
            data += self._exactly(size)
            assert self._exactly(2) == b"\r\n"
        while self._until(b"\r\n"):
            pass
        return data


def target_of(url: str) -> str:
    """What stands in the request line for a URL."""
    parts = urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def follow_to(
    url: str, method: str = "GET", body: bytes | Iterable[bytes] = b"", headers: Mapping[str, str] | None = None
) -> Answer:
    """A request to a URL, by a connection of its own."""
    with Client(url) as client:
        return client.request(method, target_of(url), body, headers)


# What every answer must have.


def good(answer: Answer, status: int = 200, message: str | None = None) -> Any:
    """The data of an answer that must be a good one in its envelope."""
    assert answer.status == status, (answer.status, answer.body[:500])
    envelope = _envelope(answer)
    assert envelope["status"] == "ok", envelope
    if message is not None:
        assert envelope["msg"] == message
    return envelope["data"]


def refused(answer: Answer, status: int) -> str:
    """The message of an answer that must be an error in its envelope."""
    assert answer.status == status, (answer.status, answer.body[:500])
    envelope = _envelope(answer)
    assert envelope["status"] == "ko", envelope
    assert envelope["msg"], "an error says what was wrong"
    message: str = envelope["msg"]
    return message


def sent_on(answer: Answer) -> str:
    """The address in an answer to a PUT that sends its client to a node."""
    assert answer.status == 307, (answer.status, answer.body[:500])
    envelope = _envelope(answer)
    assert envelope["status"] == "ko", "a client that does not follow must not take it for done"
    assert envelope["msg"].startswith("nothing is stored yet: ")
    assert "curl: -L; httpx: follow_redirects=True" in envelope["msg"]
    location = answer.headers["location"]
    assert envelope["data"] == {"node": location}
    return location


def _envelope(answer: Answer) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    envelope: dict[str, Any] = answer.json
    assert set(envelope) == {"data", "msg", "status"}, envelope
    assert isinstance(envelope["msg"], str)
    assert "Traceback" not in envelope["msg"]
    return envelope


def payload(size: int, seed: int = 1) -> bytes:
    """Bytes that don't repeat, the same ones for the same size and seed."""
    return random.Random(f"{size} {seed}").randbytes(size)


class Curled(NamedTuple):
    """What curl did: the last answer, and how it got there."""

    status: int
    body: bytes
    redirects: int
    content_type: str


def curl(*arguments: str, given: bytes = b"") -> Curled:
    """Run curl; `given` is its standard input."""
    command = ["curl", "-sS", "--max-time", "60", "-w", "%{stderr}\n%{json}", *arguments]
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stderr.decode().strip().splitlines()[-1])
    return Curled(told["http_code"], done.stdout, told["num_redirects"], told["content_type"] or "")


def a_commit(node: str) -> bytes:
    """The body of a commit: an upload of one byte that the node is said to have."""
    return UploadCommit(
        node=node,
        staged="0" * 32,
        size=1,
        digest=bytes(32),
        content_type="",
        if_match=None,
        if_none_match=None,
        if_unmodified_since=None,
    ).encode()
