"""Compares what a node has with what the index says of it, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from broker.clock import now_ms
from broker.messages.verification import NodeValue
from master.index.index import Deletion, Entry


class FaultKind(StrEnum):
    """What is wrong with a value."""

    MISSING = "missing"  # the index has it, the node does not
    ORPHANED = "orphaned"  # the node has it, the index does not
    CORRUPT = "corrupt"  # its bytes are not what was written
    DIFFERENT = "different"  # node and index have another size or digest of one version


class Fault(NamedTuple):
    """Something that is wrong with a value."""

    kind: FaultKind
    key: str
    version: int
    reason: str


@dataclass
class IndexSide:
    """What the index says of a range of keys, at one moment."""

    node: str
    seq: int  # up to here the node's log is applied
    entries: dict[str, Entry] = field(default_factory=dict)  # of this node
    elsewhere: dict[str, Entry] = field(default_factory=dict)  # of other nodes, for keys that this node has, too
    deletions: dict[str, Deletion] = field(default_factory=dict)  # of keys that this node has
    discards: dict[str, int] = field(default_factory=dict)  # versions that this node is about to forget


def compare(index: IndexSide, values: Mapping[str, NodeValue]) -> list[Fault]:
    """What is wrong, in key order. Nothing that is on its way, and no value whose lifetime has ended, is a fault."""
    faults = []
    now = now_ms()
    for key in sorted(index.entries.keys() | values.keys()):
        entry, value = index.entries.get(key), values.get(key)
        if (entry and not entry.live(now)) or (value and 0 < value.expires <= now):
            continue
        if value is None:
            assert entry is not None
            faults.append(Fault(FaultKind.MISSING, key, entry.version, "the node does not have this key"))
        elif entry is None:
            fault = _unknown(index, key, value)
        else:
            fault = _both(index, entry, value)
        if value is not None and fault is not None:
            faults.append(fault)
    return faults


def _both(index: IndexSide, entry: Entry, value: NodeValue) -> Fault | None:
    key = value.key
    if entry.version > value.version:
        return Fault(FaultKind.MISSING, key, entry.version, f"the node has version {value.version} of it, an older one")
    if entry.version < value.version:
        if value.seq > index.seq:
            return None  # the master has not applied it yet
        return Fault(FaultKind.ORPHANED, key, value.version, f"the index has version {entry.version}, an older one")
    if value.fault:
        return Fault(FaultKind.CORRUPT, key, value.version, value.fault)
    if entry.size != value.size:
        reason = f"{value.size:,} bytes on the node, {entry.size:,} in the index"
        return Fault(FaultKind.DIFFERENT, key, value.version, reason)
    if value.digest and value.digest != entry.digest.hex():
        reason = f"SHA-256 {value.digest} on the node, {entry.digest.hex()} in the index"
        return Fault(FaultKind.DIFFERENT, key, value.version, reason)
    return None


def _unknown(index: IndexSide, key: str, value: NodeValue) -> Fault | None:
    """The fault of a value that the node has, and the index has not on this node."""
    if value.seq > index.seq or index.discards.get(key, 0) >= value.version:
        return None
    other, deletion = index.elsewhere.get(key), index.deletions.get(key)
    reason = "the index does not know this key"
    if deletion is not None and deletion.version >= value.version:
        reason = "this key was deleted"
    elif other is not None:
        reason = f"the index has version {other.version} of it on node {', '.join(other.nodes)}"
    return Fault(FaultKind.ORPHANED, key, value.version, reason)
