"""Writes at full tilt while something breaks, and the check of what is there afterwards.

A `Load` has threads that put, overwrite, delete and read keys of their own, and remembers the outcome of every
request. From that follows what a key may be afterwards: what the last acknowledged request made of it, or what
one made of it whose answer was an error or was lost. `check` compares that with what the cluster says.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlsplit

THREADS = 16
SMALL_BYTES, FILE_BYTES, LARGE_BYTES = 1024, 100 * 1024, 2 * 1024 * 1024
INLINE_BYTES = 1 << 20  # larger ones are sent to a node
SOCKET_SECS = 40.0
PAUSE_SECS = 0.02  # after an answer that was none

ABSENT = ""  # what a key without a value has for a digest


class Answer(NamedTuple):
    """What came back; status 0 when nothing or not all of it did."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def digest(self) -> str:
        """SHA-256 of the body."""
        return hashlib.sha256(self.body).hexdigest()

    @property
    def message(self) -> str:
        """`msg` of the envelope; raises `ValueError` when this is none."""
        envelope = json.loads(self.body)
        if set(envelope) != {"data", "msg", "status"}:
            raise ValueError(f"no envelope: {self.body[:200]!r}")
        return str(envelope["msg"])


class Client:
    """One user's connections. It follows redirects, and sends a large body only to where it is wanted."""

    def __init__(self, url: str, timeout: float = SOCKET_SECS) -> None:
        self._master = urlsplit(url).netloc
        self._timeout = timeout
        self._connections: dict[str, http.client.HTTPConnection] = {}
        self._used: set[str] = set()  # connections that have answered before

    def put(self, key: str, body: bytes, query: str = "", **headers: str) -> Answer:
        """PUT a value; `query` like `overwrite=1`."""
        return self.request("PUT", _path("add_key", key, query), body, headers)

    def get(self, key: str, **headers: str) -> Answer:
        """GET a value, from the node when the master says so."""
        return self.request("GET", _path("get_key", key), None, headers)

    def delete(self, key: str) -> Answer:
        """DELETE a key."""
        return self.request("DELETE", _path("delete_key", key))

    def json(self, path: str) -> Any:
        """`data` of the answer to a GET; raises when it isn't good."""
        answer = self.request("GET", path)
        assert answer.status == 200, f"GET {path}: {answer.status} {answer.body[:300]!r}"
        return json.loads(answer.body)["data"]

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """A request to the master and, after a redirect, to a node."""
        started = time.monotonic()
        headers = dict(headers or {})
        netloc = self._master
        if body is not None:
            headers["Content-Length"] = str(len(body))
        for _ in range(6):
            # A client that waits for "100 Continue" sends nothing to whoever sends it elsewhere.
            held = body is not None and len(body) > INLINE_BYTES and netloc == self._master
            try:
                response, content = self._exchange(
                    netloc, method, path, None if held else body, headers | ({"Expect": "100-continue"} if held else {})
                )
            except (OSError, http.client.HTTPException):
                # A connection that was idle may have been closed meanwhile; what changes nothing is asked again.
                again = method == "GET" and netloc in self._used
                self._drop(netloc)
                if again:
                    continue
                return Answer(0, {}, b"", time.monotonic() - started)
            self._used.add(netloc)
            if response.will_close or held:
                self._drop(netloc)
            found = {name.lower(): value for name, value in response.getheaders()}
            if response.status != 307:
                return Answer(response.status, found, content, time.monotonic() - started)
            target = urlsplit(found["location"])
            netloc, path = target.netloc, f"{target.path}?{target.query}"
        raise AssertionError(f"{method} {path} is redirected for ever")

    def close(self) -> None:
        """Close all connections."""
        for netloc in list(self._connections):
            self._drop(netloc)

    def _exchange(
        self, netloc: str, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = self._connections.get(netloc)
        if connection is None:
            connection = self._connections[netloc] = http.client.HTTPConnection(netloc, timeout=self._timeout)
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        if body is not None:
            try:
                connection.send(body)
            except OSError:
                if connection.sock is None:
                    raise
                # It may have answered before it had everything.
        response = connection.getresponse()
        return response, response.read()

    def _drop(self, netloc: str) -> None:
        self._used.discard(netloc)
        connection = self._connections.pop(netloc, None)
        if connection:
            connection.close()


class History:
    """What happened to one key."""

    __slots__ = ("key", "lines", "maybe", "settled", "sizes")

    def __init__(self, key: str) -> None:
        self.key = key
        self.settled = ABSENT  # digest of what the last acknowledged request left there
        self.maybe: set[str] = set()  # what requests that were not acknowledged may have left there since
        self.sizes: dict[str, int] = {}
        self.lines: list[str] = []

    @property
    def allowed(self) -> set[str]:
        """Digests that the value may have."""
        return {self.settled} | self.maybe

    def put(self, body: bytes, overwrite: bool, answer: Answer) -> str:
        """Note a PUT; returns what is wrong with its answer."""
        digest = hashlib.sha256(body).hexdigest()
        self.sizes[digest] = len(body)
        self._note("PUT", answer, f"{digest[:8]} {len(body)} bytes{' overwrite' * overwrite}")
        if answer.status == 201:
            wrong = "" if overwrite or ABSENT in self.allowed else "201 although the key exists"
            self.settled, self.maybe = digest, set()
            return wrong
        if answer.status == 0 or answer.status >= 500:
            if overwrite or ABSENT in self.allowed:
                self.maybe.add(digest)
            return ""
        if answer.status == 409 and not overwrite and self.allowed != {ABSENT}:
            return ""
        return f"PUT answered {answer.status} {answer.body[:200]!r}"

    def delete(self, answer: Answer) -> str:
        """Note a DELETE; returns what is wrong with its answer."""
        self._note("DELETE", answer)
        if answer.status == 200:
            wrong = "deleted although there is nothing" if self.allowed == {ABSENT} else ""
            self.settled, self.maybe = ABSENT, set()
            return wrong
        if answer.status == 0 or answer.status >= 500:
            self.maybe.add(ABSENT)
            return ""
        if answer.status == 404 and ABSENT in self.allowed:
            return ""
        return f"DELETE answered {answer.status} {answer.body[:200]!r}"

    def get(self, answer: Answer) -> str:
        """Whether this may be what a GET answers; returns what is wrong with it."""
        if answer.status == 0 or answer.status >= 500:
            return ""
        if answer.status == 200:
            digest = answer.digest
            if digest not in self.allowed:
                known = "sent once" if digest in self.sizes else "never sent"
                return f"GET answered {len(answer.body)} bytes, {digest[:8]}, {known}"
            if answer.headers.get("etag") != f'"{digest}"':
                return f"GET answered the ETag {answer.headers.get('etag')} with the value {digest}"
            return ""
        if answer.status == 404 and ABSENT in self.allowed:
            return ""
        return f"GET answered {answer.status} {answer.body[:200]!r} where {sorted(self.allowed)} was possible"

    def _note(self, method: str, answer: Answer, more: str = "") -> None:
        self.lines.append(f"{time.strftime('%H:%M:%S')} {method} {answer.status} {answer.seconds:.3f} s {more}".strip())

    def __str__(self) -> str:
        return f"{self.key}: " + "; ".join(self.lines)


class Threads:
    """Threads that work until they are told to end."""

    def __init__(self, *work: Callable[[], None]) -> None:
        """Each thread calls one of the functions, which end once `_stopping` is set."""
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=one) for one in work]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Have every thread end after its request under way."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()


class Load(Threads):
    """Threads that write and read; a context manager that starts and stops them."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "load",
        threads: int = THREADS,
        large: bool = True,
        deletes: bool = True,
        pause: float = 0.0,
    ) -> None:
        """Keys begin with `prefix`; `pause` seconds pass between two requests of a thread."""
        self.url = url
        self.prefix = prefix
        self.histories: dict[str, History] = {}
        self.wrong: list[str] = []
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.slowest = 0.0  # seconds until a PUT or DELETE was answered
        self.pause = pause
        self._large = large
        self._deletes = deletes
        self._guard = threading.Lock()
        super().__init__(*(partial(self._run, number) for number in range(threads)))

    @property
    def stored(self) -> int:
        """PUTs acknowledged so far."""
        return self.statuses["PUT", 201]

    @property
    def deleted(self) -> int:
        """DELETEs acknowledged so far."""
        return self.statuses["DELETE", 200]

    def wait_stored(self, more: int, timeout: float = 30.0) -> None:
        """Wait until so many more PUTs are acknowledged: what is broken flows again."""
        wanted, deadline = self.stored + more, time.monotonic() + timeout
        while self.stored < wanted:
            left = wanted - self.stored
            assert time.monotonic() < deadline, f"{left} of {more} PUTs still to come after {timeout:g} s: {self}"
            time.sleep(0.01)

    def __str__(self) -> str:
        counts = ", ".join(f"{method} {status}: {n}" for (method, status), n in sorted(self.statuses.items()))
        return f"{len(self.histories)} keys; {counts}; slowest {self.slowest:.1f} s"

    def _run(self, number: int) -> None:
        chance = random.Random(f"{self.prefix} {number}")
        mine: list[History] = []
        with closing(Client(self.url)) as client:
            while not (self._stopping.wait(self.pause) if self.pause else self._stopping.is_set()):
                dice = chance.random()
                if len(mine) < 10 or dice < 0.7:
                    history = History(f"{self.prefix}/{number:02}/{len(mine):05}.bin")
                    mine.append(history)
                    self.histories[history.key] = history
                    self._put(client, chance, history, False)
                elif dice < 0.78:
                    # What is gone, or may never have come, is stored anew.
                    history = chance.choice(mine[-50:])
                    self._put(client, chance, history, history.settled != ABSENT)
                elif dice < 0.9 and self._deletes:
                    history = chance.choice(mine[-50:])
                    answer = client.delete(history.key)
                    self._note("DELETE", history, answer, history.delete(answer))
                else:
                    history = chance.choice(mine)
                    answer = client.get(history.key)
                    self._note("GET", history, answer, history.get(answer))

    def _put(self, client: Client, chance: random.Random, history: History, overwrite: bool) -> None:
        dice = chance.random()
        size = chance.randrange(200, 2 * SMALL_BYTES)
        if self._large and dice > 0.9:
            size = chance.randrange(FILE_BYTES // 2, FILE_BYTES * 2) if dice < 0.99 else LARGE_BYTES
        body = make_body(history.key, len(history.lines), size, chance)
        answer = client.put(history.key, body, "overwrite=1" if overwrite else "")
        self._note("PUT", history, answer, history.put(body, overwrite, answer))

    def _note(self, method: str, history: History, answer: Answer, wrong: str) -> None:
        if answer.status >= 400:
            try:
                answer.message  # noqa: B018
            except ValueError as error:
                wrong = wrong or f"{method} answered {answer.status} without the envelope: {error}"
            if answer.status == 503 and "retry-after" not in answer.headers:
                wrong = wrong or f"{method} answered 503 without Retry-After"
        with self._guard:
            self.statuses[method, answer.status] += 1
            if method != "GET" and answer.status:
                self.slowest = max(self.slowest, answer.seconds)
            if wrong:
                self.wrong.append(f"{wrong}\n    {history}")
        if not answer.status or answer.status >= 500:
            self._stopping.wait(PAUSE_SECS)


def make_body(key: str, count: int, size: int, chance: random.Random) -> bytes:
    """A value that says whose it is, and is like no other."""
    head = f"{key} {count} {chance.getrandbits(64):016x} {size}\n".encode()
    return (head + chance.randbytes(max(0, size - len(head))))[:size]


def check(load: Load, within: float = 20.0) -> None:
    """Everything that the load was told is true; `within` seconds every answer must be more than 503."""
    assert load.stored, f"nothing was stored: {load}"
    histories = list(load.histories.values())
    deadline = time.monotonic() + within
    wrong = list(load.wrong)
    found: dict[str, str] = {}
    with ThreadPoolExecutor(8) as pool:
        for history, answer in zip(
            histories, pool.map(lambda part: _settled(load.url, part, deadline), histories), strict=True
        ):
            if answer.status == 0 or answer.status >= 500:
                wrong.append(f"GET answers {answer.status} {answer.body[:200]!r} after {within:g} s\n    {history}")
                continue
            found[history.key] = answer.digest if answer.status == 200 else ABSENT
            if problem := history.get(answer):
                wrong.append(f"afterwards {problem}\n    {history}")
    wrong += _listing_disagrees(load, found)
    assert not wrong, f"{len(wrong)} things are wrong; {load}\n" + "\n".join(wrong[:8])
    check_usable(load.url, f"{load.prefix}-afterwards")


def check_usable(url: str, prefix: str, within: float = 20.0) -> None:
    """Keys of every size can be stored, read and deleted."""
    chance = random.Random()
    with closing(Client(url)) as client:
        for size in (0, SMALL_BYTES, FILE_BYTES, LARGE_BYTES):
            key = f"{prefix}/{size}-{chance.getrandbits(32):08x}"
            body = make_body(key, 0, size, chance)
            deadline = time.monotonic() + within
            answer = client.put(key, body)
            # A PUT that was answered 503 may have been done.
            while answer.status in (0, 503) and time.monotonic() < deadline:
                time.sleep(0.1)
                answer = client.put(key, body, "overwrite=1")
            assert answer.status == 201, f"PUT of {size} bytes: {answer.status} {answer.body[:300]!r}"
            answer = client.get(key)
            assert (answer.status, answer.body == body) == (200, True), f"GET of {size} bytes: {answer.status}"
            answer = client.delete(key)
            assert answer.status == 200, f"DELETE after a PUT of {size} bytes: {answer.status} {answer.body[:300]!r}"
            assert client.get(key).status == 404


def listing(client: Client, prefix: str) -> Iterator[dict[str, Any]]:
    """Every entry below a prefix, page by page."""
    after = ""
    while True:
        page = client.json(f"/keys?prefix={quote(prefix)}&after={quote(after)}&limit=1000")
        yield from page["keys"]
        if page["next"] is None:
            return
        after = page["next"]


@contextmanager
def connected(url: str) -> Iterator[Client]:
    """A client for the block."""
    client = Client(url)
    try:
        yield client
    finally:
        client.close()


_local = threading.local()


def _settled(url: str, history: History, deadline: float) -> Answer:
    """The answer to a GET of the key, once it is more than "try again"."""
    client: Client | None = getattr(_local, "client", None)
    if client is None:
        client = _local.client = Client(url)
    while True:
        answer = client.get(history.key)
        if 0 < answer.status < 500 or time.monotonic() >= deadline:
            return answer
        time.sleep(0.1)


def _listing_disagrees(load: Load, found: dict[str, str]) -> list[str]:
    with connected(load.url) as client:
        rows = list(listing(client, load.prefix + "/"))
        wrong = []
        keys = [row["key"] for row in rows]
        if keys != sorted(set(keys)):
            wrong.append("the listing is not in order, or names a key twice")
        listed = {row["key"]: row for row in rows}
        for key, digest in found.items():
            row = listed.pop(key, None)
            says = row["etag"].strip('"') if row else ABSENT
            history = load.histories[key]
            if says != digest and says not in history.maybe:
                wrong.append(f"the listing says {says[:8] or 'nothing'}, GET {digest[:8] or 'nothing'}\n    {history}")
            if row and row["size"] != history.sizes.get(says):
                wrong.append(f"the listing says {row['size']} bytes\n    {history}")
        wrong += [f"the listing has {key}, which nobody stored" for key in listed]
    return wrong


def _path(route: str, key: str, query: str = "") -> str:
    return f"/{route}/{quote(key)}" + (f"?{query}" if query else "")
