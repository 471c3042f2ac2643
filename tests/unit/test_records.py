"""The framing of records: what was written comes back, and nothing else is ever taken for a record."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from broker.messages.store import Kind
from node.storage.log import records, segments
from node.storage.log.records import Header

BASE = records.base(b"some uid")


def header(key: bytes = b"key", seq: int = 1, size: int = 5) -> Header:
    return Header(Kind.PUT, key, 1 << 60, seq, 1_790_000_000_000, 0, "text/plain", bytes(32), size, "")


def decode(record: bytes, base: int = BASE, offset: int = 64) -> tuple[Header, bytes | None] | None:
    """Header and value of a record, by itself in a buffer."""
    head = records.parse(record, 0, base, offset)
    return None if head is None else (head.header, head.value(record))


def test_a_record_comes_back_as_it_was_written() -> None:
    record = records.encode(header(), b"value", BASE, 64)
    assert decode(record) == (header(), b"value")


def test_an_empty_value_comes_back_empty() -> None:
    assert decode(records.encode(header(size=0), b"", BASE, 0), offset=0) == (header(size=0), b"")


def test_no_changed_byte_goes_unnoticed() -> None:
    # Given a record, and every record that differs from it in one byte
    record = records.encode(header(), b"value", BASE, 64)
    for position in range(len(record)):
        for change in (0x01, 0x80, 0xFF):
            bad = bytearray(record)
            bad[position] ^= change
            # When it is decoded, then it gives no value
            decoded = decode(bytes(bad))
            assert decoded is None or decoded == (header(), None), position


def test_a_damaged_value_still_says_whose_it_is() -> None:
    record = records.encode(header(), b"value", BASE, 64)
    assert decode(record[:-1] + b"X") == (header(), None)


def test_a_record_counts_only_in_its_place() -> None:
    record = records.encode(header(), b"value", BASE, 64)
    assert decode(record, offset=65) is None
    assert decode(record, records.base(b"other uid")) is None


def test_a_header_too_long_for_a_value_file_is_refused() -> None:
    with pytest.raises(ValueError, match="4076 is the limit"):
        records.encode(header(key=bytes(5000)), b"", BASE, 0)


def segment(path: Path, values: list[bytes]) -> tuple[int, int, list[int]]:
    """A file of records; its descriptor, what its CRCs start from, and where its records begin."""
    head, packed = segments.new_head(1, 1)
    base = records.base(head.uid)
    offsets = []
    for seq, value in enumerate(values, 1):
        offsets.append(len(packed))
        packed += records.encode(header(seq=seq, size=len(value)), value, base, len(packed))
    path.write_bytes(packed)
    return os.open(path, os.O_RDWR), base, [*offsets, len(packed)]


def test_a_scan_finds_every_record_whatever_its_size(tmp_path: Path) -> None:
    # Given records of which some are longer than what is read at once
    values = [secrets.token_bytes(size) for size in (0, 1, 100_000, 1_200_000, 7, 1_048_576, 3, 2_500_000, 0)]
    fd, base, offsets = segment(tmp_path / "file", values)
    # When the file is scanned
    pieces = list(segments.scan(fd, base, segments.HEAD_BYTES, offsets[-1]))
    # Then they are all there, in order
    assert [piece.value for piece in pieces] == values
    assert [piece.offset for piece in pieces] == offsets[:-1]
    os.close(fd)


@pytest.mark.parametrize("bad", [0, 1, 4])
def test_a_scan_goes_on_behind_bytes_that_are_no_record(tmp_path: Path, bad: int) -> None:
    # Given five records of which one has a changed byte in its header
    values = [secrets.token_bytes(300_000) for _ in range(5)]
    fd, base, offsets = segment(tmp_path / "file", values)
    os.pwrite(fd, b"\xff", offsets[bad] + records.PREFIX.size + 3)
    # When the file is scanned
    pieces = list(segments.scan(fd, base, segments.HEAD_BYTES, offsets[-1]))
    # Then only that one is missing, and its bytes are accounted for
    assert [piece.value for piece in pieces] == [None if i == bad else value for i, value in enumerate(values)]
    assert sum(piece.length for piece in pieces) == offsets[-1] - segments.HEAD_BYTES
    os.close(fd)


def test_a_log_inside_a_value_is_not_taken_for_records(tmp_path: Path) -> None:
    # Given a value that is itself a segment, in a record that was torn off
    fd, base, _ = segment(tmp_path / "inner", [b"stale"] * 3)
    os.close(fd)
    inner = (tmp_path / "inner").read_bytes()
    fd, base, offsets = segment(tmp_path / "outer", [b"first", inner + bytes(100)])
    os.ftruncate(fd, offsets[-1] - 50)
    # When the file is scanned
    pieces = list(segments.scan(fd, base, segments.HEAD_BYTES, offsets[-1] - 50))
    # Then what is behind the first record is no record
    assert [piece.value for piece in pieces] == [b"first", None]
    os.close(fd)


@pytest.mark.parametrize("position", range(0, 64, 7))
def test_a_segment_survives_a_changed_byte_in_its_head(tmp_path: Path, position: int) -> None:
    fd, base, _ = segment(tmp_path / "file", [b"value"])
    os.pwrite(fd, bytes([os.pread(fd, 1, position)[0] ^ 0xFF]), position)
    head = segments.read_head(fd)
    assert head is not None
    assert records.base(head.uid) == base
    os.close(fd)
