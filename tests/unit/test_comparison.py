"""What counts as a fault between a node and the index, and what is only on its way."""

from __future__ import annotations

import pytest

from broker.clock import now_ms
from broker.messages.verification import NodeValue
from master.index.index import Deletion, Entry
from master.web.flask_routes.comparison import FaultKind, IndexSide, compare

DIGEST = b"d" * 32
APPLIED = 100  # seq of the node's log up to which the index has it


def entry(version: int = 5, node: str = "n1", size: int = 3, expires: int = 0, digest: bytes = DIGEST) -> Entry:
    return Entry(version, node, 1, 9, 1, expires, size, "", digest, None)


def value(version: int = 5, seq: int = 9, expires: int = 0, fault: str = "", digest: str = DIGEST.hex()) -> NodeValue:
    return NodeValue("k", version, seq, 3, expires, digest, fault)


def faults(side: IndexSide, *values: NodeValue) -> list[tuple[str, int]]:
    return [(str(fault.kind), fault.version) for fault in compare(side, {found.key: found for found in values})]


def side(known: Entry | None = None, **more: object) -> IndexSide:
    return IndexSide("n1", APPLIED, {"k": known} if known else {}, **more)  # type: ignore[arg-type]


def test_a_value_that_both_have_is_no_fault() -> None:
    assert faults(side(entry()), value()) == []
    assert faults(side(entry()), value(digest="")) == []  # it was not read


@pytest.mark.parametrize(
    ("known", "found", "kind"),
    [
        (entry(), None, FaultKind.MISSING),
        (entry(6), value(), FaultKind.MISSING),
        (None, value(), FaultKind.ORPHANED),
        (entry(4), value(), FaultKind.ORPHANED),
        (entry(), value(fault="a bad block"), FaultKind.CORRUPT),
        (entry(size=4), value(), FaultKind.DIFFERENT),
        (entry(digest=b"e" * 32), value(), FaultKind.DIFFERENT),
    ],
)
def test_what_differs_is_a_fault(known: Entry | None, found: NodeValue | None, kind: FaultKind) -> None:
    version = max(part.version for part in (known, found) if part)
    assert faults(side(known), *([found] if found else [])) == [(str(kind), version)]


def test_what_the_index_has_not_applied_yet_is_no_fault() -> None:
    assert faults(side(), value(seq=APPLIED + 1)) == []
    assert faults(side(entry(4)), value(seq=APPLIED + 1)) == []


def test_a_version_that_the_node_is_about_to_forget_is_no_fault() -> None:
    moved = {"elsewhere": {"k": entry(6, "n2")}}
    assert faults(side(**moved), value()) == [("orphaned", 5)]
    assert faults(side(**moved, discards={"k": 5}), value()) == []
    assert faults(side(**moved, discards={"k": 4}), value()) == [("orphaned", 5)]


def test_the_reason_says_what_the_index_has_instead() -> None:
    def reason(more: IndexSide) -> str:
        return compare(more, {"k": value()})[0].reason

    assert "does not know" in reason(side())
    assert "deleted" in reason(side(deletions={"k": Deletion(5, 1)}))
    assert "does not know" in reason(side(deletions={"k": Deletion(4, 1)}))
    assert "on node n2" in reason(side(elsewhere={"k": entry(6, "n2")}))


def test_a_value_whose_lifetime_has_ended_is_no_fault() -> None:
    past = now_ms() - 1
    assert faults(side(entry(expires=past))) == []
    assert faults(side(), value(expires=past)) == []
    assert faults(side(entry(expires=past + 60_000))) == [("missing", 5)]
