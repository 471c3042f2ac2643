"""Clients of Python: CLIENT OPERATION URL FILE; prints one line of JSON (README.md of tests/clients)."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib
import json
import os
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

BLOCK_BYTES = 65536

Seen = tuple[int, str]  # the final status, and what else the user is told


def blocks(file: str) -> Iterator[bytes]:
    """A stream of unknown length, which can't be read twice."""
    with open(file, "rb") as source:
        while block := source.read(BLOCK_BYTES):
            yield block


async def async_blocks(file: str) -> AsyncIterator[bytes]:
    """The same for asyncio."""
    for block in blocks(file):
        yield block


def requests_like(name: str) -> Callable[[str, str, str], Seen]:
    """Requests and niquests, which has the same functions."""

    def run(operation: str, url: str, file: str) -> Seen:
        library = importlib.import_module(name)
        if operation == "put":
            with open(file, "rb") as source:
                answer = library.put(url, data=source)
        elif operation == "stream":
            answer = library.put(url, data=blocks(file))
        elif operation == "form":
            with open(file, "rb") as source:
                answer = library.put(url, files={"file": source})
        elif operation == "resume":
            have = os.path.getsize(file)
            answer = library.get(url, headers={"Range": f"bytes={have}-"})
            append(file, answer.content)
        elif operation == "head":
            answer = library.head(url)
            return answer.status_code, answer.headers.get("Content-Length", "")
        elif operation == "again":
            with library.Session() as session:
                with open(file, "rb") as source:
                    first = session.put(url, data=source)
                answer = session.get(of_value(url))
            Path(file).write_bytes(answer.content)
            return answer.status_code, str(first.status_code)
        else:
            answer = library.get(url)
            Path(file).write_bytes(answer.content)
        return answer.status_code, "" if operation in ("get", "resume") else answer.text

    return run


def of_value(url: str) -> str:
    """Where the value is read that is stored at this address."""
    return url.replace("/add_key/", "/get_key/")


def append(file: str, rest: bytes) -> None:
    """The part that was missing."""
    with open(file, "ab") as target:
        target.write(rest)


def httpx(follow: bool, as_bytes: bool = False, name: str = "httpx") -> Callable[[str, str, str], Seen]:
    """Httpx and httpx2, which follow a redirect only when they are told to."""

    def run(operation: str, url: str, file: str) -> Seen:
        httpx = importlib.import_module(name)
        if operation == "head":
            answer = httpx.head(url, follow_redirects=follow)
            return answer.status_code, answer.headers.get("Content-Length", "")
        with httpx.Client(follow_redirects=follow) as client, open(file, "a+b") as source:
            source.seek(0)
            if operation == "put":
                answer = client.put(url, content=source.read() if as_bytes else source)
            elif operation == "stream":
                answer = client.put(url, content=blocks(file))
            elif operation == "form":
                answer = client.put(url, files={"file": source})
            elif operation == "again":
                first = client.put(url, content=source)
                answer = client.get(of_value(url))
                Path(file).write_bytes(answer.content)
                return answer.status_code, str(first.status_code)
            else:
                answer = client.get(url)
                Path(file).write_bytes(answer.content)
            return answer.status_code, "" if operation == "get" else answer.text

    return run


def aiohttp(expect: bool) -> Callable[[str, str, str], Seen]:
    """Aiohttp, also with Expect: 100-continue."""

    async def ask(operation: str, url: str, file: str) -> Seen:
        import aiohttp

        async with aiohttp.ClientSession() as session:
            if operation == "get":
                async with session.get(url) as answer:
                    Path(file).write_bytes(await answer.read())
                    return answer.status, ""
            if operation == "head":
                async with session.head(url) as answer:
                    return answer.status, answer.headers.get("Content-Length", "")
            if operation == "again":
                with open(file, "rb") as source:
                    async with session.put(url, data=source) as answer:
                        first = answer.status
                async with session.get(of_value(url)) as answer:
                    Path(file).write_bytes(await answer.read())
                    return answer.status, str(first)
            with open(file, "rb") as source:
                data: Any = {"put": source, "form": {"file": source}}.get(operation) or async_blocks(file)
                async with session.put(url, data=data, expect100=expect) as answer:
                    return answer.status, await answer.text()

    return lambda operation, url, file: asyncio.run(ask(operation, url, file))


def urllib3(length: bool) -> Callable[[str, str, str], Seen]:
    """Urllib3, which sends a file as chunks unless its length is given."""

    def run(operation: str, url: str, file: str) -> Seen:
        import urllib3

        pool = urllib3.PoolManager()
        with open(file, "a+b") as source:
            source.seek(0)
            if operation == "put":
                headers = {"Content-Length": str(os.path.getsize(file))} if length else None
                answer = pool.request("PUT", url, body=source, headers=headers)
            elif operation == "stream":
                answer = pool.request("PUT", url, body=blocks(file))
            elif operation == "form":
                answer = pool.request("PUT", url, fields={"file": ("value", source.read())})
            elif operation == "head":
                answer = pool.request("HEAD", url)
                return answer.status, answer.headers.get("Content-Length", "")
            elif operation == "again":
                first = pool.request("PUT", url, body=source)
                answer = pool.request("GET", of_value(url))
                Path(file).write_bytes(answer.data)
                return answer.status, str(first.status)
            else:
                answer = pool.request("GET", url)
                Path(file).write_bytes(answer.data)
        return answer.status, "" if operation == "get" else answer.data.decode()

    return run


def urllib_request(operation: str, url: str, file: str) -> Seen:
    """The standard library's own."""
    if operation == "get":
        with urllib.request.urlopen(url) as answer:
            Path(file).write_bytes(answer.read())
            return answer.status, ""
    if operation == "head":
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD")) as answer:
            return answer.status, answer.headers.get("Content-Length", "")
    with open(file, "rb") as source:
        headers = {"Content-Type": "application/octet-stream"}
        if operation == "put":
            headers["Content-Length"] = str(os.path.getsize(file))
        body: Any = source if operation == "put" else blocks(file)
        with urllib.request.urlopen(urllib.request.Request(url, body, headers, method="PUT")) as answer:
            return answer.status, answer.read().decode()


def http_client(operation: str, url: str, file: str) -> Seen:
    """What the standard library's own is made of: one connection, which follows nothing."""
    parts = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(parts.netloc)) as connection:
        if operation in ("get", "head"):
            connection.request(operation.upper(), parts.path)
        else:
            with open(file, "rb") as source:
                connection.request(
                    "PUT",
                    parts.path,
                    blocks(file) if operation == "stream" else source,
                    encode_chunked=operation == "stream",
                )
        answer = connection.getresponse()
        said = answer.read()
        if operation == "again":
            first = str(answer.status)
            connection.request("GET", of_value(parts.path))
            answer = connection.getresponse()
            Path(file).write_bytes(answer.read())
            return answer.status, first
        if operation == "head":
            return answer.status, answer.headers.get("Content-Length", "")
        if operation == "get":
            Path(file).write_bytes(said)
            said = b""
        return answer.status, said.decode()


def curl_cffi(follow: bool) -> Callable[[str, str, str], Seen]:
    """Libcurl with the functions of requests; it sends bytes alone."""

    def run(operation: str, url: str, file: str) -> Seen:
        from curl_cffi import CurlMime, requests

        with requests.Session(allow_redirects=follow) as session:
            if operation == "head":
                answer = session.head(url)
                return answer.status_code, answer.headers.get("Content-Length", "")
            if operation == "get":
                answer = session.get(url)
                Path(file).write_bytes(answer.content)
                return answer.status_code, ""
            if operation == "form":
                with contextlib.closing(CurlMime()) as form:
                    form.addpart(name="file", filename="value", local_path=file)
                    answer = session.put(url, multipart=form)
                return answer.status_code, answer.text
            answer = session.put(url, data=Path(file).read_bytes())
            if operation == "again":
                first = str(answer.status_code)
                answer = session.get(of_value(url))
                Path(file).write_bytes(answer.content)
                return answer.status_code, first
            return answer.status_code, answer.text

    return run


def pycurl(follow: bool, expect: bool = True) -> Callable[[str, str, str], Seen]:
    """Libcurl; it sends Expect: 100-continue with a large body unless it is told not to."""

    def run(operation: str, url: str, file: str) -> Seen:
        import pycurl

        said: list[bytes] = []
        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.FOLLOWLOCATION, follow)
        curl.setopt(pycurl.WRITEFUNCTION, said.append)
        if not expect:
            curl.setopt(pycurl.HTTPHEADER, ["Expect:"])
        with open(file, "a+b") as source:
            source.seek(0)
            if operation in ("put", "stream"):
                curl.setopt(pycurl.UPLOAD, True)
                curl.setopt(pycurl.READDATA, source)
                if operation == "put":
                    curl.setopt(pycurl.INFILESIZE_LARGE, os.path.getsize(file))
            elif operation == "head":
                curl.setopt(pycurl.NOBODY, True)
            elif operation == "form":
                curl.setopt(pycurl.HTTPPOST, [("file", (pycurl.FORM_FILE, file))])
                curl.setopt(pycurl.CUSTOMREQUEST, "PUT")
            curl.perform()
        if operation == "get":
            Path(file).write_bytes(b"".join(said))
            said.clear()
        if operation == "head":
            said = [str(int(curl.getinfo(pycurl.CONTENT_LENGTH_DOWNLOAD))).encode()]
        return curl.getinfo(pycurl.RESPONSE_CODE), b"".join(said).decode()

    return run


CLIENTS = {
    "requests": requests_like("requests"),
    "niquests": requests_like("niquests"),
    "httpx": httpx(False),
    "httpx-follow": httpx(True),
    "httpx-bytes": httpx(True, as_bytes=True),
    "httpx2": httpx(False, name="httpx2"),
    "httpx2-follow": httpx(True, name="httpx2"),
    "http.client": http_client,
    "curl_cffi": curl_cffi(True),
    "curl_cffi-plain": curl_cffi(False),
    "aiohttp": aiohttp(False),
    "aiohttp-expect": aiohttp(True),
    "urllib3": urllib3(False),
    "urllib3-length": urllib3(True),
    "urllib": urllib_request,
    "pycurl": pycurl(False),
    "pycurl-follow": pycurl(True),
    "pycurl-follow-unexpecting": pycurl(True, expect=False),
}


def main(client: str, operation: str, url: str, file: str) -> None:
    """Do it, and say how it looked."""
    try:
        status, said = CLIENTS[client](operation, url, file)
        seen = {"status": status, "said": said}
    except Exception as error:  # noqa: BLE001  what a user of this client would see is the result
        seen = {"status": getattr(error, "code", None), "said": f"{type(error).__name__}: {error}"}
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
