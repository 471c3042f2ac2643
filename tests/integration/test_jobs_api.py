"""Jobs by REST, as API.md has them: launch, lists, one job, cancel, options, values, the catalog."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from broker.messages.jobs import MAX_BYTES
from ops.cluster import Cluster, Rabbit
from tests.integration.jobs_tools import SCRIPTS, Desk, Gate, alive, at_once, make, marks, write_scripts
from tests.integration.wire import Client, refused
from tests.support import Clusters, delete, get, http_request, put, unique, wait_for

DAY = 86_400
RETENTION_DAYS = 2
DATA_WAIT_SECS = 1.0
SLOTS = 2  # of each of two nodes


# On the first node.
FIRST = {
    "only/loaded": '"""Preload: sqlite3"""\nimport sys\nfrom jobs import run\nrun.output("sqlite3" in sys.modules)',
    "only/warm": "# pulzar: reuse=50\nimport os\nfrom jobs import run\nrun.output(os.getpid())",
}


@pytest.fixture(scope="module")
def desk(rabbit: Rabbit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    clusters = Clusters(tmp_path_factory.mktemp("jobs-api"), lambda: rabbit)
    env = {"PULZAR_JOBS_DATA_WAIT": str(DATA_WAIT_SECS), "PULZAR_GENERAL_RETENTION_POLICY": str(RETENTION_DAYS)}
    only = {0: FIRST, 1: {"only/second": SCRIPTS["test/echo"].replace("Echo", "Second")}}
    try:
        yield make(clusters, tmp_path_factory.mktemp("jobs-scripts"), (SLOTS, SLOTS), env, only)
    finally:
        clusters.close()


@pytest.fixture
def cluster(desk: Desk) -> Cluster:
    return desk.cluster


@pytest.fixture(autouse=True)
def _idle(desk: Desk) -> Iterator[None]:
    """No test leaves jobs to the next one."""
    yield
    for row in desk.read("/admin/jobs?list=pendings&limit=1000")["pendings"]:
        desk.cancel(row["job_id"])
    wait_for(lambda: not desk.read("/admin/jobs?list=pendings")["pendings"], what="the end of every job")


def fill(desk: Desk, directory: Path, nodes: tuple[int, ...] = (0, 1)) -> list[Gate]:
    """Keep all slots of nodes busy, each until its gate is opened."""
    gates = []
    for index in nodes:
        for number in range(SLOTS):
            gate = Gate(directory / f"fill-{index}-{number}")
            job = desk.launch("test/gate", {"gate": str(gate.path)}, node=desk.cluster.nodes[index].id)
            desk.until(job, "running")
            gates.append(gate)
    return gates


def value_on(cluster: Cluster, index: int, value: bytes) -> str:
    """A key whose value lies on that node."""
    for _ in range(50):
        key = unique("value.bin")
        answer = put(cluster, key, value)
        assert answer.status == 201
        if answer.data["url"].startswith(cluster.nodes[index].url):
            return key
    raise AssertionError(f"no value came to {cluster.nodes[index].id}")


# Launch.


def test_a_launch_answers_with_a_rising_id_and_takes_py_at_the_end_and_an_empty_body(desk: Desk) -> None:
    answers = [
        desk.try_launch("test/echo", {"number": 1}),
        desk.try_launch("test/echo.py", {"number": 2}),
        desk.try_launch("test/echo", b""),
        desk.try_launch("test/echo", b" \r\n "),
    ]
    ids = [answer.data["job_id"] for answer in answers]
    assert [answer.status for answer in answers] == [200] * 4
    assert [answer.msg for answer in answers] == [f"Job added with id {number}" for number in ids]
    assert ids == list(range(ids[0], ids[0] + 4))
    jobs = [desk.done(number) for number in ids]
    assert [json.loads(job["parameters"]) for job in jobs] == [{"number": 1}, {"number": 2}, {}, {}]
    assert [job["output"] for job in jobs] == [{"number": 1}, {"number": 2}, {}, {}]
    assert {job["job_path"] for job in jobs} == {"test/echo"}


def test_arguments_arrive_as_they_were_sent(desk: Desk) -> None:
    given = {
        "text": 'žluť "\\\n\u0000 😀',
        "n": -(1 << 63),
        "big": (1 << 64) - 1,
        "f": 1e-300,
        "deep": [[{"": None}]],
        "yes": True,
    }
    job = desk.done(desk.launch("test/echo", given))
    assert job["output"] == given
    assert json.loads(job["parameters"]) == given


def nested(depth: int) -> dict[str, Any]:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return {"deep": value}


def scheduled(**changes: Any) -> dict[str, Any]:
    return {"scheduled": {"interval": "minutes", "time_unit": 5, "repeat": 1} | changes}


REFUSED: dict[str, tuple[str, Any, int, str]] = {
    "a script that nobody has": ("test/nothing", {}, 404, "test/nothing"),
    "a folder that is not there": ("nothing/echo", {}, 404, "nothing/echo"),
    "no folder": ("echo", {}, 400, "folder/script"),
    "too many folders": ("test/sub/echo", {}, 400, "folder/script"),
    "a way out": ("../jobs/echo", {}, 400, "folder/script"),
    "a way out, encoded": ("..%2Fecho", {}, 400, "folder/script"),
    "a dot": ("test/echo.txt", {}, 400, "folder/script"),
    "no JSON": ("test/echo", b"number=5", 400, "JSON"),
    "half of JSON": ("test/echo", b'{"number": 5', 400, "JSON"),
    "another encoding": ("test/echo", '{"a": "é"}'.encode("latin-1"), 400, "UTF-8"),
    "a byte order mark": ("test/echo", b"\xef\xbb\xbf{}", 400, "byte order mark"),
    "a list": ("test/echo", b"[1, 2]", 400, "object"),
    "a number": ("test/echo", b"5", 400, "object"),
    "NaN": ("test/echo", b'{"a": NaN}', 400, "NaN"),
    "a number beyond all": ("test/echo", b'{"a": 1e999}', 400, "inf"),
    "an integer of 80 bits": ("test/echo", {"a": 1 << 80}, 400, "64 bits"),
    "half of a character": ("test/echo", b'{"a": "\\ud800"}', 400, "character"),
    "a deep nest": ("test/echo", nested(200), 400, "lists or objects"),
    "an abyss": ("test/echo", b"[" * 200_000, 400, ""),
    "options that are a list": ("test/echo", {"pulzar_options": []}, 400, "options"),
    "an unknown option": ("test/echo", {"pulzar_options": {"colour": 1}}, 400, "colour"),
    "a timeout below 0": ("test/echo", {"pulzar_options": {"timeout": -1}}, 400, "timeout"),
    "a timeout as text": ("test/echo", {"pulzar_options": {"timeout": "5"}}, 400, "timeout"),
    "half an attempt": ("test/echo", {"pulzar_options": {"attempts": 1.5}}, 400, "attempts"),
    "attempts: true": ("test/echo", {"pulzar_options": {"attempts": True}}, 400, "attempts"),
    "a delay as a list": ("test/echo", {"pulzar_options": {"retry_delay": []}}, 400, "retry_delay"),
    "a priority that is none": ("test/echo", {"pulzar_options": {"priority": "urgent"}}, 400, "priority"),
    "memory below 0": ("test/echo", {"pulzar_options": {"memory_mb": -5}}, 400, "memory_mb"),
    "a node that is none": ("test/echo", {"pulzar_options": {"node": "../x"}}, 400, "node"),
    "a node that is not there": ("test/echo", {"pulzar_options": {"node": "node-77"}}, 404, "node-77"),
    "a node without the script": ("only/second", {"pulzar_options": {"node": "node-1"}}, 404, "node-1"),
    "a token that is a number": ("test/echo", {"pulzar_options": {"unique": 5}}, 400, "unique"),
    "a token without end": ("test/echo", {"pulzar_options": {"unique": "x" * 1000}}, 400, "unique"),
    "data that is a number": ("test/data", {"pulzar_data": 5}, 400, "pulzar_data"),
    "data that is no key": ("test/data", {"pulzar_data": "a/../b"}, 400, "pulzar_data"),
    "data that is unknown": ("test/data", {"pulzar_data": "no/such/key"}, 404, "no/such/key"),
    "scheduled as text": ("test/echo", {"scheduled": "daily"}, 400, "scheduled"),
    "scheduled without a unit": ("test/echo", {"scheduled": {"interval": "days", "repeat": 1}}, 400, "time_unit"),
    "seconds": ("test/echo", scheduled(interval="seconds"), 400, "interval"),
    "a unit of 0": ("test/echo", scheduled(time_unit=0), 400, "time_unit"),
    "a unit below 0": ("test/echo", scheduled(time_unit=-5), 400, "time_unit"),
    "a unit as text": ("test/echo", scheduled(time_unit="5"), 400, "time_unit"),
    "half a unit": ("test/echo", scheduled(time_unit=1.5), 400, "time_unit"),
    "a unit of true": ("test/echo", scheduled(time_unit=True), 400, "time_unit"),
    "a unit beyond all": ("test/echo", scheduled(time_unit=10**30), 400, "scheduled"),
    "a unit that no clock has": ("test/echo", scheduled(interval="weeks", time_unit=10**9), 400, "36500 days"),
    "a unit of many digits": ("test/echo", scheduled(time_unit=10**4_000), 400, "36500 days"),
    "a unit of 5,000 digits": ("test/echo", b'{"scheduled": {"time_unit": ' + b"9" * 5_000 + b"}}", 400, "JSON"),
    "repeat twice": ("test/echo", scheduled(repeat=2), 400, "repeat"),
    "repeat as text": ("test/echo", scheduled(repeat="1"), 400, "repeat"),
    "a schedule of an unknown script": ("test/nothing", scheduled(), 404, "test/nothing"),
    "a schedule of unknown data": ("test/data", scheduled() | {"pulzar_data": "no/such/key"}, 404, "no/such/key"),
}


def test_what_is_no_job_is_refused_with_the_reason_and_leaves_nothing(desk: Desk) -> None:
    before = [desk.read(path) for path in ("/admin/all_jobs?limit=1", "/admin/scheduled_jobs?limit=1000")]
    for what, (path, body, status, word) in REFUSED.items():
        answer = desk.try_launch(path, body)
        assert answer.status == status, (what, answer.status, answer.msg)
        assert word in answer.msg, (what, answer.msg)
    assert [desk.read(path) for path in ("/admin/all_jobs?limit=1", "/admin/scheduled_jobs?limit=1000")] == before
    # A body that is too long is refused, whatever it says; one that is just short enough is a job.
    with Client(desk.cluster.master_url) as client:
        too_long = b'{"a": "%s"}' % (b"x" * MAX_BYTES)
        assert str(MAX_BYTES) in refused(client.request("POST", "/launch_job/test/echo", too_long), 400)
        assert str(MAX_BYTES) in refused(client.request("POST", "/launch_job/test/echo", iter([too_long])), 400)
    # Also to a client that sends all of it before it reads.
    for body in (too_long * 12, iter([too_long] * 12)):
        said = requests.post(f"{desk.cluster.master_url}/launch_job/test/echo", data=body, timeout=20)
        assert said.status_code == 400
        assert str(MAX_BYTES) in said.json()["msg"]
    assert desk.done(desk.launch("test/noop", {"a": "x" * (MAX_BYTES - 1000)}))["job_name"] == "noop"


def test_only_post_launches_and_cancels(desk: Desk) -> None:
    for path in ("/launch_job/test/echo", "/cancel_job/1"):
        for method in ("GET", "PUT", "DELETE"):
            assert desk.ask(method, path).status == 405, (method, path)


# Lists and one job.

JOB_FIELDS = {
    "job_id": int,
    "job_name": str,
    "parameters": str,
    "node": str,
    "creation_time": int,
    "state": str,
    "job_path": str,
    "source": str,
    "attempt": int,
}


def assert_row(row: dict[str, Any]) -> None:
    for name, kind in JOB_FIELDS.items():
        assert type(row[name]) is kind, (name, row)


def test_a_completed_job_is_among_ready_and_tells_log_output_and_time(desk: Desk) -> None:
    began = int(time.time())
    number = desk.launch("test/echo", {"number": 5})
    job = desk.done(number)
    row = desk.row("ready", number)
    assert row is not None
    assert_row(row)
    assert {name: row[name] for name in ("job_name", "job_path", "parameters", "state", "source", "attempt")} == {
        "job_name": "echo",
        "job_path": "test/echo",
        "parameters": '{"number":5}',
        "state": "completed",
        "source": "rest",
        "attempt": 1,
    }
    assert row["node"] in {node.id for node in desk.cluster.nodes}
    assert began <= row["creation_time"] <= time.time()
    assert not desk.row("pendings", number)
    assert not desk.row("failed", number)
    assert job["job"] == number
    assert job["status"] == "completed"
    assert job["log"] == "echo 1\n"
    assert job["output"] == {"number": 5}
    assert isinstance(job["time"], float)
    assert 0 < job["time"] < 5
    assert job["reason"] == ""
    (attempt,) = job["attempts"]
    assert (attempt["attempt"], attempt["state"], attempt["late"]) == (1, "completed", False)
    assert began <= attempt["started"] <= attempt["ended"] <= time.time()


def test_a_failed_job_is_among_failed_and_its_log_has_the_traceback(desk: Desk) -> None:
    number = desk.launch("test/fail")
    job = desk.until(number, "failed")
    row = desk.row("failed", number)
    assert row is not None
    assert_row(row)
    assert not desk.row("ready", number)
    assert job["status"] == "failed"
    assert "attempt 1\n" in job["log"]
    assert "Traceback" in job["log"]
    assert "ValueError: attempt 1 fails" in job["log"]
    assert "attempt 1 fails" in job["reason"]
    assert job["output"] is None
    assert job["attempt"] == 1, "a failed job is not tried again unless that was asked for"


def test_a_script_that_does_not_compile_fails_and_says_where(desk: Desk) -> None:
    job = desk.until(desk.launch("test/broken"), "failed")
    assert "SyntaxError" in job["reason"] + job["log"]


def test_a_plain_script_runs_with_its_arguments_in_the_environment(desk: Desk) -> None:
    job = desk.done(desk.launch("test/plain", {"a": [1, "ž"]}))
    assert job["log"] == "plain {'a': [1, 'ž']}\n"
    assert job["output"] is None


def test_a_running_job_shows_its_progress_and_its_log_while_it_runs(desk: Desk, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    number = desk.launch("test/talk", {"gate": str(gate.path)})
    job = wait_for(
        lambda: (found := desk.job(number))["log"] and found["progress"]["text"] and found, what="log and progress"
    )
    assert job
    assert (job["state"], job["status"]) == ("running", "pending")
    assert job["log"] == "begun\n"
    assert job["progress"] == {"done": 1, "total": 4, "text": "a quarter"}
    assert job["node"] in {node.id for node in desk.cluster.nodes}
    row = desk.row("pendings", number)
    assert row is not None
    assert_row(row)
    assert row["state"] == "running"
    gate.open()
    assert desk.done(number)["log"] == "begun\nended\n"


def test_the_last_progress_of_a_job_stays(desk: Desk, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    gate.open()
    job = desk.done(desk.launch("test/talk", {"gate": str(gate.path)}))
    assert job["progress"] == {"done": 4, "total": 4, "text": "all"}


def test_all_jobs_are_listed_newest_first_page_by_page(desk: Desk) -> None:
    ids = [desk.launch("test/noop") for _ in range(7)]
    for number in ids:
        desk.done(number)
    newest = desk.read("/admin/all_jobs?limit=7")
    assert [row["job_id"] for row in newest] == ids[::-1]
    for row in newest:
        assert_row(row)
    pages = []
    before = ids[-1] + 1
    for _ in range(4):
        page = desk.read(f"/admin/all_jobs?limit=2&before={before}")
        pages += [row["job_id"] for row in page]
        before = pages[-1]
    assert pages[:7] == ids[::-1]
    ready = desk.read(f"/admin/jobs?list=ready&limit=3&before={ids[-1]}")
    assert [row["job_id"] for row in ready["ready"]] == ids[-2:-5:-1]
    assert not ready["pendings"]
    for query in ("limit=0", "limit=x", "limit=-1", "limit=99999999", "before=x"):
        assert desk.ask("GET", f"/admin/all_jobs?{query}").status == 400, query


def test_what_is_no_id_of_a_job_is_not_found(desk: Desk) -> None:
    for job in ("999999999", "0", "-1", "x", "1.5", "9" * 30, "%00", "１"):
        path = job if job.isascii() else "%EF%BC%91"
        assert desk.ask("GET", f"/admin/jobs/{path}").status == 404, job
        assert desk.cancel(path).status == 404, job
        assert desk.ask("GET", f"/admin/scheduled_jobs/{path}").status == 404, job


# Cancel.


def test_a_pending_job_that_is_cancelled_never_runs(desk: Desk, tmp_path: Path) -> None:
    gates = fill(desk, tmp_path)
    waiting = [desk.launch("test/mark", {"file": str(tmp_path / "marks"), "name": name}) for name in "ab"]
    row = desk.row("pendings", waiting[0])
    assert row is not None
    assert row["state"] == "pending"
    answer = desk.cancel(waiting[0])
    assert answer.status == 200
    assert str(waiting[0]) in answer.msg
    job = desk.job(waiting[0])
    assert (job["state"], job["status"]) == ("cancelled", "failed")
    assert desk.row("failed", waiting[0])
    for gate in gates:
        gate.open()
    desk.done(waiting[1])
    # What was published after it has run, so its own turn has come and gone.
    assert [name for name, *_ in marks(tmp_path / "marks")] == ["b"]
    assert desk.cancel(waiting[0]).status == 409


def test_a_running_job_that_is_cancelled_is_killed_with_all_its_children(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    number = desk.launch("test/deaf", {"file": str(file)})
    wait_for(file.exists, what="the job to run")
    pids = [int(pid) for pid in file.read_text().split()]
    assert all(map(alive, pids))
    asked = time.monotonic()
    assert desk.cancel(number).status == 200
    job = desk.job(number)
    assert job["cancelling"] or job["state"] == "cancelled"
    job = desk.until(number, "cancelled")
    assert time.monotonic() - asked >= 0.9, "it had its grace"
    assert job["status"] == "failed"
    assert "cancel" in job["reason"]
    assert not any(map(alive, pids))
    assert desk.cancel(number).status == 409
    done = desk.launch("test/noop")
    desk.done(done)
    assert desk.cancel(done).status == 409


def test_a_job_is_cancelled_once_by_many_at_once(desk: Desk, tmp_path: Path) -> None:
    number = desk.launch("test/gate", {"gate": str(tmp_path / "gate")})
    desk.until(number, "running")
    statuses = {answer.status for answer in at_once(*[lambda: desk.cancel(number)] * 6)}
    assert statuses <= {200, 409}
    assert 200 in statuses
    assert len(desk.until(number, "cancelled")["attempts"]) == 1


# Options.


def test_a_job_that_fails_is_tried_again_as_often_as_it_says(desk: Desk) -> None:
    good = desk.launch("test/fail", {"times": 2}, attempts=3)
    bad = desk.launch("test/fail", attempts=2)
    job = desk.done(good)
    assert job["output"] == 3
    assert job["attempt"] == 3
    assert [attempt["state"] for attempt in job["attempts"]] == ["failed", "failed", "completed"]
    assert [attempt["attempt"] for attempt in job["attempts"]] == [1, 2, 3]
    assert "attempt 2 fails" in job["attempts"][1]["reason"]
    job = desk.until(bad, "failed")
    assert [attempt["state"] for attempt in job["attempts"]] == ["failed", "failed"]
    # Each attempt has a log of its own.
    for attempt in (1, 2):
        assert f"attempt {attempt}\n".encode() in get(desk.cluster, f"jobs/{bad}/{attempt}/log.txt").body


def test_a_retry_waits_its_delay_which_doubles(desk: Desk) -> None:
    number = desk.launch("test/fail", {"times": 2}, attempts=3, retry_delay=0.6)
    waiting = wait_for(lambda: (found := desk.job(number))["retry_at"] and found, what="a retry that waits")
    assert waiting
    assert (waiting["state"], waiting["status"]) == ("pending", "pending")
    assert desk.row("pendings", number)
    first, second, third = desk.done(number)["attempts"]
    assert 0.6 <= second["started"] - first["ended"] < 4
    assert 1.2 <= third["started"] - second["ended"] < 4


def test_a_job_that_waits_for_its_retry_can_be_cancelled(desk: Desk) -> None:
    number = desk.launch("test/fail", attempts=3, retry_delay=300)
    wait_for(lambda: desk.job(number)["retry_at"], what="a retry that waits")
    assert desk.cancel(number).status == 200
    job = desk.job(number)
    assert job["state"] == "cancelled"
    assert len(job["attempts"]) == 1


def test_high_comes_before_normal_and_normal_before_low(desk: Desk, tmp_path: Path) -> None:
    gates = fill(desk, tmp_path)
    file = str(tmp_path / "marks")
    jobs = [
        desk.launch("test/mark", {"file": file, "name": priority}, priority=priority)
        for priority in ("low", "normal", "high", "low", "normal", "high")
    ]
    gates[0].open()  # one slot, so that they run one after the other
    for job in jobs:
        desk.done(job)
    assert [name for name, *_ in marks(Path(file))] == ["high", "high", "normal", "normal", "low", "low"]


def test_a_second_launch_with_the_same_token_gives_the_first_jobs_id(desk: Desk, tmp_path: Path) -> None:
    token = unique("token")
    file = str(tmp_path / "marks")
    ids = at_once(*[lambda: desk.launch("test/mark", {"file": file}, unique=token)] * 8)
    assert len(set(ids)) == 1
    desk.done(ids[0])
    assert desk.launch("test/mark", {"file": file}, unique=token) == ids[0]
    later = desk.try_launch("test/mark", {"file": file, "name": "later", "pulzar_options": {"unique": token}})
    assert later.status == 409
    other = desk.launch("test/mark", {"file": file, "name": "other"}, unique=token + "-2")
    desk.done(other)
    assert sorted(name for name, *_ in marks(Path(file))) == ["", "other"]


def test_a_job_that_names_a_node_runs_there(desk: Desk) -> None:
    for node in desk.cluster.nodes:
        jobs = [desk.launch("test/noop", node=node.id) for _ in range(4)]
        assert {desk.done(job)["node"] for job in jobs} == {node.id}


def test_a_job_goes_only_to_nodes_that_have_its_script(desk: Desk) -> None:
    jobs = [desk.launch("only/second", {"n": n}) for n in range(6)]
    found = [desk.done(job) for job in jobs]
    assert {job["node"] for job in found} == {"node-2"}
    assert all(job["attempt"] == 1 for job in found)


def test_a_job_that_takes_longer_than_its_timeout_is_ended(desk: Desk, tmp_path: Path) -> None:
    soft = desk.launch("test/sleep", {"seconds": 60}, timeout=0.5)
    file = tmp_path / "pids"
    hard = desk.launch("test/deaf", {"file": str(file)}, timeout=0.5)
    job = desk.until(soft, "failed")
    assert 0.5 <= job["time"] < 5
    assert "0.5" in job["reason"]
    job = desk.until(hard, "failed")
    assert 1.5 <= job["time"] < 8, "timeout and grace"
    assert not any(alive(int(pid)) for pid in file.read_text().split())


def test_a_job_that_takes_more_memory_than_it_may_fails_and_says_so(desk: Desk) -> None:
    job = desk.until(desk.launch("test/hog", memory_mb=200), "failed")
    assert "emory" in job["reason"]
    desk.done(desk.launch("test/hog", memory_mb=1500))


# Values.


def test_a_job_goes_to_the_node_that_has_its_data(desk: Desk, cluster: Cluster) -> None:
    for index, node in enumerate(cluster.nodes):
        value = unique().encode() * 10_000
        key = value_on(cluster, index, value)
        for job in [desk.launch("test/data", {"pulzar_data": key}) for _ in range(3)]:
            found = desk.done(job)
            assert found["output"] == [key, hashlib.sha256(value).hexdigest()]
            assert found["node"] == node.id
            assert found["data"] == key
            assert json.loads(found["parameters"]) == {}


def test_a_job_whose_node_is_busy_goes_to_another_one_which_fetches_the_data(
    desk: Desk, cluster: Cluster, tmp_path: Path
) -> None:
    value = unique().encode() * 10_000
    key = value_on(cluster, 0, value)
    fill(desk, tmp_path, (0,))
    number = desk.launch("test/data", {"pulzar_data": key})
    found = desk.done(number)
    assert found["node"] == cluster.nodes[1].id
    assert found["output"] == [key, hashlib.sha256(value).hexdigest()]
    assert found["started"] - found["creation_time"] >= DATA_WAIT_SECS - 0.1, "it waits for the node with the data"


def test_a_job_that_is_bound_to_a_busy_node_stays_and_holds_up_none_that_may_move(
    desk: Desk, cluster: Cluster, tmp_path: Path
) -> None:
    key = value_on(cluster, 0, b"x")
    gates = fill(desk, tmp_path, (0,))
    bound = desk.launch("test/data", {"pulzar_data": key}, node=cluster.nodes[0].id)
    other = desk.launch("test/data", {"pulzar_data": key})
    assert desk.done(other, timeout=DATA_WAIT_SECS + 5)["node"] == cluster.nodes[1].id
    assert desk.job(bound)["state"] == "pending"
    gates[0].open()
    assert desk.done(bound)["node"] == cluster.nodes[0].id


def test_a_job_whose_data_was_deleted_meanwhile_fails_and_says_so(desk: Desk, cluster: Cluster, tmp_path: Path) -> None:
    key = value_on(cluster, 0, b"x")
    gates = fill(desk, tmp_path)
    number = desk.launch("test/data", {"pulzar_data": key})
    assert delete(cluster, key).status == 200
    gates[0].open()
    job = desk.until(number, "failed")
    assert key in job["reason"]


def test_a_script_reads_and_stores_keys(desk: Desk, cluster: Cluster) -> None:
    source, target = unique("source.txt"), unique("target.txt")
    assert put(cluster, source, b"0123456789" * 90_000).status == 201
    job = desk.done(desk.launch("test/keys", {"from": source, "to": target}))
    assert get(cluster, target).body == b"9876543210" * 90_000
    assert job["output"].endswith(f"/get_key/{target}")
    (entry,) = http_request("GET", f"{cluster.master_url}/keys?prefix={target}").data["keys"]
    assert entry["expires"] - entry["created"] == pytest.approx(3600, abs=2)


def test_log_and_output_of_a_job_are_keys_with_a_lifetime(desk: Desk, cluster: Cluster) -> None:
    number = desk.launch("test/echo", {"number": 1})
    job = desk.done(number)
    entries = http_request("GET", f"{cluster.master_url}/keys?prefix=jobs/{number}/").data["keys"]
    assert [entry["key"] for entry in entries] == [f"jobs/{number}/1/log.txt", f"jobs/{number}/1/output.json"]
    for entry in entries:
        assert entry["expires"] - entry["created"] == pytest.approx(RETENTION_DAYS * DAY, abs=2)
    log, output = (get(cluster, entry["key"]) for entry in entries)
    assert log.body == b"echo 1\n"
    assert log.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert output.json == {"number": 1}
    assert output.headers["Content-Type"] == "application/json"
    assert http_request("GET", job["log_url"]).body == log.body
    assert http_request("GET", job["output_url"]).body == output.body


# The catalog.


def catalog(desk: Desk) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in desk.read("/admin/job_catalog")}


def test_the_catalog_lists_scripts_with_what_their_docstrings_say(desk: Desk) -> None:
    rows = catalog(desk)
    assert set(rows) == {*SCRIPTS, *FIRST, "only/second"}
    row = rows["test/echo"]
    assert row["description"] == "Gives back\nits arguments."
    assert (row["category"], row["author"]) == ("tests", "Tester")
    assert json.loads(row["args"]) == {"number": "int: how many", "text": {"type": "str", "default": "x"}}
    assert row["nodes"] == ["node-1", "node-2"]
    assert not row["differs"]
    assert rows["only/second"]["nodes"] == ["node-2"]
    assert "line 1" in rows["test/broken"]["error"]
    assert not rows["test/plain"]["error"]


def test_a_script_finds_its_modules_loaded_and_runs_of_another_follow_each_other(desk: Desk) -> None:
    assert catalog(desk)["only/loaded"]["preload"] == ["sqlite3"]
    wait_for(lambda: desk.done(desk.launch("only/loaded", {}))["output"] is True, what="a process with the module")
    pids = [desk.done(desk.launch("only/warm", {}))["output"] for _ in range(7)]
    assert len(set(pids)) < len(pids)


def test_the_catalog_has_the_arguments_as_a_typed_list_for_forms(desk: Desk) -> None:
    assert catalog(desk)["test/echo"]["arguments"] == [
        {"name": "number", "type": "int", "default": None, "help": "how many", "choices": []},
        {"name": "text", "type": "str", "default": "x", "help": "", "choices": []},
    ]


def test_missing_and_unknown_arguments_are_told_at_the_launch_and_the_job_runs(desk: Desk) -> None:
    odd = desk.try_launch("test/echo", {"nmber": 5})
    assert (odd.status, odd.data["warnings"]) == (
        200,
        [
            "the argument number is missing; the script declares it as int: how many",
            "the script declares no argument nmber; number?",
        ],
    )
    assert desk.done(odd.data["job_id"])["state"] == "completed"
    assert set(desk.try_launch("test/echo", {"number": 5}).data) == {"job_id"}
    scheduled = {"interval": "hours", "time_unit": 1, "repeat": 0}
    assert desk.try_launch("test/echo", {"scheduled": scheduled}).data["warnings"]


def test_a_job_launches_another_and_its_log_says_what_is_odd(desk: Desk) -> None:
    source = """
        from datetime import date
        from jobs import run
        run.output(run.launch("test/echo", {"when": date(2026, 1, 2)}, {"argv": ["--count", "5"]}))
    """
    for directory in desk.directories:
        write_scripts(directory, {"new/launcher": source})
    desk.wait_for_catalog(["new/launcher"], (0, 1))
    job = desk.done(desk.launch("new/launcher"))
    assert "launched test/echo: the argument number is missing" in job["log"]
    launched = desk.done(job["output"])
    assert json.loads(launched["parameters"]) == {"when": "2026-01-02"}
    assert launched["options"]["argv"] == ["--count", "5"]
    for directory in desk.directories:
        (directory / "new/launcher.py").unlink()


def test_an_edited_script_counts_from_the_next_run_and_a_new_one_is_found(desk: Desk) -> None:
    source = "print('{}')"
    for directory in desk.directories:
        write_scripts(directory, {"new/edited": source.format("one")})
    desk.wait_for_catalog(["new/edited"], (0, 1))
    assert desk.done(desk.launch("new/edited"))["log"] == "one\n"
    for directory in desk.directories:
        write_scripts(directory, {"new/edited": source.format("another")})
    assert desk.done(desk.launch("new/edited"))["log"] == "another\n"
    for directory in desk.directories:
        (directory / "new/edited.py").unlink()
    wait_for(lambda: "new/edited" not in catalog(desk), what="the script to be gone from the catalog")
    assert desk.try_launch("new/edited").status == 404


def test_a_job_called_like_a_module_of_python_runs_beside_one_that_means_that_and_a_helper_says_whose_it_is(
    desk: Desk,
) -> None:
    written = {
        "near/email": "print('email')",
        "near/user": "import email.utils\nfrom . import shared\nprint(shared.value, email.utils.quote('x'))",
        "near/shared": "value = 'shared'",
    }
    for directory in desk.directories:
        write_scripts(directory, written)
    desk.wait_for_catalog(written, (0, 1))
    try:
        assert desk.done(desk.launch("near/email"))["log"] == "email\n"
        assert desk.done(desk.launch("near/user"))["log"] == "shared x\n"
        refused = desk.try_launch("near/shared")
        assert refused.status == 404
        assert refused.json["msg"].startswith(
            "near/shared is no job; it is a helper of near/user, which imports it; with"
        )
        assert catalog(desk)["near/shared"]["kind"] == "helper"
    finally:
        for directory in desk.directories:
            for path in written:
                (directory / f"{path}.py").unlink()
    wait_for(lambda: "near/shared" not in catalog(desk), what="the scripts to be gone from the catalog")
