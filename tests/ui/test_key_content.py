"""What is in a value, on the page of its key: shown, heard and seen, and never run."""

from __future__ import annotations

import contextlib
import io
import wave
from collections.abc import Callable

from playwright.sync_api import Error, Page, expect

from ops.cluster import Cluster
from tests import pictures
from tests.integration.tokens_tools import Keys
from tests.integration.wire import Client, good
from tests.support import unique
from tests.ui.browser import Watch

SCRIPT = "<script>document.title = 'run'</script>"
SVG = f"<svg xmlns='http://www.w3.org/2000/svg' width='40' height='20'>{SCRIPT}<rect width='40' height='20'/></svg>"
XHTML = f"<html xmlns='http://www.w3.org/1999/xhtml'><title>quiet</title>{SCRIPT}</html>"

PAGES = {
    "text/html": SCRIPT,
    "image/svg+xml": SVG,
    "application/xhtml+xml": XHTML,
    "audio/x+xml": XHTML,
    "text/xml": XHTML,
}


def sound(secs: int = 20) -> bytes:
    """A WAV file that is too large for the index."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(1)
        out.setframerate(8000)
        out.writeframes(bytes([128]) * 8000 * secs)
    return file.getvalue()


def pdf() -> bytes:
    """A PDF file with an empty page, too large for the index."""
    return pictures.packed(pictures.scene(200, 200), "PDF")


def store(cluster: Cluster, key: str, value: bytes, media: str = "") -> None:
    with Client(cluster.master_url) as master:
        good(master.request("PUT", f"/add_key/{key}", value, {"Content-Type": media} if media else {}), 201)


def test_pictures_sound_and_pdf_are_shown_and_sound_is_sought_in(page: Page, cluster: Cluster) -> None:
    folder = unique()
    pages = pdf()
    for name, value in {
        "a.png": pictures.packed(pictures.scene(200, 100)),
        "b.svg": SVG.encode(),
        "c.wav": sound(),
        "d.pdf": pages,
    }.items():
        store(cluster, f"{folder}/{name}", value)
    for name, width in (("a.png", 200), ("b.svg", 40)):
        page.goto(f"/ui/keys/show?key={folder}/{name}")
        picture = page.locator(".preview img")
        expect(picture).to_have_js_property("naturalWidth", width)
        assert page.title().startswith(f"{folder}/{name}")
    page.goto(f"/ui/keys/show?key={folder}/c.wav")
    length = page.locator("audio").evaluate(
        """async audio => {
            const event = name => new Promise((good, bad) => {
                audio.addEventListener(name, good, { once: true });
                audio.addEventListener("error", () => bad(audio.error.message), { once: true });
            });
            if (audio.readyState < 1) await event("loadedmetadata");
            const sought = event("seeked");
            audio.currentTime = 15;
            await sought;
            return [audio.duration, audio.currentTime];
        }"""
    )
    assert length == [20, 15]
    page.goto(f"/ui/keys/show?key={folder}/d.pdf")
    with Client(cluster.master_url) as master:
        whole = master.request("GET", f"/ui/keys/value?key={folder}/d.pdf")
        part = master.request("GET", f"/ui/keys/value?key={folder}/d.pdf", headers={"Range": "bytes=5-9"})
    assert (whole.status, whole.headers["content-type"], whole.body) == (200, "application/pdf", pages)
    assert (part.status, part.body) == (206, whole.body[5:10])
    assert (whole.headers["x-frame-options"], whole.headers["x-content-type-options"]) == ("SAMEORIGIN", "nosniff")
    expect(page.locator(".preview iframe")).to_be_visible()


def test_texts_are_texts_and_tables_tables(page: Page, cluster: Cluster) -> None:
    folder = unique()
    store(cluster, f"{folder}/a.csv", f"name;number\n{SCRIPT};1\nb;2\n".encode())
    store(cluster, f"{folder}/b.html", SCRIPT.encode())
    store(cluster, f"{folder}/c.log", b"line\n" * 20_000)
    store(cluster, f"{folder}/d", b"what is this", f"{SCRIPT}/x")
    page.goto(f"/ui/keys/show?key={folder}/a.csv")
    expect(page.locator(".preview td")).to_have_text([SCRIPT, "1", "b", "2"])
    page.goto(f"/ui/keys/show?key={folder}/b.html")
    expect(page.locator("pre.log")).to_have_text(SCRIPT)
    page.goto(f"/ui/keys/show?key={folder}/c.log")
    expect(page.get_by_text("This is the beginning.")).to_be_visible()
    page.goto(f"/ui/keys/show?key={folder}/d")
    expect(page.locator("tr", has_text="Type")).to_contain_text(f"{SCRIPT}/x")
    expect(page.get_by_text("Values of this type are not shown here.")).to_be_visible()
    assert "run" not in page.title()


def test_no_value_runs_a_script_in_the_page_s_origin(page: Page, watch: Watch, cluster: Cluster) -> None:
    watch.expected += ["sandbox", "Content Security Policy"]
    folder = unique()
    for number, (media, value) in enumerate(PAGES.items()):
        key = f"{folder}/{number}"
        store(cluster, key, value.encode(), media)
        with Client(cluster.master_url) as master:
            for path in (f"/get_key/{key}", f"/ui/keys/value?key={key}"):
                headers = master.request("GET", path).headers
                assert headers["content-security-policy"] == "sandbox; default-src 'none'"
                assert headers["x-content-type-options"] == "nosniff"
                assert headers["content-type"] == media
        with contextlib.suppress(Error):  # some are saved, not shown
            page.goto(f"/get_key/{key}")
        assert page.title() != "run"


def test_with_tokens_a_session_shows_saves_and_packs_and_a_link_is_for_programs(
    guarded: Keys, log_in: Callable[[str], Page]
) -> None:
    picture = pictures.packed(pictures.scene(200, 100))
    guarded.put("shown/a.png", picture)
    guarded.put("hidden/b.txt")
    token = guarded.make("viewer", ["read:shown/"])
    guarded.settle()
    page = log_in(token)
    page.goto("/ui/keys/show?key=shown/a.png")
    expect(page.locator(".preview img")).to_have_js_property("naturalWidth", 200)
    expect(page.get_by_text("You lack the right delete:shown/a.png")).to_be_visible()
    link = page.locator("pre[data-copy] code").first.text_content() or ""
    with Client(guarded.cluster.master_url) as client:
        assert client.request("GET", link.partition(client.host)[2], follow=True).body == picture
        assert client.request("GET", "/ui/keys/value?key=shown/a.png").status == 303
    page.goto("/ui/keys?prefix=shown/")
    page.get_by_text("All of it for a program").click()
    packed = (page.locator(".programs code").text_content() or "").split("'")[1]
    with Client(guarded.cluster.master_url) as client:
        assert picture in client.request("GET", packed.partition(client.host)[2]).body
    with page.expect_download() as saved:
        page.get_by_role("link", name="All as a tar archive").click()
    assert picture in saved.value.path().read_bytes()
    for path in ("/ui/keys/value?key=hidden/b.txt", "/ui/keys/archive?prefix=hidden/", "/ui/keys?prefix=hidden/"):
        assert page.request.get(path).status == 403
