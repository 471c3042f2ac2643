"""A change to the index: what records of the log mean for entries and figures.

Others see nothing of it before `Index.commit`. Of the records of a key, the highest version counts. At equal versions
the tombstone counts.
"""

from __future__ import annotations

from broker.messages.store import Epoch, Kind
from node.storage.index.rows import EXPIRY, Entry, Stat, Totals
from node.storage.index.snapshot import Snapshot


class IndexUpdate:
    """Changes on top of a snapshot. In the dictionaries, None removes."""

    def __init__(self, view: Snapshot) -> None:
        self.view = view
        self._keys, self._size = view.totals.keys, view.totals.size
        self.seq = view.totals.seq
        self.entries: dict[bytes, Entry | None] = {}
        self.files: dict[bytes, bytes | None] = {}
        self.expiry: dict[bytes, bytes | None] = {}
        self.stats: dict[int, Stat | None] = {}
        self.epochs: list[Epoch] | None = None  # None: as they were
        self.unlinked: list[str] = []  # value files that no key has after the commit

    @property
    def totals(self) -> Totals:
        """The figures of the node after the commit."""
        return Totals(self.seq, self._keys, self._size)

    def entry(self, key: bytes) -> Entry | None:
        """The entry of a key after the commit."""
        try:
            return self.entries[key]
        except KeyError:
            return self.view.entry(key)

    def stat(self, number: int) -> Stat:
        """The figures of a segment after the commit; the caller may change them."""
        stat = self.stats.get(number)
        if stat is None:
            stat = self.stats[number] = self.view.stats[number].copy()
        return stat

    def extend(self, number: int, size: int, seq: int) -> None:
        """Note that the segment is `size` bytes long now, and `seq` its newest record, 0 for none."""
        stat = self.stat(number)
        stat.size = size
        stat.last = max(stat.last, seq)
        self.seq = max(self.seq, seq)

    def add(self, key: bytes, entry: Entry, created: int) -> None:
        """Take in a record of a key, written at `created` (ms since the epoch). Counts a superseded one as dead."""
        old = self.entry(key)
        if old is not None and not _beats(entry, old):
            if entry.kind == Kind.PUT:
                self.stat(entry.segment).dead += entry.length
            return
        if old is not None:
            self._retire(old)
            if old.kind == Kind.PUT:
                self.stat(old.segment).dead += old.length
        self.place(key, entry, created)

    def place(self, key: bytes, entry: Entry, created: int) -> None:
        """Make this the entry of its key. The figures must not count another one."""
        self.move(key, entry, created)
        if entry.kind == Kind.PUT and not entry.expired:
            self._keys += 1
            self._size += entry.size
            if entry.expires:
                self.expiry[EXPIRY.pack(entry.expires, entry.seq)] = key
            if entry.token:
                self.files[bytes.fromhex(entry.token)] = key

    def lift(self, key: bytes, entry: Entry) -> None:
        """Take an entry out of index and figures. Its record counts as nothing after that."""
        self._retire(entry)
        self.entries[key] = None

    def expire(self, key: bytes, entry: Entry) -> None:
        """Count a value as garbage, since its lifetime has ended. Its record still hides older ones."""
        self.lift(key, entry)
        self.place(key, entry._replace(expired=True, token=""), 0)

    def move(self, key: bytes, entry: Entry, created: int) -> None:
        """Note the new place of a record in a segment whose figures begin anew."""
        self.entries[key] = entry
        stat = self.stat(entry.segment)
        if entry.kind == Kind.DELETE:
            stat.tombs += entry.length
            stat.newest_tomb = max(stat.newest_tomb, created)
        elif entry.expired:
            stat.expired += entry.length
        else:
            stat.live += entry.length

    def revert(self, key: bytes, entry: Entry) -> None:
        """Make an older record count again, since the value file of the newer one is not here."""
        newer = self.entry(key)
        if newer is not None:
            self.lift(key, newer)
            self.stat(newer.segment).dead += newer.length
        self.stat(entry.segment).dead -= entry.length
        self.place(key, entry, 0)

    def _retire(self, old: Entry) -> None:
        stat = self.stat(old.segment)
        if old.kind == Kind.DELETE:
            stat.tombs -= old.length
        elif old.expired:
            stat.expired -= old.length
        else:
            stat.live -= old.length
            self._keys -= 1
            self._size -= old.size
            if old.expires:
                self.expiry[EXPIRY.pack(old.expires, old.seq)] = None
            if old.token:
                self.files[bytes.fromhex(old.token)] = None
                self.unlinked.append(old.token)


def _beats(new: Entry, old: Entry) -> bool:
    if new.version != old.version:
        return new.version > old.version
    return new.kind == Kind.DELETE and old.kind == Kind.PUT
