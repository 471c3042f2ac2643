"""A change to the index in the making: what records of the log mean for entries and figures.

Nothing is visible to others before `Index.commit(changes.commit())`. Which record of a key counts: the
highest version, at equal version the tombstone.
"""

from __future__ import annotations

from broker.messages.store import Kind
from node.storage.index.index import Index, Snapshot
from node.storage.index.rows import EXPIRY, Commit, Entry, Stat, Totals


class IndexUpdate:
    """Collects changes on top of a snapshot, and sees its own."""

    def __init__(self, index: Index, view: Snapshot) -> None:
        self._index = index
        self._view = view
        self._entries: dict[bytes, Entry | None] = {}
        self._files: dict[str, bytes | None] = {}
        self._expiry: dict[bytes, bytes | None] = {}
        self._stats: dict[int, Stat | None] = {}
        self._keys = index.totals.keys
        self._size = index.totals.size
        self.seq = index.totals.seq
        self.epochs: list[tuple[int, str]] | None = None
        self.unlinked: list[str] = []  # value files that no key has any more once this is committed

    def commit(self) -> Commit:
        """What to commit."""
        totals = Totals(self.seq, self._keys, self._size)
        return Commit(self._entries, self._files, self._expiry, self._stats, totals, self.epochs)

    def entry(self, key: bytes) -> Entry | None:
        """The entry of a key as it will be."""
        try:
            return self._entries[key]
        except KeyError:
            return self._view.entry(key)

    def stat(self, number: int) -> Stat:
        """The figures of a segment, to be changed."""
        stat = self._stats.get(number)
        if stat is None:
            stat = self._stats[number] = self._index.stats[number].copy()
        return stat

    def set_stat(self, number: int, stat: Stat | None) -> None:
        """A segment is new, or gone."""
        self._stats[number] = stat

    def extend(self, number: int, size: int, seq: int) -> None:
        """The segment is `size` bytes long now, its newest record has `seq`."""
        stat = self.stat(number)
        stat.size = size
        stat.last = max(stat.last, seq)
        self.seq = max(self.seq, seq)

    def add(self, key: bytes, entry: Entry, created: int) -> bool:
        """A record of a key; whether it is now the newest of its key. Counts the superseded one as dead."""
        old = self.entry(key)
        if old is not None and not _beats(entry, old):
            if entry.kind == Kind.PUT:
                self.stat(entry.segment).dead += entry.length
            return False
        if old is not None:
            self._retire(old)
            if old.kind == Kind.PUT:
                self.stat(old.segment).dead += old.length
        self.place(key, entry, created)
        return True

    def place(self, key: bytes, entry: Entry, created: int) -> None:
        """Make this the entry of its key, which has none in the figures."""
        self.move(key, entry, created)
        if entry.kind == Kind.PUT and not entry.expired:
            self._keys += 1
            self._size += entry.size
            if entry.expires:
                self._expiry[EXPIRY.pack(entry.expires, entry.seq)] = key
            if entry.token:
                self._files[entry.token] = key

    def lift(self, key: bytes, entry: Entry) -> None:
        """Take an entry out of the figures, without counting its record as anything else."""
        self._retire(entry)
        self._entries[key] = None

    def expire(self, key: bytes, entry: Entry) -> None:
        """The value's lifetime has ended: it is garbage, but its record still hides older ones."""
        self.lift(key, entry)
        self.place(key, entry._replace(expired=True, token=""), 0)

    def move(self, key: bytes, entry: Entry, created: int) -> None:
        """The same record is elsewhere in a segment whose figures begin anew."""
        self._entries[key] = entry
        stat = self.stat(entry.segment)
        if entry.kind == Kind.DELETE:
            stat.tombs += entry.length
            stat.newest_tomb = max(stat.newest_tomb, created)
        elif entry.expired:
            stat.expired += entry.length
        else:
            stat.live += entry.length

    def forget(self, key: bytes) -> None:
        """The record of this entry is gone with the segment's old figures."""
        self._entries[key] = None

    def revert(self, key: bytes, entry: Entry) -> None:
        """An older record is the one that counts, since the value of the newer one never arrived here."""
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
                self._expiry[EXPIRY.pack(old.expires, old.seq)] = None
            if old.token:
                self._files[old.token] = None
                self.unlinked.append(old.token)


def _beats(new: Entry, old: Entry) -> bool:
    if new.version != old.version:
        return new.version > old.version
    return new.kind == Kind.DELETE and old.kind == Kind.PUT
