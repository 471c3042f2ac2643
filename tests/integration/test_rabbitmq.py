"""The private RabbitMQ: its own, on the loopback interface, as any user, and gone when it is stopped."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pika.exceptions
import psutil
import pytest

from ops.cluster import ClusterError, Installation, ProcessDied, Rabbit
from ops.cluster.errors import ConsoleError
from ops.cluster.installation import MACHINE, SERVER
from ops.cluster.network import AMQP, CONSOLE, DISTRIBUTION, EPMD, free_base, is_free
from tests.support import ROOT, left_running, wait_for

MARK = "PYTEST_RABBITMQ_OF_PULZAR"
SYSTEM_PYTHON = "/usr/bin/python3"
NOBODY = 65534

# Each start takes seconds, and more on a busy machine.
pytestmark = pytest.mark.timeout(300, method="signal")

MakeRabbit = Callable[[Path], Rabbit]


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    value = uuid.uuid4().hex
    monkeypatch.setenv(MARK, value)
    return value


@pytest.fixture
def make_rabbit(mark: str, installation: Installation) -> Iterator[MakeRabbit]:
    made: list[Rabbit] = []

    def make(directory: Path) -> Rabbit:
        base = free_base()
        ports = (base + offset for offset in (AMQP, CONSOLE, DISTRIBUTION, EPMD))
        made.append(Rabbit(directory, *ports, installation=installation))
        return made[-1]

    yield make
    for rabbit in made:
        rabbit.kill()
        rabbit.stop()


def test_it_listens_on_the_loopback_interface_only_and_keeps_its_secrets(rabbit: Rabbit) -> None:
    # Given the RabbitMQ that the tests share
    listening = [
        connection.laddr
        for child in rabbit.children
        for connection in psutil.Process(child.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    # Then AMQP, console, distribution and epmd listen, on loopback addresses alone
    assert {address.port for address in listening} >= {rabbit.amqp_port, rabbit.console_port}
    assert len({address.port for address in listening}) == 4
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1"}
    # And nobody else may read what is in its directory, or see the password in a list of processes
    assert stat.S_IMODE(rabbit.directory.stat().st_mode) == 0o700
    for name in ("credentials.json", "rabbitmq.conf", ".erlang.cookie"):
        assert stat.S_IMODE((rabbit.directory / name).stat().st_mode) & 0o077 == 0, name
    assert all(rabbit.password not in word for child in rabbit.children for word in psutil.Process(child.pid).cmdline())
    # And its user may administer it, while there is no guest
    assert [(user["name"], user["tags"]) for user in rabbit.api("GET", "users")] == [("pulzar", ["administrator"])]


def test_started_again_on_other_ports_it_has_its_data_and_its_password(tmp_path: Path, make_rabbit: MakeRabbit) -> None:
    # Given a broker that was used and stopped
    first = make_rabbit(tmp_path / "broker with a space")
    first.start()
    first.create_vhost("kept")
    first.stop()
    # When one is started on its directory, with other ports
    second = make_rabbit(tmp_path / "broker with a space")
    second.start()
    # Then it is the same
    assert second.password == first.password
    assert {vhost["name"] for vhost in second.api("GET", "vhosts")} == {"/", "kept"}


def test_rabbitmqadmin_2_publishes_as_the_readme_says(rabbit: Rabbit, installation: Installation) -> None:
    # Given the tool of a RabbitMQ that brings version 2 along
    enter = ["chroot", str(installation.root)] if installation.root else []
    if not installation.root and shutil.which("rabbitmqadmin") is None:
        pytest.skip("there is no rabbitmqadmin")
    asked = [*enter, "rabbitmqadmin", "publish", "message", "--help"]
    help = subprocess.run(asked, capture_output=True, text=True, check=False)
    if "--routing-key" not in help.stdout + help.stderr:
        pytest.skip("needs rabbitmqadmin 2: --broker DIR with RabbitMQ 4.3")
    if installation.root and not (installation.root / "etc/ssl/certs/ca-certificates.crt").exists():
        pytest.skip("rabbitmqadmin 2 does not start without certificates: debootstrap --include=…,ca-certificates")
    page = (ROOT / "docs" / "jobs.md").read_text()
    [command] = re.findall(r"^```bash\n(rabbitmqadmin .*?)\n```$", page, re.DOTALL | re.MULTILINE)
    queue = f"admin-{uuid.uuid4().hex}"
    rabbit.api("PUT", f"queues/%2F/{queue}", {"durable": True})
    # When the page's command is run, with another queue
    script = f"CONSOLE=$1 LOGIN=$2; {command.replace('pulzar.jobs', queue)}"
    arguments = ["bash", "-euc", script, "bash", rabbit.console_url.rstrip("/"), f"{rabbit.user}:{rabbit.password}"]
    done = subprocess.run([*enter, *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    # Then the message is in it
    got = rabbit.api(
        "POST", f"queues/%2F/{queue}/get", {"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"}
    )
    assert json.loads(got[0]["payload"]) == {"job": "example/factorial", "arguments": {"number": 5}}


# A server of another version: it refuses files that are not its own, in the words of the real one.
PICKY = """#!/bin/sh
if [ -e "$RABBITMQ_MNESIA_BASE/of-another-version" ]; then
    echo 'Kernel pid terminated ("{application_start_failure,rabbit,{{SAID},{rabbit,start,[normal,[]]}}}")'
    exit 1
fi
exec {SERVER}
""".replace("{SERVER}", str(SERVER))


def of(installation: Installation, directory: Path) -> Rabbit:
    base = free_base()
    return Rabbit(
        directory, *(base + offset for offset in (AMQP, CONSOLE, DISTRIBUTION, EPMD)), installation=installation
    )


def version_of(rabbit: Rabbit) -> str:
    known: list[str] = []

    def told() -> bool:
        # RabbitMQ 4.3 answers 500 in its first moments.
        with contextlib.suppress(ConsoleError):
            known.append(rabbit.api("GET", "overview")["rabbitmq_version"])
        return bool(known)

    wait_for(told, what="the console to know its version", pause=0.2)
    return known[0]


@pytest.mark.parametrize("said", ["failed_to_initialize_feature_flags_registry", "schema_integrity_check_failed"])
def test_it_begins_anew_where_the_files_are_of_another_version(tmp_path: Path, mark: str, said: str) -> None:
    # Given a broker that was used, and one of another version that can't use its files
    first = of(MACHINE, tmp_path / "broker")
    try:
        first.start()
        first.create_vhost("kept")
    finally:
        first.stop()
    assert first.anew == ""
    (tmp_path / "broker" / "mnesia" / "of-another-version").touch()
    (tmp_path / "picky").write_text(PICKY.replace("{SAID}", said))
    (tmp_path / "picky").chmod(0o755)
    # When that one is started
    second = of(Installation(tmp_path / "picky"), tmp_path / "broker")
    try:
        second.start()
        # Then it runs, with the same password and without what was there, which is kept; and it says so
        assert second.password == first.password
        assert {vhost["name"] for vhost in second.api("GET", "vhosts")} == {"/"}
        assert (tmp_path / "broker" / "mnesia.before" / "of-another-version").exists()
        assert (
            f"of another version, which this one can't use; they are in {tmp_path / 'broker' / 'mnesia.before'}"
            in second.anew
        )
    finally:
        second.stop()
    assert not left_running(mark, MARK)


def test_what_fails_for_another_reason_keeps_its_files(tmp_path: Path, mark: str) -> None:
    (tmp_path / "broker" / "mnesia").mkdir(parents=True)
    (tmp_path / "broker" / "mnesia" / "of-another-version").touch()
    (tmp_path / "picky").write_text(PICKY.replace("{SAID}", "no_space_left"))
    (tmp_path / "picky").chmod(0o755)
    rabbit = of(Installation(tmp_path / "picky"), tmp_path / "broker")
    try:
        with pytest.raises(ProcessDied, match="no_space_left"):
            rabbit.start()
    finally:
        rabbit.stop()
    assert (tmp_path / "broker" / "mnesia" / "of-another-version").exists()


def test_the_next_version_takes_the_place_of_the_machines(
    tmp_path: Path, mark: str, installation: Installation, make_rabbit: MakeRabbit
) -> None:
    if installation == MACHINE:
        pytest.skip("needs another RabbitMQ: --broker DIR")
    # Given the files of the machine's RabbitMQ
    first = of(MACHINE, tmp_path / "broker")
    try:
        first.start()
        before = version_of(first)
    finally:
        first.stop()
    # When another one is started on them
    second = make_rabbit(tmp_path / "broker")
    second.start()
    # Then it runs, with those files or anew
    version = version_of(second)
    refuses = before.startswith("3.10.") and not version.startswith("3.")
    assert bool(second.anew) == refuses, f"{version} on files of {before}: {second.anew or 'used'}"


@pytest.mark.parametrize("end", [Rabbit.stop, lambda r: (r.kill(), r.stop())], ids=["stopped", "killed"])
def test_nothing_of_it_is_left_running(
    tmp_path: Path, make_rabbit: MakeRabbit, mark: str, end: Callable[[Rabbit], None]
) -> None:
    # Given a broker beside the one that the tests share
    rabbit = make_rabbit(tmp_path)
    rabbit.start()
    names = {process.name() for process in left_running(mark, MARK)}
    assert {"epmd", "beam.smp", "erl_child_setup"} <= names
    # When it is ended
    end(rabbit)
    # Then all of its processes are gone, helpers included, and its ports are free
    wait_for(lambda: not left_running(mark, MARK))
    assert is_free(rabbit.amqp_port)
    assert is_free(rabbit.console_port)


@pytest.mark.skipif(
    os.getuid() != 0, reason="only root can become somebody else; as an ordinary user every test shows it"
)
def test_an_ordinary_user_can_run_one(mark: str) -> None:
    # Given an ordinary user, a directory of theirs, and a copy of the code that they may read
    with tempfile.TemporaryDirectory() as place:
        home = Path(place) / "home"
        home.mkdir()
        os.chown(home, NOBODY, NOBODY)
        for package in ("broker", "ops"):
            shutil.copytree(ROOT / package, Path(place) / "code" / package)
        subprocess.run(["chmod", "-R", "a+rX", place], check=True)
        # When they start one
        program = """
import os, sys
from pathlib import Path
from ops.cluster import Rabbit
from ops.cluster.network import free_base
base = free_base()
rabbit = Rabbit(Path(sys.argv[1]) / "rabbitmq", base, base + 1, base + 2, base + 3)
try:
    rabbit.start()
    print(os.getuid(), Path(f"/proc/{rabbit.process.pid}").stat().st_uid, rabbit.api("GET", "whoami")["name"])
finally:
    rabbit.stop()
"""
        done = subprocess.run(
            [SYSTEM_PYTHON, "-c", program, str(home)],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            cwd=Path(place) / "code",
            env=os.environ | {"HOME": str(home)},
            capture_output=True,
            text=True,
            timeout=90,
        )
    # Then it works, and is theirs
    assert done.stdout == f"{NOBODY} {NOBODY} pulzar\n", done.stderr
    assert not left_running(mark, MARK)


def test_a_server_that_is_not_there_or_does_not_start_is_told(tmp_path: Path) -> None:
    ports = [free_base() + offset for offset in (AMQP, CONSOLE, DISTRIBUTION, EPMD)]
    with pytest.raises(ClusterError, match="no RabbitMQ at /nowhere/rabbitmq-server"):
        Rabbit(tmp_path / "a", *ports, installation=Installation(Path("/nowhere/rabbitmq-server"))).start()
    broken = Rabbit(tmp_path / "b", *ports, installation=Installation(Path(shutil.which("false") or "")))
    try:
        with pytest.raises(ProcessDied, match="rabbitmq ended with status 1"):
            broken.start()
    finally:
        broken.stop()


USERS_OF_COMPOSE = {
    "RABBITMQ_PASSWORD": "pulzar",
    "MASTER_PASSWORD": "pulzar.master",
    "NODE_1_PASSWORD": "pulzar.node.node-1",
    "NODE_2_PASSWORD": "pulzar.node.node-2",
}


class WithDefinitions(Rabbit):
    """One that reads definitions at its start, as compose.yaml has it."""

    def _prepare(self) -> None:
        super()._prepare()
        path = self._installation.seen_as(self.directory) / "definitions.json"
        configuration = self.directory / "rabbitmq.conf"
        configuration.write_text(f"{configuration.read_text()}load_definitions = {path}\n")


def test_it_has_the_users_of_compose_from_its_first_start_on_and_no_guest(
    tmp_path: Path, installation: Installation
) -> None:
    # Given what ops/docker/users makes
    made = subprocess.run([ROOT / "ops/docker/users", tmp_path], capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    known = dict(re.findall(r"^(\w+)=(.*)$", (tmp_path / ".env").read_text(), re.MULTILINE))
    credentials = {"user": "pulzar", "password": known["RABBITMQ_PASSWORD"]}
    (tmp_path / "credentials.json").write_text(json.dumps(credentials))
    base = free_base()
    ports = (base + offset for offset in (AMQP, CONSOLE, DISTRIBUTION, EPMD))
    rabbit = WithDefinitions(tmp_path, *ports, installation=installation)

    def connects(user: str, password: str) -> bool:
        url = rabbit.url("pulzar", user, password)
        try:
            pika.BlockingConnection(pika.URLParameters(url)).close()
        except pika.exceptions.AMQPConnectionError:
            return False
        return True

    # When a RabbitMQ is started with it, twice
    for _ in range(2):
        rabbit.start()
        try:
            # Then each user is there
            for variable, user in USERS_OF_COMPOSE.items():
                assert connects(user, known[variable]), user
                assert not connects(user, "another")
            # And people see the console, and may not change users there
            assert rabbit.api("GET", "whoami")["tags"] in (["monitoring"], "monitoring")
            with pytest.raises(ConsoleError, match=r"401|403"):
                rabbit.api("GET", "users")
            assert not connects("guest", "guest")
        finally:
            rabbit.stop()
