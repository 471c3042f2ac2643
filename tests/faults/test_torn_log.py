"""A log whose last record was not written to its end."""

from __future__ import annotations

import shutil
from pathlib import Path

from broker import keys, settings
from broker.messages.store import Delete, Status, Store
from node.storage.storage import Storage


def open_at(directory: Path) -> Storage:
    return Storage.open(settings.load(environ={"PULZAR_VOLUME_DIR": str(directory), "PULZAR_VOLUME_RESERVE": "0"}))


def store(key: bytes, version: int, value: bytes) -> Store:
    return Store(0, key, version, 1, 0, "text/plain", bytes(32), len(value), value, "")


def current(storage: Storage) -> dict[bytes, tuple[int, bytes | None]]:
    """Version and value of every key, from what a replay tells."""
    return {
        item.key: (item.version, item.value)
        for _, _, items in storage.replay(0)
        for item in items
        if item.key and item.size
    }


def test_a_log_cut_at_every_byte_of_its_last_record_has_all_the_others(
    tmp_path: Path,
) -> None:
    A, B, C, D, E = (keys.encode(name) for name in "abcde")
    # Given a log whose last record is a small value, after values, an overwrite and a deletion
    original = tmp_path / "original"
    storage = open_at(original)
    first = [store(A, 1, b"one"), store(B, 2, b"two"), store(A, 3, b"three"), store(C, 4, b"four")]
    for result in storage.apply([*first, Delete(0, C, 5)]):
        assert result.status is Status.DONE
    segment = next((original / "log").glob("*.seg"))
    good = segment.stat().st_size
    [last] = storage.apply([store(D, 6, b"the last one")])
    end = segment.stat().st_size
    assert last.status is Status.DONE
    assert end - good > 50
    storage.close()
    expected = {A: (3, b"three"), B: (2, b"two")}
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    torn, written = copy / "log" / segment.name, segment.read_bytes()
    for cut in range(good, end + 1):
        for how in ("cut off", "zeros", "rubbish") if cut % 16 == 0 else ("cut off",):
            # When it ends in the middle of that record, with or without something behind
            shutil.rmtree(copy / "index")
            torn.write_bytes(written[:cut] + {"cut off": b"", "zeros": bytes(5000), "rubbish": b"\xa5" * 5000}[how])
            # Then all before it is there, and the record is there whole or not at all
            opened = open_at(copy)
            whole = {D: (6, b"the last one")} if cut == end else {}
            assert current(opened) == expected | whole, (cut, how)
            # And what is written next is there after another start, with the index and without
            [result] = opened.apply([store(E, 7, b"afterwards")])
            assert result.status is Status.DONE
            opened.close()
            for index in ("kept", "removed") if cut % 16 == 0 else ():
                if index == "removed":
                    shutil.rmtree(copy / "index")
                opened = open_at(copy)
                assert current(opened) == expected | whole | {E: (7, b"afterwards")}, (cut, how, index)
                opened.close()
