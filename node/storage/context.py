"""What the parts of the storage share, and the figures that bound them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import NamedTuple

from broker.clock import DAY_MS, DAY_SECS
from broker.settings import Settings
from node.storage.disk.layout import Layout
from node.storage.disk.space import Space
from node.storage.index.index import Index
from node.storage.log.segments import Active


class StorageLimits(NamedTuple):
    """The settings that the storage follows; sizes in bytes."""

    small: int  # values up to this live in the log
    cached: int  # values up to this are echoed in results
    segment: int  # a segment is sealed at this size
    reserve: int  # must stay free on the disk
    compact_rate: int  # per second
    tombstone_ms: int  # how long deletions are remembered
    scrub_secs: float  # how long a scrub takes, 0: as fast as it can

    @classmethod
    def of(cls, config: Settings) -> StorageLimits:
        """The limits that the settings say."""
        return cls(
            small=config.volume.small,
            cached=config.server.cached,
            segment=config.volume.segment,
            reserve=config.volume.reserve,
            compact_rate=config.volume.compact_rate,
            tombstone_ms=config.general.tombstone_days * DAY_MS,
            scrub_secs=config.volume.scrub_days * DAY_SECS,
        )


@dataclass
class StorageContext:
    """The storage's parts. Whoever changes the log or the index holds `lock`."""

    places: Layout
    limits: StorageLimits
    index: Index
    active: Active
    space: Space
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)
    broken: bool = False  # the files are not what the index says, until the next start
    rotten: set[str] = field(default_factory=set)  # segments (and their uid) that compaction leaves alone
