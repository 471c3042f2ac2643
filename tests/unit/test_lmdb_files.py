"""The audit of LMDB files, also while they are written."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import lmdb
import pytest

from broker import lmdb_files

PAGE = 4096


def environment(directory: Path) -> tuple[lmdb.Environment, object]:
    opened = lmdb_files.open_map(directory, 256 << 20, sync=False, max_dbs=4)
    return opened, opened.open_db(b"rows")


def filled(directory: Path, rows: int = 20_000) -> None:
    opened, database = environment(directory)
    with opened, opened.begin(write=True, db=database) as transaction:
        for number in range(rows):
            transaction.put(b"%08d" % (number * 7919 % rows), b"x" * 100)


def test_a_file_that_is_whole_has_no_fault(tmp_path: Path) -> None:
    filled(tmp_path)
    assert lmdb_files.faults(tmp_path) == []


@pytest.mark.parametrize("last", [10, 5_000, 9_000])
def test_values_shortened_by_the_transaction_that_wrote_them_are_no_faults(tmp_path: Path, last: int) -> None:
    opened, database = environment(tmp_path)
    other = opened.open_db(b"others")
    with opened:
        for number in range(3):
            with opened.begin(write=True) as transaction:
                for table in (database, other):
                    for length in (30_000 * (number + 1), last):
                        transaction.put(b"%08d" % number, b"x" * length, db=table)
        assert lmdb_files.faults(tmp_path) == []
        # When such a value goes, its pages are free
        with opened.begin(write=True) as transaction:
            transaction.delete(b"%08d" % 1, db=database)
        assert lmdb_files.faults(tmp_path) == []


def test_other_faults_beside_such_values_are_found(tmp_path: Path) -> None:
    opened, database = environment(tmp_path)
    with opened, opened.begin(write=True, db=database) as transaction:
        for length in (30_000, 10):
            transaction.put(b"long", b"x" * length)
        for number in range(5_000):
            transaction.put(b"%08d" % number, b"x" * 100)
    file = tmp_path / lmdb_files.DATA
    content = bytearray(file.read_bytes())
    page = next(at for at in range(2 * PAGE, len(content), PAGE) if b"%08d" % 777 in content[at : at + PAGE])
    content[page : page + PAGE] = bytes(PAGE)
    file.write_bytes(content)
    assert lmdb_files.faults(tmp_path)


def test_a_file_that_is_being_written_has_no_fault(tmp_path: Path) -> None:
    opened, database = environment(tmp_path)
    over = threading.Event()
    commits = 0

    def write() -> None:
        nonlocal commits
        chance = random.Random(1)
        while not over.is_set():
            with opened.begin(write=True, db=database) as transaction:
                for _ in range(50):
                    transaction.put(b"%08d" % chance.randrange(20_000), chance.randbytes(chance.randrange(300)))
                    transaction.delete(b"%08d" % chance.randrange(20_000))
            commits += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        before = commits
        for _ in range(4):
            assert lmdb_files.faults(tmp_path) == []
        assert commits > before
    finally:
        over.set()
        writer.join()
        opened.close()


@pytest.mark.parametrize("length", [0, 100, 3 * PAGE, 200 * PAGE])
def test_a_file_that_was_cut_is_damaged_and_harms_nobody(tmp_path: Path, length: int) -> None:
    filled(tmp_path)
    os.truncate(tmp_path / "data.mdb", length)
    assert lmdb_files.faults(tmp_path)


def test_a_page_that_was_overwritten_is_damage(tmp_path: Path) -> None:
    filled(tmp_path)
    with (tmp_path / "data.mdb").open("r+b") as file:
        for number in range(2, file.seek(0, os.SEEK_END) // PAGE, 50):
            file.seek(number * PAGE)
            file.write(b"\xa5" * PAGE)
    assert lmdb_files.faults(tmp_path)


def test_a_directory_without_a_file_is_said(tmp_path: Path) -> None:
    assert "No such file" in lmdb_files.faults(tmp_path)[0]
