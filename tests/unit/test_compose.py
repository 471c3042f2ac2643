"""compose.yaml: by the specification, safe from outside, one with settings, Dockerfile and docs; and more nodes from it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker import settings
from broker.rights import rights
from broker.server.web_server import STOP_SECS
from ops.images import composition
from ops.images.composition import Composition, Service
from ops.images.errors import Unreadable
from tests.support import ROOT

FILE = ROOT / "compose.yaml"
CONFIGURATION = ROOT / "ops/docker/rabbitmq.conf"
GIVEN = {"RABBITMQ_PASSWORD": "0123abcd"}
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
    shutil.copy(ROOT / "ops/docker/nodes", tmp_path / "ops/docker")
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
    with pytest.raises(Unreadable, match=r"RABBITMQ_PASSWORD is missing: copy \.env\.example"):
        composition.read(FILE, {})
    # And the example gives none
    assert example()["RABBITMQ_PASSWORD"] == ""
    # And it is nowhere in the files
    assert not re.search("pass", re.sub(r"#.*", "", CONFIGURATION.read_text()))


def test_the_example_has_every_variable_with_its_default() -> None:
    used = dict(re.findall(r"\$\{(\w+)(?::-([^}]*))?[^}]*\}", FILE.read_text()))
    assert used == example()


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
        assert known.broker.url == "amqp://pulzar:0123abcd@rabbitmq:5672/pulzar"


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
                assert (ROOT / source).exists(), source
                assert options == "ro"
                folders = [service.environment.get(f"PULZAR_{name}_DIR") for name in ("JOBS", "EXTENSIONS")]
                assert path in (*folders, "/etc/rabbitmq/conf.d/30-pulzar.conf")
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


def test_the_user_of_rabbitmq_has_the_rights_that_are_needed() -> None:
    said = dict(re.findall(r"^([\w.]+) = (.*)$", CONFIGURATION.read_text(), re.MULTILINE))

    def names(pattern: str) -> set[str]:
        return set(pattern.removeprefix("^(").removesuffix(")$").split("|"))

    wanted = rights()
    assert said["default_permissions.configure"] == wanted.configure
    both = names(wanted.write) | names(wanted.read)
    assert names(said["default_permissions.write"]) == names(said["default_permissions.read"]) == both
    assert said["default_user_tags.administrator"] == "false"
    # And it is the user, and the virtual host, of the URL
    assert (said["default_user"], said["default_vhost"]) == ("pulzar", "pulzar")


@pytest.mark.parametrize("wanted", [3, 20])
def test_one_command_makes_more_nodes(checkout: Path, wanted: int) -> None:
    # When more nodes are wanted
    done = make_nodes(checkout, wanted)
    assert (done.returncode, done.stdout) == (0, f"{wanted} nodes: docker compose up -d --remove-orphans\n")
    # Then the file that compose reads besides is good by itself
    override = checkout / OVERRIDE
    assert validate(override).returncode == 0
    # And its nodes differ from node-2 in name, port and volume, and in nothing else
    second = parsed()["services"]["node-2"]
    more = parsed(override)["services"]
    assert list(more) == [f"node-{number}" for number in range(3, wanted + 1)]
    for number, content in enumerate(more.values(), 3):
        expected = yaml.safe_dump(second).replace("node-2", f"node-{number}").replace("31416", str(31414 + number))
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


def example() -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
