"""Screens of jobs: catalog, the form that launches, the page of a job."""

from __future__ import annotations

import json
import re
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.integration.jobs_tools import Desk
from tests.support import unique, wait_for
from tests.ui.browser import Watch
from tests.ui.job_scripts import EVIL, SECRET

STATE = "p.state"


def number_of(page: Page) -> int:
    """The id of the job whose page is shown."""
    page.wait_for_url(re.compile(r"/ui/jobs/\d+"))
    found = re.search(r"/ui/jobs/(\d+)", page.url)
    assert found
    return int(found[1])


def test_the_catalog_is_searched_and_leads_to_the_form(job_page: Page) -> None:
    job_page.goto("/ui/jobs")
    expect(job_page.get_by_role("link", name="shop/talk", exact=True)).to_be_visible()
    expect(job_page.get_by_text("line 1: invalid syntax")).to_be_visible()
    job_page.get_by_role("searchbox").fill("every kind")
    expect(job_page.get_by_role("link", name="shop/talk", exact=True)).to_have_count(0)
    job_page.get_by_role("searchbox").fill("nothing like it")
    expect(job_page.get_by_text("No script has these words.")).to_be_visible()
    job_page.get_by_role("searchbox").fill("FORM")
    job_page.get_by_role("link", name="shop/form", exact=True).click()
    expect(job_page.get_by_role("heading", name="shop/form")).to_be_visible()


def test_a_job_is_launched_with_the_keyboard_alone(job_page: Page) -> None:
    job_page.goto("/ui/jobs/launch?script=shop/form")
    job_page.get_by_label("text str").focus()
    job_page.keyboard.type("by hand")
    job_page.keyboard.press("Tab")
    job_page.keyboard.type("12")
    # What is typed is in the lines at once.
    expect(job_page.locator("#lines")).to_contain_text('"number": 12')
    curl, python, message = (
        block.inner_text()
        for block in job_page.locator("#lines code").all()[:2] + job_page.locator("#lines pre code").all()[-1:]
    )
    assert '{"text": "by hand", "number": 12, "ratio": 0.5, "unit": "m", "deep": true}' in curl
    assert "'number': 12" in python
    assert json.loads(message)["arguments"]["number"] == 12
    job_page.get_by_role("button", name="Launch and wait").focus()
    job_page.keyboard.press("Enter")
    number_of(job_page)
    expect(job_page.locator(STATE)).to_contain_text("Completed on node-1")
    expect(job_page.locator("#result")).to_contain_text("by hand")


def test_a_live_log_is_followed_and_the_job_is_cancelled(job_page: Page, workshop: Desk, tmp_path: Path) -> None:
    number = workshop.launch("shop/talk", {"gate": str(tmp_path / "never")})
    job_page.goto(f"/ui/jobs/{number}")
    expect(job_page.locator(STATE)).to_contain_text("Runs on node-1")
    expect(job_page.locator("progress")).to_have_attribute("value", "1.0")
    expect(job_page.locator("#log")).to_contain_text("line 30")
    assert job_page.locator("#log").inner_text().splitlines()[:3] == ["begun", "line 1", "line 2"]
    job_page.get_by_role("button", name="Cancel").click()
    job_page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(job_page.get_by_text(f"Job {number} is being stopped")).to_be_visible()
    expect(job_page.locator(STATE)).to_contain_text("Cancelled on node-1")
    expect(job_page.get_by_role("button", name="Cancel")).to_have_count(0)
    assert workshop.job(number)["state"] == "cancelled"


def test_the_end_of_a_job_comes_by_itself(job_page: Page, workshop: Desk, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    number = workshop.launch("shop/talk", {"gate": str(gate)})
    job_page.goto(f"/ui/jobs/{number}")
    expect(job_page.locator("#log")).to_contain_text("line 3")
    gate.touch()
    expect(job_page.locator(STATE)).to_contain_text("Completed on node-1")
    expect(job_page.locator("#log")).to_contain_text("ended")
    expect(job_page.get_by_role("cell", name="b", exact=True)).to_be_visible()
    # Each line is there once, whichever way it came.
    wait_for(lambda: job_page.locator("#log").inner_text() == workshop.job(number)["log"], what="the whole log")
    # And nothing more is asked for.
    asked: list[str] = []
    job_page.on("request", lambda request: asked.append(request.url))
    job_page.wait_for_timeout(2200)  # longer than a part waits until it is asked for again
    assert asked == []


def test_a_file_is_stored_and_the_script_gets_its_key(job_page: Page, workshop: Desk) -> None:
    job_page.goto("/ui/jobs/launch?script=shop/form")
    job_page.get_by_label("text str").fill("with a file")
    job_page.get_by_label("number int").fill("1")
    file = {"name": "täble 1.csv", "mimeType": "text/csv", "buffer": b"a,b\n1,2\n"}
    job_page.set_input_files("input[type=file]", files=[file])  # type: ignore[list-item]
    folder = unique("files")
    job_page.get_by_label("Folder of files").fill(folder)
    job_page.get_by_role("button", name="Launch and wait").click()
    found = workshop.done(number_of(job_page))
    assert found["output"]["table"] == "a,b\n1,2\n"
    key = json.loads(found["parameters"])["table"]
    assert re.fullmatch(rf"{folder}/[0-9a-f]{{12}}/table 1\.csv", key)
    # The same file may be named again, and keys are proposed while typing.
    job_page.get_by_role("button", name="Run again with changes").click()
    expect(job_page.get_by_label("The key of table")).to_have_value(key)
    job_page.get_by_label("source key").press_sequentially(folder)
    expect(job_page.locator(f"datalist option[value='{key}']")).to_have_count(1)
    # A form takes 1 MB; what is larger is stored before it is sent.
    job_page.get_by_label("source key").fill("")
    job_page.get_by_label("Folder of files").fill(folder)
    expect(job_page.locator("#lines")).to_contain_text(f'"table": "{key}"')
    large = {"name": "large.csv", "mimeType": "text/csv", "buffer": b"x" * 3_000_000}
    job_page.set_input_files("input[type=file]", files=[large])  # type: ignore[list-item]
    expect(job_page.locator("#lines")).to_contain_text(f'"table": "{folder}/…/large.csv"')
    job_page.get_by_role("button", name="Launch and wait").click()
    job_page.wait_for_url(re.compile(rf"/ui/jobs/(?!{found['job']}\b)\d+"))
    second = workshop.done(number_of(job_page))
    assert second["output"]["table"] == 3_000_000
    assert re.fullmatch(rf"{folder}/[0-9a-f]{{12}}/large\.csv", json.loads(second["parameters"])["table"])


def test_a_job_runs_again_with_changes_and_its_password_is_never_shown(job_page: Page, workshop: Desk) -> None:
    job_page.goto("/ui/jobs/launch?script=shop/form")
    job_page.get_by_label("text str").fill("first")
    job_page.get_by_label("number int").fill("1")
    job_page.get_by_label("secret password").fill("hunter2-hunter2")
    expect(job_page.locator("#lines")).to_contain_text('"secret": "…"')
    job_page.get_by_text("Options", exact=True).click()
    job_page.get_by_label("Priority").select_option("high")
    job_page.get_by_role("button", name="Launch", exact=True).click()
    first = number_of(job_page)
    workshop.done(first)
    job_page.goto(f"/ui/jobs/{first}")
    expect(job_page.locator("#facts")).to_contain_text('"secret": "***"')
    job_page.get_by_role("button", name="Run again with changes").click()
    expect(job_page.get_by_label("text str")).to_have_value("first")
    expect(job_page.get_by_label("Priority")).to_have_value("high")
    assert "hunter2" not in job_page.content()
    job_page.get_by_label("text str").fill("second")
    job_page.get_by_role("button", name="Launch", exact=True).click()
    job_page.wait_for_url(re.compile(rf"/ui/jobs/(?!{first}\b)\d+"))
    found = workshop.done(number_of(job_page))
    assert (found["output"]["text"], found["output"]["secret"]) == ("second", len("hunter2-hunter2"))
    assert found["options"]["priority"] == "high"
    # And once more as it is.
    job_page.goto(f"/ui/jobs/{first}")
    job_page.get_by_role("button", name="Run again", exact=True).click()
    expect(job_page.get_by_text(f", as job {first}")).to_be_visible()
    assert workshop.done(number_of(job_page))["output"]["text"] == "first"


def test_a_secret_among_arguments_is_masked_and_launched_again_as_it_was(plain_job_page: Page, workshop: Desk) -> None:
    page, first = plain_job_page, workshop.launch("shop/form", {"text": f"db={SECRET}", "number": 1})
    workshop.done(first)
    page.goto(f"/ui/jobs/{first}")
    expect(page.locator("#facts")).to_contain_text("db=***")
    page.get_by_role("button", name="Run again with changes").click()
    expect(page.get_by_label("text str")).to_have_value("db=***")
    expect(page.locator("#lines")).to_contain_text("db=***")
    assert SECRET not in page.content()
    page.get_by_label("number int").fill("2")
    page.get_by_role("button", name="Launch and wait").click()
    found = workshop.done(number_of(page))
    assert (found["output"]["number"], found["output"]["length"]) == (2, len(f"db={SECRET}"))


def test_what_scripts_and_users_write_is_never_a_part_of_the_page(
    job_page: Page, job_watch: Watch, workshop: Desk
) -> None:
    number = workshop.launch("shop/evil", {EVIL: EVIL})
    workshop.done(number)
    for view in ("tree", "text"):
        job_page.goto(f"/ui/jobs/{number}?view={view}")
        expect(job_page.locator("#result")).to_contain_text(EVIL)
        expect(job_page.locator("#log")).to_contain_text(EVIL)
        expect(job_page.locator("#facts")).to_contain_text(EVIL)
        assert job_page.locator("main img").count() == 0
    job_page.goto(f"/ui/jobs/{number}?error=1")
    expect(job_page.locator("mark")).to_have_text(f"ValueError: {EVIL}\n")
    job_page.get_by_role("searchbox").fill(EVIL)
    job_page.keyboard.press("Enter")
    expect(job_page.locator("mark")).to_have_text(f"{EVIL}\n")
    for address in ("/ui/jobs", "/ui/jobs/launch?script=shop/form"):
        job_page.goto(address)
        expect(job_page.get_by_text(EVIL).first).to_be_visible()
        assert job_page.locator("main img").count() == 0
    job_page.get_by_label("text str").fill(EVIL)
    expect(job_page.locator("#lines")).to_contain_text(EVIL)
    assert job_page.locator("main img").count() == 0
    job_watch.expected.append("404")
    job_page.goto(f"/ui/jobs/launch?script={EVIL}")
    expect(job_page.get_by_role("alert")).to_contain_text(EVIL)
    # A line of 3,000 characters makes the page no wider.
    job_page.goto(f"/ui/jobs/{number}")
    assert job_page.evaluate("document.documentElement.scrollWidth") == 1280


def test_a_long_log_is_shown_in_windows(job_page: Page, workshop: Desk) -> None:
    number = workshop.launch("shop/long")
    workshop.done(number)
    job_page.goto(f"/ui/jobs/{number}")
    expect(job_page.locator("#log")).to_contain_text("08999 a line")
    expect(job_page.locator("#log")).not_to_contain_text("08000 a line")
    job_page.get_by_role("link", name="Earlier").click()
    expect(job_page.locator("#log")).to_contain_text("08000 a line")
    expect(job_page.locator("#log")).to_contain_text("08999 a line")
    job_page.get_by_role("link", name="First error").click()
    expect(job_page.locator("mark")).to_have_text("Traceback (most recent call last):\n")
    expect(job_page.locator("#log")).to_contain_text("01235 a line")
    job_page.get_by_role("searchbox").fill("08999 A LINE")
    job_page.keyboard.press("Enter")
    expect(job_page.locator("mark")).to_contain_text("08999 a line")
    job_page.get_by_role("link", name="Next", exact=True).click()
    expect(job_page.get_by_text("'08999 A LINE' is not there")).to_be_visible()
    with job_page.expect_download() as download:
        job_page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == f"job-{number}-1.log.txt"
    assert download.value.path().read_text().count("\n") == 9001


def test_a_job_that_waits_says_why(plain_job_page: Page, workshop: Desk, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    numbers = [workshop.launch("shop/talk", {"gate": str(gate)}) for _ in range(4)]
    wait_for(lambda: sum(workshop.job(number)["state"] == "running" for number in numbers) == 3, what="three runs")
    (waiting,) = [number for number in numbers if workshop.job(number)["state"] == "pending"]
    wait_for(lambda: "are busy" in _sentence(plain_job_page, waiting), what="the reason, which the nodes' states give")
    assert "No free slot: all 3 of 1 node are busy; it is the next one." in _sentence(plain_job_page, waiting)
    plain_job_page.get_by_role("button", name="Cancel").click()
    plain_job_page.get_by_role("button", name="Cancel the job").click()
    expect(plain_job_page.locator(STATE)).to_contain_text("Cancelled,")
    gate.touch()
    for number in set(numbers) - {waiting}:
        workshop.done(number)


def _sentence(page: Page, number: int) -> str:
    page.goto(f"/ui/jobs/{number}")
    return page.locator(STATE).inner_text()


def test_the_core_works_without_scripts(plain_job_page: Page, workshop: Desk, tmp_path: Path) -> None:
    page, gate = plain_job_page, tmp_path / "gate"
    page.goto("/ui/jobs?q=talk")
    page.get_by_role("link", name="shop/talk", exact=True).click()
    page.get_by_label("Arguments").fill(json.dumps({"gate": str(gate)}))
    page.get_by_role("button", name="Launch", exact=True).click()
    number = number_of(page)
    workshop.until(number, "running")
    wait_for(lambda: "line 2" in workshop.job(number)["log"], what="the log")
    page.get_by_role("link", name="Load this page again").click()
    expect(page.locator(STATE)).to_contain_text("Runs on node-1")
    expect(page.locator("#log")).to_contain_text("line 2")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the job").click()
    workshop.until(number, "cancelled")
    page.goto(f"/ui/jobs/{number}")
    expect(page.locator(STATE)).to_contain_text("Cancelled on node-1")


def test_what_is_wrong_in_a_form_is_said_and_the_rest_is_kept(job_page: Page, job_watch: Watch) -> None:
    job_watch.expected.append("400")
    job_page.goto("/ui/jobs/launch?script=shop/form")
    job_page.get_by_label("text str").fill("kept")
    job_page.get_by_label("items list").fill("[1")
    expect(job_page.locator("#lines")).to_contain_text("items: this is no JSON")
    job_page.get_by_role("button", name="Launch", exact=True).click()
    expect(job_page.locator(".wrong")).to_contain_text("this is no JSON")
    expect(job_page.get_by_label("text str")).to_have_value("kept")


def test_a_failed_job_says_why_and_a_picture_is_one(plain_job_page: Page, workshop: Desk) -> None:
    failed, picture = workshop.launch("shop/fail", attempts=2), workshop.launch("shop/picture")
    workshop.until(failed, "failed")
    workshop.done(picture)
    plain_job_page.goto(f"/ui/jobs/{failed}")
    expect(plain_job_page.locator(STATE)).to_contain_text("Failed on node-1 in attempt 2")
    expect(plain_job_page.locator(".note.bad")).to_contain_text("it is broken")
    expect(plain_job_page.get_by_role("row").filter(has_text="it is broken")).to_have_count(2)
    plain_job_page.goto(f"/ui/jobs/{picture}")
    expect(plain_job_page.locator("img.picture")).to_have_js_property("naturalWidth", 64)
    plain_job_page.goto("/ui/jobs/launch?script=shop/talk")
    plain_job_page.get_by_text("Schedule", exact=True).click()
    plain_job_page.get_by_label("When").select_option("repeat")
    plain_job_page.get_by_label("Time", exact=True).fill("5")
    plain_job_page.get_by_label("Unit").select_option("hours")
    plain_job_page.get_by_role("button", name="Launch", exact=True).click()
    expect(plain_job_page.get_by_text("a schedule")).to_be_visible()
    (schedule,) = [row for row in workshop.read("/admin/scheduled_jobs") if row["job_path"] == "shop/talk"]
    assert (schedule["interval"], schedule["time_unit"], schedule["repeat"]) == ("hours", "5", 1)
    plain_job_page.goto(f"/ui/jobs/{schedule['job_id']}")
    plain_job_page.wait_for_url(f"**/ui/schedules/{schedule['job_id']}")
    workshop.cancel(schedule["job_id"])
