"""Somebody who speaks to nodes as the controller does, so that a test decides what the master says, and when."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from broker import settings, topology
from broker.errors import MalformedMessage
from broker.link import Delivery, Link
from broker.messages import jobs
from broker.messages.codec import Message, decode_any, encode
from broker.messages.runs import Claimed, Finished, Named, NodeCatalog, Progress, Reports, Returned, Withdrawn
from broker.messages.store import Heartbeat, Results
from ops.cluster import Cluster
from tests.support import http_request, wait_for

T = TypeVar("T", Claimed, Finished, Returned)


class StandIn:
    """Consumes what nodes send; `answer` may say something to each report.

    A node that has just started is told that nothing is withdrawn, unless this is `silent`.
    """

    def __init__(
        self,
        url: str,
        answer: Callable[[StandIn, str, Any], None] | None = None,
        silent: bool = False,
        secret: str = "",
    ) -> None:
        """`secret` is the cluster's, where that has one of its own."""
        self.reports: list[tuple[str, Any]] = []  # node, report
        self.results: list[Results] = []
        self.progress: list[Progress] = []
        self.beats: dict[str, Heartbeat] = {}
        self.catalogs: list[NodeCatalog] = []
        self.names: dict[str, int] = {}  # run → id
        self._answer = answer
        self._silent = silent
        self._secret = settings.load(environ={"PULZAR_BROKER_URL": url, "PULZAR_GENERAL_SECRET": secret}).secret()
        self.link = Link(url, "stand-in of the master", topology.master)
        for queue in (topology.RESULTS, topology.HEARTBEATS, topology.PROGRESS):
            self.link.consume(queue, self._received, 100)
        self.link.start()
        assert self.link.wait(30)

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        self.link.stop()

    def of(self, kind: type[T], job: int | None = None) -> list[T]:
        """The reports of a kind, perhaps of one job only, in the order in which they came."""
        return [
            item
            for _, item in list(self.reports)
            if isinstance(item, kind) and (job is None or getattr(item, "id", None) == job)
        ]

    def beat(self, node: str) -> Heartbeat:
        """The last heartbeat of a node; waits for its first one."""
        return wait_for(lambda: self.beats.get(node), what=f"a heartbeat of {node}")

    def wait(self, kind: type[T], count: int = 1, job: int | None = None, timeout: float = 40.0) -> list[T]:
        """Wait for so many reports of a kind."""
        what = f"{count} {kind.__name__} of {job or 'all jobs'}"
        return wait_for(lambda: len(found := self.of(kind, job)) >= count and found, timeout, what) or []

    def launch(
        self, job: str, arguments: dict[str, Any] | None = None, queue: str = topology.JOBS, **fields: Any
    ) -> None:
        """Publish a job as JSON."""
        self.put(json.dumps({"job": job, "arguments": arguments or {}, **fields}).encode(), queue)

    def put(self, body: bytes, queue: str = topology.JOBS, seal: bool = True) -> None:
        """Publish a message and wait until the broker has it.

        A job with an id is sent as the master writes it, with its seal, unless that is not wanted.
        """
        sent = threading.Event()
        headers = None
        with contextlib.suppress(MalformedMessage):  # then it is sent as it is
            order = jobs.read(body, sealed=True)
            if seal and order.id:
                body = jobs.write(order)
                headers = jobs.seal(self._secret, body)
        self.link.publish(queue, body, durable=True, headers=headers, done=lambda _: sent.set())
        assert sent.wait(30)

    def tell(self, node: str, message: Message) -> None:
        """Say something to one node."""
        self.link.publish(topology.node_queue(node), encode(message), durable=True)

    def tell_all(self, message: Message) -> None:
        """Say something to all nodes."""
        self.link.publish("", encode(message), exchange=topology.CONTROL)

    def name(self, node: str, run: str, job: int) -> None:
        """Give an id to a job that was published by hand."""
        self.names[run] = job
        self.tell(node, Named(run, job))

    def _received(self, delivery: Delivery) -> None:
        message = decode_any(delivery.body)
        match message:
            case Reports():
                for item in message.items:
                    self.reports.append((message.node, item))
                    if self._answer:
                        self._answer(self, message.node, item)
            case Results():
                self.results.append(message)
            case Progress():
                self.progress.append(message)
            case Heartbeat():
                before = self.beats.get(message.node)
                if not self._silent and (before is None or before.epoch != message.epoch):
                    self.tell(message.node, Withdrawn([]))
                self.beats[message.node] = message
            case NodeCatalog():
                self.catalogs.append(message)
        self.link.ack(delivery)


def naming(first: int = 1_000) -> Callable[[StandIn, str, Any], None]:
    """Names each job that was published by hand, as the master does."""
    ids = iter(range(first, first + 1_000_000))

    def answer(master: StandIn, node: str, report: Any) -> None:
        if isinstance(report, Claimed) and report.id == 0:
            master.name(node, report.run, master.names.get(report.run) or next(ids))

    return answer


def value(cluster: Cluster, key: str, node: int = 0) -> bytes:
    """A value, of the node itself."""
    answer = http_request("GET", f"{cluster.nodes[node].url}/get_key/{quote(key)}")
    assert answer.status == 200, (answer.status, answer.body)
    return answer.body


SCRIPTS = {
    "append": """
import json, os, time
from pathlib import Path

arguments = json.loads(os.environ["PULZAR_ARGUMENTS"])
with open(arguments["file"], "a") as file:
    file.write(f"{arguments.get('text', '')}\\n")
gate = arguments.get("until")
while gate and not Path(gate).exists():
    time.sleep(0.01)
time.sleep(arguments.get("sleep", 0))
if arguments.get("print"):
    print(arguments["print"], flush=True)
if arguments.get("done"):
    with open(arguments["file"], "a") as file:
        file.write(f"{arguments['done']}\\n")
""",
    "add": """
from jobs import Job

class Add(Job):
    def execute(self):
        \"\"\"Description: Adds numbers.
        Arguments: {"numbers": "list"}
        Category: test
        Author: somebody
        \"\"\"
        self.log("adding", *self.arguments["numbers"])
        return sum(self.arguments["numbers"])
""",
    "nothing": "",
    "fail": "raise ValueError('on purpose')",
    "big": """
import json, os
arguments = json.loads(os.environ["PULZAR_ARGUMENTS"])
print("x" * arguments["bytes"])
""",
    "data": """
from jobs import Job

class Data(Job):
    def execute(self):
        return [self.data_key, self.data_path.read_bytes().decode(), str(self.data_path)]
""",
    "progress": """
import time
from pathlib import Path
from jobs import Job

class Progress(Job):
    def execute(self):
        done = 0
        while not Path(self.arguments["until"]).exists():
            done += 1
            self.progress(done, 1000, "working")
            self.log("step", done)
            time.sleep(0.05)
""",
}


def write_scripts(directory: Path, scripts: dict[str, str] = SCRIPTS, folder: str = "test") -> Path:
    """Scripts in a folder of their own; the directory for `[jobs] dir`."""
    where = directory / "scripts" / folder
    where.mkdir(parents=True, exist_ok=True)
    for name, text in scripts.items():
        (where / f"{name}.py").write_text(text.lstrip())
    return directory / "scripts"


def lines(file: Path) -> list[str]:
    """Lines of a file that runs append to."""
    return file.read_text().splitlines() if file.exists() else []


def count(values: Sequence[Any], wanted: Any) -> int:
    """How often something is among others."""
    return sum(value == wanted for value in values)
