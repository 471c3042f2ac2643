"""The screen of keys: browsing and finding, one key, storing, deleting and bringing back."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from ops.cluster import Cluster
from tests.integration.wire import Client, good
from tests.support import unique

EVIL = "<img src=x onerror=document.title=1>"


def store(cluster: Cluster, *keys: str, value: bytes = b"a value") -> None:
    with Client(cluster.master_url) as master:
        for key in keys:
            good(master.put(key, value, "?overwrite=1"), 201)


def test_folders_and_keys_are_browsed_also_without_scripts(plain: Page, cluster: Cluster) -> None:
    folder = unique()
    store(cluster, f"{folder}/sub/a.txt", f"{folder}/sub/b.txt", f"{folder}/c.json", value=b'{"a": 1}')
    plain.goto(f"/ui/keys?prefix={folder}/")
    expect(plain.get_by_text("2 keys")).to_be_visible()
    plain.get_by_role("link", name="sub/", exact=True).click()
    expect(plain.get_by_role("link", name="a.txt")).to_be_visible()
    plain.get_by_role("link", name=folder.split("/")[-1], exact=True).click()
    plain.get_by_role("link", name="c.json").click()
    expect(plain.get_by_text("application/json")).to_be_visible()
    expect(plain.locator("pre.log")).to_have_text('{\n  "a": 1\n}')
    expect(plain.get_by_role("button", name="Open the value")).to_be_visible()


def test_more_keys_are_loaded_by_a_cursor_also_of_deleted_ones(page: Page, cluster: Cluster) -> None:
    folder = unique()
    names = [f"{folder}/{number:03}" for number in range(110)]
    store(cluster, *names)
    page.goto(f"/ui/keys?prefix={folder}/")
    expect(page.get_by_text("110 keys, 770 B")).to_be_visible()
    expect(page.get_by_role("link", name="099", exact=True)).to_be_visible()
    assert page.get_by_role("link", name="100", exact=True).count() == 0
    page.get_by_role("button", name="Load more").click()
    expect(page.get_by_role("link", name="109", exact=True)).to_be_visible()
    with Client(cluster.master_url) as master:
        for name in names:
            good(master.request("DELETE", f"/delete_key/{name}"))
    page.get_by_role("link", name="Deleted keys").click()
    expect(page.get_by_text(names[99])).to_be_visible()
    assert page.get_by_text(names[100]).count() == 0
    page.get_by_role("button", name="Load more").click()
    expect(page.get_by_text(names[109])).to_be_visible()


def test_keys_are_found_by_text_and_day_and_folders_are_sorted(page: Page, cluster: Cluster) -> None:
    folder = unique()
    store(cluster, f"{folder}/small.txt", f"{folder}/May {EVIL}.txt", f"{folder}/deep/may.txt", value=b"a")
    store(cluster, f"{folder}/a large one.txt", value=b"1234")
    page.goto(f"/ui/keys?prefix={folder}/")
    keys = page.locator("#keys tbody a.key")
    expect(keys).to_have_text(["deep/", f"May {EVIL}.txt", "a large one.txt", "small.txt"])
    page.get_by_role("link", name="Size").click()
    page.get_by_role("link", name="Size").click()
    expect(keys).to_have_text(["deep/", "a large one.txt", f"May {EVIL}.txt", "small.txt"])
    page.get_by_label("and have in the name").fill("MAY")
    page.get_by_role("button", name="Find").click()
    expect(keys).to_have_text([f"May {EVIL}.txt", "deep/may.txt"])
    expect(page.get_by_text("All 4 keys were looked at.")).to_be_visible()
    page.get_by_label("stored from").fill("2999-01-01")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_text("No key is like this.")).to_be_visible()
    page.go_back()
    expect(keys).to_have_text([f"May {EVIL}.txt", "deep/may.txt"])


def test_a_file_is_stored_deleted_and_brought_back(plain: Page, cluster: Cluster) -> None:
    folder = unique()
    plain.goto(f"/ui/keys?prefix={folder}/")
    expect(plain.get_by_text("No key begins so.")).to_be_visible()
    files = [{"name": "note.txt", "mimeType": "text/plain", "buffer": b"from a form"}]
    plain.set_input_files("input[type=file]", files=files)  # type: ignore[arg-type]
    plain.get_by_role("button", name="Store").click()
    expect(plain.get_by_text("stored 1 file")).to_be_visible()
    plain.get_by_label(f"Choose {folder}/note.txt").check()
    plain.get_by_role("button", name="Delete the chosen").click()
    expect(plain.get_by_role("heading", name=f"Delete {folder}/note.txt?")).to_be_visible()
    plain.get_by_role("button", name="Delete", exact=True).click()
    expect(plain.get_by_text(f"deleted {folder}/note.txt")).to_be_visible()
    plain.goto(f"/ui/keys/deleted?prefix={folder}/")
    plain.get_by_role("button", name="Bring back").click()
    expect(plain.get_by_text("from a form")).to_be_visible()
    with Client(cluster.master_url) as master:
        assert master.get(f"{folder}/note.txt").body == b"from a form"


def test_a_form_keeps_the_name_of_a_file_as_the_script_does(plain: Page, cluster: Cluster) -> None:
    folder = unique()
    plain.goto(f"/ui/keys?prefix={folder}/")
    files = [{"name": "ü file.txt", "mimeType": "text/plain", "buffer": b"from a form"}]
    plain.set_input_files("input[type=file]", files=files)  # type: ignore[arg-type]
    plain.get_by_role("button", name="Store").click()
    expect(plain.get_by_text("stored 1 file; 1 name was changed, since keys are of ASCII characters")).to_be_visible()
    with Client(cluster.master_url) as master:
        assert master.get(f"{folder}/u file.txt").body == b"from a form"


def test_a_folder_is_renamed_and_its_new_list_is_shown(plain: Page, cluster: Cluster) -> None:
    folder = unique()
    store(cluster, f"{folder}/old/a.txt", f"{folder}/old/b.txt")
    plain.goto(f"/ui/keys?prefix={folder}/old/")
    plain.get_by_text("Rename, move or copy this folder").click()
    plain.get_by_label("To the folder").fill(f"{folder}/new/")
    plain.get_by_role("button", name="Copy", exact=True).click()
    expect(plain.get_by_text(f"{folder}/old/ was copied to {folder}/new/: 2 keys")).to_be_visible()
    assert "/admin/" not in plain.locator("main").inner_text()
    expect(plain.get_by_role("link", name="a.txt")).to_be_visible()
    plain.get_by_text("Rename, move or copy this folder").click()
    plain.get_by_label("To the folder").fill(f"{folder}/newest/")
    plain.get_by_role("button", name="Rename").click()
    expect(plain.get_by_text(f"{folder}/new/ is called {folder}/newest/ now: 2 keys")).to_be_visible()
    expect(plain.get_by_role("link", name="b.txt")).to_be_visible()
    # What could not be moved is said, where it still is
    store(cluster, f"{folder}/old/c.txt", f"{folder}/newest/c.txt")
    plain.goto(f"/ui/keys?prefix={folder}/newest/")
    plain.get_by_text("Rename, move or copy this folder").click()
    plain.get_by_label("To the folder").fill(f"{folder}/old/")
    plain.get_by_role("button", name="Rename").click()
    expect(plain.get_by_text("3 of 3 keys could not be renamed, first")).to_be_visible()
    expect(plain.get_by_role("link", name="c.txt")).to_be_visible()


def test_a_key_is_renamed_copied_and_given_a_lifetime_without_scripts(plain: Page, cluster: Cluster) -> None:
    folder = unique()
    store(cluster, f"{folder}/a.txt")
    plain.goto(f"/ui/keys/show?key={folder}/a.txt")
    plain.get_by_label("Rename or copy to").fill(f"{folder}/b&c.txt")
    plain.get_by_role("button", name="Rename").click()
    expect(plain.get_by_text(f"{folder}/a.txt is called {folder}/b&c.txt now")).to_be_visible()
    plain.get_by_label("Rename or copy to").fill(f"{folder}/d.txt")
    plain.get_by_role("button", name="Copy", exact=True).click()
    expect(plain.get_by_role("heading", name="d.txt", exact=True)).to_be_visible()
    plain.get_by_label("It lives from now on for").fill("2d")
    plain.get_by_role("button", name="Set the lifetime").click()
    expect(plain.get_by_text("it lives for 2d from now on")).to_be_visible()
    assert plain.locator("tr", has_text="Ends").locator("time").count() == 1
    plain.goto(f"/ui/keys?prefix={folder}/")
    plain.get_by_text("Rename, move or copy this folder").click()
    plain.get_by_label("To the folder").fill(f"{folder}-2/")
    plain.get_by_role("button", name="Copy", exact=True).click()
    expect(plain.get_by_text(f"was copied to {folder}-2/: 2 keys")).to_be_visible()


def test_a_key_is_deleted_by_the_keyboard_alone(page: Page, cluster: Cluster) -> None:
    folder = unique()
    store(cluster, f"{folder}/{EVIL}.txt")
    page.goto(f"/ui/keys?prefix={folder}/")
    box = page.get_by_role("checkbox", name="Choose")
    for _ in range(40):
        page.keyboard.press("Tab")
        if box.evaluate("box => box === document.activeElement"):
            break
    page.keyboard.press("Space")
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Delete the chosen":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Leave it")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text(f"deleted {folder}/{EVIL}.txt")).to_be_visible()
    expect(page.get_by_text("No key begins so.")).to_be_visible()


def test_a_clash_says_what_was_stored_before_it(plain: Page, cluster: Cluster) -> None:
    folder = unique()
    store(cluster, f"{folder}/b.txt")
    plain.goto(f"/ui/keys?prefix={folder}/")
    files = [{"name": name, "mimeType": "text/plain", "buffer": b"new"} for name in ("a.txt", "b.txt")]
    plain.set_input_files("input[type=file]", files=files)  # type: ignore[arg-type]
    plain.get_by_role("button", name="Store").click()
    expect(plain.get_by_text("stored 1 of 2 files; b.txt:")).to_be_visible()
    with Client(cluster.master_url) as master:
        assert master.get(f"{folder}/b.txt").body == b"a value"
        assert master.get(f"{folder}/a.txt").body == b"new"


def test_the_way_to_deleted_keys_is_there_when_nothing_else_is(plain: Page) -> None:
    plain.goto(f"/ui/keys?prefix={unique()}/")
    plain.get_by_role("link", name="Deleted keys").click()
    expect(plain.get_by_text("Nothing can be brought back here.")).to_be_visible()


def test_keys_and_values_are_texts_and_never_parts_of_the_page(page: Page, cluster: Cluster) -> None:
    folder = unique()
    store(cluster, f"{folder}/{EVIL}.txt", f"{folder}/{EVIL}/x", value=EVIL.encode())
    page.goto(f"/ui/keys?prefix={folder}/")
    expect(page.get_by_text(f"{EVIL}.txt")).to_be_visible()
    page.get_by_text(f"{EVIL}.txt").click()
    expect(page.locator("pre.log")).to_have_text(EVIL)
    assert page.locator("main img").count() == 0
    assert EVIL in page.title()


def test_a_key_that_is_not_there_is_an_error_in_words(page: Page, watch: object) -> None:
    watch.expected.append("404")  # type: ignore[attr-defined]
    page.goto(f"/ui/keys/show?key={unique()}")
    expect(page.get_by_text("it was deleted, or its lifetime is over")).to_be_visible()


def test_an_address_or_a_form_that_says_nothing_sensible_is_refused_in_words(cluster: Cluster) -> None:
    with Client(cluster.master_url) as master:
        for address in ("/ui/keys/show", "/ui/keys/show?key=", "/ui/keys/show?key=/"):
            answer = master.request("GET", address)
            assert (answer.status, b"no key was chosen" in answer.body.lower()) == (400, True)
        found = re.search(rb'name="csrf" value="(\w+)"', master.request("GET", "/ui/keys").body)
        assert found is not None
        sent = {"Content-Type": "application/x-www-form-urlencoded"}
        for path, field in (("keys/delete", "keys"), ("dead/send", "ids"), ("dead/drop", "ids")):
            for text in ("x", "5", "%22a%22", "[5]", "%5B" * 20_000):
                body = b"confirmed=1&csrf=%b&%b=%b" % (found[1], field.encode(), text.encode())
                answer = master.request("POST", f"/ui/{path}", body, sent)
                assert (answer.status, b"is no JSON list of texts" in answer.body) == (400, True), (path, text[:9])


def test_a_prefix_that_ends_inside_a_name_cuts_no_name_and_stores_beside_it(plain: Page, cluster: Cluster) -> None:
    folder = unique()
    store(cluster, f"{folder}/abc.txt", f"{folder}/abd/x.txt")
    plain.goto(f"/ui/keys?prefix={folder}/ab")
    expect(plain.get_by_role("link", name="abc.txt", exact=True)).to_be_visible()
    expect(plain.get_by_role("link", name="abd/", exact=True)).to_be_visible()
    expect(plain.get_by_role("heading", name=f"Store files in {folder}/")).to_be_visible()
    plain.set_input_files("input[name=file]", {"name": "new.txt", "mimeType": "text/plain", "buffer": b"x"})
    plain.get_by_role("button", name="Store", exact=True).click()
    expect(plain.get_by_role("link", name="new.txt", exact=True)).to_be_visible()
