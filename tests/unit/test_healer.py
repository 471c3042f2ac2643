"""Damaged values of a node: found, asked for, and replaced by a good copy of the same version."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from broker.keys import encode
from broker.messages.store import Damaged, Status
from node.healer import FIRST_SECS, MOST_AWAITED, Healer
from node.storage.disk.damages import DamageReport, DamageReports
from tests.unit.node_link import NodeLink
from tests.unit.volume import Volume, delete, done, figures, store

SMALL, LARGE = b"small" * 100, secrets.token_bytes(300_000)


class Bench:
    """A storage, and what its healer asks for."""

    def __init__(self, directory: Path) -> None:
        self.volume = Volume(directory)
        self.link = NodeLink()
        self.open()

    def open(self) -> None:
        self.storage = self.volume.open()
        self.healer = Healer(self.volume.directory, "n1", self.storage, self.link)  # type: ignore[arg-type]

    def put(self, key: str, version: int, value: bytes) -> None:
        assert done(self.storage.apply([store(key, version, value)]))

    def fetched(self, key: str, version: int, value: bytes) -> Status:
        """What becomes of a good copy, which comes as it does from the fetcher."""
        staged = self.volume.staged(value) if len(value) > 1 << 16 else ""
        (result,) = self.storage.apply([store(key, version, value, staged=staged)])
        return result.status

    def look(self, now: float) -> list[tuple[str, int]]:
        """The values that are asked for."""
        self.link.sent.clear()
        self.healer.look(now)
        messages = [message for _, message in self.link.sent]
        assert all(isinstance(message, Damaged) and message.node == "n1" for message in messages)
        return [(key.decode(), version) for message in messages for key, version in message.values]

    def flip(self, value: bytes, at: int = 100) -> None:
        """Change a byte of the only file with this value."""
        for file in (*self.volume.segments(), *self.volume.value_files()):
            start = file.read_bytes().find(value)
            if start >= 0:
                with file.open("r+b") as opened:
                    opened.seek(start + at)
                    opened.write(bytes([value[at] ^ 1]))
                return
        raise AssertionError("nobody has this value")

    def read(self, *keys: str) -> dict[str, bytes]:
        """What a reader finds. One process can't open an index twice, so the storage is closed meanwhile."""
        self.storage.close()
        try:
            return self.volume.read(list(keys))
        finally:
            self.open()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "data")
    yield bench
    bench.storage.close()


def name(key: str) -> str:
    return encode(key).decode()


@pytest.mark.parametrize("value", [SMALL, LARGE], ids=["in the log", "in a file"])
def test_what_the_scrub_finds_is_asked_for_and_replaced(bench: Bench, value: bytes) -> None:
    # Given a value with a changed byte, among others
    bench.put("before", 1, b"before")
    bench.put("bad", 2, value)
    bench.put("after", 3, b"after")
    assert bench.look(0.0) == []
    bench.flip(value)
    # When the scrub has found it, then it is asked for
    assert len(bench.storage.scrub(rate=float("inf")).damages) == 1
    assert bench.look(1.0) == [(name("bad"), 2)]
    assert (len(bench.storage.damages), bench.storage.damages.healed) == (1, 0)
    # And when a good copy comes, it is the value, and nothing is damaged any more
    seq = bench.storage.seq
    assert bench.fetched("bad", 2, value) is Status.DONE
    assert (bench.storage.seq, bench.storage.totals.keys) == (seq + 1, 3)
    assert (len(bench.storage.damages), bench.storage.damages.healed) == (0, 1)
    assert bench.look(1000.0) == []
    assert bench.storage.scrub(rate=float("inf")).damages == []
    assert len(bench.volume.value_files()) == (value == LARGE)
    # And so it is with an index that is built from the log
    assert bench.read("before", "bad", "after") == {"before": b"before", "bad": value, "after": b"after"}
    before = figures(bench.storage)
    bench.storage.close()
    bench.volume.forget_index()
    bench.open()
    assert figures(bench.storage) == before
    assert bench.read("bad") == {"bad": value}
    assert bench.storage.scrub(rate=float("inf")).damages == []


def test_a_good_value_is_not_stored_again_and_a_bad_copy_never(bench: Bench) -> None:
    bench.put("key", 5, SMALL)
    seq = bench.storage.seq
    # A good one is as it was
    assert bench.fetched("key", 5, SMALL) is Status.DONE
    assert bench.storage.seq == seq
    # Of a damaged one, a copy with another digest than it says is no good
    bench.flip(SMALL)
    bench.storage.scrub(rate=float("inf"))
    wrong = store("key", 5, SMALL)._replace(value=b"other".ljust(len(SMALL)))
    bench.storage.apply([wrong])
    assert bench.storage.seq == seq
    # Nor is another version than the damaged one
    assert bench.fetched("key", 4, SMALL) is Status.STALE
    assert len(bench.storage.damages) == 1
    # Two good ones at once are one
    bench.storage.apply([store("key", 5, SMALL), store("key", 5, SMALL)])
    assert (bench.storage.seq, bench.storage.damages.healed) == (seq + 1, 1)
    assert bench.read("key") == {"key": SMALL}


@pytest.mark.parametrize("fault", ["the head of a record", "the end of a segment", "a whole segment"])
def test_records_that_are_none_any_more_are_known_by_the_index(bench: Bench, fault: str) -> None:
    values = {f"key{number:02}": f"value {number}".encode() * 100 for number in range(40)}
    for version, (key, value) in enumerate(values.items(), 1):
        bench.put(key, version, value)
    first = bench.volume.segments()[0]
    while len(bench.volume.segments()) == 1:
        bench.put("filler", 1000 + bench.storage.seq, b"f" * 4000)
    content = first.read_bytes()
    at = content.index(encode("key20"))
    if fault == "the head of a record":
        first.write_bytes(content[:at] + b"?" + content[at + 1 :])
    else:
        first.write_bytes(content[:at] if fault == "the end of a segment" else b"")
    lost = {"the head of a record": ["key20"], "the end of a segment": sorted(values)[20:]}.get(fault, sorted(values))
    bench.storage.scrub(rate=float("inf"))
    asked = {key for key, _ in bench.look(1.0)} - {name("filler")}
    assert asked == {name(key) for key in lost}
    for key in lost:
        version = int(key[3:]) + 1
        assert bench.fetched(key, version, values[key]) is Status.DONE
    assert bench.read(*values) == values


def test_what_a_reader_finds_is_asked_for_and_so_is_what_should_be_here(bench: Bench) -> None:
    reports = DamageReports(bench.volume.directory)
    bench.put("key", 5, SMALL)
    bench.put("gone", 6, SMALL)
    assert done(bench.storage.apply([delete("gone", 7)]))
    reports.report(DamageReport(encode("key"), 0, "the record is\ndamaged"))
    reports.report(DamageReport(encode("key"), 0, "again"))  # within a minute
    reports.report(DamageReport(encode("never"), 3, "a reader was sent here for it"))
    reports.report(DamageReport(encode("gone"), 6, "it was deleted meanwhile"))
    reports.report(DamageReport(encode("unknown"), 0, "nobody knows which version"))
    assert len(list((bench.volume.directory / "tmp").iterdir())) == 4
    assert sorted(bench.look(1.0)) == sorted([(name("key"), 5), (name("never"), 3)])
    assert not list((bench.volume.directory / "tmp").iterdir())
    assert [(damage.key, damage.version) for damage in bench.storage.damaged_values()] == [(encode("key"), 5)]


def test_a_report_that_is_rubbish_is_dropped(bench: Bench) -> None:
    for number, text in enumerate(("", "x\ny\nz", "1\nk\xe9y\nz", "1\nkey")):
        (bench.volume.directory / "tmp" / f"damaged-{number}").write_text(text, "latin-1")
    assert bench.look(1.0) == []
    assert not list((bench.volume.directory / "tmp").iterdir())


def test_a_value_that_nobody_else_has_is_asked_for_more_and_more_rarely(bench: Bench) -> None:
    bench.put("key", 5, SMALL)
    bench.storage.note_damage(encode("key"), 5, "a test")
    asked = [now for now in range(2000) if bench.look(float(now))]
    assert asked[0] == 0
    assert asked[1] == FIRST_SECS
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 600
    # Until it is overwritten
    bench.put("key", 6, b"new")
    assert bench.look(5000.0) == []
    assert len(bench.storage.damages) == 0


def test_a_bounded_number_is_asked_for_at_once_and_nothing_without_rabbitmq(bench: Bench) -> None:
    many = MOST_AWAITED + 10
    assert done(bench.storage.apply([store(f"k{number}", 1 + number, b"v") for number in range(many)]))
    for number in range(many):
        bench.storage.note_damage(encode(f"k{number}"), 0, "a test")
    bench.link.ready = False
    assert bench.look(0.0) == []
    bench.link.ready = True
    assert [len(bench.look(now)) for now in (0.5, 1.0, 1.0 + FIRST_SECS)] == [MOST_AWAITED, 0, MOST_AWAITED]


def test_a_segment_that_was_left_alone_is_compacted_when_its_damage_is_healed(bench: Bench) -> None:
    bench.put("bad", 1, SMALL)
    for version in range(2, 40):
        bench.put("other", version, bytes([version]) * 4000)
    first = bench.volume.segments()[0]
    bench.flip(SMALL)
    bench.storage.compact()
    size = first.stat().st_size
    assert size > 60_000
    bench.storage.scrub(rate=float("inf"))
    assert bench.fetched("bad", 1, SMALL) is Status.DONE
    bench.storage.compact()
    assert first.stat().st_size < size / 10
    assert bench.read("bad") == {"bad": SMALL}
