"""Jobs, as those who use them see them: scripts to run, a client of the jobs' routes, the broker's console, a clock."""

from __future__ import annotations

import base64
import json
import os
import re
import struct
import textwrap
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from broker import topology
from ops.cluster import Cluster, Rabbit
from tests.support import Answer, Clusters, http_request, wait_for

FINAL = ("completed", "failed", "cancelled")

SCRIPTS: dict[str, str] = {
    "test/echo": '''
        from jobs import Job
        class Echo(Job):
            def execute(self):
                """Description: Gives back
                its arguments.
                Arguments: {"number": "int: how many", "text": {"type": "str", "default": "x"}}
                Category: tests
                Author: Tester
                """
                self.log("echo", len(self.arguments))
                return self.arguments
        ''',
    "test/plain": """
        import json, os
        print("plain", json.loads(os.environ["PULZAR_ARGUMENTS"]))
        """,
    "test/noop": "pass",
    "test/mark": """
        import json, os
        from jobs import run
        with open(run.arguments["file"], "a") as file:
            file.write(json.dumps([run.arguments.get("name", ""), run.job_id, run.attempt, os.getpid()]) + "\\n")
        """,
    "test/gate": """
        import json, os, time
        from jobs import run
        if "file" in run.arguments:
            with open(run.arguments["file"], "a") as file:
                file.write(json.dumps([run.arguments.get("name", ""), run.job_id, run.attempt, os.getpid()]) + "\\n")
        while not os.path.exists(run.arguments["gate"]):
            time.sleep(0.01)
        """,
    "test/deaf": """
        import os, signal, subprocess, time
        from jobs import run
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        with open(run.arguments["file"] + ".new", "w") as file:
            file.write(f"{os.getpid()} {child.pid}")
        os.rename(run.arguments["file"] + ".new", run.arguments["file"])
        time.sleep(600)
        """,
    "test/sleep": """
        import time
        from jobs import run
        time.sleep(run.arguments["seconds"])
        """,
    "test/talk": """
        import os, time
        from jobs import run
        print("begun", flush=True)
        run.progress(1, 4, "a quarter")
        while not os.path.exists(run.arguments["gate"]):
            time.sleep(0.01)
        print("ended")
        run.progress(4, 4, "all")
        """,
    "test/fail": """
        from jobs import Job
        class Fail(Job):
            def execute(self):
                self.log("attempt", self.attempt)
                if self.attempt <= self.arguments.get("times", 1000):
                    raise ValueError(f"attempt {self.attempt} fails")
                return self.attempt
        """,
    "test/hog": """
        block = bytearray(600 << 20)
        """,
    "test/data": """
        import hashlib
        from jobs import Job
        class Data(Job):
            def execute(self):
                return [self.data_key, hashlib.sha256(self.data_path.read_bytes()).hexdigest()]
        """,
    "test/keys": """
        from jobs import Job
        class Keys(Job):
            def execute(self):
                value = self.fetch(self.arguments["from"])
                path = self.scratch / "turned"
                path.write_bytes(value[::-1])
                return self.store(path, self.arguments["to"], ttl="1h")
        """,
    "test/broken": "def execute(:",
}


def write_scripts(directory: Path, scripts: Mapping[str, str]) -> Path:
    """Write scripts, by their paths, to a directory of jobs."""
    for path, source in scripts.items():
        file = directory / f"{path}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(".new")
        new.write_text(textwrap.dedent(source))
        new.rename(file)
    return directory


def make(
    clusters: Clusters,
    directory: Path,
    slots: Iterable[int] = (2, 2),
    env: Mapping[str, str] | None = None,
    only: Mapping[int, Mapping[str, str]] | None = None,
) -> Desk:
    """A cluster whose nodes have so many slots, each a directory of scripts of its own, some only one of them."""
    slots = tuple(slots)
    cluster = clusters(nodes=len(slots), env={"PULZAR_JOBS_GRACE": "1"} | dict(env or {}), start=False)
    directories = []
    for index, (node, count) in enumerate(zip(cluster.nodes, slots, strict=True)):
        scripts = SCRIPTS | dict((only or {}).get(index, {}))
        directories.append(write_scripts(directory / f"scripts-{index}", scripts))
        node.process.environment["PULZAR_JOBS_DIR"] = str(directories[-1])
        node.process.environment["PULZAR_JOBS_SLOTS"] = str(count)
    cluster.start()
    desk = Desk(cluster, directories)
    desk.wait_for_catalog(SCRIPTS, range(len(slots)))
    return desk


class Desk:
    """A client of the routes about jobs of one cluster."""

    def __init__(self, cluster: Cluster, directories: list[Path]) -> None:
        self.cluster = cluster
        self.directories = directories  # of scripts, by node

    # Requests.

    def ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """A request; its answer must have the envelope."""
        answer = http_request(method, self.cluster.master_url + path, body)
        envelope = answer.json
        assert set(envelope) == {"data", "msg", "status"}, envelope
        assert envelope["status"] == ("ok" if answer.status < 400 else "ko"), envelope
        assert envelope["msg"] or answer.status < 400, "an error says what was wrong"
        assert "Traceback" not in envelope["msg"]
        return answer

    def read(self, path: str) -> Any:
        """The data of a GET that must be good."""
        answer = self.ask("GET", path)
        assert answer.status == 200, (path, answer.status, answer.msg)
        return answer.data

    def try_launch(self, path: str, body: Mapping[str, Any] | bytes = b"") -> Answer:
        """The answer to a launch, whatever it is."""
        return self.ask("POST", f"/launch_job/{path}", body if isinstance(body, bytes) else json.dumps(body).encode())

    def launch(self, path: str, arguments: Mapping[str, Any] | None = None, **options: Any) -> int:
        """Launch a job with these `pulzar_options`; its id."""
        body = dict(arguments or {}) | ({"pulzar_options": options} if options else {})
        answer = self.try_launch(path, body)
        assert answer.status == 200, (answer.status, answer.msg)
        return int(answer.data["job_id"])

    def launch_many(self, path: str, bodies: Iterable[Mapping[str, Any]], threads: int = 8) -> list[int]:
        """Launch many at once; their ids."""
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda body: self.launch(path, body), bodies))

    def schedule(
        self, path: str, rhythm: tuple[str, int, int], arguments: Mapping[str, Any] | None = None, **options: Any
    ) -> int:
        """Schedule a job: interval, time unit, repeat; its id."""
        interval, time_unit, repeat = rhythm
        scheduled = {"interval": interval, "time_unit": time_unit, "repeat": repeat}
        return self.launch(path, dict(arguments or {}) | {"scheduled": scheduled}, **options)

    def cancel(self, job: int | str) -> Answer:
        """The answer to a cancel."""
        return self.ask("POST", f"/cancel_job/{job}")

    def job(self, job: int) -> dict[str, Any]:
        """`/admin/jobs/{id}`."""
        found: dict[str, Any] = self.read(f"/admin/jobs/{job}")
        return found

    def row(self, which: str, job: int) -> dict[str, Any] | None:
        """The row of a job in one of the lists of `/admin/jobs`."""
        return next((row for row in self.read("/admin/jobs?limit=1000")[which] if row["job_id"] == job), None)

    # Waiting.

    def until(self, job: int, *states: str, timeout: float = 40.0) -> dict[str, Any]:
        """Wait until a job is in one of these states; what it is then. A final state that is another one fails."""

        def reached() -> dict[str, Any] | None:
            found = self.job(job)
            assert found["state"] in states or found["state"] not in FINAL, found
            return found if found["state"] in states else None

        return wait_for(reached, timeout, f"job {job} {' or '.join(states)}") or {}

    def done(self, job: int, timeout: float = 40.0) -> dict[str, Any]:
        """Wait until a job is completed."""
        return self.until(job, "completed", timeout=timeout)

    def wait_for_catalog(self, paths: Collection[str], nodes: Iterable[int]) -> None:
        """Wait until the master knows that these nodes have these scripts."""
        names = {self.cluster.nodes[index].id for index in nodes}

        def known() -> bool:
            having = {row["path"]: set(row["nodes"]) for row in self.read("/admin/job_catalog")}
            return all(names <= having.get(path, set()) for path in paths)

        wait_for(known, what=f"catalog with {', '.join(paths)}")

    def of_source(self, source: str, path: str) -> list[dict[str, Any]]:
        """Jobs of this source and script, oldest first."""
        rows = self.read("/admin/all_jobs?limit=1000")
        return [row for row in reversed(rows) if row["source"] == source and row["job_path"] == path]


def marks(file: Path) -> list[tuple[str, int, int, int]]:
    """What runs of test/mark and test/gate have written to their file: name, id, attempt, process."""
    return [tuple(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


class Gate:
    """A file that runs of test/gate wait for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> None:
        """Let them end."""
        self.path.touch()


class Console:
    """RabbitMQ's management console, used as its page does."""

    def __init__(self, rabbit: Rabbit, vhost: str) -> None:
        self._rabbit = rabbit
        self._vhost = vhost
        self._dead: list[tuple[dict[str, Any], bytes]] = []

    def publish(self, payload: str, queue: str = topology.JOBS) -> None:
        """Publish by the form of the default exchange: not persistent, the payload as text."""
        form = {
            "vhost": self._vhost,
            "name": "amq.default",
            "routing_key": queue,
            "payload": payload,
            "headers": {},
            "props": {},
            "delivery_mode": "1",
            "payload_encoding": "string",
            "properties": {"delivery_mode": 1, "headers": {}},
        }
        answer = self._rabbit.api("POST", f"exchanges/{self._path}/amq.default/publish", form)
        assert answer == {"routed": True}

    def buried(self, body: bytes) -> dict[str, Any]:
        """The headers of the dead message with these bytes; waits for it, and takes it out."""

        def found() -> dict[str, Any] | None:
            self._take_dead()
            return next((headers for headers, dead in self._dead if dead == body), None)

        return wait_for(found, what=f"{body[:80]!r} in {topology.DEAD}") or {}

    def dead(self) -> list[bytes]:
        """The bodies of all dead messages so far."""
        self._take_dead()
        return [body for _, body in self._dead]

    def depth(self, queue: str) -> int:
        """Messages that wait in a queue, as the console counts them, which is some seconds late."""
        return int(self._rabbit.api("GET", f"queues/{self._path}/{queue}").get("messages", 0))

    @property
    def _path(self) -> str:
        return quote(self._vhost, safe="")

    def _take_dead(self) -> None:
        # As binary: what is no UTF-8 comes as base64 in any case.
        wanted = {"count": 100, "ackmode": "ack_requeue_false", "encoding": "base64"}
        for message in self._rabbit.api("POST", f"queues/{self._path}/{topology.DEAD}/get", wanted):
            headers = message["properties"].get("headers", {})
            self._dead.append((headers, base64.b64decode(message["payload"])))


# Python runs a module of this name at its start. libfaketime would do for any process, but it makes sleeps fail with
# EINVAL now and then, which no kernel does.
_SITE = """\
import mmap, pathlib, struct, time

_file = pathlib.Path(__file__).with_name("offset").open("rb")
_offset = mmap.mmap(_file.fileno(), 8, prot=mmap.PROT_READ)
_time_ns = time.time_ns


def time_ns():
    return _time_ns() + struct.unpack("q", _offset[:8])[0]


time.time_ns = time_ns
time.time = lambda: time_ns() / 1e9
"""


class Clock:
    """The wall clock of the Python processes that have `env` in their environment; the monotonic one is left alone."""

    def __init__(self, directory: Path) -> None:
        self._offset_ns = 0
        self._file = directory / "offset"
        self._file.write_bytes(bytes(8))
        (directory / "sitecustomize.py").write_text(_SITE)
        self.env = {"PYTHONPATH": str(directory)}

    def move(self, seconds: float) -> None:
        """Set it so much ahead, or back."""
        self._offset_ns += int(seconds * 1e9)
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", self._offset_ns))

    def now(self) -> float:
        """Seconds since the epoch, by this clock."""
        return (time.time_ns() + self._offset_ns) / 1e9


def seconds_of(text: str) -> float:
    """Seconds since the epoch of a time as schedules have it; it must have the format of the API."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", text), text
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC).timestamp()


def at_once(*functions: Callable[[], Any]) -> list[Any]:
    """Call functions at the same time, each on a thread of its own; what they return."""
    with ThreadPoolExecutor(len(functions)) as pool:
        return [future.result() for future in [pool.submit(function) for function in functions]]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z" and os.path.exists(f"/proc/{pid}")
