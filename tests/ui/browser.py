"""Debian's Chromium, driven by Playwright, and the rules that every page keeps: no error, no request elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, Playwright

PROGRAM = shutil.which("chromium")
WAIT_MS = 60_000  # for one thing in the browser; the machine may be busy
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}


def launch(playwright: Playwright) -> Browser:
    """The browser, without a window."""
    return playwright.chromium.launch(
        executable_path=PROGRAM, args=["--no-sandbox", "--disable-gpu", "--disable-quic"], timeout=WAIT_MS
    )


class Watch:
    """What went wrong in the pages of a context."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.errors: list[str] = []
        self.expected: list[str] = []  # parts of messages that a test provokes
        self.servers: set[str] = set()  # others that pages may ask, as host:port
        self._host = urlsplit(origin).netloc
        context.on("console", lambda message: self._note(message.type, message.text))
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("request", lambda request: self._request(request.url))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.errors.append(text)

    def _request(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob", "about", "chrome", "chrome-extension") and parts.netloc not in (
            self._host,
            *self.servers,
        ):
            self.errors.append(f"a request to {url}")

    def check(self) -> None:
        """Fails when a page had an error, or asked another server."""
        wrong = [error for error in self.errors if not any(part in error for part in self.expected)]
        assert not wrong, wrong


@contextmanager
def open_page(
    browser: Browser, origin: str, *, width: int = 1280, height: int = 900, **options: object
) -> Iterator[tuple[Page, Watch]]:
    """A new page of the site `origin`; `options` go to Playwright's context."""
    context = browser.new_context(base_url=origin, viewport={"width": width, "height": height}, **options)  # type: ignore[arg-type]
    context.set_default_timeout(WAIT_MS)
    watch = Watch(context, origin)
    try:
        yield context.new_page(), watch
    finally:
        context.close()
