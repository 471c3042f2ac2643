"""An upgrade from an older commit: `pytest -m install`, as root. Keys, schedules and waiting jobs come along.

UPGRADE_FROM names another commit than those below.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.machine import (
    MARKS,
    MASTER,
    PYTHON,
    SERVICES,
    Machine,
    boot,
    download_wheels,
    ended,
    job,
    launch,
    listening,
    read,
    store,
)
from tests.support import ROOT, wait_for

# The last commit before the modules of master, node and broker were put into folders, and one whose master did not
# yet seal its messages: the newer node buries those, and the newer master publishes their jobs again.
SEALED, UNSEALED = "3cb5ca1", "2e032c3"
GIVEN = os.environ.get("UPGRADE_FROM")
CASES = (
    [(GIVEN, suite) for suite in sorted(PYTHON)]
    if GIVEN
    else [
        *((SEALED, suite) for suite in sorted(PYTHON)),
        (UNSEALED, "bookworm"),
    ]
)
DEAD = "pulzar.dead"
WAITING = 24  # jobs: more than a node with one slot takes ahead

# Ends when a file is there.
LONG = """\
import os, time
print("begun", flush=True)
while not os.path.exists("/etc/pulzar/jobs/mine/gate"):
    time.sleep(0.1)
print("through the gate")
"""

PUBLISH = """\
import json, os, pika
with pika.BlockingConnection(pika.URLParameters(os.environ["PULZAR_BROKER_URL"])) as connection:
    channel = connection.channel()
    channel.confirm_delivery()
    channel.basic_publish("", "pulzar.jobs", json.dumps({"job": "example/factorial", "arguments": {"number": 6}}))
"""

pytestmark = MARKS


def extract(commit: str, to: Path) -> None:
    """The files of a commit; skips the test where the history does not reach back so far."""
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if packed.returncode != 0:
        pytest.skip(f"needs the commit {commit}: {packed.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(to, filter="data")


@pytest.fixture
def machine(commit: str, suite: str, tmp_path: Path) -> Iterator[Machine]:
    """A machine with the older commit at /before."""
    extract(commit, tmp_path / "before")
    with boot(suite, tmp_path / suite) as machine:
        (tmp_path / "before").rename(machine.root / "before")
        download_wheels(suite, machine.root / "wheels", machine.root / "before/requirements.txt")
        yield machine


def left(machine: Machine) -> Counter[str]:
    """The messages of all queues but the one for those that were buried."""
    found = messages(machine)
    del found[DEAD]
    return found


def messages(machine: Machine) -> Counter[str]:
    """How many messages each of the queues has."""
    rows = machine.run("rabbitmqctl", "-qs", "list_queues", "-p", "pulzar", "name", "messages").splitlines()
    return Counter({name: int(count) for name, count in (row.split("\t") for row in rows)})


@pytest.mark.parametrize(("commit", "suite"), CASES)
def test_keys_queues_and_jobs_outlive_an_upgrade(machine: Machine, commit: str) -> None:
    # Given the older Pulzar, whose node runs one job at a time
    machine.run("/before/ops/install", "--master", "--node", "--without-extensions")
    jobs, environment = machine.root / "etc/pulzar/jobs/mine", machine.root / "etc/pulzar/environment"
    jobs.mkdir()
    (jobs / "long.py").write_text(LONG)
    environment.write_text(environment.read_text() + "PULZAR_JOBS_SLOTS=1\n")
    machine.run("systemctl", "restart", "pulzar-node")
    # And keys: a small one, a large one, one that was replaced and one that was deleted
    values = {f"before/{number}.txt": os.urandom(900) for number in range(20)}
    values["before/large.bin"] = os.urandom(3 << 20)
    store(machine, "before/0.txt", b"an older value")
    for key, value in values.items():
        if len(value) < 1 << 20:
            store(machine, key, value)
    upload = machine.request("GET", f"{MASTER}/get_node/before/large.bin").data["node"]
    assert machine.request("PUT", upload, values["before/large.bin"]).status == 201
    store(machine, "before/deleted.txt", b"gone")
    assert machine.request("DELETE", f"{MASTER}/delete_key/before/deleted.txt").status == 200
    # And a schedule, a job that ended, a job that runs, and more that wait, one of them published by hand
    done = launch(machine, "example/factorial", number=4)
    assert ended(machine, done)["status"] == "completed"
    hours = {"interval": "hours", "time_unit": 5, "repeat": 1}
    schedule = launch(machine, "example/factorial", number=3, scheduled=hours)
    long = launch(machine, "mine/long")
    wait_for(lambda: "begun" in job(machine, long)["log"], 60, "the run")
    waiting = [launch(machine, "example/factorial", number=5) for _ in range(WAITING)]
    machine.run("sh", "-ac", '. /etc/pulzar/environment; exec /opt/pulzar/current/venv/bin/python -c "$0"', PUBLISH)
    wait_for(lambda: messages(machine)["pulzar.jobs"] > 0, 30, "messages that wait in the queue")
    before = {service: machine.property(service, "MainPID") for service in SERVICES}
    release = os.readlink(machine.root / "opt/pulzar/current")
    node = machine.request("GET", f"{MASTER}/admin/network").data[0]["node"]
    # When it is upgraded
    said = machine.run("/src/ops/install", "--upgrade")
    # Then the newer code runs, beside the older one
    assert os.readlink(machine.root / "opt/pulzar/current") != release, said
    assert (machine.root / "opt/pulzar" / release).is_dir()
    after = {service: machine.property(service, "MainPID") for service in SERVICES}
    assert not set(after.values()) & {*before.values(), "0"}
    # And every key has its value
    wait_for(lambda: listening(machine), 60, "the services")
    for key, value in values.items():
        assert read(machine, key) == value, key
    assert machine.request("GET", f"{MASTER}/get_key/before/deleted.txt").status == 404
    # And the master is a user of its own now, whose files no job can read; the node's files are its own as before
    assert machine.owner_and_mode("/var/lib/pulzar/master/index", "/var/lib/pulzar/data/log", "/var/lib/pulzar") == [
        "pulzar-master:pulzar-master 700",
        "pulzar:pulzar 700",
        "root:pulzar 750",
    ]
    # And the node has its name
    assert [row["node"] for row in machine.request("GET", f"{MASTER}/admin/network").data] == [node]
    # And when the long job can go on, all of them end, each once
    (jobs / "gate").touch()
    found = ended(machine, long)
    assert (found["status"], found["log"].count("through the gate")) == ("completed", 1), found
    assert [attempt["state"] for attempt in found["attempts"]].count("completed") == 1, found
    for number in waiting:
        found = ended(machine, number)
        assert (found["status"], found["output"]) == ("completed", 120), found
        assert [attempt["state"] for attempt in found["attempts"]].count("completed") == 1, found
    assert job(machine, done)["output"] == 24
    listed = machine.request("GET", f"{MASTER}/admin/all_jobs?limit=1000").data
    by_hand = [row["job_id"] for row in listed if row["source"] == "queue"]
    assert len(by_hand) == 1
    assert ended(machine, by_hand[0])["output"] == 720
    assert Counter(row["job_id"] for row in listed) == Counter([done, long, *waiting, *by_hand])
    assert [row["job_id"] for row in machine.request("GET", f"{MASTER}/admin/jobs").data["scheduled"]] == [schedule]
    # And nothing is left in a queue; what was buried are messages without a seal, whose jobs have ended all the same
    wait_for(lambda: not +left(machine), 60, f"empty queues; there were {messages(machine)}")
    assert (messages(machine)[DEAD] > 0) is (commit == UNSEALED), messages(machine)
    # And what is stored and launched now works as ever
    store(machine, "after.txt", b"newer")
    assert read(machine, "after.txt") == b"newer"
    assert ended(machine, launch(machine, "example/factorial", number=5))["output"] == 120
    # When each role then gets a user of its own in RabbitMQ, while jobs wait
    assert "ops/install --roles" in said
    assert listed_users(machine) == ["pulzar"]
    (jobs / "gate").unlink()
    long = launch(machine, "mine/long")
    wait_for(lambda: "begun" in job(machine, long)["log"], 60, "the run")
    waiting = [launch(machine, "example/factorial", number=5) for _ in range(WAITING)]
    machine.run("/opt/pulzar/current/ops/install", "--roles")
    # Then the shared one is gone
    assert listed_users(machine) == ["pulzar.master", f"pulzar.node.{node}"]
    assert "amqp://" not in environment.read_text()
    # And those jobs run, and nothing was buried
    (jobs / "gate").touch()
    assert [ended(machine, number)["status"] for number in (long, *waiting)] == ["completed"] * (1 + WAITING)
    wait_for(lambda: not +left(machine), 60, f"empty queues; there were {messages(machine)}")
    assert (messages(machine)[DEAD] > 0) is (commit == UNSEALED), messages(machine)
    assert read(machine, "before/large.bin") == values["before/large.bin"]
    # And the second time there is nothing to do
    assert "already" in machine.run("/opt/pulzar/current/ops/install", "--roles")


def listed_users(machine: Machine) -> list[str]:
    """Pulzar's users in RabbitMQ."""
    rows = machine.run("rabbitmqctl", "-qs", "list_users").splitlines()
    return sorted(row.split("\t")[0] for row in rows if row.startswith("pulzar"))
