"""The store as a job sees it: the master's REST API, with nothing but the standard library."""

from __future__ import annotations

import functools
import http.client
import itertools
import json
import os
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode, urljoin, urlsplit

from jobs.errors import KeyExists, KeyMissing, StoreError

TOKEN_VARIABLE = "PULZAR_TOKEN"
CA_VARIABLE = "PULZAR_SECURITY_CA"  # a file of certificates to trust, besides those of the system
TIMEOUT_SECS = 60.0  # without a byte sent or received
PATIENCE_SECS = 30.0  # with a master that is away or answers 503
_PAUSES_SECS = (0.1, 0.3, 1.0, 2.0)  # between two tries; the last one again and again
_DIRECT_BYTES = 1 << 16  # more than this goes to a node without asking the master to take it
_CHUNK_BYTES = 1 << 18
_MOST_REDIRECTS = 5
_MOST_ARGUMENTS_BYTES = 1 << 20
_PAGE = 1000
_SAFE = "/-._~!$&'()*+,;=:@"  # stand for themselves in the path of a URL

Body = bytes | BinaryIO | None


class Client:
    """The keys of one cluster. `master` is its `host:port`, or its URL: `https://host:port`."""

    def __init__(
        self, master: str, patience: float = PATIENCE_SECS, token: str | None = None, ca: str | None = None
    ) -> None:
        """`patience`: seconds for which a master that is away or answers 503 is asked again.

        `token` goes to the master alone; None: the one in PULZAR_TOKEN in the environment, if there is one. `ca`: a
        PEM file of certificates to trust, besides those of the system; None: the one in PULZAR_SECURITY_CA.
        """
        self.master = master if "://" in master else f"http://{master}"
        self._patience = patience
        self._token = os.environ.get(TOKEN_VARIABLE, "") if token is None else token
        self._ca = os.environ.get(CA_VARIABLE, "") if ca is None else ca

    def store(
        self, value: bytes | str | os.PathLike[str], key: str, ttl: str | None = None, overwrite: bool = False
    ) -> str:
        """Store bytes, or the file at a path, under a key. Returns its URL. Raises `KeyExists` or `StoreError`."""
        parameters = {"ttl": ttl} if ttl else {}
        if overwrite:
            parameters["overwrite"] = "1"
        if isinstance(value, bytes | bytearray | memoryview):
            return self._put(key, parameters, bytes(value), len(value))
        with Path(value).open("rb") as file:
            return self._put(key, parameters, file, os.fstat(file.fileno()).st_size)

    def _put(self, key: str, parameters: dict[str, str], body: bytes | BinaryIO, size: int) -> str:
        # No second try when it is unknown whether the first one stored the value: it would find the key taken.
        again = "overwrite" in parameters
        url = self._url("add_key", key, parameters)
        if size > _DIRECT_BYTES:
            url = self._json("GET", self._url("get_node", key, parameters))["node"]
        return str(self._json("PUT", url, body, size, again)["url"])

    def fetch(self, key: str) -> bytes:
        """The value of a key; raises `KeyMissing` or `StoreError`."""
        with self._response("GET", self._url("get_key", key)) as response:
            return _read(response)

    def fetch_to(self, key: str, path: str | os.PathLike[str]) -> None:
        """Write the value of a key to a file. A part of a value is never left. Raises `KeyMissing` or `StoreError`."""
        part = Path(f"{os.fspath(path)}.part")
        try:
            with self._response("GET", self._url("get_key", key)) as response, part.open("wb") as file:
                while chunk := _read(response, _CHUNK_BYTES):
                    file.write(chunk)
                if response.length:
                    raise StoreError(0, f"{key}: the answer ended {response.length} bytes before its end")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def keys(self, prefix: str = "") -> Iterator[dict[str, Any]]:
        """The keys that begin with the prefix, in order, with `key`, `size`, `etag`, `created` (seconds) and more."""
        after = ""
        while after is not None:
            query = {"prefix": prefix, "after": after, "limit": str(_PAGE)}
            page = self._json("GET", f"{self.master}/keys?{urlencode(query)}")
            yield from page["keys"]
            after = page["next"]

    def delete(self, key: str) -> None:
        """Delete a key; raises `KeyMissing` or `StoreError`."""
        self._json("DELETE", self._url("delete_key", key), again=False)

    def copy(self, key: str, to: str, ttl: str | None = None, overwrite: bool = False) -> str:
        """Store the value of a key under the key `to` as well; its URL. It does not come over the network.

        Its lifetime is that of the old one, or `ttl`. Raises `KeyMissing`, `KeyExists` or `StoreError`.
        """
        return self._transfer("copy", key, to, ttl, overwrite)

    def move(self, key: str, to: str, ttl: str | None = None, overwrite: bool = False) -> str:
        """As `copy`, and the old key is deleted."""
        return self._transfer("move", key, to, ttl, overwrite)

    def _transfer(self, route: str, key: str, to: str, ttl: str | None, overwrite: bool) -> str:
        parameters = {"to": to} | ({"ttl": ttl} if ttl else {}) | ({"overwrite": "1"} if overwrite else {})
        # No second try when it is unknown what became of the first one: it would find one key taken, or the other gone.
        return str(self._json("POST", self._url(route, key, parameters), b"", again=False)["url"])

    def launch(
        self, script: str, arguments: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None
    ) -> int:
        """Launch the script `folder/name` with `pulzar_options`. Returns the job's id. Raises `StoreError`."""
        return self.launch_told(script, arguments, options)[0]

    def launch_told(
        self, script: str, arguments: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[int, list[str]]:
        """Launch as `launch` does. Returns the job's id and warnings about its arguments.

        Raises `StoreError`, and `BadOutput` for arguments that can't be JSON.
        """
        body = dict(arguments or {}) | ({"pulzar_options": dict(options)} if options else {})
        odd: list[str] = []
        encoded = _encode(body, odd)
        # No second try when it is unknown whether the first one launched, unless a token keeps it from running twice.
        again = "unique" in (options or {})
        data = self._json("POST", self._url("launch_job", script), encoded, len(encoded), again)
        return int(data["job_id"]), [*odd, *data.get("warnings", ())]

    def _url(self, route: str, key: str, parameters: dict[str, str] | None = None) -> str:
        query = f"?{urlencode(parameters)}" if parameters else ""
        return f"{self.master}/{route}/{quote(key, _SAFE)}{query}"

    def _json(self, method: str, url: str, body: Body = None, size: int = 0, again: bool = True) -> Any:
        with self._response(method, url, body, size, again) as response:
            return json.loads(_read(response))["data"]

    @contextmanager
    def _response(
        self, method: str, url: str, body: Body = None, size: int = 0, again: bool = True
    ) -> Iterator[http.client.HTTPResponse]:
        """A response with a status below 300, after redirects and further tries."""
        connection, response = self._try(method, url, body, size, again)
        with closing(connection):
            if response.status >= 300:
                raise _refusal(method, url, response)
            yield response

    def _token_for(self, url: str) -> str:
        """The token for an address: none for one at a node, which is signed."""
        return self._token if url.startswith(f"{self.master}/") else ""

    def _try(
        self, method: str, url: str, body: Body, size: int, again: bool
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        until = time.monotonic() + self._patience
        pauses = itertools.chain(_PAUSES_SECS, itertools.repeat(_PAUSES_SECS[-1]))
        while True:
            pause = next(pauses)
            last = time.monotonic() + pause > until
            try:
                connection, response = follow(method, url, body, size, token=self._token_for(url), ca=self._ca)
            except (OSError, http.client.HTTPException) as error:
                if last or not (again or isinstance(error, ConnectionRefusedError)):
                    raise StoreError(0, f"{method} {_shown(url)}: {error or type(error).__name__}") from error
            else:
                if last or not again or response.status != 503:
                    return connection, response
                connection.close()
            time.sleep(pause)


def _encode(body: dict[str, Any], notes: list[str]) -> bytes:
    """Arguments as JSON, written as outputs are. `notes` gets a line for each value that had to be changed."""
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        from jobs import plain  # takes its time, and most arguments are plain

        return plain.encode(body, _MOST_ARGUMENTS_BYTES, notes.append, "arguments")


def follow(
    method: str,
    url: str,
    body: Body = None,
    size: int = 0,
    *,
    timeout: float = TIMEOUT_SECS,
    token: str = "",
    ca: str = "",
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """The response at the end of all redirects, and the connection to read it from, which the caller closes.

    `size` is that of the body in bytes, `timeout` seconds without a byte. `token` goes to the first host alone. `ca` is
    a file of certificates to trust. Raises `OSError` or `HTTPException`.
    """
    first = urlsplit(url).netloc
    for _ in range(_MOST_REDIRECTS):
        parts = urlsplit(url)
        connection = _connection(parts.scheme, parts.netloc, timeout, ca)
        try:
            headers = {"Authorization": f"Bearer {token}"} if token and parts.netloc == first else {}
            if body is not None:
                headers["Content-Length"] = str(size)
            response = _ask(connection, method, parts.path + (f"?{parts.query}" if parts.query else ""), body, headers)
        except BaseException:
            connection.close()
            raise
        location = response.getheader("Location")
        if response.status not in (301, 302, 303, 307, 308) or not location:
            return connection, response
        connection.close()
        url = urljoin(url, location)
    raise http.client.HTTPException("too many redirects")


def _connection(scheme: str, netloc: str, timeout: float, ca: str) -> http.client.HTTPConnection:
    if scheme == "https":
        trusted = _trust(ca)
        return http.client.HTTPSConnection(netloc, timeout=timeout, blocksize=_CHUNK_BYTES, context=trusted)
    if scheme != "http":
        raise http.client.InvalidURL(f"an address with http:// or https:// is needed, not {scheme[:20]!r}")
    return http.client.HTTPConnection(netloc, timeout=timeout, blocksize=_CHUNK_BYTES)


@functools.cache
def _trust(ca: str) -> ssl.SSLContext:
    """What verifies servers: the system's authorities, and those in the file `ca`; raises `OSError`."""
    trusted = ssl.create_default_context()
    if ca:
        trusted.load_verify_locations(ca)
    return trusted


def _ask(
    connection: http.client.HTTPConnection, method: str, target: str, body: Body, headers: Mapping[str, str]
) -> http.client.HTTPResponse:
    if body is not None and not isinstance(body, bytes):
        body.seek(0)
    try:
        connection.request(method, target, body, headers)
    except (BrokenPipeError, ConnectionResetError):
        # A server may refuse a body before it has read all of it. Its response says more than this error.
        if connection.sock is None:
            raise
    return connection.getresponse()


def _read(response: http.client.HTTPResponse, size: int | None = None) -> bytes:
    try:
        return response.read(size)
    except (OSError, http.client.HTTPException) as error:
        raise StoreError(0, f"the answer broke off: {error or type(error).__name__}") from error


def _refusal(method: str, url: str, response: http.client.HTTPResponse) -> StoreError:
    text = _read(response, _CHUNK_BYTES)
    try:
        message = str(json.loads(text)["msg"])
    except (ValueError, KeyError, TypeError):
        message = text[:200].decode("utf-8", "replace") or response.reason
    kind = {404: KeyMissing, 409: KeyExists}.get(response.status, StoreError)
    return kind(response.status, f"{method} {_shown(url)}: {response.status} {message}")


def _shown(url: str) -> str:
    """A URL without its query, which may hold a signature."""
    return url.partition("?")[0]
