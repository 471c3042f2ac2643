"""Screens for who runs the cluster, where it asks for tokens: extensions of one's own, backups, settings, tokens."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.integration.tokens_tools import Keys
from tests.integration.wire import Client, good
from tests.support import Clusters, wait_for
from tests.ui.browser import WAIT_MS

EVIL = "<img src=x onerror=document.title=1>"
EVIL_EXTENSION = f'''"""{EVIL}"""

from extensions import Extension


class Evil(Extension):
    """Class {EVIL}"""

    def execute(self):
        """Answer {EVIL}"""
        asked = self.params.get("{EVIL}")
        return {{"text": "line 1\\n{EVIL}", "picture": "data:image/png;base64,iVBORw0KGgo=", "asked": asked}}
'''


@pytest.fixture(scope="module")
def guarded(make_shared_cluster: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("operator")
    made = Keys(folder / "tokens")
    extensions = folder / "extensions"
    extensions.mkdir()
    (folder / "target").mkdir()
    (extensions / "evil.py").write_text(EVIL_EXTENSION)
    (extensions / "broken.py").write_text("import os\nclass Broken(:\n")
    made.tokens = {
        "runner": made.make("runner", ["extension:evil"]),
        "keeper": made.make("keeper", ["backup", "metrics"]),
    }
    made.start(
        make_shared_cluster,
        PULZAR_EXTENSIONS_DIR=str(extensions),
        PULZAR_BACKUP_TYPE="directory",
        PULZAR_BACKUP_ADDRESS=str(folder / "target"),
    )
    made.settle()
    return made


def test_docstrings_are_text_and_a_broken_file_says_what_is_wrong(log_in: Callable[[str], Page], guarded: Keys) -> None:
    page = log_in(guarded.all)
    page.goto("/ui/extensions")
    expect(page.get_by_text(EVIL)).to_be_visible()
    expect(page.get_by_text("broken.py, line 2")).to_be_visible()
    page.get_by_role("link", name="evil").click()
    expect(page.get_by_text(f"Class {EVIL}")).to_be_visible()
    page.get_by_label(EVIL).fill("1")
    page.get_by_role("button", name="Run it").click()
    # The words of an answer are shown with their lines; a picture is one.
    expect(page.locator("pre.log").first).to_have_text(f"line 1\n{EVIL}")
    assert page.locator("main img").evaluate_all("all => all.map(one => one.src.slice(0, 15))") == ["data:image/png;"]
    assert page.title().startswith("evil")


def test_who_may_run_one_extension_sees_no_other(log_in: Callable[[str], Page], guarded: Keys) -> None:
    page = log_in(guarded.tokens["runner"])
    page.goto("/ui/extensions")
    expect(page.get_by_role("link", name="evil")).to_be_visible()
    assert page.get_by_role("link", name="broken").count() == 0
    page.goto("/ui/extensions/broken")
    expect(page.get_by_role("alert")).to_contain_text("lacks the right extension:broken")


def test_a_backup_is_made_and_followed(log_in: Callable[[str], Page], guarded: Keys) -> None:
    guarded.put("reports/a.txt")
    page = log_in(guarded.tokens["keeper"])
    page.goto("/ui/backup")
    expect(page.get_by_text("No backup is made by itself.")).to_be_visible()
    page.get_by_label("What").select_option("node-1")
    page.get_by_role("button", name="Back up now").click()
    expect(page.get_by_text("backup started")).to_be_visible()
    row = page.get_by_role("row").filter(has_text="node-1")
    expect(row.get_by_text("good", exact=True)).to_be_visible(timeout=WAIT_MS)


def test_a_node_is_verified(log_in: Callable[[str], Page], guarded: Keys) -> None:
    with Client(guarded.cluster.master_url) as client:
        sent = {"Authorization": f"Bearer {guarded.all}"}
        for number in range(220):  # more than one page
            good(client.request("PUT", f"/add_key/verified/{number}", b"v", sent), 201)
        stored = good(client.request("GET", "/keys?prefix=verified/&limit=1000", headers=sent))["keys"]
    (node, most), *_ = Counter(row["nodes"][0] for row in stored).most_common()
    assert most > 100
    page = log_in(guarded.all)
    page.goto("/ui/verify")
    page.get_by_label("Node").select_option(node)
    page.get_by_role("button", name="Verify it").click()
    expect(page.get_by_text("All is good.")).to_be_visible(timeout=WAIT_MS)
    # Without scripts each page has its link, and its address goes on from where it was.
    answer = guarded.ask("GET", f"/ui/verify?node={node}", guarded.all)
    assert b">Go on</a>" in answer.body
    following = re.search(rb'href="\./(verify\?[^"]+after=[^"]+)"', answer.body)
    assert following
    rest = guarded.ask("GET", f"/ui/{html.unescape(following[1].decode())}", guarded.all)
    assert b"All is good." in rest.body
    assert guarded.ask("GET", "/ui/verify?node=nobody", guarded.all).status == 200
    assert guarded.ask("GET", "/ui/verify?node=a&keys=x", guarded.all).status == 400


def test_settings_are_shown_with_where_they_come_from(log_in: Callable[[str], Page], guarded: Keys) -> None:
    page = log_in(guarded.all)
    page.goto("/ui/settings")
    expect(page.get_by_text("PULZAR_SECURITY_TOKENS")).to_be_visible()
    secret = urlsplit(guarded.cluster.broker_url).password
    assert secret
    assert secret not in page.content()
    page.get_by_label("Settings with these words").press_sequentially("backup address")
    expect(page.get_by_role("status")).to_have_text("1 setting")
    expect(page).to_have_url(re.compile(r"/ui/settings\?q=backup(\+|%20)address$"))
    page.get_by_label("Settings with these words").fill("")
    page.get_by_label("Only those that are set").check()
    expect(page.get_by_text("index_map")).to_have_count(0)
    expect(page.get_by_text("PULZAR_EXTENSIONS_DIR")).to_be_visible()


def test_a_token_is_made_shown_once_used_and_revoked(log_in: Callable[[str], Page], guarded: Keys) -> None:
    page = log_in(guarded.all)
    page.goto("/ui/tokens")
    page.get_by_label("Name, for logs").fill("ci")
    page.get_by_label("Rights, with blanks between them").fill("read:builds/ launch:tests/*")
    page.get_by_role("button", name="Make a token").click()
    text = page.locator("pre code").first.inner_text()
    assert re.fullmatch(r"pz_ci_[0-9a-f]{48}", text)
    assert text not in page.url
    wait_for(lambda: guarded.ask("GET", "/keys?prefix=builds/", text).status == 200, what="the token to be known")
    page.goto("/ui/tokens")
    expect(page.get_by_role("row").filter(has_text="launch:tests/*")).to_contain_text("for ever")
    assert text not in page.content()
    page.get_by_role("row").filter(has_text="launch:tests/*").get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("token ci revoked")).to_be_visible()
    wait_for(lambda: guarded.ask("GET", "/keys?prefix=builds/", text).status == 401, what="the token to be revoked")
    page.get_by_role("link", name="What was done lately").click()
    expect(page.get_by_role("row").filter(has_text="DELETE /admin/tokens").first).to_contain_text("200")
