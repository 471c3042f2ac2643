"""Uploads of the screen of keys: large ones straight to a node, folders, clashes, failures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from ops.cluster import Cluster
from tests.integration.wire import Client, good
from tests.support import unique
from tests.ui.browser import Watch, open_page

LARGE = 100 << 20


@pytest.fixture
def uploading(browser: Browser, cluster: Cluster) -> Iterator[tuple[Page, Watch]]:
    """A page that may send values straight to the cluster's nodes."""
    with open_page(browser, cluster.master_url) as (page, watch):
        watch.servers |= {urlsplit(node.url).netloc for node in cluster.nodes}
        yield page, watch
        watch.check()


def choose(page: Page, *files: tuple[str, bytes]) -> None:
    """Choose files and send them."""
    given = [{"name": name, "mimeType": "text/plain", "buffer": value} for name, value in files]
    page.set_input_files("input[name=file]", given)  # type: ignore[arg-type]
    page.get_by_role("button", name="Store", exact=True).click()


def values(cluster: Cluster, folder: str) -> dict[str, bytes]:
    """All values of a folder, by name."""
    with Client(cluster.master_url) as master:
        rows = good(master.request("GET", f"/keys?prefix={folder}/"), 200, "ok")["keys"]
        return {row["key"][len(folder) + 1 :]: master.get(row["key"]).body for row in rows}


def test_a_large_file_goes_straight_to_a_node_with_progress_and_a_lifetime(
    uploading: tuple[Page, Watch], cluster: Cluster, tmp_path: Path
) -> None:
    page, _ = uploading
    folder, file = unique(), tmp_path / "large ü.bin"
    with file.open("wb") as out:
        out.truncate(LARGE)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
    page.goto(f"/ui/keys?prefix={folder}/")
    page.get_by_label("They live for").fill("7d")
    # Every share of the bar that was shown is kept, however fast it is.
    page.evaluate(
        """() => {
            window.shares = [];
            const bar = document.querySelector("#uploads progress");
            new MutationObserver(() => window.shares.push(bar.value)).observe(bar, { attributes: true });
        }"""
    )
    page.set_input_files("input[name=file]", file)
    page.get_by_role("button", name="Store", exact=True).click()
    expect(page.get_by_text("Stored 1 file")).to_be_visible()
    expect(page.get_by_text("1 name was changed")).to_be_visible()
    expect(page.get_by_role("link", name="large u.bin")).to_be_visible()
    shares = page.evaluate("window.shares")
    assert sorted(shares) == shares
    assert any(0 < share < 1 for share in shares)
    nodes = {node.url for node in cluster.nodes}
    assert [line for line in asked if line.startswith("PUT ") and any(f" {url}/add_key/" in line for url in nodes)]
    with Client(cluster.master_url) as master:
        (row,) = good(master.request("GET", f"/keys?prefix={folder}/"), 200, "ok")["keys"]
    assert row["size"] == LARGE
    assert 6.9 * 86_400 < row["expires"] - row["created"] < 7.1 * 86_400


def test_a_folder_of_200_files_is_stored_and_clashes_are_asked_once_for_all(
    page: Page, cluster: Cluster, tmp_path: Path
) -> None:
    folder = unique()
    for number in range(200):
        file = tmp_path / "data" / f"{number % 10}" / f"<b>{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"value {number}")
    page.goto(f"/ui/keys?prefix={folder}/")
    page.set_input_files("input[webkitdirectory]", tmp_path / "data")
    expect(page.get_by_text("Stored 200 files")).to_be_visible()
    expect(page.get_by_text("200 keys, ")).to_have_count(1)
    page.goto(f"/ui/keys?prefix={folder}/data/3/")
    choose(page, ("<b>3.txt", b"new"), ("<b>13.txt", b"new"), ("other.txt", b"new"))
    expect(page.get_by_role("heading", name="2 of these keys exist")).to_be_visible()
    page.get_by_role("button", name="Keep both").click()
    expect(page.get_by_text("Stored 3 files")).to_be_visible()
    choose(page, ("<b>3.txt", b"newer"), ("more.txt", b"newer"))
    page.get_by_role("button", name="Skip it").click()
    expect(page.get_by_text("Stored 1 file, skipped 1")).to_be_visible()
    choose(page, ("<b>13.txt", b"newest"))
    page.get_by_role("button", name="Replace").click()
    expect(page.get_by_text("Stored 1 file", exact=True)).to_be_visible()
    found = values(cluster, f"{folder}/data/3")
    assert len(found) == 24
    assert (found["<b>3.txt"], found["<b>3 (2).txt"], found["<b>13.txt"]) == (b"value 3", b"new", b"newest")
    assert (found["<b>13 (2).txt"], found["other.txt"], found["more.txt"]) == (b"new", b"new", b"newer")


def test_what_fails_is_tried_again_what_is_cancelled_is_not_stored_and_a_node_out_of_reach_is_gone_round(
    uploading: tuple[Page, Watch], cluster: Cluster
) -> None:
    page, watch = uploading
    watch.expected += ["503", "net::ERR"]
    folder, large = unique(), b"x" * (2 << 20)
    held: list[Route] = []

    def first(route: Route) -> None:
        if "bad.txt" in route.request.url and not held:
            route.fulfill(status=503, json={"msg": "<b>not now</b>"})
            held.append(route)
        elif "slow.txt" in route.request.url:
            held.append(route)  # it is never answered
        else:
            route.continue_()

    page.route("**/ui/keys/put?**", first)
    page.route("**/add_key/**", lambda route: route.abort())  # the nodes
    page.goto(f"/ui/keys?prefix={folder}/")
    data = page.evaluate_handle(
        """value => {
            const data = new DataTransfer();
            for (const [name, text] of [["bad.txt", "b"], ["slow.txt", "s"], ["large.txt", value]])
                data.items.add(new File([text], name, { type: "text/plain" }));
            return data;
        }""",
        large.decode(),
    )
    page.dispatch_event("form.drop", "drop", {"dataTransfer": data})
    expect(page.get_by_text("bad.txt: <b>not now</b>")).to_be_visible()
    expect(
        page.get_by_text("2 done, 2.1 MB of 2.1 MB").or_(page.get_by_text("1 done, 2.1 MB of 2.1 MB"))
    ).to_be_visible()
    page.get_by_role("button", name=re.compile("Cancel: .*slow.txt")).click()
    expect(page.get_by_text("Stored 1 file, 1 could not be stored")).to_be_visible()
    page.get_by_role("button", name=re.compile("Try again: .*bad.txt")).click()
    expect(page.get_by_text("Stored 2 files")).to_be_visible()
    assert values(cluster, folder) == {"bad.txt": b"b", "large.txt": large}
