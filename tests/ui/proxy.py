"""A reverse proxy that serves a master below a path, as an operator's does: it takes the path away, and keeps the Host."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_OF_ONE_HOP = ("connection", "keep-alive", "transfer-encoding", "upgrade", "te")


@contextmanager
def below(path: str, master: str) -> Iterator[str]:
    """The origin of a proxy in front of the master at `master`, which answers below `path`, like `/tools/pulzar`."""
    upstream = urlsplit(master).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            if not self.path.startswith(f"{path}/"):
                self.send_error(404, "this is outside of the proxy's path")
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _OF_ONE_HOP}
            connection = http.client.HTTPConnection(upstream, timeout=60)
            connection.request(self.command, self.path[len(path) :], body or None, headers)
            response = connection.getresponse()
            content = response.read()
            self.send_response_only(response.status)
            for name, value in response.getheaders():
                if name.lower() not in (*_OF_ONE_HOP, "content-length"):
                    self.send_header(name, value)
            if response.status not in (204, 304):
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            connection.close()

        do_GET = do_POST = do_PUT = do_HEAD = pass_on

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
