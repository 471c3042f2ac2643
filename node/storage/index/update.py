"""A change to the index: what records of the log mean for entries and figures.

Others see nothing of it before `Index.commit`. Of the records of a key, the highest version counts. At equal versions
the tombstone counts, and above all one that purges. Of two values of one version the later record counts: a good copy
has taken the place of a damaged one. A value may be dropped on this node, and stored once more under the same version:
of these records the newest counts, and the others are not held.

A record that is superseded is held for a while. Held records depend on nothing but the log, so that an index built
from it has the same. The time at which a record was superseded never falls from version to version, whatever the
clocks said. So of the records of a key the older ones go first, and those that stay tell the times of all that stay.
"""

from __future__ import annotations

import secrets

from broker.clock import now_ms
from broker.messages.store import Epoch, Kind
from node.storage.index.rows import (
    END,
    EXPIRY,
    VERSION,
    Ends,
    Entry,
    FileOwner,
    Held,
    Place,
    Stat,
    Totals,
    held_prefix,
    held_row,
    pack_names,
)
from node.storage.index.snapshot import Snapshot

_TOGETHER = 100  # records that end together, nearly
_TOGETHER_MS = 60_000  # from the first end to the last


class IndexUpdate:
    """Changes on top of a snapshot. In the dictionaries, None removes."""

    def __init__(self, view: Snapshot) -> None:
        self.view = view
        self.seq, self._keys, self._size, self._held_keys, self._held_size = view.totals
        self._undelete_ms = view.undelete_ms
        self._now = now_ms()
        self.entries: dict[bytes, Entry | None] = {}
        self.files: dict[bytes, bytes | None] = {}
        self.expiry: dict[bytes, bytes | None] = {}
        self._held: dict[bytes, Held | None] = {}  # by row
        self._held_of: set[bytes] = set()  # keys with rows in `_held`
        self._ends: dict[bytes, bytes | None] = {}
        # When records end and their rows: of values and of marks.
        self._new_ends: tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]] = ([], [])
        self._packed: dict[bytes, bytes] = {}  # rows of `_held` that are packed already
        # What `entry` has read last, since it is asked for twice.
        self._read: tuple[bytes, Entry | None, bytes | None] = (b"", None, None)
        self.stats: dict[int, Stat | None] = {}
        self.epochs: list[Epoch] | None = None  # None: as they were
        self.unlinked: list[str] = []  # value files that no key has after the commit

    @property
    def totals(self) -> Totals:
        """The figures of the node after the commit."""
        return Totals(self.seq, self._keys, self._size, self._held_keys, self._held_size)

    def entry(self, key: bytes) -> Entry | None:
        """The entry of a key after the commit."""
        try:
            return self.entries[key]
        except KeyError:
            if self._read[0] != key:
                raw = self.view.raw(key)
                self._read = (key, None if raw is None else Entry.unpack(raw), raw)
            return self._read[1]

    def find(self, key: bytes, version: int) -> Entry | None:
        """The entry of a version of a key after the commit, which may be held; None when it is no value."""
        entry = self.entry(key)
        if entry is None or entry.kind != Kind.PUT or entry.version != version:
            row = self.held(key, Place(version, int(Kind.PUT)))
            entry = row.entry if row else None
        return None if entry is None or entry.expired else entry

    def held(self, key: bytes, place: Place) -> Held | None:
        """A held record of a key after the commit."""
        return self.held_in(held_row(held_prefix(key), place))

    def held_in(self, name: bytes) -> Held | None:
        """The held record in a row after the commit."""
        try:
            return self._held[name]
        except KeyError:
            return self.view.held(name)

    def held_rows(self) -> dict[bytes, bytes | None]:
        """What changes in the database `held`."""
        packed = self._packed.get
        return {name: None if row is None else packed(name) or row.pack() for name, row in self._held.items()}

    def ends(self) -> dict[bytes, bytes | None]:
        """What changes in the database `ends`."""
        for mark, ends in enumerate(self._new_ends):
            ends.sort()
            start = 0
            while start < len(ends):
                first = ends[start][0]
                some = [name for until, name in ends[start : start + _TOGETHER] if until < first + _TOGETHER_MS]
                self._ends[_end_row(bool(mark), first)] = pack_names(some)
                start += len(some)
            ends.clear()
        return self._ends

    def end_names(self, ends: Ends, left: list[bytes]) -> None:
        """Note that of the records that end together only these are left."""
        self._ends[ends.row] = pack_names(left) if left else None

    def end_later(self, row: Held, name: bytes) -> None:
        """Note the end of a held record once more."""
        self._note_end(row, name)

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
        """Take in a record of a key, written at `created` (ms since the epoch). Holds a superseded one."""
        old = self.entry(key)
        if old is not None:
            if not _beats(entry, old):
                if entry.kind == Kind.PUT:
                    self.stat(entry.segment).dead += entry.length
                return
            self._retire(old)
            if entry.purges:
                self._purge(key)
                self._drop(old)
            else:
                if entry.since < old.since:
                    entry = entry._replace(since=old.since)
                if old.version == entry.version and (entry.drops or old.drops or entry.kind == Kind.PUT):
                    self._drop(old)  # it is no older value
                else:
                    self._supersede(key, old, entry.since)
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
                self.files[bytes.fromhex(entry.token)] = FileOwner(key, entry.version).pack()

    def lift(self, key: bytes, entry: Entry) -> None:
        """Take an entry out of index and figures, with its file. Its record counts as nothing after that."""
        self._retire(entry)
        self._unlink(entry)
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
        row = self.held(key, Place(entry.version, entry.kind))
        if row is None:
            self.stat(entry.segment).dead -= entry.length
        else:
            self._release(key, row)
        self.place(key, entry, 0)

    def _retire(self, old: Entry) -> None:
        """Take an entry out of the figures of what counts."""
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

    def _drop(self, entry: Entry) -> None:
        """Count a record as dead that is neither its key's newest nor held."""
        if entry.kind == Kind.PUT:
            self.stat(entry.segment).dead += entry.length
        self._unlink(entry)

    def _unlink(self, entry: Entry) -> None:
        if entry.token:
            self.files[bytes.fromhex(entry.token)] = None
            self.unlinked.append(entry.token)

    # Held records.

    def end(self, key: bytes, row: Held, now: int) -> None:
        """End what has come to its end at `now`: a record is held no longer, or a value's lifetime is over."""
        if row.is_value and row.deleted + self._undelete_ms > now:
            self.spoil(key, row)
        else:
            self.let_go(key, row)

    def let_go(self, key: bytes, row: Held) -> None:
        """Hold a record no longer."""
        self._release(key, row)
        self._drop(row.entry)

    def spoil(self, key: bytes, row: Held) -> None:
        """Make a mark of a held value that can't be brought back."""
        self._release(key, row)
        self._unlink(row.entry)
        self._hold(key, row._replace(entry=row.entry._replace(expired=True, token="")))

    def move_held(self, key: bytes, row: Held, entry: Entry) -> None:
        """Note the new place of a held record in a segment whose figures begin anew; it may be a tombstone now."""
        moved = row._replace(entry=entry)
        prefix = held_prefix(key)
        name = held_row(prefix, moved.place)
        if moved.place != row.place:
            self._held[held_row(prefix, row.place)] = None
            self._note_end(moved, name)
        self._held[name] = moved
        self._packed.pop(name, None)
        self._held_of.add(key)
        self.stat(entry.segment).held += moved.log_bytes(key)

    def _supersede(self, key: bytes, old: Entry, deleted: int) -> None:
        until = deleted + self._undelete_ms
        if until <= self._now or not self._undelete_ms:
            self._drop(old)
            return
        if old.kind == Kind.PUT and not old.expires and not old.expired:  # of nearly all: thousands a second
            name = held_prefix(key) + VERSION.pack(old.version, 1)
            row = self._held[name] = Held(deleted, old)
            read, entry, raw = self._read
            if raw is not None and entry is old and read == key:
                self._packed[name] = row.pack(raw)
            self._held_of.add(key)
            self._held_keys += 1
            self._held_size += old.size
            self.stat(old.segment).held += old.length
            self._new_ends[False].append((until, name))
            return
        if 0 < old.expires <= self._now and not old.expired:
            self._unlink(old)
            old = old._replace(expired=True, token="")
        self._hold(key, Held(deleted, old))

    def _hold(self, key: bytes, row: Held) -> None:
        entry = row.entry
        if row.is_value:
            self._held_keys += 1
            self._held_size += entry.size
        self.stat(entry.segment).held += row.log_bytes(key)
        name = held_row(held_prefix(key), entry.place)
        self._held[name] = row
        self._packed.pop(name, None)
        self._held_of.add(key)
        self._note_end(row, name)

    def _note_end(self, row: Held, name: bytes) -> None:
        until = row.deleted + self._undelete_ms
        entry = row.entry
        if not row.is_value:
            self._new_ends[True].append((until, name))
        elif 0 < entry.expires < until:
            self._ends[_end_row(False, entry.expires)] = pack_names([name])
        else:
            self._new_ends[False].append((until, name))

    def _release(self, key: bytes, row: Held) -> None:
        """Take a held record out of index and figures. Its end is not looked for: nothing will end then."""
        self.stat(row.entry.segment).held -= row.log_bytes(key)
        if row.is_value:
            self._held_keys -= 1
            self._held_size -= row.entry.size
        self._held[held_row(held_prefix(key), row.place)] = None
        self._held_of.add(key)

    def _purge(self, key: bytes) -> None:
        """Let go of all held records of a key."""
        prefix = held_prefix(key)
        rows: dict[bytes, Held | None] = {held_row(prefix, row.place): row for row in self.view.held_of(key)}
        if key in self._held_of:
            rows |= {name: row for name, row in self._held.items() if name.startswith(prefix)}
        for row in rows.values():
            if row is not None:
                self.let_go(key, row)


def _end_row(mark: bool, until: int) -> bytes:
    return END.pack(mark, until, secrets.randbits(64))


def _beats(new: Entry, old: Entry) -> bool:
    if new.version != old.version:
        return new.version > old.version
    if new.drops:
        return old.kind == Kind.PUT
    if old.drops:
        return True
    if new.kind != old.kind:
        return new.kind == Kind.DELETE
    if new.kind == Kind.PUT:
        return new.seq > old.seq
    return new.purges and not old.purges
