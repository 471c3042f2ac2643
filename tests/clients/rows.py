"""The table of clients, as data: which client, in which way of sending, meets what. docs/clients.md is made from it.

| word   | what happens                                                                            |
| ------ | --------------------------------------------------------------------------------------- |
| ok     | the value is stored as it was sent, or read as it is stored, and the client is told so  |
| 307    | the user gets the redirect itself; nothing is stored                                    |
| 400 …  | the user gets that status; nothing is stored, and an old value is as it was             |
| EPIPE  | the user gets any word for a broken connection                                          |
| wrong  | another value than was sent is stored (or read), and nobody is told                     |
| empty  | the same, and it has no bytes                                                           |
| tail   | the same, and it is the end of what was sent                                            |
| hangs  | no end within the time limit                                                            |
| error  | the user gets an error of another kind                                                  |

In a row, `–` stands for what this client can't do, and `a|b` for what may be the one or the other.
"""

from __future__ import annotations

from typing import NamedTuple

NONE = "–"


class Column(NamedTuple):
    """What is tried: an operation of the drivers, with a value of so many bytes."""

    title: str
    operation: str
    size: int
    route: str = "add_key"
    exists: bool = False  # the key has a value already
    relay: bool = False  # on a master whose relay limit is below this size
    odd: bool = False  # the key has what must be percent-encoded
    proxy: bool = False  # the environment names a proxy, which answers 502

    @property
    def reads(self) -> bool:
        """Reads a value, else stores one."""
        return self.route == "get_key"


SMALL, LARGE, LARGER = 20_000, 2 << 20, 24 << 20  # bytes
RELAY = "8M"  # the lowered limit
TOLD = 201

COLUMNS = {
    "1": Column("PUT 20 KB", "put", SMALL),
    "2": Column("PUT 2 MiB", "put", LARGE),
    "24": Column("PUT 24 MiB", "put", LARGER),
    "3": Column("a stream of unknown length, 2 MiB", "stream", LARGE),
    "N": Column("the same to `PUT /get_node`", "stream", LARGE, route="get_node"),
    "F": Column("multipart/form-data, 2 MiB", "form", LARGE),
    "4": Column("GET 2 MiB", "get", LARGE, route="get_key"),
    "5": Column("GET of a part, resume", "resume", LARGE, route="get_key"),
    "6s": Column("PUT of an existing key, 20 KB", "put", SMALL, exists=True),
    "6l": Column("PUT of an existing key, 24 MiB", "put", LARGER, exists=True),
    "7": Column("PUT of an empty file", "put", 0),
    "L": Column("PUT of a value above `[server] relay`", "put", LARGER, relay=True),
    "K": Column("PUT to a key with `%`, `+`, `#`, `?`, a space and quotes, percent-encoded", "put", SMALL, odd=True),
    "H": Column("HEAD of 2 MiB: the size", "head", LARGE, route="get_key"),
    "A": Column(
        "PUT of 24 MiB that is refused early with 409, then GET, by the same client", "again", LARGER, exists=True
    ),
    "P": Column("`http_proxy` in the environment: 502 is that proxy's answer", "put", SMALL, proxy=True),
}


class Row(NamedTuple):
    """A client with one way of sending."""

    title: str
    driver: str  # of programs.DRIVERS
    client: str  # what the driver knows it by
    words: str  # what is wanted, a word for each column
    note: str = ""
    quick: bool = False  # also part of the normal run
    cors: bool = False  # a page of the one origin that `[server] cors` names

    @property
    def name(self) -> str:
        """Short and unique, for tests."""
        return f"{self.driver}-{self.client}" + ("-cors" if self.cors else "")

    @property
    def wanted(self) -> dict[str, str]:
        """Of each column that this client can do: the word, or several with `|` between them."""
        found = dict(zip(COLUMNS, self.words.split(), strict=True))
        return {column: word for column, word in found.items() if word != NONE}


ROWS = [
    #    title, driver, client                                       1  2   24  3   N   F   4   5  6s  6l  7  L  K  H  A  P
    Row("curl 7.88 `-L -T`", "tools", "curl",                      "ok ok  ok  ok  ok  400 ok  ok 409 409 ok ok ok ok ok 502", quick=True),
    Row("curl `-T`", "tools", "curl-plain",                        "ok 307 307 ok  307 400 307 –  409 409 ok 307 ok ok – 502",
        "sends `Expect`, and does not follow without `-L`: exit status 0, `\"status\": \"ko\"`"),
    Row("curl `-L -H Expect: -T`", "tools", "curl-unexpecting",    "ok ok  ok  ok  ok  400 –   –  409 409 ok ok ok – ok –", quick=True),
    Row("curl `-L -X PUT --data-binary`", "tools", "curl-data",    "ok ok  ok  –   –   –   –   –  409 409 ok ok ok – – –"),
    Row("curl `-L -C 1000 -T`", "tools", "curl-range",             "400 400 400 –  –   –   –   –  –   –   –  – – – – –",
        "a part of a value is refused", quick=True),
    Row("curl `-L -C - -T`", "tools", "curl-continue",             "ok ok  ok  –   –   –   –   –  409 409 –  ok ok – – –"),
    Row("wget 1.21 `--method=PUT --body-file`", "tools", "wget",   "ok ok  ok  –   –   –   ok  ok 409 409 ok ok ok ok – 502"),
    Row("wget2 1.99", "tools", "wget2",                            "–  –   –   –   –   –   ok  ok –   –   –  – – – – –", "can't PUT"),
    Row("wget2 `--chunk-size`", "tools", "wget2-chunks",           "–  –   –   –   –   –   hangs – – –   –  – – – – –",
        "it asks again and again for a redirected part, with any server; without `--chunk-size` it is right"),
    Row("HTTPie 3.2 `PUT … @file`, `--chunked`", "tools", "httpie", "ok ok ok  ok  ok  400 ok  ok 409 409 ok 307 ok ok – 502",
        "`--download` follows by itself"),
    Row("HTTPie `--follow`", "tools", "httpie-follow",             "ok ok  ok  ok  ok  400 ok  ok 409 409 ok ok ok ok – 502"),
    Row("aria2 1.36", "tools", "aria2",                            "–  –   –   –   –   –   ok  ok –   –   –  – – – – –"),
    Row("aria2 `-x4 -k1M`", "tools", "aria2-parts",                "–  –   –   –   –   –   ok  –  –   –   –  – – – – –"),
    Row("lftp 4.9 `put -O`", "tools", "lftp",                      "ok ok  ok  –   –   –   ok  ok 409 409 ok 307 – – – –"),
    Row("lftp `pget -n4`", "tools", "lftp-parts",                  "–  –   –   –   –   –   ok  –  –   –   –  – – – – –"),
    Row("rclone 1.60 `copyurl`", "tools", "rclone",                "–  –   –   –   –   –   ok  –  –   –   –  – – – – –"),
    Row("rclone `copyto :http:`", "tools", "rclone-http",          "–  –   –   –   –   –   ok  –  –   –   –  – – – – –"),

    Row("requests 2.34, file, generator", "here", "requests",      "ok ok  ok  ok  ok  400 ok  ok 409 409 ok ok ok ok ok 502", quick=True),
    Row("niquests 3.21, file, generator", "niquests", "niquests",    "ok ok  ok  ok  ok  400 ok  ok 409 409 ok ok ok ok ok 502"),
    Row("httpx 0.28, file, generator", "python", "httpx",          "ok ok  ok  ok  ok  400 307 –  409 409 ok 307 ok ok ok 502",
        "does not follow unless it is told to; `.content` of a GET is the text of the redirect, or empty"),
    Row("httpx `follow_redirects`, file", "python", "httpx-follow", "ok ok ok  ok  ok  400 ok  –  409 409 ok error ok ok – 502",
        "follows, but does not rewind the file"),
    Row("httpx `follow_redirects`, bytes", "python", "httpx-bytes", "ok ok ok  –   –   –   –   –  409 409 ok ok ok – – –"),
    Row("httpx2 2.16, file, generator", "python", "httpx2",        "ok ok  ok  ok  ok  400 307 –  409 409 ok 307 ok ok ok 502"),
    Row("httpx2 `follow_redirects`, file", "python", "httpx2-follow", "ok ok ok ok ok  400 ok  –  409 409 ok error ok ok – 502"),
    Row("aiohttp 3.14, file, generator", "python", "aiohttp",      "ok ok  ok  ok  ok  400 ok  –  409 409 ok ok ok ok ok ok"),
    Row("aiohttp `expect100`", "python", "aiohttp-expect",         "ok ok  ok  ok  ok  400 –   –  409 409 ok ok ok – – –"),
    Row("urllib3 2.8, file, generator", "python", "urllib3",       "ok ok  ok  ok  ok  400 ok  –  409 409 ok ok ok ok ok ok",
        "sends a file as chunks, which are relayed whatever their size"),
    Row("urllib3, file with a Content-Length", "python", "urllib3-length", "ok ok ok – –  –   –   –  409 409 ok 408|error ok – – –",
        "follows, but does not rewind the file"),
    Row("urllib.request of Python 3.11", "here", "urllib",         "ok ok  ok  ok  ok  –   ok  –  409 409 ok 307 ok ok – 502", quick=True),
    Row("http.client of Python 3.11", "here", "http.client",       "ok ok  ok  ok  ok  –   307 –  409 409 ok ok ok ok ok ok",
        "sends a file as chunks, which are relayed whatever their size", quick=True),
    Row("curl_cffi 0.17, bytes", "python", "curl_cffi",            "ok ok  ok  –   –   400 ok  –  409 409 ok ok ok ok ok 502"),
    Row("curl_cffi `allow_redirects=False`", "python", "curl_cffi-plain", "ok ok ok – – 400 307 –  409 409 ok 307 ok ok – 502"),
    Row("pycurl 7.49", "python", "pycurl",                         "ok 307 307 ok  307 400 307 –  409 409 ok 307 ok ok – 502",
        "sends `Expect`, and does not follow without `FOLLOWLOCATION`"),
    Row("pycurl `FOLLOWLOCATION`", "python", "pycurl-follow",      "ok ok  ok  ok  ok  400 ok  –  409 409 ok ok ok ok – 502"),
    Row("pycurl `FOLLOWLOCATION` without `Expect`", "python", "pycurl-follow-unexpecting",
                                                                   "ok ok  ok  ok  ok  400 –   –  409 409 ok error ok – – –",
        "error 65: it does not rewind the file"),

    Row("Node.js 20 `fetch`, Buffer, stream", "node", "fetch",     "ok ok  ok  ok  ok  400 ok  –  409 409 ok error ok ok ok ok",
        "`detached ArrayBuffer`: it gave the Buffer away with the first request", quick=True),
    Row("Node.js 20 `fetch`, Blob", "node", "fetch-blob",          "ok ok  ok  –   –   –   –   –  409 409 ok ok ok – – –"),
    Row("undici 7.30 `fetch`", "node", "undici",                   "ok ok  ok  ok  ok  400 ok  –  409 409 ok ok ok ok ok ok"),
    Row("undici `request`", "node", "undici-request",              "ok ok  ok  ok  ok  400 307 –  409 409 ok 307 ok ok ok ok"),
    Row("undici `request`, redirect interceptor", "node", "undici-request-follow", "ok ok ok ok ok 400 ok – 409 409 ok ok ok ok – ok"),
    Row("node-fetch 3.3, Buffer, stream", "node", "node-fetch",    "ok ok  ok  ok  ok  400 ok  –  409 409 ok ok ok ok ok ok"),
    Row("node-fetch, Blob", "node", "node-fetch-blob",             "ok ok  ok  –   –   –   –   –  409 409 ok ok ok – – –"),
    Row("ky 1.14, Buffer, stream", "node", "ky",                   "ok ok  ok  ok  ok  400 ok  –  409 409 ok error ok ok – ok", "as `fetch`"),
    Row("axios 1.21, Buffer, stream", "node", "axios",             "ok ok  ok  ok  ok  400 ok  –  409 409 ok ok ok ok ok 502"),
    Row("axios, stream with a Content-Length", "node", "axios-stream", "ok ok ok –  –   –   –   –  409 409 ok ok ok – – –"),
    Row("got 14.6, Buffer, stream", "node", "got",                 "ok ok  ok  ok  ok  400 ok  –  409 409 ok ok ok ok ok ok"),
    Row("got, stream with a Content-Length", "node", "got-stream", "ok ok  ok  –   –   –   –   –  409 409 ok ok ok – – –"),
    Row("superagent 10.4, `send`, `pipe`", "node", "superagent",   "ok ok  ok  ok  ok  400 ok  –  409 409 ok ok ok ok – ok"),
    Row("needle 3.5, Buffer, stream", "node", "needle",            "ok ok  ok  ok  ok  400 ok  –  409 409 ok 307 ok ok – 502"),
    Row("needle `follow_keep_method`", "node", "needle-follow",    "ok ok  ok  –   –   –   –   –  409 409 ok ok ok – – –"),
    Row("Node.js `http.request`", "node", "http",                  "ok ok  ok  ok  ok  –   –   –  409 409 ok 307 ok – – –"),

    Row("Java 17 HttpURLConnection", "java", "urlconnection",      "ok ok  ok  ok  ok  –   ok  –  409 409 ok ok ok ok – ok"),
    Row("HttpURLConnection, fixed length", "java", "urlconnection-fixed", "ok ok ok –  –   –   –   –  409 409 ok 307 ok – – –"),
    Row("Java 17 HttpClient, file, stream", "java", "httpclient",  "ok ok  ok  ok  ok  –   307 –  409 409 ok 307 ok ok ok ok"),
    Row("HttpClient `Redirect.NORMAL`", "java", "httpclient-follow", "ok ok ok ok  ok  –   ok  –  409 409 ok ok ok ok ok ok"),
    Row("HttpClient `expectContinue(true)`", "java", "httpclient-expect", "ok ok ok –  –   –   –   –  409 409 ok ok ok – – –"),
    Row("OkHttp 3.13", "java", "okhttp",                           "ok ok  ok  ok  ok  400 ok  –  409 409 ok 307 ok – – –"),
    Row("Apache HttpClient 5.2, file, stream", "java", "apache5",  "ok ok  ok  ok  ok  –   ok  –  409 409 ok ok ok – – –"),
    Row("Apache HttpClient 5.2 with `Expect`", "java", "apache5-expect", "ok ok ok –  –   –   –   –  409 409 ok ok ok – – –"),
    Row("Apache HttpClient 4.5, PUT follows", "java", "apache4",   "ok ok  ok  ok  ok  –   ok  –  409 409 ok ok ok – – –"),
    Row("Apache HttpClient 4.5 with `Expect`", "java", "apache4-expect", "ok ok ok –  –   –   –   –  409 409 ok ok ok – – –"),

    Row("Mono 6.8 WebClient.UploadFile", "mono", "webclient",      "ok ok  ok  –   –   –   ok  –  409 409 ok ok ok – – –"),
    Row("Mono HttpWebRequest", "mono", "webrequest",               "ok ok  ok  ok  ok  –   ok  –  409 409 ok ok ok – – –"),
    Row("Mono HttpWebRequest, unbuffered", "mono", "webrequest-unbuffered", "ok 307 307 ok 307|error – – – 409 409 ok 307|error ok – – –",
        "sends `Expect` with chunks, and can't send them twice"),
    Row("Mono HttpClient", "mono", "httpclient",                   "ok ok  ok  ok  ok  400 ok  –  409 409 ok ok ok ok ok 502"),
    Row("Mono HttpClient `ExpectContinue`", "mono", "httpclient-expect", "ok ok ok –  –   –   –   –  409 409 ok ok ok – – –"),
    Row(".NET Core 3.1 WebClient.UploadFile", "dotnet", "webclient", "ok ok ok  –   –   –   ok  –  409 409 ok ok ok – – –"),
    Row(".NET Core 3.1 HttpWebRequest", "dotnet", "webrequest",    "ok ok  ok  ok  ok  –   ok  –  409 409 ok ok ok – – –"),
    Row(".NET Core 3.1 HttpClient", "dotnet", "httpclient",        "ok ok  ok  ok  ok  400 ok  –  409 409 ok ok ok ok ok 502"),
    Row(".NET Core 3.1 HttpClient `ExpectContinue`", "dotnet", "httpclient-expect", "ok ok ok – – –   –   –  409 409 ok ok ok – – –"),

    Row("Go 1.19, os.File", "go", "file",                          "ok ok  ok  ok  ok  –   ok  –  409 409 ok ok ok ok ok ok",
        "sends a file as chunks, which are relayed whatever their size; takes no proxy for loopback addresses"),
    Row("Go, os.File with ContentLength", "go", "file-length",     "ok ok  ok  –   –   –   –   –  409 409 ok 307 ok – – –"),
    Row("Go, os.File with GetBody", "go", "file-again",            "ok ok  ok  –   –   –   –   –  409 409 ok ok ok – – –"),
    Row("Go, bytes.Reader", "go", "bytes",                         "ok ok  ok  –   –   –   –   –  409 409 ok ok ok – – –"),
    Row("Go, os.File with `Expect`", "go", "file-expect",          "ok 307 307 –   –   –   –   –  409 409 ok 307 ok – – –",
        "`Expect` with an empty file is sent with chunks"),
    Row("Ruby 3.1 Net::HTTP, open-uri", "ruby", "net",             "ok ok  ok  ok  ok  400 ok  –  409 409 ok 307 ok ok – ok",
        "takes no proxy for loopback addresses"),
    Row("Ruby Net::HTTP with `Expect`", "ruby", "expect",          "ok 307 307 –   –   –   –   –  409 409 ok 307 ok – – –"),
    Row("PHP 8.2 curl", "php", "curl",                             "ok 307 307 ok  307 400 ok  –  409 409 ok 307 ok ok – 502",
        "sends `Expect`, and does not follow without `CURLOPT_FOLLOWLOCATION`"),
    Row("PHP curl `FOLLOWLOCATION`", "php", "curl-follow",         "ok ok  ok  ok  ok  400 ok  –  409 409 ok ok ok – – –"),
    Row("PHP curl `FOLLOWLOCATION` without `Expect`", "php", "curl-follow-unexpecting",
                                                                   "ok ok  ok  ok  ok  400 –   –  409 409 ok error ok – – –",
        "error 65: it does not rewind the file"),
    Row("PHP 8.2 streams", "php", "streams",                       "ok ok  ok  –   –   –   ok  –  409 409 ok ok ok – – –"),
    Row("Perl LWP 6.68, content, callback", "perl", "lwp",         "ok ok  ok  ok  ok  400 ok  –  409 409 ok 307 ok ok – ok"),
    Row("LWP, PUT in `requests_redirectable`", "perl", "lwp-follow", "ok ok ok  ok  ok  400 ok  –  409 409 ok ok ok – – –"),
    Row("LWP, callback with a Content-Length", "perl", "lwp-callback", "ok ok ok –  –   –   –   –  409 409 ok 408 ok – – –",
        "follows, but the callback is at its end"),
    Row("R httr 1.4 `upload_file`", "r", "file",                   "ok ok  ok  –   –   400 ok  –  409 409 ok error ok ok – 502",
        "`necessary data rewind wasn't possible`"),
    Row("R httr, raw", "r", "raw",                                 "ok ok  ok  –   –   –   –   –  409 409 ok ok ok – – –"),
    Row("luasocket 3.1", "lua", "socket",                          "ok ok  ok  ok  ok  –   ok  –  409 409 ok 307 ok – – –"),

    Row("Chromium `fetch`", "chromium", "fetch",                   "ok ok  ok  –   –   400 ok  ok 409 409 ok ok ok ok ok –",
        "a ReadableStream as body needs HTTP/2"),
    Row("Chromium XMLHttpRequest", "chromium", "xhr",              "ok ok  ok  –   –   400 ok  ok 409 409 ok ok ok – – –"),
    Row("Chromium, GET /get_node, then PUT there", "chromium", "node", "ok ok ok –  –   –   –   –  409 409 ok ok ok – – –"),
    Row("Chromium `<audio>`, seeks", "chromium", "audio",          "–  –   –   –   –   –   –   ok –   –   –  – – – – –"),
    Row("Chromium `fetch`, `[server] cors` of one origin", "chromium", "fetch", "ok ok ok – –  400 ok  ok 409 409 ok – – – – –", cors=True),
    Row("Chromium XMLHttpRequest, the same", "chromium", "xhr",    "ok ok  ok  –   –   400 ok  ok 409 409 ok – – – – –", cors=True),
]  # fmt: skip

QUICK = ("1", "2", "3", "N", "F", "4", "6s", "7")  # columns of the normal run
