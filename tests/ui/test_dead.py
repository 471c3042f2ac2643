"""The screen of dead letters: why, what, send again, edit, drop."""

from __future__ import annotations

import json
import queue
import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from broker import topology
from broker.link import Delivery, Link
from ops.cluster import Cluster
from tests.integration.wire import Client, good
from tests.support import unique, wait_for

EVIL = "<img src=x onerror=document.title=1>"
Bury = Callable[..., None]


@pytest.fixture(scope="module")
def link(cluster: Cluster) -> Iterator[Link]:
    made = Link(cluster.broker_url, "test", list)
    made.start()
    assert made.wait(30)
    yield made
    made.stop()


@pytest.fixture
def bury(link: Link) -> Bury:
    def put(body: bytes, reason: str, name: str = topology.JOBS, **headers: object) -> None:
        there: queue.Queue[None] = queue.Queue()
        delivery = Delivery(body, name, tag=0, connection=0, headers=headers, redelivered=False)
        link.bury(delivery, reason, lambda: there.put(None))
        there.get(timeout=30)

    return put


def open_list(page: Page, text: str) -> None:
    """The list, with a message in it. Other tests have theirs in it, too."""
    page.goto("/ui/dead")
    expect(page.get_by_role("link", name=text).first).to_be_visible()


def test_a_job_is_put_right_and_runs(page: Page, cluster: Cluster, link: Link) -> None:
    # Given a job by hand with a mistake
    reason = unique()
    link.publish(topology.JOBS, b'{"job": "example/factorial", "%s": 1}' % reason.encode(), durable=True)
    with Client(cluster.master_url) as master:
        wait_for(lambda: reason in str(good(master.request("GET", "/admin/dead?limit=500"))), what="the message")
        page.goto("/ui/")
        page.get_by_role("link", name=re.compile("could not be used")).first.click()
        page.get_by_role("link", name=reason).click()
        expect(page.get_by_text("pulzar.jobs").first).to_be_visible()
        page.get_by_label("Put it right here").fill('{"job": "example/factorial",\n "arguments": {"number": 4}}')
        page.get_by_role("button", name="Send it so").click()
        expect(page.get_by_text("sent 1 message")).to_be_visible()
        expect(page.get_by_role("link", name=reason)).to_have_count(0)
        wait_for(
            lambda: (
                {"number": 4}
                in [json.loads(job["parameters"]) for job in good(master.request("GET", "/admin/all_jobs?limit=100"))]
            ),
            what="the job",
        )


def test_several_are_dropped_after_a_question(page: Page, bury: Bury) -> None:
    word = unique("why")
    for number in range(3):
        bury(b"one of several", f"{word} {number}")
    open_list(page, f"{word} 2")
    for number in (0, 2):
        page.get_by_role("row", name=f"{word} {number}").get_by_role("checkbox").check()
    page.get_by_role("button", name="Drop").click()
    page.get_by_role("dialog").get_by_role("button", name="Drop").click()
    expect(page.get_by_text("dropped 2 messages")).to_be_visible()
    expect(page.get_by_role("link", name=f"{word} 1")).to_be_visible()
    expect(page.get_by_role("link", name=f"{word} 0")).to_have_count(0)


def test_without_scripts_a_message_is_sent_and_what_can_not_be_says_why(plain: Page, bury: Bury) -> None:
    word = unique("why")
    bury(b'{"job": "%s"}' % word.encode(), f"{word} sent")
    bury(b"stale", f"{word} stale", topology.HEARTBEATS)
    open_list(plain, f"{word} sent")
    for name in ("sent", "stale"):
        plain.get_by_role("row", name=f"{word} {name}").get_by_role("checkbox").check()
    plain.get_by_role("button", name="Send again").click()
    expect(plain.get_by_role("heading", name="Send 2 messages again?")).to_be_visible()
    plain.get_by_role("button", name="Send again").click()
    expect(plain.get_by_role("alert")).to_contain_text("sent 1 message, and 1 not: messages of pulzar.heartbeats")
    expect(plain.get_by_role("link", name=f"{word} stale")).to_be_visible()


def test_nothing_of_a_message_is_a_part_of_the_page(page: Page, bury: Bury) -> None:
    word = unique("why")
    bury(EVIL.encode(), f"{word} {EVIL}", EVIL, **{EVIL: EVIL})
    open_list(page, word)
    expect(page.get_by_role("row", name=word).locator("code")).to_have_text(EVIL)
    page.get_by_role("link", name=word).click()
    expect(page.get_by_role("alert")).to_contain_text(EVIL)
    expect(page.get_by_label("Put it right here")).to_have_value(EVIL)
    assert page.locator("main img").count() == 0
    assert "Dead" in page.title() or "dead" in page.title()


def test_an_administrator_alone_sees_them(guarded: object, log_in: Callable[[str], Page]) -> None:
    token = guarded.make("watcher", ["metrics"])  # type: ignore[attr-defined]
    guarded.settle()  # type: ignore[attr-defined]
    page = log_in(token)
    page.goto("/ui/dead")
    expect(page.get_by_role("alert")).to_contain_text("lacks the right admin")
