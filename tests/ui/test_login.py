"""Sessions in a browser: log in, what a token may see, what ends a session, what forms need."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.integration.tokens_tools import Keys
from tests.integration.wire import Client


def test_a_token_opens_the_page_and_logging_out_closes_it(guarded: Keys, log_in: Callable[[str], Page]) -> None:
    token = guarded.make("reader", ["metrics", "read:"])
    guarded.settle()
    page = log_in(token)
    expect(page.get_by_role("heading", name="Cluster")).to_be_visible()
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/ui")
    assert token not in cookie["value"]
    page.get_by_role("link", name="node-1").click()
    expect(page.get_by_text("You lack the right admin")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    assert page.context.cookies() == []


def test_a_wrong_token_is_refused_and_the_right_one_leads_to_where_one_wanted(
    guarded: Keys, log_in: Callable[[str], Page]
) -> None:
    page = log_in(guarded.all)
    page.context.clear_cookies()
    page.goto("/ui/nodes/node-2?x=1")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    page.get_by_label("Token").fill("pz_nobody_" + "0" * 48)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("not known")
    page.get_by_label("Token").fill(guarded.all)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/ui/nodes/node-2?x=1")


def test_a_session_ends_when_its_token_is_revoked(guarded: Keys, log_in: Callable[[str], Page]) -> None:
    token = guarded.make("leaver", ["metrics"])
    guarded.settle()
    page = log_in(token)
    del guarded.lines["leaver"]
    guarded.write()
    guarded.settle()
    page.goto("/ui/")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def test_a_screen_without_its_right_says_which(guarded: Keys, log_in: Callable[[str], Page]) -> None:
    token = guarded.make("writer", ["write:"])
    guarded.settle()
    page = log_in(token)
    expect(page.get_by_role("alert")).to_contain_text("The token writer lacks the right metrics")


def test_the_cookie_is_nothing_to_the_api_and_forms_need_their_text(
    guarded: Keys, log_in: Callable[[str], Page]
) -> None:
    page = log_in(guarded.all)
    (cookie,) = page.context.cookies()
    sent = {"Cookie": f"{cookie['name']}={cookie['value']}"}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    with Client(guarded.cluster.master_url) as client:
        assert client.request("GET", "/ui/", headers=sent).status == 200
        assert client.request("GET", "/admin/status", headers=sent).status == 401
        assert client.request("DELETE", "/admin/network/node-1", headers=sent).status == 401
        # A form without its text, or with another one, changes nothing.
        for body in (b"confirmed=1", b"confirmed=1&csrf=" + b"0" * 32):
            answer = client.request("POST", "/ui/nodes/node-1/forget", body, sent | form)
            assert answer.status == 403
            assert b"not from this page" in answer.body
        # With it, the API's own answer is shown: the node is heard from.
        text = page.locator("input[name=csrf]").first.input_value()
        body = b"confirmed=1&csrf=" + text.encode()
        answer = client.request("POST", "/ui/nodes/node-1/forget", body, sent | form)
        assert answer.status == 409
        assert b"is heard from; stop it first" in answer.body
        # The page of another site may not send it even so.
        foreign = sent | form | {"Origin": "https://evil.example"}
        assert client.request("POST", "/ui/nodes/node-1/forget", body, foreign).status == 403


def test_curl_keeps_its_json(guarded: Keys) -> None:
    with Client(guarded.cluster.master_url) as client:
        answer = client.request("GET", "/")
        assert answer.status == 404
        assert "no such path: /" in answer.json["msg"]
        assert client.request("GET", "/", headers={"Accept": "text/html"}).status == 303
        assert client.request("GET", "/ui").status == 303
        answer = client.request("GET", "/ui/")
        assert (answer.status, answer.headers["location"]) == (303, "./login")


def test_who_may_only_launch_sees_his_own_jobs(guarded: Keys, log_in: Callable[[str], Page]) -> None:
    token, other = guarded.make("ann", ["launch:example/f*"]), guarded.all
    guarded.settle()
    theirs = guarded.launch(other)
    page = log_in(token)
    page.goto("/ui/jobs")
    expect(page.get_by_role("link", name="example/factorial", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="text/words", exact=True)).to_have_count(0)
    page.get_by_role("link", name="Launch example/fibonacci").click()
    page.get_by_label("count int").fill("200")
    page.get_by_role("button", name="Launch and wait").click()
    expect(page.locator("p.state")).to_contain_text("Launched by ann")
    # What is too long for the index comes from its node, by an address that the master signs.
    expect(page.locator("#result")).to_contain_text("173402521172797813159685037284371942044301")
    for address in (f"/ui/jobs/{theirs}", f"/ui/jobs/{theirs}/log", "/ui/jobs/launch?script=text/words"):
        page.goto(address)
        expect(page.get_by_role("alert")).to_be_visible()
    # The page's session is nothing to the API, and another's form is refused.
    (cookie,) = page.context.cookies()
    sent = {"Cookie": f"{cookie['name']}={cookie['value']}", "Content-Type": "application/x-www-form-urlencoded"}
    with Client(guarded.cluster.master_url) as client:
        for path in ("/ui/jobs/launch", f"/ui/jobs/{theirs}/cancel", f"/ui/jobs/{theirs}/again"):
            assert client.request("POST", path, b"script=example/factorial", sent).status == 403


def test_who_may_only_launch_sees_his_own_history_and_schedules(guarded: Keys, log_in: Callable[[str], Page]) -> None:
    token, other = guarded.make("bob", ["launch:example/factorial"]), guarded.all
    guarded.settle()
    theirs = guarded.launch(other)
    page = log_in(token)
    page.goto("/ui/jobs/history")
    expect(page.get_by_text("No job was launched yet.")).to_be_visible()
    page.goto("/ui/schedules")
    page.get_by_role("button", name="New schedule").click()
    page.get_by_label("number int").fill("5")
    page.get_by_label("Time", exact=True).fill("2")
    page.get_by_label("Unit").select_option("days")
    expect(page.locator("#coming")).to_contain_text("every 2 days at")
    page.get_by_role("button", name="Launch", exact=True).click()
    page.get_by_role("button", name="Run now").click()
    expect(page.get_by_text("Job added with id")).to_be_visible()
    page.goto("/ui/jobs/history")
    expect(page.locator("tbody tr:not(.more)")).to_have_count(1)
    assert page.get_by_role("link", name=str(theirs), exact=True).count() == 0
    page.goto(f"/ui/schedules/{theirs}")
    expect(page.get_by_role("alert")).to_be_visible()
