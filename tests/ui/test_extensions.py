"""The screen of extensions: the list, a try with arguments and a file, what is shown of answers."""

from __future__ import annotations

from playwright.sync_api import Page, expect

EVIL = "<img src=x onerror=document.title=1>"


def test_an_extension_is_tried_without_scripts(plain: Page) -> None:
    plain.goto("/ui/extensions")
    expect(plain.get_by_text("returns its arguments and parameters")).to_be_visible()
    plain.get_by_role("link", name="example").click()
    plain.get_by_label("Arguments, with / between them").fill("a/b c")
    plain.get_by_label("Parameters").fill("x=1&y=2")
    plain.get_by_role("button", name="Run it").click()
    expect(plain.locator("pre.log")).to_contain_text('"b c"')
    expect(plain.locator("pre.log")).to_contain_text('"y": [')
    expect(plain.get_by_label("Parameters")).to_have_value("x=1&y=2")
    expect(plain.locator("pre", has_text="curl")).to_contain_text("/extension/example/a/b%20c?x=1&y=2'")
    plain.get_by_label("Parameters").fill("x")
    plain.get_by_role("button", name="Run it").click()
    expect(plain.get_by_role("alert")).to_contain_text("'x' is no query")


def test_what_is_sent_and_answered_is_text_and_never_a_part_of_the_page(page: Page) -> None:
    page.goto("/ui/extensions/example")
    page.get_by_label("Arguments, with / between them").fill(EVIL)
    page.get_by_label("Parameters").fill(f"{EVIL}=<script>document.title=1</script>")
    page.get_by_role("button", name="Run it").click()
    expect(page.locator("pre.log")).to_contain_text(EVIL)
    expect(page.locator("pre.log")).to_contain_text("<script>document.title=1</script>")
    assert page.locator("main img, main script").count() == 0
    assert page.title().startswith("example")


def test_a_file_is_sent_and_a_refusal_is_shown_as_the_extensions_own(page: Page) -> None:
    page.goto("/ui/extensions/ocr")
    page.set_input_files(
        "input[type=file]", files=[{"name": "x.png", "mimeType": "image/png", "buffer": b"no picture" * 300_000}]
    )  # type: ignore[arg-type]
    page.get_by_role("button", name="Run it").click()
    expect(page.get_by_role("heading", name="Answer PUT 400")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("picture")
