"""The formats of archives, read by others: Python's modules, and the programs of the machine."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from master.web.keys.archive_formats import Format, Tar, Zip

MODIFIED = 1_600_000_001
NAMES = [
    "a",
    "dir/b.txt",
    "n" * 100,
    "n" * 101,
    "d" * 150 + "/" + "n" * 100,
    "d" * 156 + "/" + "n" * 10,
    "d/" + "n" * 200,
    "x" * 383,
    "blank and $%&'\"\\~",
]


def archive(form: Format, streamed: bool) -> bytes:
    """An archive of all names, whose values are their names twice."""
    made = []
    for name in NAMES:
        value = name.encode() * 2
        if streamed:
            made.append(form.head(name, MODIFIED, len(value)))
            for piece in (value[:1], value[1:]):
                form.note(piece)
                made.append(piece)
            made.append(form.tail())
        else:
            made.append(form.small(name, MODIFIED, value))
    return b"".join([*made, *form.end()])


@pytest.mark.parametrize("streamed", [False, True])
def test_tar_archives_are_read_by_pythons_module_and_by_tar(tmp_path: Path, streamed: bool) -> None:
    made = archive(Tar(), streamed)
    with tarfile.open(fileobj=io.BytesIO(made)) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == NAMES
        assert {(member.mtime, member.mode, member.isfile()) for member in members} == {(MODIFIED, 0o644, True)}
        for member in members:
            file = tar.extractfile(member)
            assert file is not None
            assert file.read() == member.name.encode() * 2
    listed = subprocess.run(["tar", "-t", "--quoting-style=literal"], input=made, capture_output=True, check=True)
    assert listed.stdout.decode().splitlines() == NAMES
    assert not listed.stderr


@pytest.mark.parametrize("streamed", [False, True])
def test_zip_archives_are_read_by_pythons_module_and_by_unzip(tmp_path: Path, streamed: bool) -> None:
    made = archive(Zip(), streamed)
    with zipfile.ZipFile(io.BytesIO(made)) as file:
        assert file.testzip() is None
        assert file.namelist() == NAMES
        for info in file.infolist():
            assert file.read(info) == info.filename.encode() * 2
            assert info.date_time == (2020, 9, 13, 12, 26, 40)
            assert info.external_attr >> 16 == 0o100644
            assert struct.unpack("<HHBl", info.extra) == (0x5455, 5, 1, MODIFIED)
    if shutil.which("unzip"):
        (tmp_path / "made.zip").write_bytes(made)
        subprocess.run(["unzip", "-tq", tmp_path / "made.zip"], check=True, capture_output=True)


def test_a_tar_has_sizes_and_times_beyond_the_plain_fields() -> None:
    size = 9 << 30
    head = Tar().head("large", 1 << 40, size)
    info = tarfile.TarFile.open(fileobj=io.BytesIO(head + bytes(1024))).next()
    assert info is not None
    assert (info.name, info.size) == ("large", size)
    assert info.mtime == (8 << 30) - 1
    assert Tar().head("none", -5, 1)[136:148] == b"00000000000\0"


def test_a_zip_has_sizes_offsets_and_numbers_beyond_the_plain_fields() -> None:
    form = Zip()
    large = 5 << 30
    # Given a value of 5 GiB between two small ones, of which only the ends are made
    first = form.small("first", MODIFIED, b"1")
    head = form.head("large", MODIFIED, large)
    form.note(b"sum")
    tail = form.tail()
    last = form.small("last", MODIFIED, b"2")
    end = b"".join(form.end())
    # Then the sizes behind the value have 8 bytes, and the directory says where everything is
    assert struct.unpack("<4sLQQ", tail)[2:] == (large, large)
    sparse = _Sparse([(0, first + head), (len(first + head) + large, tail + last + end)])
    with zipfile.ZipFile(sparse) as file:  # type: ignore[call-overload]
        assert [(info.filename, info.file_size) for info in file.infolist()] == [
            ("first", 1),
            ("large", large),
            ("last", 1),
        ]
        assert file.read("last") == b"2"


def test_a_zip_has_more_members_than_the_plain_field_can_count() -> None:
    form = Zip()
    made = [form.small(f"{number}", MODIFIED, b"") for number in range(66_000)]
    with zipfile.ZipFile(io.BytesIO(b"".join([*made, *form.end()]))) as file:
        assert len(file.infolist()) == 66_000


@pytest.mark.parametrize("modified", [0, 1 << 33, 1 << 62])
def test_times_that_no_field_can_have_are_the_nearest_that_it_can(modified: int) -> None:
    form = Zip()
    made = [form.small("a", modified, b"1"), *form.end()]
    with zipfile.ZipFile(io.BytesIO(b"".join(made))) as file:
        assert file.infolist()[0].date_time[0] in (1980, 2107)


class _Sparse(io.RawIOBase):
    """A file of which only some parts are there."""

    def __init__(self, parts: list[tuple[int, bytes]]) -> None:
        self._parts = parts
        self._at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        at, last = self._parts[-1]
        self._at = offset + {0: 0, 1: self._at, 2: at + len(last)}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        at, part = next((at, part) for at, part in self._parts if at <= self._at < at + len(part) + 1)
        start = self._at - at
        found = part[start:] if size < 0 else part[start : start + size]
        self._at += len(found)
        return found
