"""compose.yaml: by the specification, safe from outside, one with settings, Dockerfile and docs; and more nodes from it."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from broker import settings
from broker.link import roles
from broker.rights import of_master, of_node, rights
from broker.server.web_server import STOP_SECS
from ops.images import composition
from ops.images.composition import Composition, Service
from ops.images.errors import Unreadable
from tests.support import ROOT

FILE = ROOT / "compose.yaml"
CONFIGURATION = ROOT / "ops/docker/rabbitmq.conf"
GIVEN = dict.fromkeys(("MASTER_PASSWORD", "NODE_1_PASSWORD", "NODE_2_PASSWORD", "PULZAR_SECRET"), "0123abcd")
OVERRIDE = "compose.override.yaml"


def validate(path: Path) -> subprocess.CompletedProcess[str]:
    """Against the schema of the compose specification, which check-jsonschema brings along."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def composed() -> Composition:
    return composition.read(FILE, GIVEN)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What `ops/docker/nodes` needs, in a directory of its own."""
    (tmp_path / "ops/docker").mkdir(parents=True)
    shutil.copy(FILE, tmp_path)
    for name in ("nodes", "users"):
        shutil.copy(ROOT / "ops/docker" / name, tmp_path / "ops/docker")
    shutil.copy(ROOT / ".env.example", tmp_path)
    shutil.copytree(ROOT / "broker", tmp_path / "broker", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def own(composed: Composition) -> list[Service]:
    """Those of Pulzar's own images."""
    return [service for service in composed.services if service.build]


def nodes(composed: Composition) -> list[Service]:
    return [service for service in composed.services if "PULZAR_VOLUME_NODE" in service.environment]


def parsed(path: Path = FILE) -> Any:
    return yaml.safe_load(path.read_text())


def written(tmp_path: Path, change: Callable[[str], str]) -> Path:
    path = tmp_path / "compose.yaml"
    changed = change(FILE.read_text())
    assert changed != FILE.read_text()
    path.write_text(changed)
    return path


def test_it_is_as_the_specification_says(tmp_path: Path) -> None:
    done = validate(FILE)
    assert done.returncode == 0, done.stdout
    # And a word that is none would be noticed
    done = validate(written(tmp_path, lambda text: text.replace("hostname: master", "hostnam: master")))
    assert (done.returncode, "hostnam" in done.stdout) == (1, True)


def test_without_a_password_nothing_starts() -> None:
    for name in GIVEN:
        with pytest.raises(Unreadable, match=rf"{name} is missing: run ops/docker/users"):
            composition.read(FILE, {other: value for other, value in GIVEN.items() if other != name})
        # And the example gives none
        assert example()[name] == ""
    # And it is nowhere in the files
    assert not re.search("pass", re.sub(r"#.*", "", CONFIGURATION.read_text()))


def test_the_example_has_every_variable_with_its_default() -> None:
    used = dict(re.findall(r"\$\{(\w+)(?::-([^}]*))?[^}]*\}", FILE.read_text()))
    assert used == {name: value for name, value in example().items() if name != "RABBITMQ_PASSWORD"}  # people's


def test_by_default_nobody_else_reaches_it(composed: Composition) -> None:
    assert {address for service in composed.services for address, _ in service.ports} == {"127.0.0.1"}
    elsewhere = composition.read(FILE, {**GIVEN, "CLUSTER_BIND": "0.0.0.0", "CLUSTER_ADDRESS": "store.example"})
    assert {address for service in elsewhere.services for address, _ in service.ports} == {"0.0.0.0"}
    assert nodes(elsewhere)[0].environment["PULZAR_VOLUME_ADVERTISE"] == "store.example:31415"
    assert all("store.example" in service.names for service in own(elsewhere))


def test_master_console_and_nodes_are_where_they_are_said_to_be(composed: Composition) -> None:
    published = {service.name: [port for _, port in service.ports] for service in composed.services}
    assert published == {"rabbitmq": [15672], "master": [31414], "node-1": [31415], "node-2": [31416]}


def test_a_service_listens_where_it_is_published_and_says_so(composed: Composition) -> None:
    for service in own(composed):
        known = settings.load(None, service.environment)  # a name that is no setting would be refused
        own_section = known.volume if service in nodes(composed) else known.server
        port = own_section.port
        assert [published for _, published in service.ports] == [port]
        # And the name in that address is one of its own inside too
        name, _, advertised = known.address(own_section).rpartition(":")
        assert (name in service.names, advertised) == (True, str(port))
        assert name != "localhost"
        # And all agree on where the master is
        assert known.address(known.server) == "pulzar.localhost:31414"
        user = "pulzar.master" if service.name == "master" else f"pulzar.node.{service.name}"
        assert known.broker.url == f"amqp://{user}:0123abcd@rabbitmq:5672/pulzar"


def test_a_node_keeps_its_name_and_its_data(composed: Composition) -> None:
    names = [node.environment["PULZAR_VOLUME_NODE"] for node in nodes(composed)]
    assert names == [node.name for node in nodes(composed)] == ["node-1", "node-2"]
    for service in own(composed):
        assert (service.name, "/var/lib/pulzar", "") in service.volumes
    # And RabbitMQ its own, whose files belong to the name of the machine
    assert parsed()["services"]["rabbitmq"]["hostname"] == "rabbitmq"


def test_what_it_mounts_and_builds_is_there(composed: Composition) -> None:
    for service in composed.services:
        for source, path, options in service.volumes:
            if source.startswith("."):
                assert (ROOT / source).exists() or source == "./ops/docker/definitions.json", source
                assert options == "ro"
                folders = [service.environment.get(f"PULZAR_{name}_DIR") for name in ("JOBS", "EXTENSIONS")]
                assert path in (*folders, "/etc/rabbitmq/conf.d/30-pulzar.conf", "/etc/rabbitmq/pulzar.json")
        if service.build:
            dockerfile = (ROOT / service.build.context / service.build.dockerfile).read_text()
            assert f" AS {service.build.target}\n" in dockerfile


def test_no_image_is_built_by_two_services_at_once(composed: Composition) -> None:
    content = parsed()["services"]
    built = [service["image"] for service in content.values() if "build" in service]
    assert sorted(built) == ["pulzar-master", "pulzar-node"]
    # And who runs the image of another one does not look for it in registries
    for service in own(composed):
        assert ("build" in content[service.name]) != (content[service.name].get("pull_policy") == "never")


def test_every_service_is_limited_and_started_again_and_asked_how_it_is(composed: Composition) -> None:
    targets = {service.name: service.build.target for service in composed.services if service.build}
    dockerfile = (ROOT / "ops/docker/Dockerfile").read_text()
    for name, content in parsed()["services"].items():
        assert content["restart"] == "unless-stopped"
        assert content["mem_limit"]
        assert content["pids_limit"]
        assert content["logging"]["options"]["max-size"]
        assert content["security_opt"] == ["no-new-privileges:true"]
        if name in targets:
            assert (content["read_only"], content["cap_drop"]) == (True, ["ALL"])
            stage = dockerfile.split(f" AS {targets[name]}\n")[1].split("\nFROM ")[0]
            assert "HEALTHCHECK" in stage
        else:
            assert content["healthcheck"]["test"][0] == "CMD", name
        assert name in {service.name for service in composed.services} or content["profiles"] == ["monitoring"]
        # Pinned to one release
        if name == "rabbitmq":
            assert re.fullmatch(r"rabbitmq:4\.\d+\.\d+-management", content["image"])
    # And RabbitMQ is ready first
    assert composed.services[0].name == "rabbitmq"
    assert all(service.needs == ("rabbitmq",) for service in own(composed))


def test_connections_outlive_a_web_worker_of_the_master() -> None:
    assert parsed()["services"]["master"]["sysctls"] == {"net.ipv4.tcp_migrate_req": 1}


def test_it_has_time_to_stop(composed: Composition) -> None:
    grace = settings.load(None, {}).jobs.grace
    assert all(service.stop_secs > 2 * (STOP_SECS + grace) for service in own(composed))


def test_users_are_made_for_every_service_with_the_rights_of_its_role(checkout: Path) -> None:
    # Given five nodes, and nothing else
    make_nodes(checkout, 5)
    # When users are made
    done = make_users(checkout)
    assert (done.returncode, done.stdout) == (0, "6 users of RabbitMQ beside yours, pulzar: docker compose up -d\n")
    # Then each has the rights of its role, and people see the console
    made = json.loads((checkout / "ops/docker/definitions.json").read_text())
    permissions = {row["user"]: (row["configure"], row["write"], row["read"]) for row in made["permissions"]}
    assert permissions == {
        "pulzar": rights(),
        "pulzar.master": of_master(),
        **{f"pulzar.node.node-{number}": of_node(f"node-{number}") for number in range(1, 6)},
    }
    assert {row["name"]: row["tags"] for row in made["users"] if row["tags"]} == {"pulzar": ["monitoring"]}
    assert {row["vhost"] for row in made["permissions"]} == {"pulzar"}
    # And each service has the password of its user, which is nobody else's and not in what RabbitMQ reads
    known = dict(re.findall(r"^(\w+)=(.*)$", (checkout / ".env").read_text(), re.MULTILINE))
    passwords = [value for name, value in known.items() if name.endswith("_PASSWORD")]
    assert len(set(passwords)) == len(passwords) == 7
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in (*passwords, known["PULZAR_SECRET"]))
    assert not [value for value in passwords if value in (checkout / "ops/docker/definitions.json").read_text()]
    assert stat.S_IMODE((checkout / ".env").stat().st_mode) == 0o600
    for service in own(composition.read(FILE, {name: value for name, value in known.items() if value})):
        name = "pulzar.master" if service.name == "master" else f"pulzar.node.{service.name}"
        config = settings.load(None, service.environment)
        assert (roles.user(config.broker.url), config.general.secret) == (name, known["PULZAR_SECRET"])
        assert urlsplit(config.broker.url).password == known[f"{service.name.upper().replace('-', '_')}_PASSWORD"]
    # And the second time they stay as they are
    before = (checkout / ".env").read_text()
    make_users(checkout)
    assert (checkout / ".env").read_text() == before
    # And RabbitMQ reads them
    assert "load_definitions = /etc/rabbitmq/pulzar.json\n" in CONFIGURATION.read_text()
    assert "./ops/docker/definitions.json:/etc/rabbitmq/pulzar.json:ro" in FILE.read_text()


def test_addresses_of_before_stay_valid_when_users_are_made_for_roles(checkout: Path) -> None:
    # Given the file of an older version
    (checkout / ".env").write_text("RABBITMQ_PASSWORD=0123abcd\nCLUSTER_BIND=0.0.0.0\n")
    make_users(checkout)
    # Then what is in it stays, and what signed then signs now
    text = (checkout / ".env").read_text()
    assert text.startswith("RABBITMQ_PASSWORD=0123abcd\nCLUSTER_BIND=0.0.0.0\n")
    known = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    old = settings.load(None, {"PULZAR_BROKER_URL": "amqp://pulzar:0123abcd@rabbitmq:5672/pulzar"})
    assert settings.load(None, {"PULZAR_GENERAL_SECRET": known["PULZAR_SECRET"]}).secret() == old.secret()


@pytest.mark.parametrize("wanted", [3, 20])
def test_one_command_makes_more_nodes(checkout: Path, wanted: int) -> None:
    # When more nodes are wanted
    done = make_nodes(checkout, wanted)
    assert (done.returncode, done.stdout.startswith(f"{wanted} nodes: ops/docker/users && ")) == (0, True)
    # Then the file that compose reads besides is good by itself
    override = checkout / OVERRIDE
    assert validate(override).returncode == 0
    # And its nodes differ from node-2 in name, port and volume, and in nothing else
    second = parsed()["services"]["node-2"]
    more = parsed(override)["services"]
    assert list(more) == [f"node-{number}" for number in range(3, wanted + 1)]
    for number, content in enumerate(more.values(), 3):
        expected = yaml.safe_dump(second, width=1000).replace("31416", str(31414 + number))
        expected = expected.replace("node-2", f"node-{number}").replace("NODE_2_", f"NODE_{number}_")
        assert content == yaml.safe_load(expected)
    assert list(parsed(override)["volumes"]) == list(more)


def test_fewer_nodes_again_leave_no_file_behind(checkout: Path) -> None:
    make_nodes(checkout, 5)
    make_nodes(checkout, 3)
    assert list(parsed(checkout / OVERRIDE)["services"]) == ["node-3"]
    make_nodes(checkout, 2)
    assert not (checkout / OVERRIDE).exists()


def test_a_file_of_the_users_is_never_overwritten(checkout: Path) -> None:
    (checkout / OVERRIDE).write_text("services: {}\n")
    done = make_nodes(checkout, 3)
    assert done.returncode == 1
    assert "compose.override.yaml is yours" in done.stderr
    assert (checkout / OVERRIDE).read_text() == "services: {}\n"


@pytest.mark.parametrize("wanted", ["", "0", "1", "21", "100", "three", "-3"])
def test_a_number_of_nodes_that_is_none_is_refused(checkout: Path, wanted: str) -> None:
    done = make_nodes(checkout, wanted)
    assert done.returncode == 1
    assert "2 to 20" in done.stderr
    assert not (checkout / OVERRIDE).exists()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("read_only: true", "privileged: true", "privileged: how to carry that out is not known"),
        (":31414:31414", ":8080:31414", "ADDRESS:PORT:PORT with equal ports is needed"),
        ("condition: service_healthy", "condition: service_started", "it may depend on rabbitmq as service_healthy"),
        ("stop_grace_period: 30s", "stop_grace_period: soon", "a time like 30s or 2m is needed, not 'soon'"),
        ("  node-2:\n\n", "\n", "the volume node-2 is not among"),
        ("rabbitmq:\n      condition", "broker:\n      condition", "a service waits for 'broker', which is no service"),
        ("rabbitmq:\n      condition", "master:\n      condition", "these services wait for each other: master → "),
    ],
)
def test_a_trial_refuses_what_it_can_not_carry_out(tmp_path: Path, old: str, new: str, reason: str) -> None:
    path = written(tmp_path, lambda text: f"{text}\n".replace(old, new))
    with pytest.raises(Unreadable, match=re.escape(reason)):
        composition.read(path, GIVEN)


def test_the_commands_of_the_docs_name_what_there_is() -> None:
    section = (ROOT / "docs/install.md").read_text().split("\n## Docker compose\n")[1].split("\n## Production\n")[0]
    dockerfile = (ROOT / "ops/docker/Dockerfile").read_text()
    builds = re.findall(r"docker build -f (\S+) --target (\w+)", section)
    assert {target for _, target in builds} == {"master", "node"}
    for path, target in builds:
        assert (ROOT / path).is_file()
        assert f" AS {target}\n" in dockerfile
    assert set(re.findall(r"-p (\d+:\d+)", section)) == {"31414:31414", "31415:31415"}
    assert set(re.findall(r"\bPULZAR_\w+(?==)", section)) <= {
        f"PULZAR_{row.section}_{row.key}".upper() for row in settings.TABLE
    }
    assert set(re.findall(r"\bops/[\w./-]+", section)) >= {"ops/docker/nodes", "ops/manage.py"}
    assert not [path for path in re.findall(r"\bops/[\w./-]*\w", section) if not (ROOT / path).exists()]
    variables = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", section)) - {"PULZAR_"}
    assert variables >= {"CLUSTER_ADDRESS", "CLUSTER_BIND"}
    assert {name for name in variables if not name.startswith("PULZAR_")} <= set(example())


def make_nodes(checkout: Path, wanted: int | str) -> subprocess.CompletedProcess[str]:
    command = [str(checkout / "ops/docker/nodes"), *([str(wanted)] if wanted != "" else [])]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def make_users(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(checkout / "ops/docker/users")], capture_output=True, text=True, timeout=60)


def example() -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
