"""`/admin/job_history` and the routes beside it, from a ledger to JSON; the words and times of schedules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from broker.messages.jobs import Options, Order
from broker.messages.runs import RunState
from jobs.secret_file import SecretFile
from master.jobs.history import timing
from master.jobs.model import Rhythm
from master.jobs.routing import Load
from master.security.gate import LAUNCHES, OWN
from master.web.flask_routes import job_admin, job_history, schedule_preview
from master.web.flask_routes.app import _failed
from master.web.jobs.launch_request import rhythm_of
from tests.unit.desk import NOW, Desk

# A Tuesday, 22:13:20 UTC.
assert NOW == 1_700_000_000_000


class Site:
    """The routes over a desk's ledger. `own`: the name of the token that may see only its own."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.own = desk, ""
        self.app = app = Flask("test")
        self.parts(SecretFile(""))
        for module in (job_admin, job_history, schedule_preview):
            app.register_blueprint(module.blueprint)
        app.register_error_handler(Exception, _failed)
        self.client = app.test_client()

    def parts(self, secrets: SecretFile) -> None:
        loads = {"n1": Load(True, 1, 1), "n2": Load(True, 1, 1)}
        made = job_admin.JobParts(self.desk.ledger, lambda _key, _most: None, secrets, lambda: loads, 30)
        self.app.extensions[job_admin.EXTENSION] = made

    def get(self, path: str, status: int = 200, **query: object) -> Any:
        environ = {OWN: self.own, LAUNCHES: ""} if self.own else {}
        answer = self.client.get(path, query_string=query, environ_overrides=environ)
        assert answer.status_code == status, answer.text
        return answer.get_json()["data" if status == 200 else "msg"]

    def ended(self, state: RunState, by: str = "", **arguments: Any) -> int:
        order = Order("example/job", arguments)
        launched = self.desk.write(lambda tables: self.desk.transitions.launch(tables, order, "rest", NOW, by=by))
        number = launched.id
        self.desk.confirm(number)
        self.desk.claim(number, run=number)
        self.desk.finish(number, state, run=number)
        return number


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    desk = Desk(tmp_path)
    yield Site(desk)
    desk.ledger.close()


def test_a_page_has_rows_of_jobs_and_a_cursor(site: Site) -> None:
    numbers = [site.ended(RunState.COMPLETED, number=one) for one in range(3)]
    failed = site.ended(RunState.FAILED)
    first = site.get("/admin/job_history", limit=2)
    assert [row["job_id"] for row in first["jobs"]] == [failed, numbers[2]]
    rest = site.get("/admin/job_history", limit=2, cursor=first["cursor"])
    assert [row["job_id"] for row in rest["jobs"]] == [numbers[1], numbers[0]]
    assert (rest["cursor"], rest["early"]) == (None, False)
    shown = site.get("/admin/job_history", state="failed", script="example/job.py", source="rest", node="n1")
    assert [row["state"] for row in shown["jobs"]] == ["failed"]
    numbers = {"pending": 0, "running": 0, "completed": 3, "failed": 1, "cancelled": 0, "exact": True}
    assert site.get("/admin/job_counts") == site.get("/admin/job_counts", script="example/job") == numbers


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"state": "ready"}, "state='ready' is none of pending, running"),
        ({"source": "me"}, "source='me' is none of rest"),
        ({"script": "../x"}, "script='../x' is no folder/script"),
        ({"schedule": "x"}, "schedule='x' is no integer from 1"),
        ({"cursor": "0"}, "cursor='0' is no integer from 1"),
        ({"limit": "1001"}, "limit='1001' is no integer from 1 to 1000"),
        ({"text": "x" * 201}, "has 201 characters; 200 is the limit"),
        ({"node": "n" * 131}, "has 131 characters; 130 is the limit"),
    ],
)
def test_a_filter_that_can_not_be_says_what_was_received(site: Site, query: dict[str, str], said: str) -> None:
    assert said in site.get("/admin/job_history", 400, **query)


def test_who_may_see_his_own_jobs_gets_no_others(site: Site) -> None:
    own = site.ended(RunState.COMPLETED, by="ci")
    site.ended(RunState.FAILED)
    site.own = "ci"
    assert [row["job_id"] for row in site.get("/admin/job_history")["jobs"]] == [own]
    assert site.get("/admin/job_history", state="failed")["jobs"] == []
    counted = site.get("/admin/job_counts")
    assert (counted["completed"], counted["failed"]) == (1, 0)
    assert [row["job_id"] for row in site.get("/admin/script_runs/example/job")["runs"]] == [own]


def test_a_secret_can_not_be_found_by_its_text(site: Site, tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text("[secrets]\npassword = sesame-street\n")
    (tmp_path / "secrets").chmod(0o600)
    site.ended(RunState.COMPLETED, password="sesame-street")
    assert len(site.get("/admin/job_history", text="sesame")["jobs"]) == 1
    site.parts(SecretFile(str(tmp_path / "secrets")))
    assert site.get("/admin/job_history", text="sesame")["jobs"] == []
    assert len(site.get("/admin/job_history", text="PASSword")["jobs"]) == 1


def test_the_runs_of_a_script_and_how_long_one_takes(site: Site) -> None:
    for state in (RunState.COMPLETED, RunState.COMPLETED, RunState.FAILED, RunState.COMPLETED):
        site.ended(state)
    data = site.get("/admin/script_runs/example/job", limit=2)
    assert [(run["state"], run["secs"]) for run in data["runs"]] == [("completed", 1.5), ("failed", 1.5)]
    assert data["typical"] == {"secs": 1.5, "slow_secs": 1.5, "jobs": 3}
    assert site.get("/admin/script_runs/no/such") == {"script": "no/such", "runs": [], "typical": None}
    assert "is no job" in site.get("/admin/script_runs/no/.such", 400)


def test_one_job_says_why_it_waits_and_when_it_should_end(site: Site) -> None:
    for _ in range(3):
        site.ended(RunState.COMPLETED)
    number = site.desk.launched(Options(node="n1"))
    shown = site.get(f"/admin/jobs/{number}")
    said = "no free slot: all 1 of node n1 are busy; it is the next one"
    assert shown["waits"] == {"cause": "slot", "text": said, "until": None, "before": 0}
    assert shown["expected_end"] is None
    site.desk.claim(number, run=99)
    shown = site.get(f"/admin/jobs/{number}")
    assert shown["waits"] is None
    assert shown["expected_end"] == NOW / 1000 + 1.5


@pytest.mark.parametrize(
    ("rhythm", "words"),
    [
        (Rhythm("minutes", 1, True), "every minute"),
        (Rhythm("minutes", 15, True), "every 15 minutes"),
        (Rhythm("hours", 1, True), "every hour at minute 13"),
        (Rhythm("hours", 6, True), "every 6 hours at minute 13"),
        (Rhythm("days", 1, True), "every day at 22:13 UTC"),
        (Rhythm("days", 3, True), "every 3 days at 22:13 UTC"),
        (Rhythm("weeks", 1, True), "every Tuesday at 22:13 UTC"),
        (Rhythm("weeks", 2, True), "every 2 weeks on Tuesday at 22:13 UTC"),
        (Rhythm("hours", 2, False), "once, on 2023-11-15 at 00:13 UTC"),
        (Rhythm("cron", 0, True, "0 9 * * 1", "Europe/Vienna"), "at 09:00 on Monday, Europe/Vienna"),
        (Rhythm("cron", 0, False, "*/15 * * * *"), "once, every 15th minute of every hour, UTC"),
    ],
)
def test_a_timing_in_words(rhythm: Rhythm, words: str) -> None:
    assert timing.words(rhythm, NOW) == words


def test_a_timing_that_is_only_typed_has_words_and_times(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule_preview, "now_ms", lambda: NOW)
    shown = site.get("/schedule_preview", interval="weeks", time_unit=1, repeat=1, count=2)
    week = 7 * 86_400
    assert shown == {"timing": "every Tuesday at 22:13 UTC", "next": [NOW / 1000 + week, NOW / 1000 + 2 * week]}
    once = site.get("/schedule_preview", interval="minutes", time_unit=10, repeat=0)
    assert once["next"] == [NOW / 1000 + 600]
    # 09:00 in Vienna is 08:00 UTC in winter; that the fields of the other form are empty does not matter
    cron = site.get("/schedule_preview", cron=" 0 9  * * * ", zone="Europe/Vienna", count=1)
    assert cron == {"timing": "at 09:00 every day, Europe/Vienna", "next": [NOW / 1000 + 35_200]}
    assert len(site.get("/schedule_preview", interval="days", time_unit=1, repeat=1)["next"]) == 5


@pytest.mark.parametrize(
    ("typed", "kept"), [("utc", ""), ("Utc", ""), ("europe/VIENNA", "Europe/Vienna"), ("etc/gmt+5", "Etc/GMT+5")]
)
def test_a_zone_may_be_typed_in_any_case(site: Site, typed: str, kept: str) -> None:
    said = site.get("/schedule_preview", cron="0 9 * * *", zone=typed)["timing"]
    assert said == f"at 09:00 every day, {kept or 'UTC'}"
    assert rhythm_of({"cron": "0 9 * * *", "zone": typed}).zone == kept


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({}, "scheduled has no interval"),
        ({"interval": "years", "time_unit": "1", "repeat": "1"}, "interval = 'years' is none of minutes"),
        ({"interval": "days", "time_unit": "soon", "repeat": "1"}, "time_unit = 'soon' is no integer"),
        ({"interval": "days", "time_unit": "1", "repeat": "2"}, "repeat = 2 is neither 0"),
        ({"interval": "days", "time_unit": "1"}, "scheduled has no repeat"),
        ({"cron": "61 * * * *"}, 'is not the five fields of cron, like "0 9 * * 1" (Bad minute)'),
        ({"cron": "* * * * * *"}, "Wrong number of fields"),
        ({"cron": "0 0 30 2 *"}, "cron = '0 0 30 2 *' never comes; no year has such a day"),
        ({"cron": "0 0 31 4,6,NOV *"}, "never comes; no year has such a day"),
        ({"cron": "0 0 30 13 *"}, "(Bad month)"),
        ({"cron": "0 0 32 2 *"}, "(Bad day-of-month)"),
        ({"cron": "x" * 101}, "is no text of up to 100 characters"),
        ({"cron": "0 9 * * 1", "zone": "../../etc/passwd"}, "zone = '../../etc/passwd' is no time zone"),
        ({"cron": "0 9 * * 1", "interval": "days"}, "scheduled has 'interval' beside cron"),
        ({"count": "101"}, "count='101' is no integer from 1 to 100"),
    ],
)
def test_a_timing_that_can_not_be_is_refused_as_a_launch_would(site: Site, query: dict[str, str], said: str) -> None:
    assert said in site.get("/schedule_preview", 400, **query)


def test_the_next_times_of_a_schedule_and_those_of_a_week(site: Site) -> None:
    desk = site.desk
    order, hour = Order("example/job", {}), 3_600_000
    number = desk.write(lambda tables: desk.schedules.add(tables, order, Rhythm("hours", 8, True), NOW))
    made = desk.read(lambda view: view.schedule(number))
    assert made
    assert timing.coming(made, NOW, 3) == [NOW + 8 * hour, NOW + 16 * hour, NOW + 24 * hour]
    # The next one is late, and is about to be launched
    assert timing.coming(made, NOW + 9 * hour, 2) == [NOW + 8 * hour, NOW + 16 * hour]
    assert timing.between(made, NOW + 10 * hour, NOW + 25 * hour, 9) == [NOW + 16 * hour, NOW + 24 * hour]
    assert timing.between(made, NOW - 99 * hour, NOW + 17 * hour, 1) == [NOW + 8 * hour]
    desk.write(lambda tables: desk.schedules.pause(tables, made))
    paused = desk.read(lambda view: view.schedule(number))
    assert paused
    assert timing.coming(paused, NOW, 3) == timing.between(paused, NOW, NOW + 99 * hour, 9) == []
    once = made._replace(repeat=False)
    assert timing.coming(once, NOW, 3) == timing.between(once, NOW, NOW + 99 * hour, 9) == [NOW + 8 * hour]
