"""Values that are copied from others on the same node: small ones are written again, large ones are hard links."""

from __future__ import annotations

import errno
import os
import random
import secrets
import subprocess
from pathlib import Path

import pytest

from broker.keys import encode
from broker.messages.store import Result, Source, Status, Store
from node.errors import Corrupt
from node.storage import value_files
from node.storage.reader import Reader
from node.storage.storage import Storage
from tests.unit.volume import DAY_MS, Volume, delete, done, read, store

SMALL = b"a small value"
LARGE = secrets.token_bytes(300_000)


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "data")


def copy_of(source: str, version: int, key: str, new: int, value: bytes) -> Store:
    """The command that stores version `version` of `source` as version `new` of `key`."""
    text = Source(encode(source), version).text()
    return store(key, new, value, staged=text)._replace(content_type="text/copy", created=1_800_000_000_000)


def apply_one(storage: Storage, command: Store) -> Result:
    (result,) = storage.apply([command])
    return result


def link_counts(volume: Volume) -> list[int]:
    return sorted(path.stat().st_nlink for path in volume.value_files())


@pytest.mark.parametrize("value", [SMALL, LARGE, b""])
def test_a_value_becomes_that_of_another_key(volume: Volume, value: bytes) -> None:
    # Given a value
    storage = volume.open()
    assert done(storage.apply([store("from", 1, value)]))
    # When another key is stored with it as its source
    result = apply_one(storage, copy_of("from", 1, "to", 2, value))
    # Then the result is that of any store, with the value if it is small
    assert (result.status, result.size, result.seq) == (Status.DONE, len(value), storage.seq)
    assert result.value == (None if value is LARGE else value)
    # And it has its own type and time, and the bytes are there once
    assert link_counts(volume) == ([2, 2] if value is LARGE else [])
    assert storage.totals.keys == 2
    assert storage.scrub(rate=float("inf")).damages == []
    storage.close()
    reader = Reader(volume.directory)
    found = reader.get(encode("to"))
    assert found
    assert (found.key, found.version, found.content_type, found.created) == (
        encode("to"),
        2,
        "text/copy",
        1_800_000_000_000,
    )
    assert read(reader, "to") == read(reader, "from") == value
    assert len(list((volume.directory / "staging").iterdir())) == 0
    reader.close()


def test_the_command_that_comes_again_changes_nothing(volume: Volume) -> None:
    storage = volume.open()
    assert done(storage.apply([store("from", 1, LARGE)]))
    command = copy_of("from", 1, "to", 2, LARGE)
    first, again = apply_one(storage, command), apply_one(storage, command)
    assert (again.status, again.seq) == (Status.DONE, first.seq)
    assert link_counts(volume) == [2, 2]
    storage.close()


def test_copies_outlive_their_source_and_copies_of_them_theirs(volume: Volume) -> None:
    # Given a value, its copy, and a copy of that
    storage = volume.open()
    assert done(storage.apply([store("a", 1, LARGE), store("small", 2, SMALL)]))
    assert done(storage.apply([copy_of("a", 1, "b", 3, LARGE)]))
    assert done(storage.apply([copy_of("b", 3, "c", 4, LARGE), copy_of("small", 2, "small copy", 5, SMALL)]))
    assert link_counts(volume) == [3, 3, 3]
    # When the first ones are gone for good, the index is lost, and the log compacted
    assert done(storage.apply([delete(key, 10)._replace(purge=True) for key in ("a", "b", "small")]))
    storage.compact()
    storage.close()
    volume.forget_index()
    storage = volume.open()
    storage.compact()
    # Then the copies are there
    assert storage.scrub(rate=float("inf")).damages == []
    assert {item.key for part in storage.replay(0) for item in part.results if item.digest} == {
        encode("c"),
        encode("small copy"),
    }
    storage.close()
    assert link_counts(volume) == [1]
    assert volume.read(["a", "b", "c", "small", "small copy"]) == {"c": LARGE, "small copy": SMALL}


def test_a_source_that_is_not_there_is_missing(volume: Volume) -> None:
    # Given a value, one whose lifetime is over, and a deletion
    storage = volume.open()
    assert done(storage.apply([store("from", 5, LARGE), store("ended", 6, SMALL, expires=1000), delete("gone", 7)]))
    # When another version of it, that or an unknown key is the source, or one of the same batch
    cases = [copy_of("from", 4, "to", 10, LARGE), copy_of("ended", 6, "to", 11, SMALL)]
    cases += [copy_of("gone", 7, "to", 12, SMALL), copy_of("unknown", 1, "to", 13, SMALL)]
    for command in cases:
        result = apply_one(storage, command)
        # Then nothing is stored, and the reason says which version was wanted
        assert result.status == Status.MISSING
        assert f"version {str(command.staged).split(':')[1]} of the source" in result.reason
    new, early = storage.apply([store("new", 14, SMALL), copy_of("new", 14, "to", 15, SMALL)])
    assert (new.status, early.status) == (Status.DONE, Status.MISSING)
    assert storage.totals.keys == 3
    assert done(storage.apply([copy_of("new", 14, "to", 16, SMALL)]))
    storage.close()
    assert volume.read(["to"]) == {"to": SMALL}


@pytest.mark.parametrize("value", [SMALL, LARGE])
def test_a_source_of_another_digest_or_size_is_refused(volume: Volume, value: bytes) -> None:
    storage = volume.open()
    assert done(storage.apply([store("from", 1, value)]))
    good = copy_of("from", 1, "to", 2, value)
    for bad in (good._replace(digest=bytes(32)), good._replace(size=len(value) + 1)):
        result = apply_one(storage, bad)
        assert result.status == Status.FAILED
        assert "another size or digest" in result.reason
    assert link_counts(volume) == [1] * (value is LARGE)
    assert list((volume.directory / "staging").iterdir()) == []
    storage.close()


@pytest.mark.parametrize("damage", ["record", "head", "length", "gone"])
def test_a_damaged_source_is_refused(volume: Volume, damage: str) -> None:
    # Given a value whose record or file is damaged
    storage = volume.open()
    value = SMALL if damage == "record" else LARGE
    assert done(storage.apply([store("from", 1, value)]))
    if damage == "record":
        path = volume.segments()[-1]
        at = path.read_bytes().rindex(SMALL)
    else:
        (path,) = volume.value_files()
        at = 60
    if damage == "gone":
        path.unlink()
    else:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(b"?")
            if damage == "length":
                file.truncate(100_000)
    # When it is a source, then the command fails, and nothing is left of it
    result = apply_one(storage, copy_of("from", 1, "to", 2, value))
    assert (result.status, bool(result.reason)) == (Status.FAILED, True)
    assert storage.totals.keys == 1
    assert list((volume.directory / "staging").iterdir()) == []
    storage.close()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.ENOTSUP])
def test_without_hard_links_the_bytes_are_copied(volume: Volume, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    storage = volume.open()
    assert done(storage.apply([store("from", 1, LARGE)]))

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    assert done(storage.apply([copy_of("from", 1, "to", 2, LARGE)]))
    # Damage is not copied
    (path,) = [path for path in volume.value_files() if encode("from") in path.read_bytes()[:200]]
    with path.open("r+b") as file:
        file.seek(value_files.HEAD_BYTES + 200_000)
        file.write(b"?")
    result = apply_one(storage, copy_of("from", 1, "bad", 3, LARGE))
    assert (result.status, "bad block" in result.reason) == (Status.FAILED, True)
    assert list((volume.directory / "staging").iterdir()) == []
    storage.close()
    assert link_counts(volume) == [1, 1]
    assert volume.read(["to"]) == {"to": LARGE}


def linked(volume: Volume) -> Path:
    """The file of `to`, a copy of `from`."""
    storage = volume.open()
    assert done(storage.apply([store("from", 1, LARGE)]))
    before = set(volume.value_files())
    assert done(storage.apply([copy_of("from", 1, "to", 2, LARGE)]))
    storage.close()
    (path,) = set(volume.value_files()) - before
    return path


def test_a_changed_byte_of_a_linked_file_is_an_error_and_never_wrong_data(volume: Volume) -> None:
    # Given a value in a linked file, and a value of the same size in another one
    path = linked(volume)
    whole = path.read_bytes()
    head_end = whole.index(b"\0" * 100)
    positions = [*range(0, head_end, 7), *random.sample(range(value_files.HEAD_BYTES, len(whole)), 40)]
    reader = Reader(volume.directory)
    for position in positions:
        # When a byte of it changes
        with path.open("r+b") as file:
            file.seek(position)
            file.write(bytes([whole[position] ^ 0x40]))
        # Then reading is an error
        with pytest.raises(Corrupt):
            read(reader, "to")
        with path.open("r+b") as file:
            file.seek(position)
            file.write(whole[position : position + 1])
    assert read(reader, "to") == LARGE
    reader.close()


def test_another_file_in_the_place_of_a_linked_one_is_an_error(volume: Volume) -> None:
    # Given a linked file, and whole files of other values
    path = linked(volume)
    for version, other in enumerate([secrets.token_bytes(len(LARGE)), LARGE[:-1]], 10):
        before = set(volume.value_files())
        storage = volume.open()
        assert done(storage.apply([store(f"other{version}", version, other)]))
        storage.close()
        (wrong,) = set(volume.value_files()) - before
        # When one of them has its name, then its value is not taken for the key's
        path.unlink()
        os.link(wrong, path)
        reader = Reader(volume.directory)
        with pytest.raises(Corrupt, match="another value than its record says"):
            reader.get(encode("to"))
        reader.close()


def test_the_record_of_a_linked_file_must_be_there(volume: Volume) -> None:
    # Given a linked file whose record in the log is damaged
    linked(volume)
    log = volume.segments()[-1]
    at = log.read_bytes().rindex(b"text/copy")
    with log.open("r+b") as file:
        file.seek(at)
        file.write(b"T")
    # Then reading it is an error: its head names another key
    reader = Reader(volume.directory)
    with pytest.raises(Corrupt, match="is damaged"):
        reader.get(encode("to"))
    reader.close()


def test_a_reader_follows_linked_values_through_compaction(volume: Volume) -> None:
    # Given copies in segments that are mostly garbage
    storage = volume.open()
    assert done(storage.apply([store("from", 1, LARGE)]))
    for number in range(40):
        version = 10 * number + 10
        assert done(storage.apply([copy_of("from", 1, f"stay/{number}", version, LARGE)]))
        assert done(storage.apply([store(f"junk{n}", version + n, bytes(3900)) for n in range(1, 5)]))
        junk = [delete(f"junk{n}", version + n + 4)._replace(purge=True) for n in range(1, 5)]
        assert done(storage.apply(junk))
    # When a process reads them, and the log is compacted meanwhile
    process = volume.start("read", 40, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    assert storage.compact().freed
    # Then it reads them all the time
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert int(output) >= 40
    storage.close()


def test_an_orphan_with_the_head_of_another_value_is_not_taken_for_the_keys(volume: Volume) -> None:
    # Given a directory like a copy of one in use: the file of the value of `from` is missing, and a link without a
    # record has a head that names `from`
    storage = volume.open()
    assert done(storage.apply([store("from", 5, LARGE)]))
    (old,) = volume.value_files()
    assert done(storage.apply([copy_of("from", 5, "to", 6, LARGE)]))
    (link,) = set(volume.value_files()) - {old}
    storage.close()
    name = "0" * 32
    os.rename(link, link.parent.parent / "00" / name)
    old.unlink()
    volume.forget_index()
    # When it is opened, then the link is no value of any key
    storage = volume.open()
    assert storage.totals.keys == 0
    assert volume.value_files() == []
    storage.close()


def test_a_crash_between_link_and_record_leaves_nothing(volume: Volume) -> None:
    # Given a link whose record never came
    storage = volume.open()
    assert done(storage.apply([store("from", 1, LARGE)]))
    storage.close()
    (path,) = volume.value_files()
    name = "0" * 32
    os.link(path, path.parent.parent / "00" / name)
    os.link(path, volume.directory / "staging" / ("1" * 32))
    past = path.stat().st_mtime - 3 * DAY_MS / 1000
    os.utime(path, (past, past))
    # When it is opened, then it is gone, and the value is there
    volume.open().close()
    assert link_counts(volume) == [1]
    assert list((volume.directory / "staging").iterdir()) == []
    assert volume.read(["from"]) == {"from": LARGE}


def test_a_copy_by_tar_has_linked_values(volume: Volume, tmp_path: Path) -> None:
    linked(volume)
    copy = Volume(tmp_path / "copy")
    copy.directory.mkdir()
    archive = tmp_path / "copy.tar"
    subprocess.run(["tar", "-C", str(volume.directory), "-cf", str(archive), "."], check=True)
    subprocess.run(["tar", "-C", str(copy.directory), "-xf", str(archive)], check=True)
    copy.open().close()
    assert copy.read(["from", "to"]) == {"from": LARGE, "to": LARGE}
    assert link_counts(copy) == [2, 2]


def test_a_small_source_above_the_limit_of_today_gets_a_file(tmp_path: Path) -> None:
    value = secrets.token_bytes(4000)
    volume = Volume(tmp_path / "data")
    storage = volume.open()
    assert done(storage.apply([store("from", 1, value)]))
    storage.close()
    volume = Volume(tmp_path / "data", small=1000)
    storage = volume.open()
    assert done(storage.apply([copy_of("from", 1, "to", 2, value)]))
    storage.close()
    assert link_counts(volume) == [1]
    assert volume.read(["from", "to"]) == {"from": value, "to": value}
