"""Jobs whose effects are counted, and what the tests of jobs do to a cluster and ask of it.

Every run of the script `fault/work` appends a line to one file when it begins and one when it is through, each with the
job's id and the attempt. It holds a lock of its job meanwhile, together with a child that has gone its own way, and
says so when somebody else holds that. So the file shows what was done twice, and what was done beside another.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from broker import topology
from broker.link import Delivery, Link
from ops.cluster import Cluster, Node
from tests.faults.load import Client
from tests.faults.tools import api, family, logged
from tests.support import Clusters, wait_for

SLOTS = 2
LEASE_SECS = 3.0
END_SECS = 30.0  # until every job has ended, once nothing is broken any more
FINAL = ("completed", "failed", "cancelled")
MANY_ATTEMPTS = {"attempts": 20}  # for those who kill often

_numbers = itertools.count(1)

# How the runs of scripts get their processes: each its own, one after the other in one, or one with a module loaded.
MODES = ("isolated", "warm", "preloaded")
PRELOADED = "wave"  # a module that nothing else loads
REUSE = 1000

_SCRIPT = """\
import fcntl, os, subprocess, sys, time
from pathlib import Path
from jobs import Job


class Work(Job):
    runs = 0  # in this process

    def execute(self):
        '''Description: Leaves a trace of what it does.'''
        Work.runs += 1
        given = self.arguments
        self.field = Path(given["field"])
        lock = os.open(self.field / f"lock {given['tag']}", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.trace("beside")
        if given.get("child"):
            # One that got away: a session, a directory and descriptors of its own, but the lock.
            subprocess.Popen(["sleep", "300"], start_new_session=True, cwd="/", pass_fds=[lock])
        self.trace("begun")
        self.progress(1, 2, "begun")
        time.sleep(given.get("seconds", 0))
        gate = given.get("gate")
        while gate and not (self.field / gate).exists():
            time.sleep(0.01)
        if self.attempt < given.get("good", 1):
            raise RuntimeError("not this time")
        self.trace("through")
        os.close(lock)  # a warm process goes on
        mode = "preloaded" if "wave" in sys.modules else "warm" if Work.runs > 1 else "isolated"
        return {"attempt": self.attempt, "tag": given["tag"], "mode": mode}

    def trace(self, what):
        trace = os.open(self.field / "effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(trace, f"{what} {self.job_id} {self.attempt} {os.getpid()} {self.arguments['tag']}\\n".encode())
        os.close(trace)
"""


class Effect(NamedTuple):
    """What a run did."""

    what: str  # begun, through, or beside: another one held the job's lock
    job: int  # 0 when it was published by hand and had no id yet
    attempt: int
    pid: int
    tag: str


class Field:
    """A cluster, and the directory with the scripts and the effects of its jobs."""

    def __init__(
        self,
        clusters: Clusters,
        directory: Path,
        env: dict[str, str] | None = None,
        mode: str = MODES[0],
        **options: Any,
    ) -> None:
        """`env` and `options` go to `make_cluster`; `mode` is one of `MODES`."""
        self.directory = directory
        self.mode = mode
        self._gates: set[str] = set()
        script = directory / "scripts" / "fault" / "work.py"
        script.parent.mkdir(parents=True)
        script.write_text(in_mode(_SCRIPT, mode))
        settings = {
            "PULZAR_JOBS_DIR": str(directory / "scripts"),
            "PULZAR_JOBS_SLOTS": str(SLOTS),
            "PULZAR_JOBS_LEASE": str(LEASE_SECS),
            "PULZAR_JOBS_GRACE": "0.5",
            "PULZAR_GENERAL_HEARTBEAT": "0.5",
            "PULZAR_GENERAL_EVENTS": "1",
            "PULZAR_SERVER_WORKERS": "2",
        }
        self.cluster = clusters(env=settings | (env or {}), **options)

    # What is asked for.

    def arguments(self, tag: str, **more: Any) -> dict[str, Any]:
        """The body of a launch: `seconds`, `gate` (a name; it waits until that is opened), `child`, `good`
        (the first attempt that does not fail), options.
        """
        options = more.pop("options", None)
        self._gates |= {more["gate"]} if "gate" in more else set()
        body = {"field": str(self.directory), "tag": tag, **more}
        return body | ({"pulzar_options": options} if options else {})

    def launch(self, tag: str, **more: Any) -> int:
        """Launch a job by REST; its id."""
        with closing(Client(self.cluster.master_url)) as client:
            return launch(client, self.arguments(tag, **more))

    def wait_mode(self) -> None:
        """Wait until the runs of each node are in this field's mode: a first one makes what the next ones use."""
        if self.mode == MODES[0]:
            return
        for node in self.cluster.nodes:
            wait_for(lambda node=node: self._mode_on(node) == self.mode, 60, f"{self.mode} runs on {node.id}")  # type: ignore[misc]

    def _mode_on(self, node: Node) -> str:
        number = self.launch(f"mode of {node.id}", options={"node": node.id})
        self.wait_ended([number])
        return str(self.job(number)["output"]["mode"])

    def launch_many(self, count: int, tag: str, **more: Any) -> list[int]:
        """Launch several with tags `tag-0` and so on, and gates, if there is one, of the same names."""
        with closing(Client(self.cluster.master_url)) as client:
            return [launch(client, self.arguments(f"{tag}-{number}", **more)) for number in range(count)]

    def open(self, gate: str) -> None:
        """Let those through that wait for this gate."""
        (self.directory / gate).touch()

    def open_all(self) -> None:
        """Let everybody through, so that a test that failed leaves no run to the next one."""
        for gate in self._gates:
            self.open(gate)

    # What has become of it.

    def effects(self, jobs: Iterable[int] | None = None) -> list[Effect]:
        """What the runs did, perhaps those of some jobs only, in that order."""
        try:
            lines = (self.directory / "effects").read_text().splitlines()
        except FileNotFoundError:
            return []
        split = (line.split(" ", 4) for line in lines)
        effects = [Effect(what, int(job), int(attempt), int(pid), tag) for what, job, attempt, pid, tag in split]
        wanted = None if jobs is None else set(jobs)
        return [effect for effect in effects if wanted is None or effect.job in wanted]

    def counts(self, what: str, jobs: Iterable[int] | None = None) -> Counter[int]:
        """How often runs of each job have done that."""
        return Counter(effect.job for effect in self.effects(jobs) if effect.what == what)

    def _counts_by_tag(self, what: str, rows: dict[int, dict[str, Any]]) -> Counter[int]:
        """The same, for jobs that had no id when they began, too."""
        tags = {json.loads(row["parameters"])["tag"]: number for number, row in rows.items()}
        done = (effect for effect in self.effects() if effect.what == what and effect.tag in tags)
        return Counter(tags[effect.tag] for effect in done if effect.job in (0, tags[effect.tag]))

    def wait_begun(self, jobs: Iterable[int], attempt: int = 1, timeout: float = END_SECS) -> None:
        """Wait until this attempt at each of the jobs has begun."""
        wanted = set(jobs)

        def begun() -> bool:
            return wanted <= {effect.job for effect in self.effects(wanted) if effect.attempt == attempt}

        wait_for(begun, timeout, f"attempt {attempt} at the jobs {sorted(wanted)}")

    def rows(self) -> dict[int, dict[str, Any]]:
        """All jobs as `/admin/all_jobs` tells them."""
        found: dict[int, dict[str, Any]] = {}
        before = ""
        with closing(Client(self.cluster.master_url)) as client:
            while page := client.json(f"/admin/all_jobs?limit=1000{before}"):
                found |= {row["job_id"]: row for row in page}
                before = f"&before={page[-1]['job_id']}"
        return found

    def job(self, number: int) -> dict[str, Any]:
        """One job as `/admin/jobs/{id}` tells it."""
        with closing(Client(self.cluster.master_url)) as client:
            found: dict[str, Any] = client.json(f"/admin/jobs/{number}")
            return found

    def where(self, jobs: Iterable[int]) -> dict[int, str]:
        """The node that runs each of these jobs, as the master has it; waits until it knows."""

        def known() -> dict[int, str]:
            rows = self.rows()
            nodes = {number: rows[number]["node"] for number in jobs if rows[number]["state"] == "running"}
            return nodes if len(nodes) == len(set(jobs)) else {}

        return wait_for(known, END_SECS, f"the nodes of the jobs {jobs}")

    def spread(self, tag: str, gate: str = "gate", **more: Any) -> tuple[list[int], list[int]]:
        """Launch jobs that wait for `tag-gate`, one for each slot: those of the first node, and those of the second."""
        jobs = self.launch_many(2 * SLOTS, tag, gate=f"{tag}-{gate}", **more)
        self.wait_begun(jobs)
        where = self.where(jobs)
        first, second = (node.id for node in self.cluster.nodes)
        return [job for job in jobs if where[job] == first], [job for job in jobs if where[job] == second]

    # The invariants.

    def wait_ended(self, jobs: Iterable[int], timeout: float = END_SECS) -> dict[int, dict[str, Any]]:
        """Wait until the jobs have a final state; how they are then."""
        wanted = set(jobs)

        def ended() -> dict[int, dict[str, Any]]:
            rows = self.rows()
            missing = wanted - set(rows)
            assert not missing, f"the ledger has lost the jobs {sorted(missing)}"
            done = all(rows[number]["state"] in FINAL for number in wanted)
            return {number: rows[number] for number in wanted} if done else {}

        try:
            return wait_for(ended, timeout, "the end of all jobs", pause=0.05) if wanted else {}
        except AssertionError as error:
            rows = self.rows()
            open_ones = {number: rows[number] for number in sorted(wanted) if rows[number]["state"] not in FINAL}
            few = dict(list(open_ones.items())[:5])
            raise AssertionError(f"{len(open_ones)} of {len(wanted)} jobs have not ended: {few}") from error

    def check(self, jobs: Iterable[int], faults: int = 1, attempts: int | None = None) -> None:
        """Every job is completed, was done at least once, and not more than `faults` times more; nothing is left.

        With `attempts`, all of them were completed by an attempt up to that one.
        """
        jobs = set(jobs)
        rows = self.wait_ended(jobs)
        wrong = {number: (row["state"], row["reason"]) for number, row in rows.items() if row["state"] != "completed"}
        assert not wrong, wrong
        begun, through = self._counts_by_tag("begun", rows), self._counts_by_tag("through", rows)
        idle = [number for number in jobs if not through[number]]
        assert not idle, f"completed, and never done: {idle}"
        often = {number: (begun[number], through[number]) for number in jobs if begun[number] > 1 + faults}
        assert not often, f"done more than {1 + faults} times: {often}"
        if attempts is not None:
            later = {number: row["attempt"] for number, row in rows.items() if row["attempt"] > attempts}
            assert not later, f"attempts: {later}"
        self.check_nothing_left()
        # And a final state stays as it is.
        again = self.rows()
        changed = {number: (row, again[number]) for number, row in rows.items() if again[number] != row}
        assert not changed, changed

    def check_running(self, jobs: Iterable[int]) -> None:
        """The first attempts at these jobs go on."""
        rows = self.rows()
        states = {number: (rows[number]["state"], rows[number]["attempt"]) for number in jobs}
        assert set(states.values()) == {("running", 1)}, states
        assert self.counts("begun", jobs) == dict.fromkeys(jobs, 1)

    def check_alone(self, jobs: Iterable[int] | None = None) -> None:
        """No run of a job has gone on beside another one of it."""
        beside = [effect for effect in self.effects(jobs) if effect.what == "beside"]
        assert not beside, beside

    def check_nothing_left(self) -> None:
        """No process of any run is left."""
        wait_for(lambda: run_processes(self.cluster) == [], 30, "the end of every process of a run")

    @contextmanager
    def finals(self) -> Iterator[Finals]:
        """Counts the final states that jobs get meanwhile; the master that tells of them is to live."""
        finals = Finals(self)
        try:
            yield finals
        finally:
            finals.close()


def in_mode(script: str, mode: str) -> str:
    """The text of a script whose runs are to have their processes in this way."""
    head = {"warm": f"# pulzar: reuse={REUSE}\n", "preloaded": f'"""Preload: {PRELOADED}"""\n'}
    return head.get(mode, "") + script


class Finals:
    """Hears from the master of every final state that a job gets."""

    def __init__(self, field: Field) -> None:
        self._field = field
        self._states: dict[int, set[str]] = defaultdict(set)
        queue = f"test.finals.{next(_numbers)}"
        declarations = [
            topology.Exchange(topology.EVENTS, "topic"),
            topology.Queue(queue, {"x-queue-type": "classic"}, exclusive=True),
            *(topology.Binding(topology.EVENTS, queue, f"job.{end}.#") for end in ("completed", "failed", "cancelled")),
        ]
        self._link = Link(field.cluster.broker_url, "test of final states", lambda: declarations)
        self._link.consume(queue, self._heard, 1000)
        self._link.start()
        assert self._link.wait(30)

    def check(self, jobs: Iterable[int]) -> None:
        """Each of the jobs, all of which have ended, has got one final state."""
        # What the master said before it said this has come before it.
        last = self._field.launch("the last one")
        wait_for(lambda: self._states[last], END_SECS, "the last final state")
        wrong = {number: self._states[number] for number in jobs if len(self._states[number]) != 1}
        assert not wrong, f"jobs, and the final states they got: {wrong}"

    def close(self) -> None:
        """Listen no more."""
        self._link.stop()

    def _heard(self, delivery: Delivery) -> None:
        # Of a connection that was closed, the same may be told twice.
        told = json.loads(delivery.body)
        self._states[told["data"]["job_id"]].add(json.dumps(told, sort_keys=True))
        self._link.ack(delivery)


def launch(client: Client, body: dict[str, Any]) -> int:
    """Launch `fault/work`; its id. Raises when that is refused."""
    answer = client.request("POST", "/launch_job/fault/work", json.dumps(body).encode())
    assert answer.status in (200, 202), f"{answer.status} {answer.body[:300]!r}"
    return int(json.loads(answer.body)["data"]["job_id"])


class Launching:
    """Threads that launch jobs all the time. Half of them give a unique token, and ask again until they know the id."""

    def __init__(self, field: Field, tag: str, threads: int = 8, pause: float = 0.0, **more: Any) -> None:
        self.ids: dict[str, int] = {}  # tag → id, of those that were accepted
        self.asked: set[str] = set()  # every tag, accepted or not
        self.again = 0  # launches that had no good answer
        self._field = field
        self._tag = tag
        self._pause = pause
        self._more = more
        self._over = threading.Event()
        self._problems: list[BaseException] = []
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(threads)]

    def __enter__(self) -> Launching:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self._problems:
            raise self._problems[0]

    def wait_accepted(self, more: int, timeout: float = 30.0) -> None:
        """Wait until so many more jobs were accepted than now."""
        before = len(self.ids)
        wait_for(lambda: self._problems or len(self.ids) >= before + more, timeout, f"{more} more jobs accepted")

    def check(self) -> set[int]:
        """What was accepted is in the ledger, once; what was not, at most once. Ids of all these jobs."""
        found: dict[str, list[int]] = {}
        for number, row in self._field.rows().items():
            tag = json.loads(row["parameters"])["tag"]
            if tag in self.asked:
                found.setdefault(tag, []).append(number)
        lost = {tag: number for tag, number in self.ids.items() if number not in found.get(tag, [])}
        assert not lost, f"accepted, and not in the ledger: {lost}"
        twice = {tag: numbers for tag, numbers in found.items() if len(numbers) > 1}
        assert not twice, f"asked for once, and there several times: {twice}"
        return {numbers[0] for numbers in found.values()}

    def _work(self, thread: int) -> None:
        number = 0
        try:
            with closing(Client(self._field.cluster.master_url, timeout=15)) as client:
                while not self._over.wait(self._pause):
                    number += 1
                    self._launch(client, f"{self._tag}-{thread}-{number}", with_token=thread % 2 == 0)
        except BaseException as error:  # noqa: BLE001 - the test's thread raises it
            self._problems.append(error)

    def _launch(self, client: Client, tag: str, with_token: bool) -> None:
        options = self._more.get("options", {}) | ({"unique": tag} if with_token else {})
        body = json.dumps(self._field.arguments(tag, **(self._more | {"options": options}))).encode()
        self.asked.add(tag)
        until = time.monotonic() + END_SECS
        while True:
            answer = client.request("POST", "/launch_job/fault/work", body)
            if answer.status in (200, 202):
                self.ids[tag] = int(json.loads(answer.body)["data"]["job_id"])
                return
            assert answer.status in (0, 503), f"{answer.status} {answer.body[:300]!r}"
            assert time.monotonic() < until, f"no good answer for {END_SECS:g} s: {answer}"
            self.again += 1
            if not with_token:
                return
            time.sleep(0.02)


class LaunchingMany(Launching):
    """One thread that launches `size` jobs by each request. It asks again, with the same key, until it knows the ids."""

    def __init__(self, field: Field, tag: str, size: int) -> None:
        super().__init__(field, tag, threads=1)
        self._size = size
        self.accepted = 0  # requests

    def wait_accepted(self, more: int, timeout: float = 30.0) -> None:
        """Wait until so many more requests had a good answer than now."""
        before = self.accepted
        wait_for(lambda: self._problems or self.accepted >= before + more, timeout, f"{more} more requests accepted")

    def _launch(self, client: Client, tag: str, with_token: bool) -> None:
        tags = [f"{tag}-{number}" for number in range(self._size)]
        jobs = [{"job": "fault/work", "arguments": self._field.arguments(each)} for each in tags]
        self.asked |= {*tags}
        until = time.monotonic() + END_SECS
        while True:
            answer = client.request(
                "POST", "/launch_jobs", json.dumps({"jobs": jobs}).encode(), {"Idempotency-Key": tag}
            )
            if answer.status == 200:
                replies = json.loads(answer.body)["data"]
                self.ids |= {each: reply["data"]["job_id"] for each, reply in zip(tags, replies, strict=True)}
                self.accepted += 1
                return
            # 207: the link to RabbitMQ came up between two of them.
            assert answer.status in (0, 207, 503), f"{answer.status} {answer.body[:300]!r}"
            assert time.monotonic() < until, f"no good answer for {END_SECS:g} s: {answer}"
            self.again += 1
            time.sleep(0.02)


# Processes.


def run_processes(cluster: Cluster) -> list[psutil.Process]:
    """Processes of runs, whatever these did to get away: not the zygotes, and not those that wait for a run."""
    home = os.fsencode(cluster.directory)
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            if b"PULZAR_NODE_RUNS=" not in environment or process.status() == psutil.STATUS_ZOMBIE:
                continue
            # A fork has the environment of the zygote, as far as one can see; its directory tells.
            inside = os.fsencode(os.readlink(f"/proc/{process.pid}/cwd"))
            if (home in environment and b"PULZAR_RUN=" in environment) or (
                inside.startswith(home) and b"/runs/work/" in inside
            ):
                found.append(process)
    return found


def whole_node(node: Node) -> list[int]:
    """All processes of a node, those of its runs too."""
    assert node.process.pid
    return [node.process.pid, *family(node.process)]


@contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    """These processes stand still meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def unexpected(cluster: Cluster) -> list[str]:
    """Lines in the logs that say of something nobody had thought of: tracebacks, messages that were buried."""
    children = (cluster.master, *(node.process for node in cluster.nodes))
    return [
        f"{child.name}: {line[:2000]}"
        for child in children
        for line in [*logged(child, "traceback="), *logged(child, "message can't be handled")]
    ]


def empty(cluster: Cluster, queue: str) -> None:
    """Purge a queue, as a person does in the console."""
    api(cluster, "DELETE", f"queues/{{vhost}}/{queue}/contents")
