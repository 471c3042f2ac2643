"""The first screen: nodes, numbers, what is wrong, the page of a node."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from ops.cluster import Cluster


def test_the_first_screen_shows_nodes_and_numbers(page: Page) -> None:
    page.goto("/")
    expect(page).to_have_url(re.compile(r"/ui/$"))
    expect(page.get_by_role("heading", name="Cluster")).to_be_visible()
    expect(page.get_by_role("link", name="node-1")).to_be_visible()
    expect(page.get_by_text("in synch").first).to_be_visible()
    expect(page.get_by_text("pulzar.dead", exact=True)).to_be_visible()


def test_a_node_has_a_page_with_curves(page: Page, cluster: Cluster) -> None:
    page.goto("/ui/")
    page.get_by_role("link", name="node-2").click()
    expect(page.get_by_role("heading", name="node-2")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^Memory: [0-9]+ % now")).first).to_be_visible()
    expect(page.get_by_text("A node that is heard from can't be forgotten.")).to_be_visible()
    page.get_by_role("link", name="Cluster").first.click()
    expect(page.get_by_role("heading", name="Cluster")).to_be_visible()


def test_the_page_works_without_scripts(plain: Page) -> None:
    plain.goto("/ui/")
    expect(plain.get_by_role("link", name="node-1")).to_be_visible()
    plain.get_by_role("link", name="node-1").click()
    expect(plain.get_by_role("heading", name="node-1")).to_be_visible()
    expect(plain.locator("time").first).to_contain_text("UTC")


def test_parts_are_asked_for_again_and_only_changes_are_sent(page: Page) -> None:
    page.goto("/ui/")
    with page.expect_response(lambda response: response.url.endswith("/ui/cluster/now")) as first:
        pass
    assert first.value.status == 200
    tag = first.value.headers["etag"]
    with page.expect_request(lambda request: request.url.endswith("/ui/cluster/now")) as second:
        pass
    assert second.value.headers["if-none-match"] == tag
    # What has been put in leads where the page itself did.
    page.get_by_role("link", name="node-1").click()
    page.wait_for_url("**/ui/nodes/node-1")


def test_the_theme_is_kept(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    page.goto("/ui/")
    page.get_by_role("button", name="Light or dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_an_error_is_a_page(page: Page, watch: object) -> None:
    watch.expected.append("404")  # type: ignore[attr-defined]
    page.goto("/ui/nodes/<script>alert(1)")
    expect(page.get_by_role("alert")).to_contain_text("No node is called")
    expect(page.get_by_role("alert")).to_contain_text("<script>alert(1)")
