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
