"""A node's heartbeat: its name, its address, its load, and the end of its log."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from broker import VERSION, logs, topology
from broker.clock import now_ms
from broker.errors import LinkDown, Unsendable
from broker.link import Link
from broker.messages.codec import encode
from broker.messages.runs import NodeCatalog
from broker.messages.store import Heartbeat
from broker.settings import Settings
from broker.tls.certificates import CertificateEnd
from node.errors import StorageError
from node.jobs.service import Jobs
from node.storage.storage import Storage

log = logs.get(__name__)

CATALOG_SECS = 2.0  # between two looks at the scripts


class DiskRoom(NamedTuple):
    """Bytes of a filesystem, without those reserved for root, as in df's percentage: nobody can use them."""

    total: int
    free: int


def disk_room(directory: Path) -> DiskRoom:
    """The room on a directory's filesystem. Raises `OSError`."""
    disk = psutil.disk_usage(str(directory))
    return DiskRoom(disk.used + disk.free, disk.free)


class Heartbeats:
    """A thread that sends heartbeats, and the catalog of scripts when it has changed."""

    def __init__(self, config: Settings, node: str, storage: Storage, jobs: Jobs, link: Link) -> None:
        self._node = node
        self._storage = storage
        self._jobs = jobs
        self._link = link
        self._url = config.url(config.volume)
        self._zone = config.volume.zone
        self._directory = Path(config.volume.dir)
        self._secs = config.general.heartbeat
        self._certificate = CertificateEnd(config.volume.cert)
        self._soon = threading.Event()
        self._stopping = threading.Event()
        self._catalog_asked = True
        self._catalog_at = 0.0  # when to look at the scripts
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the heartbeat that it is sending."""
        self._stopping.set()
        self._soon.set()

    def send_soon(self) -> None:
        """Send a heartbeat now; any thread may call this."""
        self._soon.set()

    def send_catalog(self) -> None:
        """Send the catalog and a heartbeat now; any thread may call this."""
        self._catalog_asked = True
        self._soon.set()

    def measure(self) -> Heartbeat:
        """The heartbeat of this moment. Raises `OSError`, `StorageError`."""
        room = disk_room(self._directory)
        storage, jobs = self._storage, self._jobs
        return Heartbeat(
            node=self._node,
            url=self._url,
            at=now_ms(),
            version=VERSION,
            epoch=storage.epoch.id,
            epoch_seq=storage.epoch.seq,
            seq=storage.seq,
            disk_total=room.total,
            disk_free=room.free,
            full=storage.full(),
            load=psutil.getloadavg()[0] / (os.cpu_count() or 1),
            memory=psutil.virtual_memory().percent,
            keys=storage.totals.keys,
            slots=jobs.slots,
            running=jobs.running(),
            catalog=jobs.catalog.digest,
            held_keys=storage.totals.held_keys,
            held_bytes=storage.totals.held_size,
            cert_until=int(self._certificate.until()),
            fence=jobs.fence,
            zone=self._zone,
            damaged=len(storage.damages),
            healed=storage.damages.healed,
        )

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._soon.clear()
            try:
                self._look_at_scripts()
                # A heartbeat that waits for too long would make a node that is gone look alive.
                ttl_ms = int(1500 * self._secs)
                self._link.publish(topology.HEARTBEATS, encode(self.measure()), ttl_ms=ttl_ms)
            except LinkDown as error:
                log.debug("no heartbeat", reason=error)
            except Unsendable as error:
                log.error("a heartbeat or catalog can't be sent", reason=error)
            except (OSError, StorageError) as error:
                log.error("the data directory can't be looked at", error=error)
            if not self._stopping.is_set():
                self._soon.wait(self._secs)

    def _look_at_scripts(self) -> None:
        """Scan the scripts every `CATALOG_SECS`; send the catalog when it has changed, or somebody has asked for it."""
        catalog = self._jobs.catalog
        if time.monotonic() >= self._catalog_at:
            self._catalog_asked |= catalog.scan()
            self._catalog_at = time.monotonic() + CATALOG_SECS
        if self._catalog_asked and self._link.ready:
            self._catalog_asked = False
            self._link.publish(topology.HEARTBEATS, encode(NodeCatalog(self._node, catalog.digest, catalog.rows)))
