"""What tests share: waiting for a condition, a plain HTTP client, clusters, and what is left running."""

from __future__ import annotations

import ast
import contextlib
import functools
import http.client
import itertools
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import psutil
import pytest

from broker.messages.codec import Message, decode_any
from ops.cluster import Cluster, Installation, Rabbit
from ops.cluster.installation import MACHINE
from ops.cluster.network import free_base

ROOT = Path(__file__).resolve().parents[1]

# In the environment of every process that this session starts, directly or not.
MARK = "PYTEST_SESSION_OF_PULZAR"

T = TypeVar("T")
M = TypeVar("M", bound=Message)

_numbers = itertools.count(1)


def decode(body: bytes, expected: type[M]) -> M:
    """The message in `body`, which must be an `expected`."""
    message = decode_any(body)
    assert isinstance(message, expected)
    return message


def wait_for(condition: Callable[[], T], timeout: float = 30.0, what: str = "", pause: float = 0.02) -> T:
    """Call the condition until it is true, and give back what it was then; fails after `timeout` seconds.

    What it looks up, a row, a key or a file, may not be there yet, or be gone by then: a `LookupError` and a
    `FileNotFoundError` are as good as False. The limit is for what never comes, not for how long it may take: the
    machine may be busy with others.
    """
    deadline = time.monotonic() + timeout
    while True:
        found: T | None = None
        missing: LookupError | FileNotFoundError | None = None
        try:
            found = condition()
        except (LookupError, FileNotFoundError) as error:
            missing = error
        if found:
            return found
        assert time.monotonic() < deadline, (
            f"{what or condition} did not come true within {timeout:g} s; last: {missing or found!r}"
        )
        time.sleep(pause)


def quickest(took: Callable[[], float], limit: float, tries: int = 4) -> float:
    """Seconds that something took at best; it is tried again until it takes less than `limit`.

    What has to wait for something does so each time, and a machine that is busy with others holds it up now and then.
    """
    best = took()
    for _ in range(tries - 1):
        if best >= limit:
            best = min(best, took())
    return best


def unique(name: str = "key") -> str:
    """A key that no other test has."""
    return f"tests/{uuid.uuid4().hex[:12]}/{name}"


def seeds(few: int, all_of_them: int) -> list[Any]:
    """Values of a parameter, for tests that try something at random: a few of them each time, all with `-m soak`."""
    return [*range(few), *(pytest.param(number, marks=pytest.mark.soak) for number in range(few, all_of_them))]


def metric_rows(body: bytes) -> dict[str, float]:
    """The lines of a text for Prometheus: numbers by name and labels. Each line must be as the format has it."""
    rows: dict[str, float] = {}
    told = ""
    for line in body.decode().splitlines():
        if line.startswith("# HELP "):
            told = line.split()[2]
            continue
        if line.startswith("# TYPE "):
            assert line.split()[2] == told, line
            assert line.split()[3] in ("counter", "gauge", "histogram"), line
            continue
        name, _, number = line.rpartition(" ")
        assert name.startswith(told), line
        assert name not in rows, f"twice: {line}"
        rows[name] = float(number)
    return rows


class Answer(NamedTuple):
    """An HTTP answer, the one after all redirects."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    url: str

    @property
    def json(self) -> Any:
        """The body as JSON: the envelope."""
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        """`data` of the envelope."""
        return self.json["data"]

    @property
    def msg(self) -> str:
        """`msg` of the envelope."""
        return str(self.json["msg"])


def http_request(
    method: str,
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    redirects: int = 5,
    timeout: float = 30.0,
) -> Answer:
    """One request, its body sent again after each redirect; `redirects=0` gives the redirect itself."""
    while True:
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        with contextlib.closing(http.client.HTTPConnection(parts.netloc, timeout=timeout)) as connection:
            connection.request(method, target, body, dict(headers or {}))
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read(), url)
        location = answer.headers["Location"]
        if redirects <= 0 or answer.status not in (301, 302, 303, 307, 308) or not location:
            return answer
        url = urljoin(url, location)
        redirects -= 1


def put(cluster: Cluster, key: str, value: bytes, query: str = "", **options: Any) -> Answer:
    """`PUT /add_key/{key}`."""
    return http_request("PUT", _url(cluster, "add_key", key, query), value, **options)


def get(cluster: Cluster, key: str, query: str = "", **options: Any) -> Answer:
    """`GET /get_key/{key}`."""
    return http_request("GET", _url(cluster, "get_key", key, query), **options)


def delete(cluster: Cluster, key: str, **options: Any) -> Answer:
    """`DELETE /delete_key/{key}`."""
    return http_request("DELETE", _url(cluster, "delete_key", key, ""), **options)


class Clusters:
    """Makes clusters for one test or one session, and takes them away again.

    Those without a broker of their own share the one that `rabbit` gives, which is asked once; the others run the
    one of `installation`.
    """

    def __init__(self, directory: Path, rabbit: Callable[[], Rabbit], installation: Installation = MACHINE) -> None:
        self.made: list[Cluster] = []
        self._directory = directory
        self._installation = installation
        self._rabbit = functools.cache(rabbit)
        self._vhosts: list[str] = []

    def __call__(
        self,
        nodes: int = 2,
        env: Mapping[str, str] | None = None,
        *,
        own_broker: bool = False,
        directory: Path | None = None,
        start: bool = True,
        broker_url: str | None = None,
    ) -> Cluster:
        """A cluster of its own, healthy unless `start` is False.

        `env` holds settings (`PULZAR_…`) for all of its processes; `own_broker` gives it a RabbitMQ that
        may be killed, which takes some seconds. `broker_url` is that of another one.
        """
        url = broker_url
        if not own_broker and not broker_url:
            vhost = f"test-{next(_numbers)}"
            self._rabbit().create_vhost(vhost)
            self._vhosts.append(vhost)
            url = self._rabbit().url(vhost)
        where = directory or self._directory / f"cluster-{next(_numbers)}"
        settings = {"PULZAR_GENERAL_HEARTBEAT": "0.5"} | dict(env or {})
        environment = clean_environment() | settings
        cluster = Cluster(where, free_base(), nodes, url, environment=environment, rabbitmq=self._installation)
        self.made.append(cluster)
        if start:
            cluster.start()
        return cluster

    def close(self, *, gracefully: bool = False) -> None:
        """Stop all of them."""
        for cluster in reversed(self.made):
            if not gracefully:
                cluster.kill()
            cluster.stop()
        self.made.clear()
        for vhost in self._vhosts:
            self._rabbit().delete_vhost(vhost)
        self._vhosts.clear()


def clean_environment() -> dict[str, str]:
    """The environment without settings for Pulzar that the user has."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PULZAR_")}


def process_logs(clusters: list[Cluster], lines: int = 40) -> Iterator[tuple[str, str]]:
    """The end of each process's log, with a title."""
    for cluster in clusters:
        for child in cluster.processes:
            yield f"end of {child.log} ({'running' if child.running else child.how_it_ended()})", child.tail(lines)


def left_running(mark: str, name: str = MARK) -> list[psutil.Process]:
    """Live processes, this one aside, that have `name=mark` in the environment they were started with."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(name) == mark:
                found.append(process)
    return found


def _url(cluster: Cluster, route: str, key: str, query: str) -> str:
    return f"{cluster.master_url}/{route}/{quote(key)}" + (f"?{query}" if query else "")


def imports(path: Path) -> set[str]:
    """Top-level names of the packages that a module imports."""
    names: set[str] = set()
    for part in ast.walk(ast.parse(path.read_text())):
        if isinstance(part, ast.Import):
            names |= {alias.name.split(".")[0] for alias in part.names}
        elif isinstance(part, ast.ImportFrom) and part.module:
            names.add(part.module.split(".")[0])
    return names
