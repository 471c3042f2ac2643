"""The parts of a node's jobs that can be tested without a broker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from broker import keys, settings
from broker.link import Delivery
from broker.messages.runs import MAX_BODY, Claimed, Finished, Progress, Reports, Returned, RunState
from broker.messages.store import Kind, Result, Status
from node.jobs import inputs as inputs_module
from node.jobs.artifacts import Artifacts, finished
from node.jobs.claims import Claim, Ended, Left
from node.jobs.inputs import Inputs, NoInput
from node.jobs.reports import MOST_ITEMS, Reporter
from node.jobs.slots import Slots
from node.jobs.withdrawals import Withdrawals
from node.runs.model import Run
from node.runs.model import RunProgress as RunProgress
from node.storage.staging import Staging
from tests.support import decode, wait_for

RUN = "ab" * 16


# Withdrawals.


def test_a_job_is_withdrawn_up_to_an_attempt() -> None:
    withdrawals = Withdrawals()
    withdrawals.add([(1, 2), (2, 1), (1, 1)])
    assert withdrawals.covers(1, 1)
    assert withdrawals.covers(1, 2)
    assert not withdrawals.covers(1, 3)
    assert not withdrawals.covers(3, 1)


def test_the_oldest_withdrawals_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.jobs.withdrawals.KEPT", 3)
    withdrawals = Withdrawals()
    withdrawals.add([(number, 1) for number in range(5)])
    assert [withdrawals.covers(number, 1) for number in range(5)] == [False, False, True, True, True]


def test_a_message_that_comes_again_is_expected_as_often_as_it_was_claimed() -> None:
    withdrawals = Withdrawals()
    withdrawals.expect(b"a")
    withdrawals.expect(b"a")
    assert [withdrawals.expected(b"a") for _ in range(3)] == [True, True, False]
    assert not withdrawals.expected(b"b")


# What runs leave.


def claimed(job: int = 5) -> Claim:
    return Claim(RUN, job, 2, 1_000)


def ended(log: Left, output: Left, reason: str = "") -> Ended:
    return Ended(RunState.COMPLETED, reason, 1_000, 2_000, log, output)


def test_what_a_run_left_becomes_keys_with_a_lifetime(tmp_path: Path) -> None:
    leavings = Artifacts("node-1", config(tmp_path))
    large = b"x" * 100_000
    assert leavings.is_large(large)
    log, output = leavings.left(large), leavings.left(b"1")
    stores = leavings.stores(claimed(), ended(log, output))
    assert [keys.decode(store.key) for store in stores] == ["jobs/5/2/log.txt", "jobs/5/2/output.json"]
    assert stores[0].value is None
    assert (tmp_path / "staging" / stores[0].staged).exists()
    assert stores[1].value == b"1"
    assert stores[0].version < stores[1].version
    assert {store.expires - store.created for store in stores} == {90 * 86_400_000}
    assert leavings.stores(claimed(), ended(leavings.left(b""), leavings.left(b""))) == []


def result(name: str, status: Status, reason: str = "") -> Result:
    key = keys.encode(f"jobs/5/2/{name}")
    return Result(0, status, reason, 1, Kind.PUT, key, 1, 0, 0, "", b"", 0, None)


def test_a_report_says_what_could_not_be_kept() -> None:
    results = [result("log.txt", Status.FULL, "no room"), result("output.json", Status.DONE)]
    report = finished(claimed(), ended(Left.of(b"1"), Left.of(b"2"), "exit status 3"), results)
    assert report.reason == "exit status 3; its log.txt could not be kept: no room"
    assert (report.log_key, report.output_key) == ("", "jobs/5/2/output.json")


# Reports.


class FakeLink:
    """Takes what is published, and does what it is woken for."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.puller = FakePuller()

    def publish(self, _queue: str, body: bytes, **_options: Any) -> None:
        self.sent.append(body)

    def pull(self, _queues: Any, handler: Any) -> Any:
        self.puller.handler = handler
        return self.puller

    def wake(self) -> None:
        pass


class FakePuller:
    def __init__(self) -> None:
        self.wanted = 0
        self.ahead = 0
        self.done: list[tuple[str, int]] = []
        self.handler: Any = None

    def want(self, free: int, ahead: int = 0) -> None:
        self.wanted, self.ahead = free, ahead

    def ack(self, delivery: Delivery, soon: bool = False) -> bool:
        self.done.append(("ack soon" if soon else "ack", delivery.tag))
        return True

    def give_back(self, delivery: Delivery) -> None:
        self.done.append(("back", delivery.tag))

    def deliver(self, tag: int) -> Delivery:
        delivery = Delivery(b"", "q", tag, 1, {}, False)
        self.wanted -= 1
        self.handler(delivery)
        return delivery


def test_reports_travel_in_messages_of_a_size_that_brokers_take() -> None:
    link = FakeLink()
    reports = [Returned(b"x" * MAX_BODY, "no", RUN), *[Claimed(RUN, 0, 1, 5, b"y" * MAX_BODY)] * 2]
    many = [Finished(RUN, number, 1, RunState.LOST, "r" * 3_000, 1, 2, "", "") for number in range(MOST_ITEMS + 1)]
    Reporter("node-1", link).send([*reports, *many], lambda _some, _sent: None)  # type: ignore[arg-type]
    messages = [decode(body, Reports).items for body in link.sent]
    assert [len(items) for items in messages] == [2, MOST_ITEMS, 2]
    assert max(map(len, link.sent)) < 3 << 20
    assert [report.id for items in messages for report in items if isinstance(report, Finished)] == list(
        range(MOST_ITEMS + 1)
    )


def test_no_report_is_spoiled_by_its_text() -> None:
    link = FakeLink()
    reporter = Reporter("node-1", link)  # type: ignore[arg-type]
    reporter.send([Finished(RUN, 1, 1, RunState.FAILED, "half \ud800", 1, 2, "", "")], lambda _some, _sent: None)
    run = Run(RUN, 1, 1, "a/b", {})
    reporter.progress(1, RunProgress(run, None, float("inf"), "half \ud800", b"\xff", 3))
    reporter.progress(1, RunProgress(run, -1, 1 << 80, "t" * 5_000, b"", 3))
    assert decode(link.sent[0], Reports).items[0].reason == "half ?"
    first, second = (decode(body, Progress) for body in link.sent[1:])
    assert (first.done, first.total, first.text, first.log) == (0.0, 0.0, "half ?", b"\xff")
    assert (second.done, second.total, len(second.text)) == (0.0, float(1 << 80), 1_000)


# Slots.


def test_as_many_jobs_are_wanted_as_slots_are_free() -> None:
    link = FakeLink()
    taken: list[Delivery] = []
    pulling = Slots(link, "node-1", 3, taken.append)  # type: ignore[arg-type]
    puller = link.puller
    pulling.work()
    assert puller.wanted == 0
    pulling.open(True)
    pulling.work()
    assert puller.wanted == 3
    first, second, _third = (puller.deliver(tag) for tag in (1, 2, 3))
    assert puller.wanted == 0
    pulling.ack(first)
    pulling.work()
    assert puller.wanted == 0  # it runs
    pulling.drop(second)
    pulling.work()
    assert puller.wanted == 1
    pulling.release()
    pulling.work()
    assert puller.wanted == 2
    pulling.open(False)
    pulling.give_back(taken[2])
    pulling.work()
    assert puller.wanted == 0
    assert puller.done == [("ack", 1), ("ack", 2), ("back", 3)]


def test_jobs_are_taken_ahead_when_half_of_those_are_used_up() -> None:
    link = FakeLink()
    pulling = Slots(link, "node-1", 2, lambda _: None)  # type: ignore[arg-type]
    puller = link.puller
    pulling.open(True)
    pulling.take_ahead(4)
    pulling.work()
    assert (puller.wanted, puller.ahead) == (2, 4)
    taken = [puller.deliver(tag) for tag in range(1, 7)]
    pulling.ack(taken[0])
    pulling.release()
    puller.wanted = puller.ahead = -1
    pulling.work()
    assert (puller.wanted, puller.ahead) == (-1, -1)  # 3 wait
    pulling.release()
    pulling.work()
    assert (puller.wanted, puller.ahead) == (0, 2)
    pulling.take_ahead(0)
    pulling.ack(taken[1])
    pulling.work()
    assert (puller.wanted, puller.ahead) == (0, 0)
    told: list[bool] = []
    pulling.take_ahead(4)
    pulling.ack(taken[2], told.append)
    pulling.work()
    # While there are many to acknowledge that is done together, unless somebody wants to know when.
    assert puller.done == [("ack soon", 1), ("ack", 2), ("ack", 3)]
    assert told == [True]


# Inputs.


class Master(ThreadingHTTPServer):
    """Has values, and answers 404, 503, a redirect or too few bytes where it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.values: dict[str, bytes] = {}
        self.away = 0  # answers that are 503
        self.short = 0  # answers that break off
        self.asked = 0
        self.gate = threading.Event()
        self.gate.set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Master

    def do_GET(self) -> None:
        server = self.server
        server.asked += 1
        key = self.path.partition("?")[0].removeprefix("/get_key/")
        if server.away:
            server.away -= 1
            self._answer(503, b"later")
        elif key.startswith("moved/"):
            self.send_response(307)
            self.send_header("Location", f"http://{server.address}/get_key/{key.removeprefix('moved/')}")
            self.end_headers()
        elif key in server.values:
            self._answer(200, server.values[key])
        else:
            self._answer(404, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hash(body)}"')
        self.end_headers()
        if status == 200 and self.server.short:
            self.server.short -= 1
            body = body[:-1]
        self.wfile.write(body[: len(body) // 2])
        self.server.gate.wait(10)
        self.wfile.write(body[len(body) // 2 :])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def master() -> Iterator[Master]:
    server = Master()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.gate.set()
    server.shutdown()
    server.server_close()


def config(directory: Path, **more: str) -> settings.Settings:
    return settings.load(environ={"PULZAR_VOLUME_DIR": str(directory), "PULZAR_VOLUME_PORT": "1"} | more)


def make_inputs(directory: Path, master: Master, **more: str) -> Inputs:
    Staging(directory)  # makes the directory
    return Inputs(directory / "inputs", config(directory, PULZAR_SERVER_ADVERTISE=master.address, **more))


def always() -> bool:
    return True


def test_a_value_is_fetched_and_gone_when_nobody_uses_it(tmp_path: Path, master: Master) -> None:
    master.values["a/b"] = b"x" * 3_000_000
    inputs = make_inputs(tmp_path, master)
    path = inputs.fetch("moved/a/b", always)
    assert path.read_bytes() == master.values["a/b"]
    assert path.stat().st_mode & 0o777 == 0o444
    inputs.tidy(0)
    assert path.exists()
    inputs.release(path)
    inputs.tidy(60)
    assert path.exists()
    inputs.tidy(0)
    assert list((tmp_path / "inputs").iterdir()) == []


def test_runs_on_the_same_value_share_a_copy_and_those_on_another_version_do_not(
    tmp_path: Path, master: Master
) -> None:
    master.values["a"] = b"first version"
    master.gate.clear()
    inputs = make_inputs(tmp_path, master)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(inputs.fetch("a", always))) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: master.asked == 3)
    master.gate.set()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    master.values["a"] = b"second version"
    other = inputs.fetch("a", always)
    assert (found[0].read_bytes(), other.read_bytes()) == (b"first version", b"second version")


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: (path.chmod(0o644), path.write_bytes(b"other")),
        lambda path: path.chmod(0o600),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.write_bytes(b"value")),
        lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
        lambda path: path.rename(path.with_name("moved")),
    ],
)
def test_a_copy_that_a_run_has_changed_is_fetched_again(
    tmp_path: Path, master: Master, harm: Callable[[Path], object]
) -> None:
    master.values["a"] = b"value"
    inputs = make_inputs(tmp_path, master)
    # Given a copy that one run harms while another uses it
    first, also = inputs.fetch("a", always), inputs.fetch("a", always)
    assert first == also
    harm(first)
    # Then the next one, and its own second attempt, get the value
    inputs.release(first)
    second = inputs.fetch("a", always)
    assert (second.read_bytes(), second.stat().st_mode & 0o777) == (b"value", 0o444)
    assert inputs.fetch("a", always) == second
    # and what is left of the old one goes with its last user, whatever was to be kept
    inputs.release(also)
    inputs.tidy(60)
    assert [path.name for path in (tmp_path / "inputs").iterdir() if path.name != "moved"] == [second.name]
    inputs.release(second)
    inputs.release(second)
    inputs.tidy(0)
    assert not second.exists()


def test_a_master_that_is_away_or_breaks_off_is_asked_again(tmp_path: Path, master: Master) -> None:
    master.values["a"] = b"value"
    master.away, master.short = 2, 1
    assert make_inputs(tmp_path, master).fetch("a", always).read_bytes() == b"value"
    assert master.asked == 4


def test_a_key_that_is_unknown_is_so_at_once(tmp_path: Path, master: Master) -> None:
    with pytest.raises(NoInput, match="the key a/b is unknown"):
        make_inputs(tmp_path, master).fetch("a/b", always)
    assert master.asked == 1


def test_a_master_that_stays_away_is_not_waited_for_for_ever(
    tmp_path: Path, master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs_module, "PATIENCE_SECS", 0.5)
    master.away = 1_000_000
    with pytest.raises(NoInput, match=r"a can't be fetched: .* answers 503 later"):
        make_inputs(tmp_path, master).fetch("a", always)
    assert master.asked > 1


def test_a_value_without_room_is_not_fetched(tmp_path: Path, master: Master) -> None:
    master.values["a"] = b"value"
    with pytest.raises(NoInput, match="no room on this node for a copy of a, 5 bytes"):
        make_inputs(tmp_path, master, PULZAR_VOLUME_RESERVE="1T").fetch("a", always)


def test_a_value_that_nobody_wants_any_more_is_fetched_no_farther(tmp_path: Path, master: Master) -> None:
    master.values["a"] = b"x" * (64 << 20)
    inputs = make_inputs(tmp_path, master)
    left = [True, False]
    with pytest.raises(NoInput, match="not wanted"):
        inputs.fetch("a", lambda: len(left) > 1 and left.pop())
    assert list((tmp_path / "inputs").iterdir()) == []
