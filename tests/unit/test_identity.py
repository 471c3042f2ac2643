"""A node's name, which stays with its data directory."""

from __future__ import annotations

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from broker import settings
from broker.errors import SettingsError
from broker.settings import Settings
from node import identity

ROOT = Path(__file__).parents[2]


def config(directory: Path, name: str = "") -> Settings:
    return settings.load(environ={"PULZAR_VOLUME_DIR": str(directory), "PULZAR_VOLUME_NODE": name})


def test_a_name_is_made_once_from_the_hosts_and_kept(tmp_path: Path) -> None:
    directory = tmp_path / "not" / "there" / "yet"
    name = identity.load(config(directory))
    host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname().partition(".")[0]).strip("-")[:60] or "node"
    assert re.fullmatch(re.escape(host) + "-[0-9a-f]{4}", name)
    assert identity.load(config(directory)) == name
    assert (directory / "node-id").read_text() == name + "\n"
    assert [path.name for path in directory.iterdir()] == ["node-id"]


def test_two_directories_have_two_names(tmp_path: Path) -> None:
    names = {identity.load(config(tmp_path / str(number))) for number in range(8)}
    assert len(names) > 1


def test_a_name_that_was_given_is_kept(tmp_path: Path) -> None:
    assert identity.load(config(tmp_path, "node-1")) == "node-1"
    assert identity.load(config(tmp_path)) == "node-1"
    assert identity.load(config(tmp_path, "node-1")) == "node-1"


def test_another_name_than_the_directorys_is_refused(tmp_path: Path) -> None:
    identity.load(config(tmp_path, "node-1"))
    with pytest.raises(SettingsError, match="belongs to the node 'node-1'"):
        identity.load(config(tmp_path, "node-2"))
    assert identity.load(config(tmp_path)) == "node-1"


@pytest.mark.parametrize("name", ["a b", "a/b", "../x", ".hidden", "-x", "é", "a*", "a#", "k" * 101])
def test_a_name_that_can_not_be_one_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="letters"):
        identity.load(config(tmp_path, name))
    assert not list(tmp_path.iterdir())


def test_the_masters_own_name_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'master', which is the master's own"):
        identity.load(config(tmp_path / "new", "master"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "node-id").write_text("master\n")
    with pytest.raises(SettingsError, match="node-id has the node's name 'master'"):
        identity.load(config(tmp_path))


def with_user(directory: Path, user: str, name: str = "", secret: str = "s") -> Settings:
    """Settings of a node that is this user in RabbitMQ."""
    environ = {"PULZAR_BROKER_URL": f"amqp://{user}:p@h/", "PULZAR_GENERAL_SECRET": secret}
    return settings.load(environ=environ | {"PULZAR_VOLUME_DIR": str(directory), "PULZAR_VOLUME_NODE": name})


def test_a_user_of_its_own_in_rabbitmq_names_a_new_node(tmp_path: Path) -> None:
    assert identity.load(with_user(tmp_path, "pulzar.node.web-1")) == "web-1"
    assert identity.load(with_user(tmp_path, "pulzar.node.web-1", "web-1")) == "web-1"
    # And a user that nodes share does not
    assert identity.load(with_user(tmp_path / "other", "pulzar")) != "pulzar"


@pytest.mark.parametrize(
    ("user", "name", "secret", "said"),
    [
        ("pulzar.node.web-1", "web-2", "s", "has the user of the node web-1, but this is the node web-2"),
        ("pulzar.node.x.jobs", "", "s", "choose another one"),
        ("pulzar.node.a%20b", "", "s", "can't be a node's name"),
        ("pulzar.node.web-1", "", "", "PULZAR_GENERAL_SECRET"),
        ("pulzar.master", "web-1", "s", "has the master's user; this node needs pulzar.node.web-1"),
    ],
)
def test_a_user_that_does_not_fit_is_refused_and_leaves_no_name(
    tmp_path: Path, user: str, name: str, secret: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        identity.load(with_user(tmp_path, user, name, secret))
    assert not list(tmp_path.iterdir())


def test_a_directory_of_another_node_than_the_users_is_refused(tmp_path: Path) -> None:
    identity.load(config(tmp_path, "web-1"))
    with pytest.raises(SettingsError, match="has the user of the node web-2, but this is the node web-1"):
        identity.load(with_user(tmp_path, "pulzar.node.web-2"))


def test_a_damaged_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "node-id").write_bytes(b"\xff\x00\n")
    with pytest.raises(SettingsError, match="has no node's name"):
        identity.load(config(tmp_path))


def test_a_directory_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="can't be used"):
        identity.load(config(tmp_path / "file"))


def test_many_that_start_at_once_agree_on_one_name(tmp_path: Path) -> None:
    for number in range(5):
        directory = tmp_path / str(number)
        with ThreadPoolExecutor(8) as pool:
            names = set(pool.map(lambda _, to=directory: identity.load(config(to)), range(8)))
        assert len(names) == 1
        assert [path.name for path in directory.iterdir()] == ["node-id"]
