"""The backups of a node: its snapshots are those of its storage, and its state goes to the controller."""

from __future__ import annotations

from pathlib import Path

from broker import logs, topology
from broker.backups.worker import BackupWorker
from broker.errors import LinkDown
from broker.link import Link
from broker.messages.backups import BackupState, MakeBackup
from broker.messages.codec import encode
from broker.settings import Settings
from node.storage import snapshots
from node.storage.storage import Storage

log = logs.get(__name__)

_TMP = "tmp"  # of the data directory


class Backups:
    """Carries out the controller's orders. Any thread may call it."""

    def __init__(self, config: Settings, node: str, storage: Storage, link: Link) -> None:
        self._link = link
        directory = Path(config.volume.dir)
        made = _NodeSnapshots(node, storage, directory)
        self._worker = BackupWorker(node, directory, config.backup.verify, made, self._send)

    def start(self) -> None:
        """Start the thread that carries out orders."""
        self._worker.start()

    def stop(self) -> None:
        """End what is being done. The next order continues it."""
        self._worker.stop()

    def take(self, order: MakeBackup) -> None:
        """Carry out an order soon."""
        self._worker.take(order)

    def tell(self) -> None:
        """Tell the controller how it is."""
        self._worker.tell()

    def _send(self, state: BackupState) -> None:
        try:
            # How far it is may be lost. What came of it is sent until RabbitMQ has it.
            self._link.publish(topology.RESULTS, encode(state), durable=not state.busy)
        except LinkDown as error:
            log.debug("state of backups not told", reason=error)


class _NodeSnapshots:
    """See `broker.backups.worker.Snapshots`."""

    def __init__(self, node: str, storage: Storage, directory: Path) -> None:
        self._node = node
        self._storage = storage
        self._tmp = directory / _TMP

    def make(self) -> Path:
        """Make a snapshot of the storage."""
        return self._storage.snapshot(self._node)

    def remove(self, folder: Path) -> None:
        """Remove it."""
        snapshots.remove(folder, self._tmp)
