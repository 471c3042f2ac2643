"""Jobs on a node: from the queue to the report, with a real broker and a real agent, and a stand-in for the master."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgpack
import pika
import pytest

from broker import keys, topology
from broker.link.puller import EMPTY_SECS
from broker.messages import jobs
from broker.messages.jobs import Options, Order
from broker.messages.runs import AskCatalog, Claimed, Finished, Returned, RunState, Withdraw, Withdrawn
from broker.messages.store import Commands, Store
from node.jobs.claims import Claim, Claims
from node.jobs.intake import WITHDRAWN_SECS
from ops.cluster import Cluster
from tests.faults.tools import COMPANION, kill_part, living, logged, processes, tracebacks, wait_logged
from tests.integration.standin import StandIn, lines, naming, value, write_scripts
from tests.support import Clusters, wait_for

RUN = "ab" * 16


class Field:
    """A node without a master, and files that its jobs write."""

    def __init__(self, clusters: Clusters, directory: Path, settings: dict[str, str], **options: Any) -> None:
        self.directory = directory
        self.scripts = write_scripts(directory)
        env = {"PULZAR_JOBS_DIR": str(self.scripts), "PULZAR_JOBS_SLOTS": "2"} | settings
        self.cluster: Cluster = clusters(nodes=1, env=env, start=False, **options)
        self.file = directory / "effects"
        self.gate = directory / "gate"

    @property
    def node(self) -> str:
        return self.cluster.nodes[0].id

    @property
    def url(self) -> str:
        return self.cluster.broker_url

    @property
    def runs(self) -> Path:
        return self.cluster.nodes[0].directory / "runs"

    def start(self) -> None:
        self.cluster.start_node(0)

    def effects(self) -> list[str]:
        return lines(self.file)

    def append(self, text: str, **more: Any) -> dict[str, Any]:
        return {"file": str(self.file), "text": text, **more}

    def held(self, text: str, **more: Any) -> dict[str, Any]:
        """Arguments of a job that goes on until the gate is opened."""
        return self.append(text, until=str(self.gate), **more)

    def order(self, job: int, text: str = "", attempt: int = 1, **more: Any) -> bytes:
        """A job as the master publishes it."""
        return jobs.write(Order("test/append", self.append(text or f"job {job}", **more), id=job, attempt=attempt))

    def agent(self) -> int:
        return wait_for(lambda: processes(self.cluster.nodes[0].process, COMPANION), what="an agent")[-1]

    def waiting(self, master: StandIn, queue: str) -> int:
        """Messages in a queue."""
        found: list[dict[str, int]] = []
        master.link.count([queue], found.append)
        return wait_for(lambda: found, what="a count")[0][queue]


@pytest.fixture
def idle(make_cluster: Clusters, tmp_path: Path) -> Iterator[Field]:
    """A node that is not started yet."""
    field = Field(make_cluster, tmp_path, {})
    yield field
    assert not tracebacks(field.cluster)


@pytest.fixture
def field(idle: Field) -> Field:
    """A node that runs."""
    idle.start()
    return idle


# Jobs published by hand.


def test_a_job_published_as_json_or_msgpack_runs_without_the_master(field: Field) -> None:
    with StandIn(field.url, naming(), silent=True) as master:
        master.put(json.dumps({"job": "test/add", "arguments": {"numbers": [1, 2]}}).encode())
        master.put(msgpack.packb({"job": "test/add.py", "arguments": {"numbers": [3, 4]}}))
        claims = master.wait(Claimed, 2)
        reports = master.wait(Finished, 2)
        assert {claim.id for claim in claims} == {0}
        assert {value(field.cluster, report.output_key) for report in reports} == {b"3", b"7"}
        assert {value(field.cluster, report.log_key) for report in reports} == {b"adding 1 2\n", b"adding 3 4\n"}
        assert all(report.end.state is RunState.COMPLETED and report.end.reason == "" for report in reports)
        assert {report.log_key for report in reports} == {f"jobs/{report.id}/1/log.txt" for report in reports}


def test_what_is_no_job_is_buried_with_a_reason_and_disturbs_nothing(field: Field, make_cluster: Clusters) -> None:
    bad = {
        b"hello": "neither JSON nor msgpack",
        b"\xef\xbb\xbf{}": "byte order mark",
        b'{"job": "test/add", "arguments": {"numbers": "\\ud800"}}': "half of a character",
        b'{"job": "test/add", "arguments": {"n": 1000000000000000000000000}}': "64 bits",
        b'{"job": "../x"}': "is no job",
        b'{"job": "test/add", "options": {"timeout": "soon"}}': "timeout",
    }
    with StandIn(field.url, naming()) as master:
        for body in bad:
            master.put(body)
        master.launch("test/add", {"numbers": [5]})
        assert master.wait(Finished)[0].end.state is RunState.COMPLETED
        buried = {}
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(field.url))) as connection:
            channel = connection.channel()
            while (message := channel.basic_get(topology.DEAD, auto_ack=True))[0]:
                buried[message[2]] = message[1].headers["reason"]
        assert {body: part for body, part in bad.items() if part not in buried.get(body, "")} == {}
        assert field.waiting(master, topology.JOBS) == 0


def test_a_job_without_a_name_waits_with_its_report_and_survives_a_kill(field: Field) -> None:
    with StandIn(field.url) as master:
        master.launch("test/add", {"numbers": [20, 22]})
        claim = master.wait(Claimed)[0]
        wait_for(lambda: master.beat(field.node).running == [[claim.run, 0, 1]], what="the run in a heartbeat")
        log = field.runs / "claims.log"
        wait_for(lambda: b"adding 20 22" in log.read_bytes(), what="the log of the run on the disk")
        # When the agent is killed and comes back
        kill_part(field.cluster.nodes[0].process, COMPANION)
        # Then it tells of the job again, and has its report and its output when the name comes
        again = master.wait(Claimed, 2)[-1]
        assert again == claim
        assert not master.of(Finished)
        master.name(field.node, claim.run, 7)
        report = master.wait(Finished)[0]
        assert (report.id, report.end.state, report.output_key) == (7, RunState.COMPLETED, "jobs/7/1/output.json")
        assert value(field.cluster, report.output_key) == b"42"
        assert value(field.cluster, report.log_key) == b"adding 20 22\n"
        wait_for(lambda: master.beat(field.node).running == [], what="a heartbeat without runs")


def test_a_job_by_hand_that_the_master_does_not_want_ends_and_is_never_told_of_again(field: Field) -> None:
    with StandIn(field.url) as master:
        master.launch("test/append", field.held("begun"))
        master.launch("test/append", field.append("ended"))
        claims = master.wait(Claimed, 2)
        wait_for(lambda: sorted(field.effects()) == ["begun", "ended"])
        wait_for(lambda: len(master.beat(field.node).running) == 2, what="both in a heartbeat")
        for claim in claims:
            master.tell_all(Withdraw(0, 1, claim.run, "another job has the same unique token"))
        wait_for(lambda: master.beat(field.node).running == [], what="a heartbeat without runs")
        kill_part(field.cluster.nodes[0].process, COMPANION)
        master.launch("test/append", field.append("last"))
        assert master.wait(Claimed, 3)[-1].run not in {claim.run for claim in claims}
        assert len(master.of(Claimed)) == 3


# What goes elsewhere.


def test_a_script_that_is_not_here_and_a_job_for_another_node_are_given_back(field: Field) -> None:
    with StandIn(field.url) as master:
        unknown = jobs.write(Order("test/unknown", {}, id=3))
        pinned = b'{"job": "test/add", "options": {"node": "node-77"}}'
        master.put(unknown)
        master.put(pinned)
        reports = master.wait(Returned, 2)
        assert {report.order: report.reason for report in reports} == {
            unknown: "it has no script test/unknown",
            pinned: "it is not node-77, which the job is for",
        }
        assert field.waiting(master, topology.JOBS) == 0


def test_an_id_that_the_master_has_not_sealed_is_buried_and_claims_nothing(field: Field) -> None:
    with StandIn(field.url) as master:
        wait_for(lambda: master.catalogs, what="the node with its queues")
        for queue in topology.job_queues(field.node):
            master.put(field.order(5, "forged"), queue, seal=False)
        wait_for(lambda: field.waiting(master, topology.DEAD) == 5, what="all of them in the dead")
        master.put(field.order(5, "the master's"))
        assert [report.id for report in master.wait(Finished)] == [5]
        assert field.effects() == ["the master's"]
        assert len(master.of(Claimed)) == 1


def test_a_script_that_has_just_been_added_runs_at_once(field: Field) -> None:
    with StandIn(field.url) as master:
        wait_for(lambda: master.catalogs, what="a catalog")
        write_scripts(field.directory, {"new": "print('new')"})
        master.put(jobs.write(Order("test/new", {}, id=1)))
        assert master.wait(Finished)[0].end.state is RunState.COMPLETED


# The order of things.


def test_a_node_takes_as_many_jobs_as_it_has_slots(field: Field) -> None:
    with StandIn(field.url) as master:
        for number in range(1, 7):
            master.put(jobs.write(Order("test/append", field.held(f"{number}"), id=number)))
        wait_for(lambda: len(field.effects()) == 2)
        assert field.waiting(master, topology.JOBS) == 4
        wait_for(
            lambda: (
                sorted(master.beat(field.node).running)
                == sorted([claim.run, claim.id, 1] for claim in master.of(Claimed))
            ),
            what="both runs in a heartbeat",
        )
        assert master.beat(field.node).slots == 2
        field.gate.touch()
        assert {report.id for report in master.wait(Finished, 6)} == set(range(1, 7))
        assert len(field.effects()) == 6


def test_the_own_queue_comes_first_then_high_normal_and_low(make_cluster: Clusters, tmp_path: Path) -> None:
    field = Field(make_cluster, tmp_path, {"PULZAR_JOBS_SLOTS": "1"})
    field.start()
    with StandIn(field.url) as master:
        master.put(jobs.write(Order("test/append", field.held("first"), id=1)))
        wait_for(lambda: field.effects() == ["first"])
        begun = time.monotonic()
        queues = [topology.jobs_queue(priority) for priority in ("low", "normal", "high")]
        for number, queue in enumerate([*queues, topology.node_jobs_queue(field.node)] * 2):
            master.put(field.order(10 + number, queue), queue)
        # A queue that was found empty is passed over for a moment.
        wait_for(lambda: time.monotonic() > begun + 2 * EMPTY_SECS)
        field.gate.touch()
        master.wait(Finished, 9)
    wanted = [topology.node_jobs_queue(field.node), *reversed(queues)]
    assert field.effects() == ["first", *(queue for queue in wanted for _ in range(2))]


# What the master takes back.


def test_a_withdrawn_job_never_runs(idle: Field) -> None:
    # Given jobs in the queue, and a master that has withdrawn one of them before the node's start
    idle.start()
    with StandIn(idle.url) as master:
        wait_for(lambda: idle.node in master.beats, what="a heartbeat")
        idle.cluster.stop_node(0)
        for number in (5, 6, 7):
            master.put(idle.order(number))
        master.tell(idle.node, Withdrawn([(5, 1), (7, 2)]))
        # When the node starts
        idle.start()
        # Then it runs the others, and at once, since the master has spoken
        master.wait(Finished, 1, job=6)
        claim = master.wait(Claimed)[0]
        up = wait_logged(idle.cluster.nodes[0].process, "link up").split()[0]
        assert claim.at / 1000 - datetime.fromisoformat(up).timestamp() < WITHDRAWN_SECS
        wait_for(lambda: idle.waiting(master, topology.JOBS) == 0, what="an empty queue")
        assert [claim.id for claim in master.of(Claimed)] == [6]
        assert idle.effects() == ["job 6"]


def test_a_job_is_cancelled_while_it_runs_and_before(field: Field) -> None:
    with StandIn(field.url) as master:
        for number in (1, 2, 3):
            master.put(field.order(number, until=str(field.gate)))
        wait_for(lambda: len(field.effects()) == 2)
        running = [claim.id for claim in master.of(Claimed)]
        last = ({1, 2, 3} - set(running)).pop()
        master.tell_all(Withdraw(last, 1, "", "cancelled by somebody"))
        master.tell_all(Withdraw(running[0], 1, "", "cancelled by somebody"))
        report = master.wait(Finished)[0]
        assert (report.id, report.end.state, report.end.reason) == (
            running[0],
            RunState.CANCELLED,
            "cancelled by somebody",
        )
        master.tell_all(Withdraw(running[1], 5, "00" * 16, "another run"))  # which is not the one here
        field.gate.touch()
        assert [report.end.state for report in master.wait(Finished, 1, job=running[1])] == [RunState.COMPLETED]
        wait_for(lambda: field.waiting(master, topology.JOBS) == 0, what="an empty queue")
        assert len(field.effects()) == 2


# Nothing runs twice.


def test_an_attempt_that_is_delivered_again_does_not_run_again(field: Field) -> None:
    with StandIn(field.url) as master:
        master.put(field.order(1, until=str(field.gate)))
        wait_for(lambda: field.effects() == ["job 1"])
        master.put(field.order(1, "again while it runs"))
        wait_for(lambda: logged(field.cluster.nodes[0].process, "job was claimed already"))
        wait_for(lambda: len(master.beat(field.node).running) == 1, what="the run in a heartbeat")
        field.gate.touch()
        report = master.wait(Finished)[0]
        wait_for(lambda: master.beat(field.node).running == [], what="a heartbeat without runs")
        master.put(field.order(1, "again when it is over"))
        assert master.wait(Finished, 2)[1] == report
        master.put(field.order(1, "the second attempt", attempt=2))
        assert master.wait(Finished, 3)[2].attempt == 2
        assert field.effects() == ["job 1", "the second attempt"]


def test_a_message_of_a_claim_that_was_not_acknowledged_runs_nothing_twice(idle: Field) -> None:
    # Given an agent that was killed between its claims and their acknowledgements
    idle.start()
    with StandIn(idle.url) as master:
        wait_for(lambda: idle.node in master.beats, what="a heartbeat")
        idle.cluster.stop_node(0)
        by_hand = json.dumps({"job": "test/append", "arguments": idle.append("by hand")}).encode()
        claims = Claims(idle.runs)
        claims.add([(Claim(RUN, 0, 1, 1_000, by_hand=True), by_hand), (Claim("cd" * 16, 4, 1, 1_000), b"")])
        master.put(by_hand)
        master.put(idle.order(4))
        self_requeued(idle.url, topology.JOBS, 2)
        # When it starts again
        idle.start()
        # Then both are lost, and neither runs
        assert master.wait(Claimed)[0] == Claimed(RUN, 0, 1, 1_000, by_hand)
        master.name(idle.node, RUN, 3)
        reports = [master.wait(Finished, 1, job=number)[0] for number in (3, 4)]
        assert {(report.end.state, report.end.reason) for report in reports} == {
            (RunState.LOST, "the node's agent was started again")
        }
        wait_for(lambda: idle.waiting(master, topology.JOBS) == 0, what="an empty queue")
        # But the same job published once more is another one
        master.put(by_hand)
        assert master.wait(Claimed, 2)[1].run != RUN
        wait_for(lambda: idle.effects() == ["by hand"])


def self_requeued(url: str, queue: str, number: int) -> None:
    """Have the messages of a queue be such as were delivered before."""
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        channel = connection.channel()
        for _ in range(number):
            assert channel.basic_get(queue)[0]
        channel.basic_nack(0, multiple=True, requeue=True)


def test_an_agent_that_is_killed_again_and_again_runs_no_attempt_twice(field: Field) -> None:
    with StandIn(field.url) as master:
        wanted = set(range(1, 121))
        for number in wanted:
            master.put(field.order(number, sleep=0.02))
        for kills in range(4):
            wait_for(lambda kills=kills: len(field.effects()) > 20 * (kills + 1), what="effects")
            kill_part(field.cluster.nodes[0].process, COMPANION)
        wait_for(lambda: {report.id for report in master.of(Finished)} == wanted, 40, "a report of every job")
        states: dict[int, set[RunState]] = {}
        for report in master.of(Finished):
            states.setdefault(report.id, set()).add(report.end.state)
        assert all(len(found) == 1 for found in states.values()), states
        lost = [number for number, found in states.items() if found == {RunState.LOST}]
        assert 1 <= len(lost) <= 8  # two slots, four kills
        effects = field.effects()
        assert len(effects) == len(set(effects))
        assert {f"job {number}" for number in wanted - set(lost)} <= set(effects)


def test_a_run_ends_with_its_agent_and_is_reported_as_lost(field: Field) -> None:
    with StandIn(field.url) as master:
        master.put(field.order(1, until=str(field.gate), done="it went on"))
        wait_for(lambda: field.effects() == ["job 1"])
        kill_part(field.cluster.nodes[0].process, COMPANION)
        report = master.wait(Finished)[0]
        assert (report.id, report.end.state) == (1, RunState.LOST)
        # What comes later counts, and the old run was gone before.
        field.gate.touch()
        master.put(field.order(2))
        master.wait(Finished, 1, job=2)
        assert field.effects() == ["job 1", "job 2"]


def test_a_broker_that_is_restarted_during_runs_has_nothing_run_twice(make_cluster: Clusters, tmp_path: Path) -> None:
    cluster = make_cluster(nodes=1, own_broker=True, env={"PULZAR_JOBS_DIR": str(write_scripts(tmp_path))})
    cluster.stop_master()
    assert cluster.rabbit is not None
    file, gate = tmp_path / "effects", tmp_path / "gate"
    with StandIn(cluster.broker_url, naming(), secret=cluster.secret) as master:
        arguments = {"file": str(file), "text": "id", "until": str(gate), "done": "done", "print": "log"}
        master.put(jobs.write(Order("test/append", arguments, id=1)))
        master.launch("test/append", arguments | {"text": "hand"})
        wait_for(lambda: sorted(lines(file)) == ["hand", "id"])
        cluster.rabbit.kill()
        cluster.rabbit.stop()
        cluster.rabbit.start()
        gate.touch()
        reports = {report.id: report for report in master.wait(Finished, 2, timeout=40)}
        assert {report.end.state for report in reports.values()} == {RunState.COMPLETED}
        assert value(cluster, "jobs/1/1/log.txt") == b"log\n"
        master.put(jobs.write(Order("test/append", {"file": str(file), "text": "last"}, id=2)))
        master.wait(Finished, 1, job=2)
        assert sorted(lines(file)) == ["done", "done", "hand", "id", "last"]


# Stopping.


def test_a_node_that_is_stopped_says_so_of_its_runs(field: Field) -> None:
    write_scripts(field.directory, {"deaf": "import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(60)"})
    with StandIn(field.url) as master:
        master.put(jobs.write(Order("test/deaf", {}, id=1)))
        master.put(field.order(2, until=str(field.gate)))
        wait_for(lambda: field.effects() == ["job 2"])
        master.wait(Claimed, 2)
        agent = field.agent()
        began = time.monotonic()
        os.kill(agent, signal.SIGTERM)
        reports = master.wait(Finished, 2)
        wait_for(lambda: not living([agent]), what="the end of the agent")
        assert time.monotonic() - began < 30  # it would sleep for a minute
        assert {(report.id, report.end.state, report.end.reason) for report in reports} == {
            (number, RunState.LOST, "the node was stopped") for number in (1, 2)
        }


# What runs leave.


def test_a_large_log_and_progress_arrive(field: Field) -> None:
    with StandIn(field.url) as master:
        master.put(jobs.write(Order("test/big", {"bytes": 300_000}, id=1)))
        report = master.wait(Finished)[0]
        assert value(field.cluster, report.log_key) == b"x" * 300_000 + b"\n"
        assert report.output_key == ""
        master.put(jobs.write(Order("test/progress", {"until": str(field.gate)}, id=2)))
        wait_for(lambda: len([one for one in master.progress if one.id == 2]) >= 2, what="progress")
        first, second = [one for one in master.progress if one.id == 2][:2]
        field.gate.touch()
        report = master.wait(Finished, 1, job=2)[0]
        assert (first.id, first.attempt, first.total, first.text) == (2, 1, 1000.0, "working")
        assert first.done < second.done
        log = value(field.cluster, report.log_key)
        assert log[second.offset : second.offset + len(second.log)] == second.log
        assert second.offset >= first.offset + len(first.log)


def test_a_log_that_finds_no_room_does_not_keep_a_run_from_its_report(make_cluster: Clusters, tmp_path: Path) -> None:
    field = Field(make_cluster, tmp_path, {"PULZAR_VOLUME_RESERVE": "1T"})
    field.start()
    with StandIn(field.url) as master:
        master.put(jobs.write(Order("test/add", {"numbers": [1]}, id=1)))
        master.put(jobs.write(Order("test/big", {"bytes": 300_000}, id=2)))
        small, large = sorted(master.wait(Finished, 2), key=lambda report: report.id)
        assert small.end.state is RunState.COMPLETED
        assert (small.log_key, small.output_key) == ("", "")
        assert "its log.txt could not be kept" in small.end.reason
        assert "its output.json could not be kept" in small.end.reason
        assert large.end.state is RunState.COMPLETED
        assert "could not be kept" in large.end.reason


def test_a_job_works_on_a_stored_value_also_without_the_master(field: Field) -> None:
    small, large = b"small value", b"large value " * 20_000
    with StandIn(field.url) as master:
        wait_for(lambda: field.node in master.beats, what="a heartbeat")
        stores = [
            Store(0, keys.encode(key), 7, 1, 0, "", hashlib.sha256(data).digest(), len(data), data, "")
            for key, data in (("data/small", small), ("data/large", large))
        ]
        master.tell(field.node, Commands("", [*stores]))
        wait_for(lambda: master.results, what="both values")
        for number, key in ((1, "data/small"), (2, "data/large")):
            master.put(jobs.write(Order("test/data", {}, Options(), key, id=number)))
        outputs = {report.id: report for report in master.wait(Finished, 2)}
        found = [json.loads(value(field.cluster, outputs[number].output_key)) for number in (1, 2)]
        assert [entry[:2] for entry in found] == [["data/small", small.decode()], ["data/large", large.decode()]]
        assert all(str(field.runs) in entry[2] for entry in found)


# The catalog.


def test_the_catalog_is_told_at_the_start_when_it_changes_and_when_somebody_asks(field: Field) -> None:
    with StandIn(field.url) as master:
        first = wait_for(lambda: master.catalogs and master.catalogs[-1], what="a catalog")
        rows = {row["path"]: row for row in first.rows}
        assert rows["test/add"]["description"] == "Adds numbers."
        assert rows["test/add"]["arguments"][0]["name"] == "numbers"
        assert {"test/append", "test/nothing"} <= set(rows)
        wait_for(lambda: master.beat(field.node).catalog == first.digest, what="its digest in a heartbeat")
        write_scripts(field.directory, {"another": "class Another: pass"})
        wait_for(lambda: any(row["path"] == "test/another" for row in master.catalogs[-1].rows), what="the new script")
        wait_for(lambda: master.beat(field.node).catalog == master.catalogs[-1].digest, what="the new digest")
        told = len(master.catalogs)
        master.tell(field.node, AskCatalog("it is not known here"))
        wait_for(lambda: len(master.catalogs) == told + 1, what="the catalog again")
        assert master.catalogs[-1] == master.catalogs[-2]
        assert urlsplit(master.beat(field.node).url).port == field.cluster.nodes[0].port
