"""Debian's Chromium without a window, told what to do by the DevTools protocol over a pipe, and pages for it.

Needs nothing but the browser: no driver, no WebSocket.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium")
SECS = 60  # for one thing that the browser does
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
    # A name of somebody else that leads here, as DNS rebinding has it.
    "--host-resolver-rules=MAP evil.example 127.0.0.1",
)


class Chromium:
    """One browser with one page. `directory` is for its profile."""

    def __init__(self, directory: Path) -> None:
        assert PROGRAM
        their_input, self._input = os.pipe()
        self._output, their_output = os.pipe()
        os.set_inheritable(their_input, True)
        os.set_inheritable(their_output, True)
        command = [PROGRAM, *_OPTIONS, f"--user-data-dir={directory / 'profile'}", "about:blank"]
        # The protocol has the numbers 3 and 4.
        redirected = f'exec "$@" 3<&{their_input} 4>&{their_output}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirected, "bash", *command],
            pass_fds=(their_input, their_output),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_input)
        os.close(their_output)
        self._received = b""
        self._number = 0
        self._session = ""
        # A browser that hangs is ended, and then the pipe is at its end.
        self._watchdog = threading.Timer(SECS, self._end)
        self._watchdog.start()
        target = next(one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        self._target = target["targetId"]
        attached = self.call("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session = attached["sessionId"]
        self.call("Page.enable")
        self.call("Runtime.enable")

    def close(self) -> None:
        """End the browser."""
        self._end()
        self._watchdog.cancel()
        os.close(self._input)
        os.close(self._output)

    def _end(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one command; fails when the browser refuses it."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._input, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is there."""
        self.call("Page.navigate", url=url)
        while self._message().get("method") != "Page.loadEventFired":
            continue

    def run(self, script: str) -> Any:
        """What an asynchronous function with this body returns in the page."""
        self._watchdog.cancel()
        self._watchdog = threading.Timer(SECS, self._end)
        self._watchdog.start()
        answer = self.call(
            "Runtime.evaluate", expression=f"(async () => {{ {script} }})()", awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def frames(self) -> list[str]:
        """What stands in the frames of other sites in the page; each has a process, and a target, of its own."""
        shown = []
        own = self._session
        for target in self.call("Target.getTargets")["targetInfos"]:
            if target["type"] == "iframe":
                self._session = own
                attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
                self._session = attached["sessionId"]
                shown.append(self.run("return document.URL + ' ' + document.documentElement.textContent"))
        self._session = own
        return shown

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            piece = os.read(self._output, 1 << 16)
            assert piece, "the browser has ended"
            self._received += piece
        message, _, self._received = self._received.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def site() -> Iterator[int]:
    """A site with an empty page at every path; gives its port."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<!doctype html><title>a page</title>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
