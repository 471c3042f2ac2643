"""Quotas of folders: the most bytes that lie beneath them.

What lies beneath a folder is a row of the index. A request that stores something reserves its bytes from the look at
that row until its outcome is known. So the requests of one web worker never go beyond a quota together. Web workers
don't know of each other's reservations: each may go beyond by what the others have under way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

from broker.refusals import NoRoom
from master.index.folders import folder_of, upwards
from master.index.index import Index, Tables

_NO_LIMITS = nullcontext()


class _Reservation(NamedTuple):
    """A value on its way to the index."""

    key: bytes
    version: int  # of the entry that it replaces; 0: none
    size: int  # bytes

    def pending(self, tables: Tables) -> int:
        """The bytes that it will add to those in the index; 0 when it is there already."""
        entry = tables.entry(self.key)
        if entry is None:
            return self.size
        return max(0, self.size - entry.size) if entry.version <= self.version else 0


class Quotas:
    """The quotas that one web worker watches over, on its event loop."""

    def __init__(self, index: Index, limits: Mapping[str, int]) -> None:
        """`limits` has the bytes of each folder, by its name with the slash at its end; "" is the whole store."""
        self._index = index
        self._limits = limits
        self._reserved: dict[str, dict[int, _Reservation]] = {folder: {} for folder in limits}
        self._count = 0

    def check(self, key: bytes, size: int | None) -> None:
        """Raises `NoRoom` when a value of `size` bytes would go beyond a quota; None: whether there is any room."""
        if self._limits:
            self._admit(key, size)

    def reserve(self, key: bytes, size: int, source: bytes | None = None) -> AbstractContextManager[None]:
        """Check a value that is stored in the block, and keep its bytes for it meanwhile; raises `NoRoom`.

        A value that is moved from the key `source` adds nothing to the folders that hold both.
        To be called with the key's lock held.
        """
        return self._reserve(key, size, source) if self._limits else _NO_LIMITS

    @contextmanager
    def _reserve(self, key: bytes, size: int, source: bytes | None) -> Iterator[None]:
        reservation, folders = self._admit(key, size, source)
        self._count += 1
        number = self._count
        for folder in folders:
            self._reserved[folder][number] = reservation
        try:
            yield
        finally:
            for folder in folders:
                del self._reserved[folder][number]

    def _admit(self, key: bytes, size: int | None, source: bytes | None = None) -> tuple[_Reservation, list[str]]:
        """What a value would reserve, and in which folders; raises `NoRoom` when it is too much."""
        left = set() if source is None else set(upwards(folder_of(source)))
        around = (folder.decode() for folder in upwards(folder_of(key)) if folder not in left)
        folders = [folder for folder in around if folder in self._limits]
        with self._index.read() as tables:
            # Also an entry whose lifetime has ended: it counts until it is removed.
            old = tables.entry(key)
            added = (size or 0) - (old.size if old else 0)
            for folder in folders:
                used, limit = tables.usage(folder).size, self._limits[folder]
                pending = sum(each.pending(tables) for each in self._reserved[folder].values())
                beyond = added > 0 and used + pending + added > limit
                if beyond or (size is None and used + pending >= limit):
                    raise NoRoom(_message(folder, used, pending, limit=limit, size=size, added=added))
        return _Reservation(key, old.version if old else 0, size or 0), folders


def _message(folder: str, used: int, pending: int, *, limit: int, size: int | None, added: int) -> str:
    where = f"the folder {folder}" if folder else "the whole store"
    under_way = f", and {pending:,} more are being stored" if pending else ""
    if size is None:
        return f"{where} holds {used:,} bytes{under_way}; its quota is {limit:,}, so there is no room for more"
    replaced = f", {added:,} more than the value it replaces" if added != size else ""
    return f"{where} holds {used:,} bytes{under_way}; its quota is {limit:,}, and a value has {size:,} bytes{replaced}"
