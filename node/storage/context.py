"""The parts of the storage, and the limits that it keeps."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import NamedTuple

from broker.clock import DAY_MS, DAY_SECS
from broker.settings import Settings
from node.storage.digests import Digests
from node.storage.disk.damages import Damages
from node.storage.disk.layout import Layout
from node.storage.disk.removals import Removals
from node.storage.disk.space import Space
from node.storage.index.index import Index
from node.storage.log.segments import ActiveSegment


class StorageLimits(NamedTuple):
    """The settings of the storage; sizes in bytes."""

    small: int  # values up to this live in the log
    cached: int  # values up to this stand in results
    segment: int  # a segment is sealed at this size
    reserve: int  # stays free on the disk
    compact_rate: int  # per second
    tombstone_ms: int  # how long deletions are remembered
    scrub_secs: float  # how long a scrub takes, 0: as fast as it can
    undelete_ms: int  # how long deleted and overwritten values are held

    @classmethod
    def of(cls, config: Settings) -> StorageLimits:
        """The limits in the settings."""
        return cls(
            small=config.volume.small,
            cached=config.server.cached,
            segment=config.volume.segment,
            reserve=config.volume.reserve,
            compact_rate=config.volume.compact_rate,
            tombstone_ms=config.general.tombstone_days * DAY_MS,
            scrub_secs=config.volume.scrub_days * DAY_SECS,
            undelete_ms=int(config.volume.undelete_days * DAY_MS),
        )


@dataclass
class StorageContext:
    """The parts of an open storage. Whoever changes the log or the index holds `lock`.

    Value files are removed by `removals` alone. Whoever exchanges or removes a segment holds `links`, too.
    """

    places: Layout
    limits: StorageLimits
    index: Index
    active: ActiveSegment
    space: Space
    digests: Digests
    removals: Removals = field(default_factory=Removals)
    links: threading.Lock = field(default_factory=threading.Lock)  # held while a snapshot links files, before `lock`
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)
    broken: bool = False  # the files are not what the index says, until the next start
    early_ends: int = 0  # how often records were held no longer for want of room
    owed: int = 0  # bytes of the log that compaction gives back of what was ended early
    damaged: set[bytes] = field(default_factory=set)  # uids of segments that compaction leaves alone
    damages: Damages = field(default_factory=Damages)  # values that can't be read
