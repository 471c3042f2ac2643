"""What is bounded about jobs: how many wait, what their lists carry, who may write what they leave, what a token is for."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker import settings
from broker.http import signing
from ops.cluster import Rabbit
from tests.faults.tools import COMPANION, processes
from tests.integration.jobs_tools import Desk, Gate, make
from tests.integration.wire import Client, a_commit, refused
from tests.support import Clusters, delete, get, put, unique, wait_for

MOST_JOBS, MOST_SCHEDULES = 5, 2
KIB = 1024
DEEP = 980
MORE_SCRIPTS = {
    "test/deep": f"""
        from jobs import Job
        class Deep(Job):
            def execute(self):
                value = []
                for _ in range({DEEP} - 1):
                    value = [value]
                return value
        """,
    "test/forge": """
        from jobs import Job
        class Forge(Job):
            def execute(self):
                self.store(b"forged", self.arguments["key"], overwrite=True)
        """,
}


@pytest.fixture(scope="module")
def desk(rabbit: Rabbit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    clusters = Clusters(tmp_path_factory.mktemp("jobs-limits"), lambda: rabbit)
    env = {
        "PULZAR_JOBS_MAX_PENDING": str(MOST_JOBS),
        "PULZAR_JOBS_MAX_PENDING_BYTES": "1M",
        "PULZAR_JOBS_MAX_SCHEDULES": str(MOST_SCHEDULES),
    }
    try:
        desk = make(clusters, tmp_path_factory.mktemp("jobs-scripts"), (1,), env, {0: MORE_SCRIPTS})
        desk.wait_for_catalog(MORE_SCRIPTS, (0,))
        yield desk
    finally:
        clusters.close()


@pytest.fixture
def gate(desk: Desk, tmp_path: Path) -> Iterator[Gate]:
    """What keeps the only slot busy until it is opened."""
    gate = Gate(tmp_path / "gate")
    number = desk.launch("test/gate", {"gate": str(gate.path)})
    desk.until(number, "running")
    yield gate
    gate.open()
    desk.done(number)
    for row in desk.read("/admin/jobs?list=pendings")["pendings"]:
        desk.cancel(row["job_id"])
    wait_for(lambda: not desk.read("/admin/jobs?list=pendings")["pendings"], what="the end of every job")


def no_room(desk: Desk, path: str, body: dict[str, Any], setting: str) -> None:
    """A launch that is answered 503, and leaves nothing."""
    before = desk.read("/admin/all_jobs?limit=1"), desk.read("/admin/scheduled_jobs?limit=1")
    answer = desk.try_launch(path, body)
    assert (answer.status, setting in answer.msg) == (503, True), answer.msg
    assert int(answer.headers["Retry-After"]) >= 1
    assert (desk.read("/admin/all_jobs?limit=1"), desk.read("/admin/scheduled_jobs?limit=1")) == before


def test_one_pending_job_too_many_is_refused_also_after_the_controller_was_killed(desk: Desk, gate: Gate) -> None:
    # Given as many pending jobs as there may be; the one that runs does not count
    jobs = [desk.launch("test/noop", {"n": number}, unique=unique()) for number in range(MOST_JOBS)]
    first = desk.job(jobs[0])["options"]["unique"]
    # When there is one more, then it is refused
    no_room(desk, "test/noop", {}, "max_pending is 5")
    # But who asks again for what he has launched is told
    assert desk.launch("test/noop", {"n": 0}, unique=first) == jobs[0]
    # And the count is the same when the controller was killed
    (controller,) = processes(desk.cluster.master, COMPANION)
    os.kill(controller, signal.SIGKILL)
    wait_for(lambda: processes(desk.cluster.master, COMPANION) not in ([], [controller]), what="a new controller")
    desk.cluster.wait_healthy()
    wait_for(lambda: "max_pending is 5" in desk.try_launch("test/noop", {}).msg, what="the new controller's word")
    # And a job that is cancelled makes room for one
    assert desk.cancel(jobs[-1]).status == 200
    jobs[-1] = desk.launch("test/noop")
    no_room(desk, "test/noop", {}, "max_pending")
    gate.open()
    for number in jobs:
        desk.done(number)
    desk.done(desk.launch("test/noop"))


def test_arguments_of_pending_jobs_are_bounded_together(desk: Desk, gate: Gate) -> None:
    large = {"text": "x" * 400 * KIB}
    jobs = [desk.launch("test/noop", large) for _ in range(2)]
    no_room(desk, "test/noop", large, "max_pending_bytes")
    jobs.append(desk.launch("test/noop", {"text": "short"}))
    gate.open()
    for number in jobs:
        desk.done(number)
    desk.done(desk.launch("test/noop", large))


def test_schedules_are_bounded_in_number_and_bytes(desk: Desk) -> None:
    yearly: dict[str, Any] = {"scheduled": {"interval": "weeks", "time_unit": 52, "repeat": 1}}
    schedules = [desk.launch("test/noop", yearly | {"text": "x" * 600 * KIB})]
    no_room(desk, "test/noop", yearly | {"text": "x" * 600 * KIB}, "max_pending_bytes")
    schedules.append(desk.launch("test/noop", yearly))
    no_room(desk, "test/noop", yearly, "max_schedules is 2")
    for number in schedules:
        assert desk.cancel(number).status == 200
    assert desk.cancel(desk.launch("test/noop", yearly)).status == 200


def test_a_page_of_jobs_stays_small_however_large_their_arguments_are(desk: Desk) -> None:
    text = 'é"' * 100_000
    jobs = []
    for number in range(20):
        jobs.append(desk.launch("test/echo", {"number": number, "text": text}))
        desk.done(jobs[-1])
    for path in ("/admin/jobs?limit=20", "/admin/all_jobs?limit=20"):
        assert len(desk.ask("GET", path).body) < 100 * KIB
    for row in desk.read("/admin/all_jobs?limit=20"):
        assert len(row["parameters"].encode()) <= KIB
        assert row["parameters_cut"]
        assert json.loads(row["parameters"]).startswith('{"number":')
    page = desk.job(jobs[3])
    assert json.loads(page["parameters"]) == page["output"] == {"number": 3, "text": text}
    assert not page["parameters_cut"]


def test_an_output_that_is_nested_deep_is_shown_as_text(desk: Desk) -> None:
    number = desk.launch("test/deep")
    job = desk.done(number)
    assert job["output"] == "[" * DEEP + "]" * DEEP
    assert get(desk.cluster, f"jobs/{number}/1/output.json").body == job["output"].encode()
    assert desk.row("ready", number)


def test_the_names_of_logs_and_outputs_are_written_by_nodes_alone(desk: Desk) -> None:
    cluster, number = desk.cluster, desk.launch("test/echo", {"n": 1})
    job = desk.done(number)
    existing, free = f"jobs/{number}/1/log.txt", f"jobs/{number + 1000}/1/log.txt"
    words = "which only its node writes"
    with closing(Client(cluster.master_url)) as client:
        for key in (existing, free, f"jobs/{number}/anything", f"/{existing}", existing.replace("j", "%6A")):
            for body in (b"forged", b"f" * (3 << 20), iter([b"forged"])):
                for query in ("", "?overwrite=1"):
                    assert words in refused(client.request("PUT", f"/add_key/{key}{query}", body), 403)
            for method, body in (("GET", b""), ("PUT", b"forged")):
                assert words in refused(client.request(method, f"/get_node/{key}?overwrite=1", body), 403)
            assert words in refused(client.request("DELETE", f"/delete_key/{key}"), 403)
        # Not by a signed address of another day either
        secret = settings.load(environ={"PULZAR_GENERAL_SECRET": cluster.secret}).secret()
        query = signing.sign(secret, "PUT", existing, {"url": "m:1", "overwrite": "1"}, int(time.time()) + 60)
        upload = a_commit(cluster.nodes[0].id)
        signature = {"X-Pulzar-Signature": signing.sign_body(secret, upload)}
        answer = client.request("POST", f"/internal/commit/{existing}?{query}", upload, signature)
        assert words in refused(answer, 403)
    # A script is a client like any other
    forging = desk.until(desk.launch("test/forge", {"key": existing}), "failed")
    assert "403" in forging["reason"]
    assert words in forging["log"] + forging["reason"]
    # They can be read by all, and are what they were
    assert get(cluster, existing).body == b"echo 1\n"
    assert get(cluster, free).status == 404
    assert desk.job(number) == job
    # What only looks like one is anybody's
    for key in (f"jobs/{unique()}", "jobs/12", f"my/{existing}"):
        assert put(cluster, key, b"mine").status == 201
        assert delete(cluster, key).status == 200


def test_another_launch_with_a_known_token_is_409_and_launches_nothing(desk: Desk) -> None:
    token = unique("token")
    number = desk.launch("test/echo", {"a": 1, "b": 2}, unique=token)
    desk.done(number)
    before = desk.read("/admin/all_jobs?limit=1")
    options: dict[str, Any] = {"pulzar_options": {"unique": token}}
    weekly = {"scheduled": {"interval": "weeks", "time_unit": 1, "repeat": 1}}
    for path, body, words in (
        ("test/noop", {"a": 1, "b": 2} | options, "another script"),
        ("test/echo", {"a": 2, "b": 2} | options, "other arguments"),
        ("test/echo", options, "other arguments"),
        ("test/echo", {"a": 1, "b": 2, "pulzar_options": {"unique": token, "timeout": 9}}, "timeout"),
        ("test/echo", {"a": 1, "b": 2} | options | weekly, "another time"),
    ):
        answer = desk.try_launch(path, body)
        assert answer.status == 409, (body, answer.msg)
        assert words in answer.msg
        assert f"job {number}" in answer.msg
    assert desk.read("/admin/all_jobs?limit=1") == before
    assert not desk.read("/admin/jobs?list=scheduled")["scheduled"]
    assert desk.launch("test/echo", {"b": 2, "a": 1}, unique=token) == number
    # And the other way round: a schedule's
    token = unique("token")
    schedule = desk.launch("test/echo", weekly, unique=token)
    assert "schedule" in desk.try_launch("test/echo", {"pulzar_options": {"unique": token}}).msg
    assert desk.launch("test/echo", weekly, unique=token) == schedule
    assert desk.cancel(schedule).status == 200
