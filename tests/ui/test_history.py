"""The screens of the history of jobs and of schedules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.integration.jobs_tools import Desk
from tests.ui.browser import Watch
from tests.ui.job_scripts import EVIL

ENDED = [EVIL, *("plain" for _ in range(5))]


@pytest.fixture(scope="module")
def ended(workshop: Desk) -> list[int]:
    """Jobs that have ended. The first one's arguments have markup."""
    numbers = [workshop.launch("shop/fail", {"note": note}) for note in ENDED]
    for number in numbers:
        workshop.until(number, "failed")
    return numbers


def rows(page: Page) -> Locator:
    return page.locator("tbody tr:not(.more)")


def test_the_history_is_filtered_and_loaded_on_also_without_scripts(
    ended: list[int], plain_job_page: Page, workshop: Desk
) -> None:
    page = plain_job_page
    page.goto("/ui/jobs/history?limit=4")
    page.get_by_label("Script").fill("shop/fail")
    page.get_by_label("State").select_option("failed")
    page.get_by_role("button", name="Filter").click()
    expect(page).to_have_url(re.compile(r"script=shop%2Ffail.*state=failed"))
    expect(rows(page)).to_have_count(4)
    expect(page.get_by_text("it is broken").first).to_be_visible()
    assert page.locator(".lastruns rect.bad").count() >= len(ENDED)
    page.get_by_role("button", name="Load more").click()
    expect(page.get_by_role("link", name=str(min(ended)), exact=True)).to_be_visible()
    page.go_back()
    expect(rows(page)).to_have_count(4)
    # Markup is a text, and what has it is found by it
    page.get_by_label("Text").fill(EVIL)
    page.get_by_role("button", name="Filter").click()
    expect(rows(page)).to_have_count(1)
    assert page.locator("main img").count() == 0
    page.get_by_label("Text").fill("nothing of the kind")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_text("No job is like that.")).to_be_visible()


def test_what_jobs_become_is_shown_without_a_reload(
    ended: list[int], job_page: Page, workshop: Desk, tmp_path: Path
) -> None:
    job_page.goto("/ui/jobs/history?limit=4")
    expect(rows(job_page)).to_have_count(4)
    job_page.get_by_role("button", name="Load more").click()
    expect(job_page.get_by_role("link", name=str(ended[0]), exact=True)).to_be_visible()
    before = rows(job_page).count()
    gate = tmp_path / "gate"
    number = workshop.launch("shop/talk", {"gate": str(gate)})
    row = rows(job_page).filter(has=job_page.get_by_role("link", name=str(number), exact=True))
    expect(row).to_contain_text("running", timeout=15_000)
    gate.touch()
    expect(row).to_contain_text("completed", timeout=15_000)
    assert rows(job_page).count() == before + 1


def test_a_schedule_is_made_seen_paused_run_and_cancelled(job_page: Page, workshop: Desk) -> None:
    page = job_page
    page.goto("/ui/schedules")
    page.get_by_label("Script of a new schedule").select_option("shop/fail")
    page.get_by_role("button", name="New schedule").click()
    # What is typed is put into words, with the next times
    coming = page.locator("#coming")
    page.get_by_label("When").select_option("cron")
    page.get_by_label("Cron minute").fill("61 * * * *")
    expect(coming).to_contain_text("Bad minute")
    page.get_by_label("Cron minute").fill("0 9 * * 1")
    expect(coming).to_contain_text("at 09:00 on Monday, UTC")
    expect(coming.get_by_role("listitem")).to_have_count(5)
    page.get_by_role("button", name="Launch", exact=True).click()
    page.wait_for_url(re.compile(r"/ui/schedules/\d+"))
    expect(page.get_by_text("Runs at 09:00 on Monday, UTC.")).to_be_visible()
    number = int(re.findall(r"/ui/schedules/(\d+)", page.url)[0])
    # Paused by its switch, with the keyboard
    switch = page.get_by_role("switch")
    expect(switch).to_have_attribute("aria-checked", "true")
    switch.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Nothing runs until it is resumed")).to_be_visible()
    assert workshop.read(f"/admin/scheduled_jobs/{number}")["state"] == "paused"
    page.get_by_role("switch").click()
    expect(page.get_by_role("switch")).to_have_attribute("aria-checked", "true")
    # Run now, and its execution is listed
    page.get_by_role("button", name="Run now").click()
    expect(page.get_by_text("Job added with id")).to_be_visible()
    workshop.until(workshop.read(f"/admin/scheduled_jobs/{number}")["last_job"], "failed")
    page.reload()
    expect(page.get_by_role("row").filter(has_text="it is broken")).to_have_count(1)
    # It is in the list and in the calendar
    page.goto("/ui/schedules")
    expect(rows(page).filter(has_text="at 09:00 on Monday, UTC")).to_have_count(1)
    expect(page.locator(".week section")).to_have_count(7)
    expect(page.locator('.week section[aria-current="date"] li.bad')).to_have_count(1)
    page.get_by_role("link", name="Later", exact=True).click()
    expect(page.locator(".week li.plain").filter(has_text="09:00")).to_have_count(1)
    page.goto(f"/ui/schedules/{number}")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(page.get_by_text(f"Job {number} is not scheduled any more")).to_be_visible()
    expect(page.get_by_role("switch")).to_have_count(0)


def test_a_schedule_is_changed_without_scripts(plain_job_page: Page, workshop: Desk) -> None:
    page, number = plain_job_page, workshop.schedule("shop/fail", ("days", 1, 1))
    page.goto("/ui/schedules")
    page.get_by_label(f"Schedule {number} is enabled").click()
    expect(page.get_by_text(f"Schedule {number} is paused")).to_be_visible()
    page.goto(f"/ui/schedules/{number}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("heading", name=f"Cancel schedule {number}?")).to_be_visible()
    page.get_by_role("button", name="Cancel it").click()
    expect(page.get_by_text("is not scheduled any more")).to_be_visible()
    page.goto("/ui/schedules?past=1")
    expect(page.get_by_role("link", name="shop/fail").first).to_be_visible()


def test_what_can_not_be_is_an_error_in_words(job_page: Page, job_watch: Watch) -> None:
    job_watch.expected += ["400", "404"]
    for path, said in (
        ("jobs/history?state=ready", "is none of pending, running"),
        ("schedules?first=soon", "is no day like 2026-11-30"),
        ("schedules/999999", "there is no schedule 999999"),
    ):
        job_page.goto(f"/ui/{path}")
        expect(job_page.get_by_role("alert")).to_contain_text(re.compile(said, re.IGNORECASE))
