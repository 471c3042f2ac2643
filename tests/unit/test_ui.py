"""The web page without a browser: sessions, forms, escaping, assets, addresses, numbers, what is wrong."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from jinja2 import Environment, FileSystemLoader

from broker import topology
from broker.messages.store import Heartbeat
from broker.refusals import NotFound, Unauthorized
from broker.settings import Broker, Settings
from master.cluster import curves, queue_depths
from master.security import tokens
from master.security.gate import NAME, RIGHTS
from master.security.rights import ALL_RIGHTS, Right
from master.security.sessions import SESSION_SECS, Sessions, address_of
from master.web.ui import app, console, problems, queues
from master.web.ui.console import Console
from master.web.ui.frame import assets, charts, formats, visits
from master.web.ui.frame.pages import TEMPLATES, Nav, Pages
from master.web.ui.frame.visits import Visit
from master.web.ui.problems import State

SECRET, OTHER = b"a" * 32, b"b" * 32
SESSIONS = Sessions((SECRET,), "store:31414")
NOW = 1_800_000_000.0
TEXT, TOKEN = tokens.make("ann", [Right("read", "a/"), Right("metrics")], None)
EVIL = "<script>alert(1)</script>'\"&"


def environ(path: str = "/ui/", cookie: str = "", client: str = "10.0.0.5:1234", **more: str) -> dict[str, str]:
    found = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "", "REMOTE_ADDR": client}
    return found | ({"HTTP_COOKIE": cookie} if cookie else {}) | more


def of(cookie: str, token: tokens.Token | None = TOKEN, sessions: Sessions = SESSIONS, now: float = NOW) -> object:
    return sessions.token(cookie, lambda name: token if token and name == token.name else None, now)


# Sessions


def test_a_session_stands_for_its_token_and_does_not_have_it() -> None:
    cookie = SESSIONS.make(TOKEN, NOW)
    assert of(cookie) == TOKEN
    assert TEXT not in cookie
    assert TOKEN.digest not in cookie


def test_a_session_ends_after_its_time() -> None:
    cookie = SESSIONS.make(TOKEN, NOW)
    assert of(cookie, now=NOW + SESSION_SECS - 1) == TOKEN
    assert of(cookie, now=NOW + SESSION_SECS + 1) is None


def test_a_session_ends_with_its_token() -> None:
    cookie = SESSIONS.make(TOKEN, NOW)
    # Given a token that is revoked, made anew under the same name, or over
    assert of(cookie, None) is None
    assert of(cookie, tokens.make("ann", [Right("read", "a/")], None)[1]) is None
    assert of(cookie, TOKEN._replace(until=datetime.date(2020, 1, 1))) is None
    # And its rights are those that it has now
    assert of(cookie, TOKEN._replace(rights=tokens.Rights([Right("admin")])))


@pytest.mark.parametrize(
    "change",
    [
        lambda cookie: "",
        lambda cookie: "..",
        lambda cookie: cookie[:-1],
        lambda cookie: cookie.replace("ann.", "bob."),
        lambda cookie: cookie.replace("ann.1", "ann.2"),
        lambda cookie: re.sub(r"\.\d+\.", ".x.", cookie),
        lambda cookie: re.sub(r"\.\d+\.", ".²²²²²²²²²².", cookie),
        lambda cookie: cookie + "é",
    ],
)
def test_a_changed_cookie_is_no_session(change) -> None:  # type: ignore[no-untyped-def]
    assert of(change(SESSIONS.make(TOKEN, NOW))) is None


def test_a_session_outlives_a_change_of_the_secret_while_both_count() -> None:
    old = Sessions((OTHER,), "store:31414").make(TOKEN, NOW)
    assert of(old) is None
    assert of(old, sessions=Sessions((SECRET, OTHER), "store:31414")) == TOKEN


def test_two_masters_on_one_host_have_their_own_cookies() -> None:
    other = Sessions((SECRET,), "store:31415")
    assert other.cookie != SESSIONS.cookie
    both = f"a=b; {other.cookie}=x; {SESSIONS.cookie}=y"
    assert SESSIONS.sent(environ(cookie=both)) == "y"
    assert other.sent(environ(cookie=both)) == "x"


# Forms


def test_a_form_is_good_for_the_session_that_it_was_made_for_alone() -> None:
    mine = environ(cookie=f"{SESSIONS.cookie}={SESSIONS.make(TOKEN, NOW)}")
    text = SESSIONS.form_text(mine)
    assert visits.is_form_text(mine, SESSIONS, text)
    assert visits.is_form_text(mine | {"HTTP_X_CSRF_TOKEN": text}, SESSIONS, None)
    for wrong in ("", "x", text[:-1], "é", None):
        assert not visits.is_form_text(mine, SESSIONS, wrong)
    theirs = environ(cookie=f"{SESSIONS.cookie}={SESSIONS.make(TOKEN, NOW + 1)}")
    assert not visits.is_form_text(theirs, SESSIONS, text)


def test_without_tokens_a_form_is_good_for_its_address() -> None:
    text = SESSIONS.form_text(environ(client="10.0.0.5:1"))
    assert visits.is_form_text(environ(client="10.0.0.5:2"), SESSIONS, text)
    assert visits.is_form_text(environ(client="10.0.0.5"), SESSIONS, text)
    assert not visits.is_form_text(environ(client="10.0.0.6:1"), SESSIONS, text)


@pytest.mark.parametrize(
    ("given", "address"),
    [("10.0.0.5:1", "10.0.0.5"), ("10.0.0.5", "10.0.0.5"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("::1", "::1")],
)
def test_the_address_of_a_client_has_no_port(given: str, address: str) -> None:
    assert address_of(environ(client=given)) == address


def test_what_is_said_on_the_next_page_is_signed() -> None:
    assert SESSIONS.is_signed("done", SESSIONS.sign("done"))
    assert not SESSIONS.is_signed("done!", SESSIONS.sign("done"))


@pytest.mark.parametrize("target", ["keys?prefix=a/", "nodes/x", "", "keys?to=http%3A//x"])
def test_a_form_leads_on_within_the_page(target: str) -> None:
    assert visits.local(target) == target


@pytest.mark.parametrize("target", ["//evil", "http://evil", "/x", "../x", "\\\\evil", "a\\b", "javascript:x", "a\nb"])
def test_a_form_leads_nowhere_else(target: str) -> None:
    assert visits.local(target) == ""


# Pages


@pytest.mark.parametrize(
    ("path", "root"),
    [("/ui/", "./"), ("/ui/keys", "./"), ("/ui/nodes/a", "../"), ("/ui/a/b/c", "../../"), ("/x", "ui/")],
)
def test_addresses_are_relative_to_the_page(path: str, root: str) -> None:
    assert Visit.of(environ(path), SESSIONS).root == root


def test_addresses_in_a_part_are_relative_to_the_page_that_it_is_put_into() -> None:
    assert Visit.of(environ("/ui/keys/rows", HTTP_X_ROOT="./"), SESSIONS).root == "./"
    assert Visit.of(environ("/ui/nodes/a/now", HTTP_X_ROOT="../"), SESSIONS).root == "../"
    for wrong in ("", "/", "//evil/", "../x", "javascript:", "../" * 7):
        assert Visit.of(environ("/ui/keys/rows", HTTP_X_ROOT=wrong), SESSIONS).root == "../"


def pages() -> Pages:
    return Pages([Nav("cluster", "Cluster", "", ("metrics",)), Nav("keys", "Keys", "keys", ("read",))], "store:31414")


def test_what_users_wrote_is_escaped() -> None:
    visit = Visit.of(environ(**{NAME: "ann", RIGHTS: ALL_RIGHTS}), SESSIONS)
    for text in (
        pages().from_error(NotFound(EVIL), visit).body.decode(),
        pages().render("confirm.html", visit, dict.fromkeys(("title", "question", "text", "button", "back"), EVIL) | {"fields": {EVIL: EVIL}}),
        pages().render("login.html", visit, {"title": EVIL, "error": EVIL, "wanted": EVIL}),
    ):  # fmt: skip
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(1)" in text


def test_the_navigation_shows_what_a_visitor_may_use() -> None:
    def shown(rights: str) -> list[str]:
        visit = Visit.of(environ(**{NAME: "ann", RIGHTS: rights}), SESSIONS)
        text = pages().page("error.html", visit, {"title": "t", "error": "e", "status": 404}).body.decode()
        return re.findall(r"</svg>(\w+)</a>", text)

    assert shown("read:a/") == ["Keys"]
    assert shown("admin") == ["Cluster"]
    assert shown(ALL_RIGHTS) == ["Cluster", "Keys"]


def test_who_has_no_session_is_sent_to_log_in_and_back() -> None:
    visit = Visit.of(environ("/ui/nodes/a") | {"QUERY_STRING": "x=1"}, SESSIONS)
    answer = pages().from_error(Unauthorized("no"), visit)
    assert (answer.status, dict(answer.headers)["Location"]) == (303, "../login?next=nodes%2Fa%3Fx%3D1")
    part = Visit.of(environ("/ui/cluster/now", HTTP_HX_REQUEST="true"), SESSIONS)
    answer = pages().from_error(Unauthorized("no"), part)
    assert (answer.status, dict(answer.headers)["HX-Refresh"]) == (401, "true")


def test_a_part_that_has_not_changed_is_not_sent_again() -> None:
    visit = Visit.of(environ(), SESSIONS)
    values = {"title": "t", "error": "e", "status": 404}
    first = pages().fragment("error_part.html", visit, values)
    tag = dict(first.headers)["ETag"]
    again = Visit.of(environ(HTTP_IF_NONE_MATCH=tag), SESSIONS)
    assert pages().fragment("error_part.html", again, values).status == 304
    assert pages().fragment("error_part.html", again, values | {"error": "another"}).status == 200


def test_pages_forbid_all_that_is_not_from_here() -> None:
    headers = dict(pages().from_error(NotFound("x"), Visit.of(environ(), SESSIONS)).headers)
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Frame-Options"] == "DENY"


# Assets and templates


def test_vendored_assets_are_what_they_say() -> None:
    for name, vendored in assets.VENDORED.items():
        content = (assets.FOLDER / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == vendored.sha256, name
        assert vendored.source.rpartition(" ")[2] in name
        assert vendored.licence in ("MIT", "0BSD")
    own = {"app.css", "app.js", "theme.js", "icon.svg"} | {
        path.name for path in assets.FOLDER.glob("*.js") if not re.search(r"\d+\.\d+", path.name)
    }
    assert {path.name for path in assets.FOLDER.iterdir()} == own | set(assets.VENDORED)


def test_the_styles_of_all_screens_are_short() -> None:
    assert len((assets.FOLDER / "app.css").read_text().splitlines()) < 200


def test_all_that_a_page_loads_is_small() -> None:
    assert sum(len(asset.compressed) for asset in assets.ASSETS.values()) < 100_000


def test_assets_are_kept_for_good_at_their_versions_address() -> None:
    path, _, version = assets.address("app.css").partition("?")
    asked = environ(f"/ui/{path}", HTTP_ACCEPT_ENCODING="gzip, br") | {"QUERY_STRING": version}
    answer = app._asset(asked, "app.css")
    headers = dict(answer.headers)
    assert (answer.status, headers["Content-Encoding"], headers["Cache-Control"]) == (200, "gzip", assets.FOR_GOOD)
    assert dict(app._asset(asked | {"QUERY_STRING": "x"}, "app.css").headers)["Cache-Control"] == "no-cache"
    plain = app._asset(environ(f"/ui/{path}"), "app.css")
    assert plain.body == (assets.FOLDER / "app.css").read_bytes()
    assert app._asset(asked | {"HTTP_IF_NONE_MATCH": headers["ETag"]}, "app.css").status == 304
    assert app._asset(asked, "../app.py").status == 404


TEMPLATE_FILES = sorted(TEMPLATES.rglob("*.html"))


@pytest.mark.parametrize("path", TEMPLATE_FILES, ids=lambda path: str(path.relative_to(TEMPLATES)))
def test_a_template_has_no_inline_script_and_no_inline_style(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\sstyle=|<style|\son[a-z]+=|hx-on|javascript:|\|\s*safe|<script(?![^>]*\ssrc=)", text)
    assert not re.search(r"(?:href|src|action|hx-get|hx-post)=\"(?!\{\{|#)", text), "relative to the root"


@pytest.mark.parametrize("path", TEMPLATE_FILES, ids=lambda path: str(path.relative_to(TEMPLATES)))
def test_every_form_that_changes_something_has_its_text(path: Path) -> None:
    for form in re.findall(r"<form\b[^>]*method=\"post\".*?</form>", path.read_text(), re.DOTALL):
        assert "csrf()" in form


def test_all_templates_compile() -> None:
    made = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    made.filters.update(formats.FILTERS)
    for path in TEMPLATE_FILES:
        made.get_template(str(path.relative_to(TEMPLATES)))


# Numbers


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (99_900, "100 kB"), (999_999, "1.0 MB"), (5e12, "5.0 TB")],
)  # fmt: skip
def test_sizes_are_for_people(number: float, text: str) -> None:
    assert formats.size(number) == text


@pytest.mark.parametrize(
    ("secs", "text"),
    [(-1, "0 s"), (0.25, "250 ms"), (3.14, "3.1 s"), (59, "59 s"), (59.7, "60 s"), (60, "1 min"), (200, "3 min 20 s"), (3_700, "1 h 1 min"), (90_000, "1 d 1 h")],
)  # fmt: skip
def test_durations_are_for_people(secs: float, text: str) -> None:
    assert formats.duration(secs) == text


def test_times_have_their_zone() -> None:
    assert formats.moment(0) == "1970-01-01 00:00:00 UTC"
    assert formats.iso(1e18).endswith("Z")


def test_a_curve_breaks_where_nothing_came() -> None:
    drawn = charts.curve([(0, 1), (10, 2), (50, 4), (60, 0)], 0, 100, top=8, gap=20)
    assert len(drawn.lines) == len(drawn.areas) == 2
    assert (drawn.top, drawn.last) == (8, 0)
    assert drawn.lines[0] == "0.0,105.0 60.0,90.0"
    assert charts.curve([], 0, 100).last is None
    assert len(charts.curve([(5, 5)], 0, 10).lines[0].split()) == 2, "one point is seen, too"


def test_bars_are_at_the_right_and_always_seen() -> None:
    drawn = charts.bars([(0, "ok", "a"), (10, "bad", "b")], most=10)
    assert drawn[-1].x + drawn[-1].width <= charts.WIDTH
    assert drawn[0].height > 0
    assert drawn[1].height == charts.HEIGHT


# Curves of nodes


def beat(node: str = "n", load: float = 0.5, keys: int = 7) -> Heartbeat:
    return Heartbeat(node, "http://h:1", 0, "1", "e", 1, 1, 200, 50, False, load, 33.0, keys, 4, [("r", 1, 1)], "c")


def test_curves_have_a_point_for_each_step_and_an_average_for_the_day(tmp_path: Path) -> None:
    recorder = curves.Recorder(tmp_path)
    start = 1_800_000_000
    for second in range(0, 60, 2):
        recorder.note([beat(load=0.0 if second < 30 else 1.0)], (start + second) * 1000)
    found = curves.read(tmp_path, "n", start + 60)
    assert [point.at - start for point in found.hour] == [0, 10, 20, 30, 40, 50]
    assert [point.load for point in found.day] == [0.5]
    last = found.hour[-1]
    assert (last.disk, last.memory, last.running, last.slots, last.keys) == (75.0, 33.0, 1, 4, 7)


def test_old_points_make_room_and_are_not_shown(tmp_path: Path) -> None:
    recorder = curves.Recorder(tmp_path)
    start = 1_800_000_000
    for second in range(0, 2 * 3600, 10):
        recorder.note([beat()], (start + second) * 1000)
    now = start + 2 * 3600
    found = curves.read(tmp_path, "n", now)
    assert len(found.hour) == curves.HOUR_POINTS
    assert found.hour[0].at >= now - 3600
    assert len(found.day) == 24
    assert curves.read(tmp_path, "n", now + 1800).hour[0].at >= now - 1800
    assert curves.read(tmp_path, "n", now + 2 * 86_400) == ([], [])


def test_curves_of_strange_names_stay_in_their_folder_and_are_forgotten(tmp_path: Path) -> None:
    recorder = curves.Recorder(tmp_path)
    recorder.note([beat("../../etc/x")], 1_800_000_000_000)
    assert [path.parent for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / curves.FOLDER]
    assert curves.read(tmp_path, "../../etc/x", 1_800_000_000).hour
    recorder.forget("../../etc/x")
    assert not curves.read(tmp_path, "../../etc/x", 1_800_000_000).hour
    recorder.forget("never seen")


# What is wrong


def state(**more: object) -> State:
    good = State([], "", None, True, [], [], [], {}, {})
    return good._replace(**more)  # type: ignore[arg-type]


def row(**more: object) -> dict[str, object]:
    from broker import VERSION

    found = {"node": "n1", "synch": True, "full": False, "percent": 10, "disk_free": 10**9, "version": VERSION}
    return found | {"last_seen": NOW - 90} | more


@pytest.mark.parametrize(
    ("found", "level", "words"),
    [
        (state(broker_problem="refused"), "bad", "no connection to RabbitMQ: refused"),
        (state(controller=False), "bad", "controller"),
        (state(nodes=[row()], objection="no node has room"), "bad", "no node has room"),
        (state(nodes=[row()], restoring=["n2"]), "warn", "waits for n2"),
        (state(nodes=[row(synch=False)]), "bad", "last heard from 1 min 30 s ago"),
        (state(nodes=[row(full=True, percent=99)]), "bad", "n1 is full: 1.0 GB are free"),
        (state(nodes=[row(percent=93)]), "warn", "93 % full"),
        (state(nodes=[row()], clocks={"n1": -65.0}), "warn", "1 min 5 s behind"),
        (state(nodes=[row(version="0.0.1")]), "warn", "runs version 0.0.1"),
        (state(depths={topology.DEAD: 1}), "warn", "1 message could not be used and waits"),
        (state(depths={topology.DEAD: 2}), "warn", "2 messages could not be used and wait "),
        (state(backup_warnings=["the last good backup of n1 is 3.0 days old"]), "warn", "The last good backup of n1"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(found: State, level: str, words: str) -> None:
    (problem,) = problems.find(found, NOW)
    assert problem.level == level
    assert words in problem.what
    assert problem.advice


def test_nothing_is_wrong_with_a_good_cluster_and_the_worst_comes_first() -> None:
    assert problems.find(state(nodes=[row()]), NOW) == []
    found = problems.find(state(nodes=[row(percent=95), row(node="n2", synch=False)]), NOW)
    assert [problem.level for problem in found] == ["bad", "warn"]


def test_names_and_problems_of_nodes_are_texts() -> None:
    """The master refuses such a name. The page would show it as a text."""
    evil = row(node=EVIL, synch=False, load=0.1, memory=3, running=[], slots=2, version=EVIL, keys=1)
    known = state(nodes=[evil], broker_problem=EVIL, restoring=[EVIL], backup_warnings=[EVIL])
    numbers = dict.fromkeys(("keys", "bytes", "held_bytes", "heard", "nodes", "running"), 1)
    values = {
        "problems": problems.find(known, NOW),
        "nodes": [evil],
        "numbers": numbers | dict.fromkeys(("slots", "pending", "failed", "free", "total"), 1),
        "queues": queues.rows({}, {}, [EVIL]),
        "dead": topology.DEAD,
        "not_told": EVIL,
        "connected": True,
        "console": EVIL,
    }
    visit = Visit.of(environ(**{NAME: "ann", RIGHTS: ALL_RIGHTS}), SESSIONS)
    text = pages().render("cluster/now.html", visit, values)
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert(1)") >= 8


def test_every_queue_is_listed() -> None:
    found = queues.rows({topology.RESULTS: 3}, {topology.RESULTS: 2}, ["n1"])
    assert {row.name for row in found} >= {topology.DEAD, topology.jobs_queue("high"), topology.node_data_queue("n1")}
    assert {row.name: row.ready for row in found}[topology.RESULTS] == 3
    assert {row.name: row.unacknowledged for row in found}[topology.RESULTS] == 2
    assert {row.name: row.ready for row in found}[topology.DEAD] is None


def test_the_first_look_after_a_while_shows_the_queues_as_they_are_now(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, inside = [1000.0], {"dead": 0}
    answers = [True]

    class Told:
        ready = True

        def count(self, _names: list[str], done: Callable[[dict[str, int]], None]) -> None:
            if answers[0]:
                threading.Timer(0.02, done, [dict(inside)]).start()  # RabbitMQ answers on another thread, soon

    monkeypatch.setattr(queue_depths, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    depths = queue_depths.Depths(Told())  # type: ignore[arg-type]
    assert depths.of([]) == {"dead": 0}
    # When a message has died since, and somebody looks an hour later
    inside["dead"] = 1
    clock[0] += 3600
    assert depths.of([]) == {"dead": 1}
    # Then a page that asks every few seconds has the last answer at once, also while RabbitMQ says nothing
    answers[0] = False
    clock[0] += 5
    begun = time.perf_counter()
    assert depths.of([]) == {"dead": 1}
    assert time.perf_counter() - begun < queue_depths.ANSWER_SECS / 2


def test_the_console_is_asked_anew_by_the_first_look_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, inside = [1000.0], {"dead": 0}

    def fetch(_self: Console) -> dict[str, int]:
        time.sleep(0.02)
        return dict(inside)

    monkeypatch.setattr(Console, "_fetch", fetch)
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    asked = Console(dataclasses.replace(Settings(), broker=Broker("amqp://localhost", "http://localhost:15672")))
    assert asked.numbers().unacknowledged == {"dead": 0}
    inside["dead"] = 1
    clock[0] += 3600
    assert asked.numbers().unacknowledged == {"dead": 1}


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("ü file.txt", "u file.txt"),
        ("u\u0308.txt", "u.txt"),
        ("Ångström №5.csv", "Angstrom No5.csv"),
        ("straße.txt", "stra_e.txt"),
        ("日本.txt", "__.txt"),
        ("😀.txt", "_.txt"),
        ("a\tb\x7f.txt", "a_b_.txt"),
        ("C:\\My files\\ü.txt", "u.txt"),
        ("folder/é.txt", "e.txt"),
        ("plain (2).txt", "plain (2).txt"),
    ],
)
def test_the_name_of_a_file_becomes_the_end_of_a_key(filename: str, name: str) -> None:
    assert formats.plain_name(filename) == name


def test_the_scripts_of_the_page_name_files_alike() -> None:
    for script in ("keys.js", "launch.js"):
        text = (Path(app.__file__).parent / "static" / script).read_text()
        assert r'normalize("NFKD").replace(/[\u0300-\u036f]/g, "").replace(/[^ -~]/gu, "_")' in text, script
