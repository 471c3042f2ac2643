"""Jobs that somebody publishes by hand on `pulzar.jobs`, by a client of AMQP or from RabbitMQ's console."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgpack
import pika
import pika.exceptions
import pytest

from broker import settings, topology
from broker.messages import jobs
from broker.messages.codec import encode
from broker.messages.jobs import MAX_BYTES, Order
from broker.messages.runs import Claimed, Finished, Progress, Reports, Returned, RunState
from ops.cluster import Rabbit
from tests.integration.jobs_tools import SCRIPTS, Console, Desk, Gate, make, marks
from tests.support import Clusters, get, put, unique, wait_for


@pytest.fixture(scope="module")
def desk(rabbit: Rabbit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    clusters = Clusters(tmp_path_factory.mktemp("jobs-queue"), lambda: rabbit)
    only = {1: {"only/second": SCRIPTS["test/echo"].replace("Echo", "Second")}}
    try:
        yield make(clusters, tmp_path_factory.mktemp("jobs-scripts"), (2, 2), only=only)
    finally:
        clusters.close()


@pytest.fixture(scope="module")
def console(rabbit: Rabbit, desk: Desk) -> Console:
    return Console(rabbit, desk.cluster.vhost)


class Publisher:
    """Ten lines of pika."""

    def __init__(self, url: str) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()

    def put(self, body: bytes, queue: str = topology.JOBS, **properties: Any) -> None:
        """Publish, and wait until the broker has it."""
        self._channel.basic_publish("", queue, body, pika.BasicProperties(**properties), mandatory=True)

    def fill(self, body: bytes) -> None:
        """Publish the same until the broker refuses it."""
        for _ in range(1_000):
            self.put(body)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


@pytest.fixture
def publisher(desk: Desk) -> Iterator[Publisher]:
    publisher = Publisher(desk.cluster.broker_url)
    yield publisher
    publisher.close()


def named(desk: Desk, path: str, name: str) -> dict[str, Any]:
    """The job of this script and source `queue` whose argument `name` is this; waits until it has ended."""

    def found() -> dict[str, Any] | None:
        for row in desk.of_source("queue", path):
            if json.loads(row["parameters"]).get("name") == name and row["state"] in (
                "completed",
                "failed",
                "cancelled",
            ):
                return desk.job(row["job_id"])
        return None

    return wait_for(found, 30, f"{path} of {name} to be listed and over") or {}


def test_a_job_from_the_consoles_form_runs_and_is_listed_as_any_other(desk: Desk, console: Console) -> None:
    name = unique()
    console.publish(json.dumps({"job": "test/echo", "arguments": {"name": name, "ž": [1.5, None]}}))
    job = named(desk, "test/echo", name)
    assert (job["source"], job["state"], job["status"], job["attempt"]) == ("queue", "completed", "completed", 1)
    assert job["output"] == {"name": name, "ž": [1.5, None]}
    assert job["log"] == "echo 2\n"
    assert job["node"] in {node.id for node in desk.cluster.nodes}
    assert desk.row("ready", job["job_id"])
    assert get(desk.cluster, f"jobs/{job['job_id']}/1/log.txt").body == b"echo 2\n"
    # What is launched afterwards has a higher id.
    assert desk.launch("test/noop") > job["job_id"]


@pytest.mark.parametrize("encode", [lambda job: json.dumps(job).encode(), msgpack.packb], ids=["JSON", "msgpack"])
def test_a_job_by_pika_runs_with_its_options(desk: Desk, publisher: Publisher, encode: Any) -> None:
    name = unique()
    options = {"attempts": 2, "timeout": 60, "priority": "high"}
    publisher.put(encode({"job": "test/fail.py", "arguments": {"name": name, "times": 1}, "options": options}))
    job = named(desk, "test/fail", name)
    assert (job["state"], job["attempt"], job["output"]) == ("completed", 2, 2)
    assert [attempt["state"] for attempt in job["attempts"]] == ["failed", "completed"]
    assert job["options"] == options
    assert job["job_path"] == "test/fail"


def test_arguments_and_options_may_be_left_out_and_space_stand_around(desk: Desk, publisher: Publisher) -> None:
    before = len(desk.of_source("queue", "test/noop"))
    publisher.put(b'\n {"job": "test/noop"} \r\n')
    publisher.put(msgpack.packb({"job": "test/noop"}), delivery_mode=1, content_type="text/plain")
    wait_for(lambda: len(desk.of_source("queue", "test/noop")) == before + 2, what="both jobs")
    for row in desk.of_source("queue", "test/noop"):
        desk.done(row["job_id"])


def test_the_queues_of_priorities_take_jobs_too(desk: Desk, publisher: Publisher) -> None:
    for priority in ("high", "low"):
        name = unique()
        publisher.put(
            json.dumps({"job": "test/echo", "arguments": {"name": name}}).encode(), topology.jobs_queue(priority)
        )
        assert named(desk, "test/echo", name)["state"] == "completed"


def test_a_job_by_hand_gets_its_data(desk: Desk, publisher: Publisher) -> None:
    key = unique("data")
    value = key.encode() * 5000
    assert put(desk.cluster, key, value).status == 201
    digest = hashlib.sha256(value).hexdigest()
    first, second = unique(), unique()
    publisher.put(json.dumps({"job": "test/data", "arguments": {"name": first, "pulzar_data": key}}).encode())
    publisher.put(json.dumps({"job": "test/data", "arguments": {"name": second}, "data": key}).encode())
    assert named(desk, "test/data", first)["output"] == [key, digest]
    assert named(desk, "test/data", second)["output"] == [key, digest]
    unknown = unique()
    publisher.put(json.dumps({"job": "test/data", "arguments": {"name": unknown, "pulzar_data": "no/key"}}).encode())
    job = named(desk, "test/data", unknown)
    assert job["state"] == "failed"
    assert "no/key" in job["reason"]


def test_a_job_by_hand_runs_on_the_node_it_names_or_that_has_its_script(desk: Desk, publisher: Publisher) -> None:
    for node in desk.cluster.nodes:
        for _ in range(3):
            name = unique()
            job = {"job": "test/echo", "arguments": {"name": name}, "options": {"node": node.id}}
            publisher.put(json.dumps(job).encode())
            assert named(desk, "test/echo", name)["node"] == node.id
    for _ in range(4):
        name = unique()
        publisher.put(json.dumps({"job": "only/second", "arguments": {"name": name}}).encode())
        job = named(desk, "only/second", name)
        assert (job["node"], job["state"], job["source"]) == ("node-2", "completed", "queue")


def test_of_jobs_by_hand_with_one_unique_token_one_counts(
    desk: Desk, console: Console, publisher: Publisher, tmp_path: Path
) -> None:
    token = unique("token")
    gate, name = Gate(tmp_path / "gate"), unique()
    job = {"job": "test/gate", "arguments": {"name": name, "gate": str(gate.path)}, "options": {"unique": token}}
    for _ in range(3):
        publisher.put(json.dumps(job).encode())
    wait_for(lambda: desk.of_source("queue", "test/gate"), what="the job to be listed")
    # Their messages are gone when jobs of the same queue that came after them have run.
    publisher.put(json.dumps({"job": "test/echo", "arguments": {"name": name}}).encode())
    named(desk, "test/echo", name)
    rows = [row for row in desk.of_source("queue", "test/gate") if json.loads(row["parameters"])["name"] == name]
    assert len(rows) == 1
    assert desk.launch("test/gate", job["arguments"], unique=token) == rows[0]["job_id"]
    # One that is another job is buried, and says which has the token.
    other = json.dumps(job | {"arguments": job["arguments"] | {"name": "other"}}).encode()
    publisher.put(other)
    assert f"belongs to job {rows[0]['job_id']}, which has other arguments" in console.buried(other)["reason"]
    gate.open()
    desk.done(rows[0]["job_id"])


def test_a_message_by_hand_can_not_be_another_job(
    desk: Desk, console: Console, publisher: Publisher, tmp_path: Path
) -> None:
    file, gate = tmp_path / "marks", Gate(tmp_path / "gate")
    secret = settings.load(environ={"PULZAR_GENERAL_SECRET": desk.cluster.secret}).secret()
    # Given jobs that wait, that run, and that are over
    busy = [desk.launch("test/gate", {"gate": str(gate.path)}) for _ in range(4)]
    for number in busy:
        desk.until(number, "running")
    waiting = desk.launch("test/mark", {"file": str(file), "name": "waiting"})
    over = desk.launch("test/noop")
    assert desk.cancel(over).status == 200
    jobs_before = [desk.job(number) for number in (*busy, waiting, over)]
    # When messages by hand say that they are these, or one that there is not, whatever they have as a seal
    forged = []
    for number in (waiting, busy[0], over, 10**9):
        for attempt in (1, 2):
            fields = {"job": "test/mark", "arguments": {"file": str(file), "name": "forged"}, "id": number}
            body = msgpack.packb(fields | {"attempt": attempt})
            forged.append(body)
            publisher.put(body, headers={})
    seal = jobs.seal(secret, forged[0])
    forged.append(msgpack.packb({"job": "test/mark", "arguments": {}, "attempt": 3}))
    publisher.put(forged[-1], headers=seal | {"id": waiting})
    forged.append(json.dumps({"job": "test/mark", "arguments": {}, "id": waiting}).encode())
    publisher.put(forged[-1], headers={jobs.SEAL: "x"}, message_id=str(waiting))
    copy = msgpack.packb(msgpack.unpackb(jobs.write(Order("test/mark", {"file": str(file)}, id=waiting))))
    forged.append(copy)
    publisher.put(copy, headers=seal)
    # Then they go where nodes can see them, and are buried
    for number in busy:
        assert desk.job(number)["state"] == "running"
    gate.open()
    for body in forged:
        assert "is the master's to give" in console.buried(body)["reason"]
    # And the jobs are what they are without them
    done = [desk.done(number) for number in (*busy, waiting)]
    assert [name for name, *_ in marks(file)] == ["waiting"]
    assert [job["attempt"] for job in done] == [1] * 5
    assert [job["parameters"] for job in done] == [job["parameters"] for job in jobs_before[:5]]
    assert desk.job(over) == jobs_before[5]
    assert not [row for row in desk.read("/admin/all_jobs?limit=1000") if "forged" in row["parameters"]]


def test_a_policy_of_rabbitmq_bounds_the_jobs_by_hand(
    desk: Desk, rabbit: Rabbit, publisher: Publisher, tmp_path: Path
) -> None:
    gate, name = Gate(tmp_path / "gate"), unique()
    busy = [desk.launch("test/gate", {"gate": str(gate.path)}) for _ in range(4)]
    for number in busy:
        desk.until(number, "running")
    job = json.dumps({"job": "test/echo", "arguments": {"name": name}}).encode()
    policy = f"policies/{quote(desk.cluster.vhost, safe='')}/bounded"
    definition = {"pattern": "^pulzar\\.jobs$", "apply-to": "queues", "definition": {"max-length": 5}}
    rabbit.api("PUT", policy, definition)
    try:
        # The broker refuses some message or other soon after it is full, and the master's, too.
        with pytest.raises(pika.exceptions.NackError):
            publisher.fill(job)
        waiting = desk.try_launch("test/noop")
        assert waiting.status == 202
        # What it has taken runs, and what the ledger has, too
        gate.open()
        desk.done(waiting.data["job_id"])
        assert named(desk, "test/echo", name)["state"] == "completed"
    finally:
        gate.open()
        rabbit.api("DELETE", policy)


def test_reports_by_hand_of_what_there_is_not_change_no_job(desk: Desk, publisher: Publisher, tmp_path: Path) -> None:
    gate, run = Gate(tmp_path / "gate"), "f" * 32
    number = desk.launch("test/gate", {"gate": str(gate.path)})
    before = desk.until(number, "running")
    newest = desk.read("/admin/all_jobs?limit=1")
    items: list[Any] = []
    for job, attempt in ((number, 2), (number, 99), (number, 0), (10**9, 1)):
        items.append(Claimed(run, job, attempt, 1, b""))
        items += [Finished(run, job, attempt, state, "forged", 1, 2, "", "") for state in RunState]
    items.append(Claimed(run, 0, 1, 1, msgpack.packb({"job": "test/noop", "id": number})))
    items.append(Returned(msgpack.packb({"job": "test/noop", "id": number, "attempt": 1}), "forged", run))
    publisher.put(encode(Reports("node-1", items)), topology.RESULTS)
    publisher.put(encode(Progress("node-1", run, number, 1, 1, 2, "forged", b"forged", 0)), topology.PROGRESS)
    # What is launched now is handled after them.
    later = desk.launch("test/noop")
    assert desk.done(later)["attempt"] == 1
    assert {**desk.job(number), "progress": None} == {**before, "progress": None}
    assert "forged" not in json.dumps(desk.job(number))
    assert desk.read("/admin/all_jobs?limit=2")[1:] == newest
    gate.open()
    assert desk.done(number)["attempts"][0]["state"] == "completed"


def nested(depth: int) -> bytes:
    return b'{"job": "test/mark", "arguments": {"deep": ' + b"[" * depth + b"]" * depth + b"}}"


def mark(**changes: Any) -> bytes:
    return json.dumps({"job": "test/mark", "arguments": {}} | changes).encode()


# What is published, and a word that the reason must have.
NO_JOBS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "JSON"),
    "text": (b"hello, this is no job", "JSON"),
    "half of JSON": (b'{"job": "test/mark", "arguments"', "JSON"),
    "JSON with more behind it": (b'{"job": "test/mark"} x', "JSON"),
    "a single quote": (b"{'job': 'test/mark'}", "JSON"),
    "a byte order mark": (b"\xef\xbb\xbf" + mark(), "byte order mark"),
    "UTF-16": (mark().decode().encode("utf-16"), "byte order mark"),
    "UTF-16 without a mark": (mark().decode().encode("utf-16-le"), "JSON"),
    "another encoding": ('{"job": "test/mark", "arguments": {"a": "é"}}'.encode("latin-1"), "JSON"),
    "half of msgpack": (msgpack.packb({"job": "test/mark", "arguments": {}})[:-3], "msgpack"),
    "a length that lies": (b"\xdf\xff\xff\xff\xff", "msgpack"),
    "a list": (b'["test/mark"]', "object"),
    "a text in JSON": (b'"test/mark"', "object"),
    "a number": (msgpack.packb(5), "object"),
    "an empty object": (b"{}", "job"),
    "no script": (mark(job="test"), "folder/script"),
    "a way out": (mark(job="../../etc/passwd"), "folder/script"),
    "a script that is a number": (mark(job=5), "folder/script"),
    "arguments that are a list": (mark(arguments=[1]), "arguments"),
    "arguments that are text": (mark(arguments='{"number": 5}'), "arguments"),
    "options that are text": (mark(options="fast"), "options"),
    "an unknown option": (mark(options={"colour": 1}), "colour"),
    "an unknown field": (mark(argument={}), "argument"),
    "a timeout as text": (mark(options={"timeout": "5"}), "timeout"),
    "a priority that is none": (mark(options={"priority": 1}), "priority"),
    "an id of its own": (mark(id=1), "id"),
    "data that is no key": (mark(data="a//b"), "pulzar_data"),
    "NaN": (b'{"job": "test/mark", "arguments": {"a": NaN}}', "NaN"),
    "a number beyond all": (b'{"job": "test/mark", "arguments": {"a": 1e999}}', "inf"),
    "an integer of 80 bits": (mark(arguments={"a": 1 << 80}), "64 bits"),
    "half of a character": (b'{"job": "test/mark", "arguments": {"a": "\\ud800"}}', "character"),
    "a number as a name": (msgpack.packb({"job": "test/mark", "arguments": {1: 2}}), ""),
    "bytes": (msgpack.packb({"job": "test/mark", "arguments": {"a": b"x"}}), "arguments"),
    "a time": (msgpack.packb({"job": "test/mark", "arguments": {"a": msgpack.Timestamp(1, 2)}}), "arguments"),
    "deep": (nested(200), "lists or objects"),
    "an abyss": (nested(100_000), "lists or objects"),
    "an abyss in msgpack": (b"\x91" * 200_000, ""),
    "too long": (mark(arguments={"a": "x" * MAX_BYTES}), str(MAX_BYTES)),
}


def test_what_is_no_job_is_buried_with_a_reason_and_disturbs_no_other(
    desk: Desk, console: Console, publisher: Publisher
) -> None:
    before = desk.read("/admin/all_jobs?limit=1000")
    name = unique()
    good = json.dumps({"job": "test/echo", "arguments": {"name": name}}).encode()
    for number, (body, _) in enumerate(NO_JOBS.values()):
        publisher.put(body)
        if number % 10 == 0:
            publisher.put(good)
    problems = []
    for what, (body, word) in NO_JOBS.items():
        headers = console.buried(body)
        reason = headers["reason"]
        if word not in reason or len(reason) > 300 or "Traceback" in reason or "Error(" in reason:
            problems.append((what, reason))
        assert headers["queue"] == topology.JOBS
        assert "node" in headers["by"]
    assert not problems
    wait_for(lambda: len(desk.of_source("queue", "test/echo")) >= 4, what="the good ones between them")
    known = {row["job_id"] for row in before}
    fresh = [row for row in desk.read("/admin/all_jobs?limit=1000") if row["job_id"] not in known]
    assert {(row["job_path"], row["state"]) for row in fresh} <= {("test/echo", "completed"), ("test/echo", "running")}
    for child in desk.cluster.processes:
        child.check()


def test_what_is_no_job_can_come_from_the_consoles_form(console: Console) -> None:
    console.publish(payload := '{"job": "test/echo", "arguments": {"number": 5}')
    assert "JSON" in console.buried(payload.encode())["reason"]


def test_a_job_whose_script_nobody_has_is_buried_with_the_reason(console: Console, publisher: Publisher) -> None:
    body = json.dumps({"job": "test/nobody", "arguments": {"name": unique()}}).encode()
    publisher.put(body)
    assert "test/nobody" in console.buried(body)["reason"]


def test_without_the_master_jobs_run_and_are_listed_when_it_is_back(
    desk: Desk, console: Console, publisher: Publisher, tmp_path: Path
) -> None:
    cluster, file, name = desk.cluster, tmp_path / "marks", unique()
    gate = Gate(tmp_path / "gate")
    cluster.stop_master()
    try:
        for number in range(20):
            job = {"job": "test/mark", "arguments": {"file": str(file), "name": f"{name}-{number}"}}
            if number % 2:
                console.publish(json.dumps(job))
            else:
                publisher.put(msgpack.packb(job))
        wait_for(lambda: len(marks(file)) == 20, what="all jobs to run without the master")
        publisher.put(
            json.dumps(
                {"job": "test/gate", "arguments": {"name": name, "file": str(file), "gate": str(gate.path)}}
            ).encode()
        )
        publisher.put(json.dumps({"job": "test/fail", "arguments": {"name": name}}).encode())
        publisher.put(json.dumps({"job": "test/echo", "arguments": {"name": name}}).encode())
        wait_for(lambda: len(marks(file)) == 21, what="the job that goes on")
    finally:
        cluster.start_master()
        cluster.wait_healthy()
    jobs = [named(desk, "test/mark", f"{name}-{number}") for number in range(20)]
    assert {(job["state"], job["source"], job["attempt"]) for job in jobs} == {("completed", "queue", 1)}
    assert len({job["job_id"] for job in jobs}) == 20
    assert named(desk, "test/echo", name)["output"] == {"name": name}
    failed = named(desk, "test/fail", name)
    assert "ValueError" in failed["log"]
    assert failed["state"] == "failed"
    # The one that still runs is known, too, and can be cancelled.
    (running,) = [row for row in desk.of_source("queue", "test/gate") if json.loads(row["parameters"])["name"] == name]
    assert running["state"] == "running"
    assert desk.cancel(running["job_id"]).status == 200
    desk.until(running["job_id"], "cancelled")
    # Each has run once.
    assert sorted(name for name, *_ in marks(file)) == sorted([name, *(f"{name}-{number}" for number in range(20))])
