"""What holds for every screen that `screenshots.SCREENS` lists, so for new ones, too.

axe-core finds nothing serious, in light and dark. The keyboard reaches everything. A page is small, needs nothing from
elsewhere, fits a phone, and works below a path of a proxy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, expect

from ops.cluster import Cluster
from tests.integration.wire import Client, good
from tests.support import unique
from tests.ui import screenshots
from tests.ui.browser import PHONE, Watch, open_page
from tests.ui.proxy import below

AXE = Path(__file__).parent / "axe-4.14.1.min.js"  # https://registry.npmjs.org/axe-core, MPL-2.0, as it was published
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
MOST_BYTES = 150_000  # of a first visit, all its files with it
MOST_REACHED = 40  # by the keyboard, of a long page: its rows are alike
PATH = "/tools/pulzar"
VALUES = ("/ui/keys/value", "/get_key/")  # a value that is shown is no part of the page
SERIOUS = ("serious", "critical")
# What a visitor can do something with, and sees.
FOCUSABLE = """most => [...document.querySelectorAll(
    'a[href], button, input:not([type=hidden]), select, textarea, summary, audio[controls], video[controls]')]
  .filter(one => !one.disabled && one.checkVisibility({visibilityProperty: true}) && one.tabIndex >= 0)
  .filter(one => one.type !== 'radio' || one.checked
    || !document.querySelector(`input[type=radio][name="${CSS.escape(one.name)}"]:checked`))
  .slice(0, most).map(one => { one.dataset.reached = 'no'; return one.outerHTML.slice(0, 120); })"""
TAB = """() => { const one = document.activeElement;
  if (one.dataset.reached) one.dataset.reached = 'yes';
  return !document.querySelector('[data-reached=no]'); }"""
MISSED = """() => [...document.querySelectorAll('[data-reached=no]')].map(one => one.outerHTML.slice(0, 160))"""
ADDRESSES = """() => [...document.querySelectorAll('[href], [src], [action], [formaction], [hx-get], [hx-post]')]
  .filter(one => !/^https?:|^#|^data:|^mailto:/.test(one.getAttribute('href') || ''))
  .flatMap(one => ['href', 'src', 'action', 'formaction', 'hx-get', 'hx-post']
    .filter(name => one.hasAttribute(name)).map(name => new URL(one.getAttribute(name), document.baseURI).pathname))"""


@pytest.fixture(scope="session")
def filled(cluster: Cluster) -> str:
    """The address of the shared cluster, with something on each screen."""
    screenshots.fill(cluster.master_url)
    screenshots.bury(cluster.broker_url)
    return cluster.master_url


@pytest.fixture
def visit(browser: Browser, filled: str) -> Iterator[tuple[Page, Watch]]:
    """A page of it in a browser that has seen nothing yet."""
    with open_page(browser, filled, color_scheme="light", reduced_motion="reduce") as (page, watch):
        watch.expected.append("404 (Not Found)")  # of the screen of an error
        yield page, watch
        watch.check()


def go(page: Page, path: str) -> None:
    page.goto(path)
    expect(page.get_by_role("heading").first).to_be_visible()


def findings(page: Page, **options: Any) -> list[str]:
    """What axe-core finds serious."""
    if not page.evaluate("() => typeof window.axe === 'object'"):
        page.evaluate(AXE.read_text())  # not as a script of the page, whose policy forbids it
    found = page.evaluate("options => axe.run(document, options)", {"resultTypes": ["violations"], **options})
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:160] for node in one['nodes'][:3]]}"
        for one in found["violations"]
        if one["impact"] in SERIOUS
    ]


@pytest.mark.parametrize("name", screenshots.SCREENS)
def test_a_screen(visit: tuple[Page, Watch], name: str) -> None:
    # Given a first visit, whose files are counted
    page, _ = visit
    asked: list[Request] = []
    page.on("requestfinished", lambda request: asked.append(request))
    go(page, screenshots.SCREENS[name])
    asked = [request for request in asked if not any(part in request.url for part in VALUES)]
    sizes = [request.sizes() for request in asked]
    assert sum(each["responseBodySize"] + each["responseHeadersSize"] for each in sizes) < MOST_BYTES, [
        (request.url, each["responseBodySize"]) for request, each in zip(asked, sizes, strict=True)
    ]
    # Then axe-core finds nothing serious, in light or dark
    assert findings(page) == []
    page.emulate_media(color_scheme="dark")
    assert findings(page, runOnly=["color-contrast"]) == []
    # And the keyboard reaches all that can be used
    expected = page.evaluate(FOCUSABLE, MOST_REACHED)
    for _ in range(2 * len(expected) + 20):
        page.keyboard.press("Tab")
        if page.evaluate(TAB):
            break
    assert page.evaluate(MISSED) == []
    # And it fits a phone
    page.set_viewport_size(PHONE)
    wide = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0


def test_all_screens_work_below_a_path_of_a_proxy(browser: Browser, filled: str) -> None:
    # Given a proxy that serves the master below a path
    with below(PATH, filled) as origin, open_page(browser, origin) as (page, watch):
        watch.expected.append("404 (Not Found)")
        outside: list[str] = []
        failed: list[str] = []
        page.on("request", lambda request: None if f"{origin}{PATH}/" in request.url else outside.append(request.url))
        page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 500 else None)
        # Then no screen leads elsewhere
        for path in screenshots.SCREENS.values():
            page.goto(f"{PATH}{path}")
            expect(page.get_by_role("heading").first).to_be_visible()
            wrong = [found for found in page.evaluate(ADDRESSES) if not found.startswith(f"{PATH}/")]
            assert not wrong, (path, wrong)
        # And a change leads back to where it was made
        folder = unique()
        with Client(filled) as master:
            good(master.put(f"{folder}/a.txt", b"x"), 201)
        page.goto(f"{PATH}/ui/keys?prefix={folder}/")
        page.get_by_role("link", name="a.txt", exact=True).click()
        page.get_by_role("button", name="Delete").first.click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(page.get_by_text(f"deleted {folder}/a.txt")).to_be_visible()
        assert page.url.startswith(f"{origin}{PATH}/ui/")
        # The browser asks for the icon of the whole site by itself
        assert [url for url in outside if not url.endswith("/favicon.ico")] == []
        assert not failed
        watch.check()


def test_axe_is_as_it_was_published() -> None:
    assert hashlib.sha256(AXE.read_bytes()).hexdigest() == AXE_SHA256
