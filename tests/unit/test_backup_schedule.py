"""When which member backs itself up: the timetable, one after the other, again after a failure, after restarts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from broker import settings
from broker.backups.engine import Ending, Engine
from broker.clock import DAY_MS
from broker.messages.backups import BackupState, MakeBackup, Outcome, Work
from broker.messages.codec import decode_any
from broker.messages.store import Heartbeat
from broker.refusals import BadRequest, Conflict, NotFound
from broker.settings import Settings
from master.backup import overview, plan
from master.backup.schedule import BackupSchedule
from master.index.index import Index
from master.jobs.ledger import Ledger

MINUTE = 60_000
HOUR = 60 * MINUTE
NOON = int(datetime(2026, 11, 28, 12).timestamp() * 1000)  # local time
DUE = int(datetime(2026, 11, 29, 2, 30).timestamp() * 1000)


class Link:
    """Remembers what is published."""

    def __init__(self) -> None:
        self.ready, self.problem = True, ""
        self.orders: list[tuple[str, MakeBackup]] = []

    def publish(self, routing_key: str, body: bytes, **_: object) -> None:
        message = decode_any(body)
        assert isinstance(message, MakeBackup)
        self.orders.append((routing_key, message))


class Site:
    """A controller's schedule, whose clock is the test's. Its ledger goes to a directory."""

    def __init__(self, directory: Path, **values: object) -> None:
        self.directory = directory
        chosen = {"active": True, "type": "directory", "address": directory / "target"} | values
        environ = {f"PULZAR_BACKUP_{name.upper()}": str(value) for name, value in chosen.items()}
        environ |= {"PULZAR_SERVER_DIR": str(directory)}
        self.config: Settings = settings.load(None, environ)
        self.index = Index(directory / "index", 64 << 20, write=True)
        self.ledger = Ledger(directory / "ledger", True, 64 << 20)
        self.now = NOON
        self.link = Link()
        self.restart()

    def restart(self) -> None:
        """A schedule as a new controller makes it."""
        self.schedule = BackupSchedule(self.config, self.index, self.link, self.ledger)  # type: ignore[arg-type]

    def close(self) -> None:
        self.schedule.close()
        self.ledger.close()
        self.index.close()

    def beat(self, *nodes: str) -> None:
        """Heartbeats come."""
        with self.index.write() as tables:
            for node in nodes:
                beat = Heartbeat(node, "http://h:1", self.now, "1", "e", 1, 2, 10, 5, False, 0.5, 40.0, 3, 2, [], "")
                tables.set_node(beat, self.now)

    def pass_to(self, until: int, *nodes: str, step: int = MINUTE) -> None:
        """Time passes; these nodes send heartbeats."""
        while self.now < until:
            self.now = min(until, self.now + step)
            self.beat(*nodes)
            self.schedule.tick(self.now)

    def new_orders(self) -> list[tuple[str, Work]]:
        """The orders that were sent to nodes since the last look, each once."""
        sent = [(queue.rpartition(".")[2], order.work) for queue, order in self.link.orders]
        self.last = {queue.rpartition(".")[2]: order.order for queue, order in self.link.orders}
        self.link.orders.clear()
        return list(dict.fromkeys(sent))

    def told(self, node: str, outcome: Outcome = Outcome.GOOD, **values: Any) -> None:
        """A node says what came of its order."""
        state = BackupState(node, self.last[node], outcome=outcome, **values)
        if outcome is Outcome.GOOD:
            state = state._replace(snapshot="20261129T013000Z", good_at=values.get("good_at", self.now))
        self.schedule.observe([state], self.now)

    def row(self, member: str) -> dict[str, Any]:
        """What the API says of a member."""
        return dict(overview.member(self.config, member))

    def ledger_done(self) -> None:
        """Wait for the ledger, whose backup is a real one."""
        deadline = time.monotonic() + 60
        while overview.describe(self.config, []) and self.row("master")["running"]:
            assert time.monotonic() < deadline, self.row("master")
            self.schedule.tick(self.now)
            time.sleep(0.02)


@pytest.fixture
def quick_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger's backups are good without a process that makes them, for tests with many of them."""
    ending = Ending(True, "", {"outcome": "good"})
    monkeypatch.setattr(Engine, "run", lambda _engine, _arguments, _progress: ending)


@pytest.fixture
def make_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Site]]:
    """Makes a site. The engine of its ledger has the same settings, from the environment."""
    (tmp_path / "target").mkdir()
    monkeypatch.setenv("PULZAR_BACKUP_TYPE", "directory")
    monkeypatch.setenv("PULZAR_BACKUP_ADDRESS", str(tmp_path / "target"))
    made: list[Site] = []

    def make(**values: object) -> Site:
        made.append(Site(tmp_path, **values))
        return made[-1]

    yield make
    for site in made:
        site.close()


MakeSite = Callable[..., Site]


def test_at_the_time_of_day_one_member_after_the_other_is_backed_up(make_site: MakeSite) -> None:
    # Given a cluster with two nodes
    site = make_site()
    site.pass_to(DUE - MINUTE, "n1", "n2")
    assert not site.new_orders()
    # When the time has come, then the first is told, and the next when that has ended, whatever came of it
    site.pass_to(DUE + MINUTE, "n1", "n2")
    assert site.new_orders() == [("n1", Work.SEND)]
    for _ in range(30):
        site.told("n1", Outcome.NONE, phase="send", done=5, total=10)
        site.pass_to(site.now + MINUTE, "n1", "n2")
        assert {node for node, _ in site.new_orders()} <= {"n1"}, "only asked again"
    assert site.row("n1")["running"]["total"] == 10
    site.told("n1")
    site.pass_to(site.now + MINUTE, "n1", "n2")
    assert site.new_orders() == [("n2", Work.SEND)]
    site.told("n2", Outcome.FAILED, reason="the disk is full")
    site.schedule.tick(site.now)
    site.ledger_done()
    # And all of it is seen
    assert site.row("n1")["last_good"] == (site.now - MINUTE) / 1000
    assert (site.row("n2")["error"], site.row("n2")["failures"]) == ("the disk is full", 1)
    assert site.row("master")["last_good"] is not None
    assert list((site.directory / "target" / "master" / "snapshots").iterdir())
    assert [(event.type, event.subject, event.data["member"]) for event in site.schedule.events] == [
        ("backup.done", "n1", "n1"),
        ("backup.failed", "n2", "n2"),
        ("backup.done", "master", "master"),
    ]


def test_the_snapshot_of_a_ledger_is_the_ledger(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site()
    with site.ledger.write() as tables:
        for number in range(100):
            tables.save_run(f"{number:032x}", number + 1)
    site.schedule.start("master", "", site.now)
    site.ledger_done()
    [manifest] = (tmp_path / "target" / "master" / "snapshots").glob("*/MANIFEST")
    [line] = [line for line in manifest.read_text().split("\n") if line.endswith("  ledger/data.mdb")]
    digest = line.partition(" ")[0]
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "data.mdb").write_bytes(
        (tmp_path / "target" / "master" / "objects" / digest[:2] / digest).read_bytes()
    )
    copy = Ledger(tmp_path / "copy", True, 64 << 20)
    with copy.read() as view:
        assert [view.by_run(f"{number:032x}") for number in (0, 99)] == [1, 100]
    copy.close()


@pytest.mark.usefixtures("quick_engine")
def test_a_failure_is_tried_again_with_growing_pauses_until_it_is_good(make_site: MakeSite) -> None:
    # Given a member whose backups fail
    site = make_site(verify=0)
    site.pass_to(DUE + MINUTE, "n1")
    pauses = []
    for _ in range(8):
        assert site.new_orders() == [("n1", Work.SEND)]
        site.told("n1", Outcome.FAILED, reason="gone")
        site.schedule.tick(site.now)
        site.ledger_done()
        failed = site.now
        while not site.link.orders:
            site.pass_to(site.now + MINUTE, "n1")
        pauses.append((site.now - failed) // MINUTE)
    assert pauses[:3] == [1, 2, 4]
    assert pauses[-1] == 60
    # When it is good at last, then that is all, and the error is gone
    site.new_orders()
    site.told("n1")
    site.pass_to(site.now + 3 * HOUR, "n1")
    assert not site.new_orders()
    assert (site.row("n1")["error"], site.row("n1")["failures"]) == (None, 0)


def test_a_run_that_was_missed_is_made_up_for_and_only_once(make_site: MakeSite) -> None:
    # Given a master that was down when backups were due, three times
    site = make_site(verify=0)
    site.pass_to(NOON + MINUTE, "n1")
    site.schedule.close()
    site.now += 3 * DAY_MS
    # When it starts again, before it has heard of the node
    site.restart()
    site.schedule.tick(site.now)
    assert not site.new_orders()
    # Then the backup is made as soon as the node is heard from, and once
    site.pass_to(site.now + MINUTE // 4, "n1", step=1000)
    assert site.new_orders() == [("n1", Work.SEND)]
    site.told("n1")
    site.schedule.tick(site.now)
    site.ledger_done()
    site.pass_to(site.now + HOUR, "n1")
    assert not site.new_orders()


def test_what_is_on_its_way_survives_a_restart_of_the_controller(make_site: MakeSite) -> None:
    site = make_site(verify=0)
    site.pass_to(DUE + MINUTE, "n1", "n2")
    assert site.new_orders() == [("n1", Work.SEND)]
    order = site.last["n1"]
    site.schedule.close()
    site.restart()
    site.pass_to(site.now + 2 * MINUTE, "n1", "n2")
    site.new_orders()
    assert site.last["n1"] == order, "the same order again, which the node answers with its state"
    site.told("n1")
    site.pass_to(site.now + MINUTE, "n1", "n2")
    assert site.new_orders() == [("n2", Work.SEND)]


def test_a_node_that_is_away_or_says_nothing_holds_nobody_up(make_site: MakeSite) -> None:
    # Given a node that is not heard from any more, and one that never answers
    site = make_site(verify=0)
    site.pass_to(DUE - 5 * MINUTE, "n1", "n2")
    site.pass_to(DUE + MINUTE, "n2")
    assert "was not heard from for" in site.row("n1")["error"]
    assert site.new_orders() == [("n2", Work.SEND)]
    site.pass_to(site.now + 5 * MINUTE, "n2")
    assert "said nothing" in site.row("n2")["error"]
    site.ledger_done()
    # When the first is back
    site.new_orders()
    site.pass_to(site.now + 2 * HOUR, "n1", "n2")
    assert ("n1", Work.SEND) in site.new_orders()


@pytest.mark.usefixtures("quick_engine")
def test_a_share_is_read_back_every_week(make_site: MakeSite) -> None:
    site = make_site()
    site.pass_to(DUE + MINUTE, "n1")
    days, verified = [], 0
    for day in range(16):
        for _ in range(4):
            for _, work in site.new_orders():
                if work is Work.VERIFY:
                    verified = site.now
                    days.append(day)
                site.told("n1", work=work, verified_at=verified)
            site.schedule.tick(site.now)
            site.ledger_done()
        site.pass_to(DUE + (day + 1) * DAY_MS + MINUTE, "n1", step=HOUR)
    assert days[0] == 0
    assert [later - earlier for earlier, later in pairwise(days)] in ([7], [7, 7], [8], [8, 7])
    assert site.row("n1")["last_verified"]


def test_what_a_verification_finds_wrong_is_told_until_one_is_good(make_site: MakeSite) -> None:
    site = make_site()
    site.pass_to(DUE + MINUTE, "n1")
    assert site.new_orders() == [("n1", Work.SEND)]
    site.told("n1")
    site.schedule.tick(site.now)
    site.ledger_done()
    site.pass_to(site.now + MINUTE, "n1")
    assert ("n1", Work.VERIFY) in site.new_orders()
    # Given damage that a verification finds
    site.told("n1", Outcome.FAILED, work=Work.VERIFY, reason="log/1: its bytes have changed")
    site.schedule.tick(site.now)
    site.ledger_done()
    # When backups are good again
    assert site.schedule.start("n1", "", site.now) == ["n1"]
    assert site.new_orders() == [("n1", Work.SEND)]
    site.told("n1", good_at=site.now)
    # Then it is still told, and read back soon
    assert site.row("n1")["error"] == "log/1: its bytes have changed"
    assert site.row("n1")["failed"]
    (warning,) = overview.warnings(site.config, ["n1"])
    assert "verification of the backups of n1 failed: log/1: its bytes have changed" in warning
    site.restart()
    site.pass_to(site.now + 2 * MINUTE, "n1")
    assert ("n1", Work.VERIFY) in site.new_orders()
    # Until that is good
    site.told("n1", work=Work.VERIFY, verified_at=site.now)
    assert site.row("n1")["error"] is None


def test_somebody_may_ask_for_one_now_and_not_for_a_second(make_site: MakeSite) -> None:
    site = make_site(active=False)
    site.pass_to(NOON + MINUTE, "n1", "n2")
    assert site.schedule.start(None, "", site.now) == ["n1", "n2", "master"]
    assert site.new_orders() == [("n1", Work.SEND)]
    with pytest.raises(Conflict, match="of n1 just now"):
        site.schedule.start("n2", "", site.now)
    site.told("n1")
    site.schedule.tick(site.now)
    assert site.new_orders() == [("n2", Work.SEND)]
    site.told("n2", Outcome.FAILED, reason="gone")
    site.schedule.tick(site.now)
    site.ledger_done()
    # Nothing is tried again by itself when backups are not made by themselves
    site.pass_to(site.now + 2 * DAY_MS, "n1", "n2", step=HOUR)
    assert not site.new_orders()
    with pytest.raises(NotFound, match="no node is called 'n3'"):
        site.schedule.start("n3", "", site.now)
    # One elsewhere does not count as the last good one
    assert site.schedule.start("n2", "/mnt/other", site.now) == ["n2"]
    assert site.link.orders[-1][1].target == "/mnt/other"
    site.new_orders()
    site.schedule.observe([BackupState("n2", site.last["n2"], target="/mnt/other", outcome=Outcome.GOOD)], site.now)
    assert (site.row("n2")["last_good"], site.row("n2")["failures"]) == (None, 1)


def test_what_waits_is_shown_with_its_target(make_site: MakeSite) -> None:
    # So that somebody who asked for it, and asks again, finds it
    site = make_site(active=False)
    site.pass_to(NOON + MINUTE, "n1")
    site.schedule.start(None, "/mnt/other", site.now)
    shown = overview.describe(site.config, ["n1"])
    assert (shown["running"], site.row("n1")["running"]["target"]) == ("n1", "/mnt/other")
    assert shown["waiting"] == [{"member": "master", "work": "send", "target": "/mnt/other"}]


def test_without_a_target_nothing_can_be_started(make_site: MakeSite) -> None:
    site = make_site(active=False, type="", address="")
    site.pass_to(NOON + MINUTE, "n1")
    with pytest.raises(BadRequest, match=r"give \[backup\] type and address"):
        site.schedule.start(None, "", site.now)
    assert site.schedule.start("n1", "/mnt/other", site.now) == ["n1"]


def test_a_lost_plan_learns_the_state_from_the_nodes(make_site: MakeSite) -> None:
    site = make_site()
    site.schedule.close()
    (site.directory / plan.FILE).write_text('{"members": 7')
    site.restart()
    site.beat("n1")
    state = BackupState("n1", "f0" * 16, outcome=Outcome.GOOD, snapshot="20261128T013000Z", good_at=NOON - HOUR, size=5)
    site.schedule.observe([state], site.now)
    site.pass_to(site.now + MINUTE, "n1")
    assert (site.row("n1")["last_good"], site.row("n1")["size"]) == ((NOON - HOUR) / 1000, 5)


def test_a_backup_older_than_twice_the_interval_is_warned_of(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given one member with a backup of yesterday, and one whose last is three days old
    site = make_site()
    site.pass_to(NOON + MINUTE, "n1", "n2", "n3")
    for node, age in (("n1", DAY_MS), ("n2", 3 * DAY_MS)):
        site.schedule.observe([BackupState(node, snapshot="x", good_at=NOON - age)], site.now)
    monkeypatch.setattr(overview.time, "time", lambda: site.now / 1000)
    assert [text.partition(" is ")[0] for text in overview.warnings(site.config, ["n1", "n2", "n3"])] == [
        "the last good backup of n2"
    ]
    # When two more days pass without any, then all are
    site.now += 2 * DAY_MS + HOUR
    warned = overview.warnings(site.config, ["n1", "n2", "n3"])
    assert [text.split()[5] for text in warned] == ["n1", "n2", "n3", "master"]
    assert "n3 was to be made 2.0 days ago" in warned[2]
    # And nobody when backups are not made by themselves
    assert not overview.warnings(settings.load(None, {"PULZAR_SERVER_DIR": str(site.directory)}), ["n1"])


def test_settings_are_shown_without_secrets(make_site: MakeSite) -> None:
    site = make_site(type="s3", address="https://key:hunter2@store.example/bucket", user="u", psw="hunter2")
    shown = json.dumps(overview.describe(site.config, ["n1"]))
    assert "hunter2" not in shown
    assert "https://key:***@store.example/bucket" in shown


def test_a_node_that_is_forgotten_is_backed_up_no_more(make_site: MakeSite) -> None:
    site = make_site()
    site.pass_to(NOON + MINUTE, "n1", "n2")
    site.schedule.start(None, "", site.now)
    site.schedule.forget("n2")
    site.new_orders()
    site.told("n1")
    site.schedule.tick(site.now)
    assert not [node for node, _ in site.new_orders() if node == "n2"]
