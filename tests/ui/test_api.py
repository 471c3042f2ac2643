"""The screen of the API: every route, the search, what each of them needs."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from master.web.ui import api_document


def test_every_route_is_there_also_without_scripts(plain: Page) -> None:
    plain.goto("/ui/api")
    expect(plain.get_by_text(f"{len(api_document.operations())} routes")).to_be_visible()
    assert plain.locator("details.route").count() == len(api_document.operations())
    plain.get_by_label("Routes with these words").fill("undelete")
    plain.keyboard.press("Enter")
    expect(plain.locator("details#undeleteKey")).to_contain_text("write:KEY")
    expect(plain.locator("details#undeleteKey")).to_contain_text("curl -X POST")


def test_the_search_follows_the_typing_and_stands_in_the_address(page: Page) -> None:
    page.goto("/ui/api")
    page.get_by_label("Routes with these words").press_sequentially("cancel_job")
    expect(page.get_by_role("status")).to_have_text("1 route")
    expect(page).to_have_url(re.compile(r"/ui/api\?q=cancel_job$"))
    expect(page.locator("details[open]")).to_contain_text("Cancel a job or a schedule")
    expect(page.get_by_role("button", name="Copy")).to_be_visible()
    page.get_by_label("Routes with these words").fill("<script>x")
    expect(page.get_by_text("No route has these words.")).to_be_visible()
    page.get_by_role("link", name="Show all").click()
    expect(page).to_have_url(re.compile(r"/ui/api$"))
