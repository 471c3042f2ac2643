"""ops/install on a Debian of its own with systemd and RabbitMQ running: `pytest -m install`, as root, some minutes.

The tests of one Debian share it and go from the installation to its removal, in this order.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator

import pytest

from broker.rights import of_master, of_node, of_publisher
from tests.integration.machine import MARKS, MASTER, PYTHON, SERVICES, Machine, boot, read, run_job, store
from tests.support import wait_for

# What a job finds when it tries what it may and may not do, besides a process that it leaves behind.
PROBE = """\
import json, os, pwd, subprocess
from jobs import run

def attempt(function):
    try:
        return str(function())
    except OSError as error:
        return type(error).__name__ + " " + os.strerror(error.errno)

subprocess.Popen(["setsid", "sleep", "86399"])
print(json.dumps({
    "user": pwd.getpwuid(os.getuid()).pw_name,
    "child": attempt(lambda: subprocess.run(["echo", "hello"], capture_output=True, text=True).stdout.strip()),
    "its own /tmp": attempt(lambda: open("/tmp/of-a-job", "w").write("x")),
    "settings": attempt(lambda: open("/etc/pulzar/server.conf", "a")),
    "elsewhere": attempt(lambda: open("/etc/of-a-job", "w")),
    "code": attempt(lambda: open("/opt/pulzar/current/broker/keys.py", "a")),
    "home": attempt(lambda: os.listdir("/root")),
    "owner": attempt(lambda: os.chown("/tmp/of-a-job", 0, 0)),
    "device": attempt(lambda: os.stat("/dev/kmsg")),
    "master's index": attempt(lambda: os.listdir("/var/lib/pulzar/master")),
    "another master's": attempt(lambda: os.rename("/var/lib/pulzar/master", "/var/lib/pulzar/mine")),
    "master's RabbitMQ": attempt(lambda: open("/etc/pulzar/master.environment").read()),
    "secret": attempt(lambda: open("/etc/pulzar/environment").read()),
    "master": attempt(lambda: os.kill(int(run.arguments["master"]), 0)),
    "master's environment": attempt(lambda: open(f"/proc/{run.arguments['master']}/environ").read()),
}))
"""

pytestmark = MARKS


@pytest.fixture(scope="module", params=sorted(PYTHON))
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with boot(request.param, tmp_path_factory.mktemp("machine") / request.param) as machine:
        yield machine


def pids(machine: Machine) -> list[str]:
    return [machine.property(service, "MainPID") for service in SERVICES]


def listens(machine: Machine) -> set[tuple[str, int]]:
    """Address and port of each TCP socket that listens in the machine."""
    program = """\
import socket
for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
    for line in open(f"/proc/net/{name}").readlines()[1:]:
        _, local, _, state, *_ = line.split()
        host, port = local.split(":")
        packed = b"".join(bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8))
        if state == "0A":
            print(socket.inet_ntop(family, packed), int(port, 16))
"""
    rows = machine.run("python3", "-c", program).splitlines()
    return {(host, int(port)) for host, port in (row.split() for row in rows)}


def test_one_command_installs_all_of_it_and_it_runs(machine: Machine) -> None:
    # Given a RabbitMQ as it is when ops/install installs it: a new one, on this machine alone
    machine.run("systemctl", "stop", "rabbitmq-server", "epmd.socket", "epmd.service")
    machine.run(
        "sh",
        "-c",
        "cd /src && rm -rf /var/lib/rabbitmq/mnesia /etc/rabbitmq/rabbitmq-env.conf && exec python3 -c "
        "'from ops.installer.packages import *; keep_local(Places())'",
    )
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "epmd.socket", "rabbitmq-server")
    assert "guest" in machine.run("rabbitmqctl", "-qs", "list_users")
    # When it is installed
    said = machine.run("/src/ops/install", "--master", "--node", "--without-extensions")
    # Then both services run, as a user of their own, and at every boot
    for service in SERVICES:
        assert machine.property(service, "ActiveState") == "active", said
        assert machine.property(service, "UnitFileState") == "enabled"
        user = {"pulzar-master": "pulzar-master", "pulzar-node": "pulzar"}[service]
        assert machine.run("stat", "-c", "%U", f"/proc/{machine.property(service, 'MainPID')}").strip() == user
    # And secrets are for Pulzar alone, which can change neither its settings nor its code
    paths = [
        "/etc/pulzar",
        "/etc/pulzar/environment",
        "/etc/pulzar/server.conf",
        "/etc/pulzar/jobs/example/factorial.py",
        "/etc/pulzar/master.environment",
        "/etc/pulzar/node.environment",
        "/etc/pulzar/.roles.key",
    ]
    assert machine.owner_and_mode(*paths) == [
        "root:pulzar 751",
        "root:root 600",
        "root:pulzar 640",
        "root:pulzar 644",
        *["root:root 600"] * 3,
    ]
    paths = ["/var/lib/pulzar", "/var/lib/pulzar/master", "/var/lib/pulzar/data", "/opt/pulzar/current"]
    owners = ["root:pulzar 751", "pulzar-master:pulzar-master 750", "pulzar:pulzar 751", "root:root 755"]
    assert machine.owner_and_mode(*paths) == owners
    # And nothing of what only developers need is there
    assert machine.run("ls", "-I", "__pycache__", "/opt/pulzar/current/ops").split() == [
        "__init__.py",
        "install",
        "installer",
        "manage.py",
        "manager",
        "server.conf",
        "systemd",
        "tokens.py",
    ]
    # And the kernel lets connections outlive a web worker, now and after the next boot
    assert "-net.ipv4.tcp_migrate_req = 1\n" in (machine.root / "etc/sysctl.d/60-pulzar.conf").read_text()
    assert machine.run("cat", "/proc/sys/net/ipv4/tcp_migrate_req").strip() == "1"
    # And RabbitMQ's users are those of the roles, each with its rights and no others; guest is gone
    node = (machine.root / "var/lib/pulzar/data/node-id").read_text().strip()
    wanted = {"pulzar.master": of_master(), f"pulzar.node.{node}": of_node(node)}
    listed = machine.run("rabbitmqctl", "-qs", "list_permissions", "-p", "pulzar").splitlines()
    assert {row.split("\t")[0]: tuple(row.split("\t")[1:]) for row in listed} == wanted
    users = machine.run("rabbitmqctl", "-qs", "list_users").splitlines()
    assert sorted(users) == sorted(f"{user}\t[]" for user in wanted)
    for user in wanted:
        assert machine.run("rabbitmqctl", "-qs", "list_user_permissions", user).count("\n") == 1
    # And everything listens on this machine alone, Erlang's ports included
    assert listens(machine) >= {("127.0.0.1", port) for port in (4369, 5672, 25672, 31414, 31415)}
    assert not {(host, port) for host, port in listens(machine) if not host.startswith(("127.", "::1"))}


def test_keys_are_kept_and_jobs_run_inside_the_hardening(machine: Machine) -> None:
    # Given a script of somebody's own
    (machine.root / "etc/pulzar/jobs/mine").mkdir()
    (machine.root / "etc/pulzar/jobs/mine/probe.py").write_text(PROBE)
    # When values are stored and jobs are run
    store(machine, "small.txt", b"one two three")
    upload = machine.request("GET", f"{MASTER}/get_node/large.bin").data["node"]
    assert machine.request("PUT", upload, b"x" * (3 << 20)).status == 201
    assert run_job(machine, "example/factorial", number=5)["status"] == "completed"
    assert run_job(machine, "text/words", pulzar_data="small.txt")["status"] == "completed"
    found = run_job(machine, "mine/probe", master=machine.property("pulzar-master", "MainPID"))
    # Then all is as anywhere
    assert read(machine, "small.txt") == b"one two three"
    assert read(machine, "large.bin") == b"x" * (3 << 20)
    assert found["status"] == "completed", found
    # And a job can do what jobs do, and harm nothing; what it left behind is gone
    said, *more = found["log"].splitlines()
    assert json.loads(said) == {
        "user": "pulzar-jobs",
        "child": "hello",
        "its own /tmp": "1",
        "settings": "PermissionError Permission denied",
        "code": "PermissionError Permission denied",
        "elsewhere": "OSError Read-only file system",
        "home": "PermissionError Permission denied",
        "owner": "PermissionError Operation not permitted",
        "device": "FileNotFoundError No such file or directory",
        "master's index": "PermissionError Permission denied",
        "another master's": "OSError Read-only file system",
        "master's RabbitMQ": "PermissionError Permission denied",
        "secret": "PermissionError Permission denied",
        "master": "PermissionError Operation not permitted",
        "master's environment": "PermissionError Permission denied",
    }
    assert [line.partition(" (")[0] for line in more] == ["killed at the end: sleep 86399"]
    assert machine.run("pgrep", "-fx", "sleep 86399", check=False).endswith("exit status 1")
    assert not (machine.root / "tmp/of-a-job").exists()


def test_the_same_command_again_changes_nothing(machine: Machine) -> None:
    # Given what runs, and the password
    before, secret = pids(machine), machine.run("cat", "/etc/pulzar/environment")
    # When it is installed again
    machine.run("/src/ops/install", "--master", "--node", "--without-extensions")
    # Then the same processes run, with the same password
    assert pids(machine) == before
    assert machine.run("cat", "/etc/pulzar/environment") == secret
    # And when the last try was broken off before it had started them anew, this one does
    (machine.root / "opt/pulzar/.changed").touch()
    machine.run("/src/ops/install", "--master", "--node", "--without-extensions")
    assert not set(pids(machine)) & set(before)
    assert not (machine.root / "opt/pulzar/.changed").exists()


def test_a_service_that_is_killed_comes_back_and_one_with_bad_settings_says_why(machine: Machine) -> None:
    # When the master is killed
    before = pids(machine)[0]
    machine.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "pulzar-master")
    # Then systemd starts it again, and its key is there
    wait_for(lambda: pids(machine)[0] not in (before, "0"), 30, "another master")
    assert read(machine, "small.txt") == b"one two three"
    # When the settings of the node are wrong, it ends with the reason and is not started for ever
    drop_in = machine.root / "etc/systemd/system/pulzar-node.service.d/wrong.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nEnvironment=PULZAR_VOLUME_PORT=no\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "pulzar-node")
    wait_for(lambda: machine.property("pulzar-node", "ActiveState") == "failed", 30, "the end of the node")
    assert "PULZAR_VOLUME_PORT = 'no'" in machine.journal()
    # And works again with good ones
    shutil.rmtree(drop_in.parent)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "pulzar-node")
    assert run_job(machine, "example/factorial", number=3)["status"] == "completed"


def test_an_upgrade_keeps_what_was_edited_and_tells_of_what_is_new(machine: Machine) -> None:
    # Given settings and a script that were edited, a script that was deleted, a node that was stopped, and newer code
    etc, source = machine.root / "etc/pulzar", machine.root / "src"
    edited = (etc / "server.conf").read_text().replace("retention_policy=90", "retention_policy=7")
    (etc / "server.conf").write_text(edited)
    (etc / "jobs/example/factorial.py").write_text("print('mine')\n")
    (etc / "jobs/example/fibonacci.py").unlink()
    for path in ("ops/server.conf", "jobs/example/factorial.py", "jobs/example/fibonacci.py", "jobs/text/words.py"):
        with (source / path).open("a") as file:
            file.write("# newer\n")
    with (source / "broker/__init__.py").open("a") as file:
        file.write("# newer\n")
    machine.run("systemctl", "stop", "pulzar-node")
    before, release = pids(machine), os.readlink(machine.root / "opt/pulzar/current")
    # When it is upgraded
    said = machine.run("/src/ops/install", "--upgrade")
    # Then the newer code runs, and the one before is kept
    assert os.readlink(machine.root / "opt/pulzar/current") != release
    assert (machine.root / "opt/pulzar" / release).is_dir()
    assert pids(machine)[0] not in (before[0], "0")
    # And what was stopped is not started
    assert pids(machine)[1] == "0"
    assert "pulzar-node.service does not run, and is not started" in said
    # And what was edited or deleted stays so, the newer ones lie beside, and what was not edited is newer
    assert (etc / "server.conf").read_text() == edited
    assert (etc / "server.conf.new").read_text().endswith("# newer\n")
    assert "/etc/pulzar/server.conf was changed here and stays as it is" in said
    assert (etc / "jobs/example/factorial.py").read_text() == "print('mine')\n"
    assert not (etc / "jobs/example/fibonacci.py").exists()
    assert (etc / "jobs/text/words.py").read_text().endswith("# newer\n")
    # And keys are there
    machine.run("systemctl", "start", "pulzar-node")
    assert read(machine, "large.bin") == b"x" * (3 << 20)


def test_a_node_elsewhere_gets_credentials_and_a_publisher_a_url(machine: Machine) -> None:
    # When those of a node and of a publisher are made
    made = machine.run("/opt/pulzar/current/ops/install", "--add-node", "store-2")
    launcher = machine.run("/opt/pulzar/current/ops/install", "--add-publisher")
    # Then RabbitMQ has both, with the rights of their roles
    listed = machine.run("rabbitmqctl", "-qs", "list_permissions", "-p", "pulzar").splitlines()
    rights = {row.split("\t")[0]: tuple(row.split("\t")[1:]) for row in listed}
    assert rights["pulzar.node.store-2"] == of_node("store-2")
    assert rights["pulzar.publisher"] == of_publisher()
    # And what was printed works: a node with it joins
    variables = dict(line.split("=", 1) for line in made.splitlines() if line.startswith("PULZAR_"))
    assert set(variables) == {"PULZAR_BROKER_URL", "PULZAR_GENERAL_SECRET"}
    assert "PULZAR_GENERAL_SECRET" not in launcher
    start = (
        "cd /opt/pulzar/current && set -a && . /tmp/credentials && PULZAR_VOLUME_PORT=31500 "
        "PULZAR_VOLUME_DIR=/tmp/other PULZAR_JOBS_DIR=/etc/pulzar/jobs exec venv/bin/python -m node"
    )
    machine.run("sh", "-c", "cat > /tmp/credentials", body="\n".join(f"{n}={v}" for n, v in variables.items()).encode())
    machine.run("systemd-run", "--unit=other-node", "sh", "-c", start)
    nodes = lambda: [row["node"] for row in machine.request("GET", f"{MASTER}/admin/network").data if row["synch"]]  # noqa: E731
    wait_for(lambda: "store-2" in nodes(), 60, "the other node")
    machine.run("systemctl", "stop", "other-node")
    forget = f"{MASTER}/admin/network/store-2?keys=1"
    wait_for(lambda: machine.request("DELETE", forget).status in (200, 202), 60, "an end of its heartbeats")


def test_removed_and_installed_again_it_has_its_keys(machine: Machine) -> None:
    # When it is removed by what was installed
    said = machine.run("/opt/pulzar/current/ops/install", "--remove")
    # Then code and services are gone, settings and data are not
    assert "settings stay in /etc/pulzar, data in /var/lib/pulzar" in said
    assert not (machine.root / "opt/pulzar").exists()
    assert "could not be found" in machine.run("systemctl", "status", "pulzar-node", check=False)
    assert (machine.root / "etc/pulzar/server.conf").exists()
    # And installed again it goes on where it was
    machine.run("/src/ops/install", "--master", "--node", "--without-extensions")
    assert read(machine, "small.txt") == b"one two three"


def test_purged_nothing_of_it_is_left(machine: Machine) -> None:
    machine.run("/src/ops/install", "--remove", "--purge")
    left = [path for path in ("opt/pulzar", "etc/pulzar", "var/lib/pulzar") if (machine.root / path).exists()]
    assert not left
    assert not list((machine.root / "etc/systemd").rglob("*pulzar*"))
    assert not (machine.root / "etc/sysctl.d/60-pulzar.conf").exists()
    assert "exit status 2" in machine.run("getent", "passwd", "pulzar", check=False)
    assert "pulzar" not in machine.run("rabbitmqctl", "-qs", "list_users")
    assert "pulzar" not in machine.run("rabbitmqctl", "-qs", "list_vhosts")


def test_a_node_alone_needs_the_address_of_its_masters_broker(machine: Machine) -> None:
    # Then without one it is told so, and with a bad one too, without a word of what was given
    assert "--broker-url URL, as in /etc/pulzar/environment" in machine.run("/src/ops/install", "--node", check=False)
    for url in ("http://me:secret@there/", 'amqp://me:"secret"@there/', "amqp://me:secret@there/a b"):
        refused = machine.run("/src/ops/install", "--node", "--broker-url", url, check=False)
        assert "is no URL like amqp://" in refused
        assert "secret" not in refused
    assert not (machine.root / "etc/pulzar").exists()
    # And with a good one, from standard input, the node alone is installed, and RabbitMQ is let alone
    machine.run("/src/ops/install", "--node", "--broker-url", "-", body=b"amqps://me:s%22cret@broker.example:5671/p\n")
    environment = (machine.root / "etc/pulzar/environment").read_text()
    assert 'PULZAR_BROKER_URL="amqps://me:s%22cret@broker.example:5671/p"\n' in environment
    assert [machine.property(service, "ActiveState") for service in SERVICES] == ["inactive", "active"]
    assert "pulzar" not in machine.run("rabbitmqctl", "-qs", "list_users")
    # And another address replaces it, and nothing else of the file
    (machine.root / "etc/pulzar/environment").write_text(environment + "PULZAR_GENERAL_SECRET=mine\n")
    machine.run("/src/ops/install", "--node", "--broker-url", "amqp://me:other@there:5672/p")
    environment = (machine.root / "etc/pulzar/environment").read_text()
    assert [line for line in environment.splitlines() if not line.startswith("#")] == [
        "PULZAR_GENERAL_SECRET=mine",
        'PULZAR_BROKER_URL="amqp://me:other@there:5672/p"',
    ]
    machine.run("/src/ops/install", "--remove", "--purge")
