"""Fixtures: a cluster that tests share, clusters to break, and the RabbitMQ below them.

| fixture        | lives for   | what                                                                        |
| -------------- | ----------- | --------------------------------------------------------------------------- |
| `cluster`      | the session | a healthy cluster with two nodes; use keys of your own (`support.unique`)    |
| `make_cluster` | one test    | makes clusters that may be killed: `make_cluster(nodes=2, env={…})`         |
| `make_shared_cluster` | one module | the same, where no test spoils them for the next                      |
| `rabbit`       | the session | the RabbitMQ of all those, each in a virtual host of its own                |

`make_cluster(own_broker=True)` has a RabbitMQ that may be killed too. With `--broker DIR` all of them are run by the
installation in that directory instead of the machine's. When a test fails, its report
has the ends of the logs of its clusters' processes.
"""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops.cluster import Cluster, ClusterError, Installation, Rabbit
from ops.cluster.installation import MACHINE
from ops.cluster.network import AMQP, CONSOLE, DISTRIBUTION, EPMD, free_base
from tests.clients import report
from tests.support import MARK, ROOT, Clusters, left_running, process_logs, wait_for

TIMEOUT_SECS = 120

_session_clusters = pytest.StashKey[Clusters]()


@pytest.fixture(scope="session")
def installation(request: pytest.FixtureRequest) -> Installation:
    """The RabbitMQ whose programs the tests run: the machine's own, or the one that `--broker` names."""
    return _installation(request.config)


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory, installation: Installation) -> Iterator[Rabbit]:
    base = free_base()
    ports = (base + offset for offset in (AMQP, CONSOLE, DISTRIBUTION, EPMD))
    rabbit = Rabbit(tmp_path_factory.mktemp("rabbitmq"), *ports, installation=installation)
    try:
        rabbit.start()
        yield rabbit
    finally:
        # What it has to tidy up is thrown away, and would take it seconds.
        rabbit.kill()
        rabbit.stop()


@pytest.fixture(scope="session")
def cluster(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    rabbit: Rabbit,
    installation: Installation,
) -> Iterator[Cluster]:
    clusters = Clusters(tmp_path_factory.mktemp("shared"), lambda: rabbit, installation)
    request.config.stash[_session_clusters] = clusters
    try:
        yield clusters()
    finally:
        clusters.close(gracefully=True)


@contextmanager
def _clusters(request: pytest.FixtureRequest) -> Iterator[Clusters]:
    directory = request.getfixturevalue("tmp_path_factory").mktemp("clusters")
    installation = request.getfixturevalue("installation")
    # A test that needs a broker of its own needs no other.
    clusters = Clusters(directory, lambda: request.getfixturevalue("rabbit"), installation)
    try:
        yield clusters
    finally:
        clusters.close()


@pytest.fixture
def make_cluster(request: pytest.FixtureRequest) -> Iterator[Clusters]:
    with _clusters(request) as clusters:
        yield clusters


@pytest.fixture(scope="module")
def make_shared_cluster(request: pytest.FixtureRequest) -> Iterator[Clusters]:
    with _clusters(request) as clusters:
        yield clusters


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--broker",
        metavar="DIR",
        help="run the RabbitMQ in DIR: a root directory with Debian's rabbitmq-server, or the unpacked generic archive",
    )


def _installation(config: pytest.Config) -> Installation:
    directory: str | None = config.getoption("broker")
    if directory is None:
        return MACHINE
    try:
        found = Installation.at(Path(directory))
        found.check()
    except ClusterError as error:
        raise pytest.UsageError(f"--broker: {error}") from error
    return found


def pytest_configure(config: pytest.Config) -> None:
    _installation(config)  # a directory without one is told before any test begins
    os.environ[MARK] = uuid.uuid4().hex
    config.addinivalue_line("markers", "clean: from nothing, with a new .venv; minutes. Only with -m clean")
    config.addinivalue_line("markers", "install: ops/install on a Debian of its own; minutes. Only with -m install")
    config.addinivalue_line(
        "markers", "libraries: jobs with large libraries, downloaded; minutes. Only with -m libraries"
    )
    config.addinivalue_line("markers", "soak: thousands of runs; a quarter of an hour. Only with -m soak")
    config.addinivalue_line("markers", "modes: fault tests of jobs, warm and preloaded; minutes. Only with -m modes")
    config.addinivalue_line("markers", "every_mode: a fault test of jobs that is run in each mode, always")
    config.addinivalue_line("markers", "targets: every fault of every backup target; minutes. Only with -m targets")
    config.addinivalue_line("markers", "clients: the HTTP clients of docs/clients.md; minutes. Only with -m clients")
    config.addinivalue_line(
        "markers", "contract: requests by the thousand for each route; minutes. Only with -m contract"
    )
    config.pluginmanager.register(report)  # prints the table of clients, if any were tried


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if not item.get_closest_marker("timeout") and config.getoption("timeout", None) is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECS, method="signal"))
        for marker in ("clean", "contract", "install", "clients", "libraries", "modes", "soak", "targets"):
            found = item.get_closest_marker(marker)
            if found and not found.kwargs.get("always") and marker not in (config.option.markexpr or ""):
                item.add_marker(pytest.mark.skip(reason=f"minutes; only with -m {marker}"))
    if not config.pluginmanager.hasplugin("randomly"):
        weights: Counter[Path] = Counter()
        for item in items:
            weights[item.path] += 0 if item.get_closest_marker("skip") else _weight(item)
        items.sort(
            key=lambda item: (_FOLDERS.index(item.path.relative_to(ROOT / "tests").parts[0]), -weights[item.path])
        )


# Files are handed out in this order. What needs no cluster comes before there is one. Then the longest files come
# first, so that no process is left with a long one when the other has nothing more to do.
_FOLDERS = ["unit", "clients", "faults", "integration", "ui"]


def _weight(item: pytest.Item) -> float:
    """About how many seconds a test takes; a table of real ones would be wrong after a while."""
    if "faults" in item.path.parts:
        return 8.0
    return 4.0 if "make_cluster" in getattr(item, "fixturenames", ()) else 0.3


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        fixtures = getattr(item, "funcargs", {})
        used = [item.config.stash.get(_session_clusters, None)] if "cluster" in fixtures else []
        used.append(fixtures.get("make_cluster"))
        for clusters in used:
            if clusters:
                report.sections.extend(process_logs(clusters.made))
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Every fixture is gone by now, and so must be every process."""
    mark = os.environ[MARK]
    try:
        # Those that die with their parent need a moment.
        wait_for(lambda: not left_running(mark), timeout=30, what="the end of every process that the tests started")
    except AssertionError:
        for process in left_running(mark):
            print(f"\nleft running, and killed: {process}")
            process.kill()
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
