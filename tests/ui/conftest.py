"""Fixtures of the web page's tests.

| fixture     | what                                                                                          |
| ----------- | --------------------------------------------------------------------------------------------- |
| `browser`   | Chromium, for the session                                                                     |
| `site`      | the address of the shared cluster, which asks for no token                                     |
| `page`      | a page of `site`; the test fails when the page has an error or asks another server             |
| `watch`     | of that page: `watch.expected.append("403")` for an error that the test provokes               |
| `plain`     | the same page without scripts                                                                  |
| `guarded`   | a cluster with tokens, for the module: `guarded.make("name", ["read:"])` makes one             |
| `log_in`    | `log_in(token)`: a page of that cluster with a session                                         |
| `workshop`  | a cluster of one node with the scripts of `job_scripts.py`, for the session: a `Desk`          |
| `job_page`, `job_watch`, `plain_job_page` | as `page`, `watch` and `plain`, of that cluster                  |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from ops.cluster import Cluster, Installation, Rabbit
from tests.integration.jobs_tools import Desk, write_scripts
from tests.integration.tokens_tools import Keys
from tests.support import Clusters
from tests.ui import job_scripts
from tests.ui.browser import PROGRAM, WAIT_MS, Watch, launch, open_page

pytest.importorskip("playwright")
from playwright.sync_api import Browser, Page, expect, sync_playwright

expect.set_options(timeout=WAIT_MS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if PROGRAM is None:
        for item in items:
            if "tests/ui" in str(item.path):
                item.add_marker(pytest.mark.skip(reason="needs Debian's chromium"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = launch(playwright)
        yield found
        found.close()


@pytest.fixture(scope="session")
def site(cluster: Cluster) -> str:
    return cluster.master_url


@pytest.fixture
def _opened(browser: Browser, site: str) -> Iterator[tuple[Page, Watch]]:
    with open_page(browser, site) as opened:
        yield opened
        opened[1].check()


@pytest.fixture
def page(_opened: tuple[Page, Watch]) -> Page:
    return _opened[0]


@pytest.fixture
def watch(_opened: tuple[Page, Watch]) -> Watch:
    return _opened[1]


@pytest.fixture
def plain(browser: Browser, site: str) -> Iterator[Page]:
    with open_page(browser, site, java_script_enabled=False) as (page, watch):
        yield page
        watch.check()


@pytest.fixture(scope="module")
def guarded(make_shared_cluster: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("tokens") / "tokens")
    made.start(make_shared_cluster)
    made.settle()
    return made


@pytest.fixture
def log_in(browser: Browser, guarded: Keys) -> Iterator[Callable[[str], Page]]:
    with ExitStack() as stack:
        watches: list[Watch] = []

        def opened(token: str) -> Page:
            page, watch = stack.enter_context(open_page(browser, guarded.cluster.master_url))
            watch.expected.append("403 (Forbidden)")
            watches.append(watch)
            page.goto("/ui/login")
            page.get_by_label("Token").fill(token)
            page.get_by_role("button", name="Log in").click()
            page.wait_for_url(lambda url: "/login" not in url)
            return page

        yield opened
        for watch in watches:
            watch.check()


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, rabbit: Rabbit, installation: Installation) -> Iterator[Desk]:
    scripts = write_scripts(tmp_path_factory.mktemp("scripts"), job_scripts.SCRIPTS)
    clusters = Clusters(tmp_path_factory.mktemp("workshop"), lambda: rabbit, installation)
    secrets = tmp_path_factory.mktemp("secrets") / "secrets"
    secrets.touch(0o600)
    secrets.write_text(f"[shop]\nDB = {job_scripts.SECRET}\n")
    env = {"PULZAR_JOBS_DIR": str(scripts), "PULZAR_JOBS_SLOTS": "3", "PULZAR_JOBS_GRACE": "1"}
    env["PULZAR_JOBS_SECRETS"] = str(secrets)
    try:
        desk = Desk(clusters(nodes=1, env=env), [scripts])
        desk.wait_for_catalog(job_scripts.SCRIPTS, [0])
        yield desk
    finally:
        clusters.close()


@pytest.fixture
def _job_page(browser: Browser, workshop: Desk) -> Iterator[tuple[Page, Watch]]:
    with open_page(browser, workshop.cluster.master_url) as opened:
        yield opened
        opened[1].check()


@pytest.fixture
def job_page(_job_page: tuple[Page, Watch]) -> Page:
    return _job_page[0]


@pytest.fixture
def job_watch(_job_page: tuple[Page, Watch]) -> Watch:
    return _job_page[1]


@pytest.fixture
def plain_job_page(browser: Browser, workshop: Desk) -> Iterator[Page]:
    with open_page(browser, workshop.cluster.master_url, java_script_enabled=False) as (page, watch):
        yield page
        watch.check()
