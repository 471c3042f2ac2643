"""Heartbeats: what they say of a node's disk, when they are sent, and the catalog beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from broker import settings, topology
from broker.messages.runs import NodeCatalog
from broker.messages.store import Heartbeat
from node import heartbeat
from node.errors import StorageError
from node.heartbeat import Heartbeats
from node.storage.storage import Storage
from tests.support import wait_for
from tests.unit.node_link import NodeLink
from tests.unit.volume import Volume


def test_what_is_reserved_for_root_is_neither_used_nor_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Of 1,000 blocks 220 are used; users may have 280 of the other 780, root all of them.
    figures = SimpleNamespace(f_frsize=4096, f_blocks=1_000, f_bfree=780, f_bavail=280)
    monkeypatch.setattr(os, "statvfs", lambda _: figures)
    total, free = heartbeat.disk_room(tmp_path)
    assert (total, free) == (500 * 4096, 280 * 4096)
    assert 100 * (total - free) / total == psutil.disk_usage(str(tmp_path)).percent == 44.0


def test_the_room_of_a_real_directory_is_what_a_user_has(tmp_path: Path) -> None:
    total, free = heartbeat.disk_room(tmp_path)
    usage = os.statvfs(tmp_path)
    assert 0 < free <= total <= usage.f_blocks * usage.f_frsize
    assert free == pytest.approx(usage.f_bavail * usage.f_frsize, rel=0.02)


class FakeCatalog:
    """A catalog that has changed when a test says so."""

    digest = "d1"
    rows: tuple[dict[str, str], ...] = ()
    changed = False

    def scan(self) -> bool:
        changed, self.changed = self.changed, False
        return changed


class Beating:
    """A node that sends heartbeats once a minute, unless asked."""

    def __init__(self, volume: Volume, storage: Storage) -> None:
        self.link = NodeLink()
        self.storage = storage
        self.catalog = FakeCatalog()
        jobs = SimpleNamespace(slots=3, running=lambda: [("r" * 32, 5, 1)], fence="files", catalog=self.catalog)
        config = settings.load(None, volume.environ | {"PULZAR_GENERAL_HEARTBEAT": "60"})
        self.heartbeats = Heartbeats(config, "n1", storage, jobs, self.link)  # type: ignore[arg-type]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Beating]:
    monkeypatch.setattr(heartbeat, "CATALOG_SECS", 0)
    volume = Volume(tmp_path / "data")
    storage = volume.open()
    node = Beating(volume, storage)
    yield node
    node.heartbeats.stop()
    storage.close()


def test_a_node_sends_its_catalog_and_then_a_heartbeat_that_expires(node: Beating) -> None:
    node.heartbeats.start()
    catalog, beat = node.link.wait_sent(2)
    assert isinstance(catalog, NodeCatalog)
    assert isinstance(beat, Heartbeat)
    assert (beat.epoch, beat.epoch_seq) == (node.storage.epoch.id, node.storage.epoch.seq)
    assert (beat.slots, [*map(tuple, beat.running)], beat.catalog) == (3, [("r" * 32, 5, 1)], "d1")
    assert node.link.options[1]["ttl_ms"] == 90_000
    assert {queue for queue, _ in node.link.sent} == {topology.HEARTBEATS}


def test_the_catalog_is_sent_again_when_it_has_changed_or_somebody_asks(node: Beating) -> None:
    node.heartbeats.start()
    node.link.wait_sent(2)
    node.heartbeats.send_soon()
    assert isinstance(node.link.wait_sent(3)[2], Heartbeat)
    node.catalog.changed = True
    node.heartbeats.send_soon()
    assert isinstance(node.link.wait_sent(5)[3], NodeCatalog)
    node.heartbeats.send_catalog()
    assert isinstance(node.link.wait_sent(7)[5], NodeCatalog)


def test_heartbeats_go_on_after_a_lost_connection_and_a_disk_that_fails(
    node: Beating, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> bool:
        raise StorageError("the filesystem can't be asked for its free space: it is a test")

    # Given a node whose disk fails, without a connection
    node.link.ready = False
    with monkeypatch.context() as patch:
        patch.setattr(node.storage, "full", fail)
        node.heartbeats.start()
        wait_for(lambda: "the data directory can't be looked at" in caplog.text, what="the disk to fail")
    # When there is a connection, and the disk works
    node.link.ready = True
    node.heartbeats.send_soon()
    # Then the catalog, which could not be sent before, and a heartbeat are sent
    catalog, beat = node.link.wait_sent(2)
    assert isinstance(catalog, NodeCatalog)
    assert isinstance(beat, Heartbeat)
