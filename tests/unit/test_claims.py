"""What a node has promised is there after every kind of end."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.messages.runs import Finished, RunEnd, RunState
from node.errors import DiskFull, StorageError
from node.jobs import claims as module
from node.jobs.claims import Artifact, Claim, Claims, RunResult

RUNS = [f"{number:032x}" for number in range(100)]


def claim(number: int, job: int | None = None, attempt: int = 1) -> Claim:
    job = number + 1 if job is None else job
    return Claim(RUNS[number], job, attempt, 1_000 + number, by_hand=not job)


def ended(number: int, log: bytes = b"", output: bytes = b"") -> RunResult:
    return RunResult(RunEnd(RunState.COMPLETED, "", 1_000 + number, 2_000), Artifact.of(log), Artifact.of(output))


def report(claimed: Claim, reason: str = "") -> Finished:
    return Finished(claimed.run, claimed.id, claimed.attempt, RunEnd(RunState.COMPLETED, reason, 1, 2))


def seen(claims: Claims) -> dict[str, tuple[Any, ...]]:
    """All that is known of the open runs."""
    return {
        one.run: (
            one.id,
            one.attempt,
            one.at,
            one.by_hand,
            one.acknowledged,
            claims.full_result(one) if one.result else None,
        )
        for one in claims.open.values()
    }


def test_a_claim_is_there_after_a_start(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    claims.add([(claim(0), b""), (claim(1, 0), b'{"job": "a/b"}')])
    # Not closed: the process was killed.
    again = Claims(tmp_path)
    assert seen(again) == {RUNS[0]: (1, 1, 1_000, False, False, None), RUNS[1]: (0, 1, 1_001, True, False, None)}
    assert again.order(again.open[RUNS[1]]) == b'{"job": "a/b"}'


def test_what_became_of_a_run_is_there_after_a_start(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    first, second, third = claim(0, 0), claim(1), claim(2)
    claims.add([(first, b"order"), (second, b""), (third, b"")])
    claims.acknowledge(first)
    claims.end(first, ended(0, b"log", b"output"))
    claims.name(first, 77)
    claims.end(second, ended(1))
    claims.report(report(second, reason="because"))
    claims.flush()
    again = Claims(tmp_path)
    assert seen(again) == {
        RUNS[0]: (77, 1, 1_000, True, True, ended(0, b"log", b"output")),
        RUNS[2]: (3, 1, 1_002, False, False, None),
    }
    known = again.known(77, 1)
    assert isinstance(known, Claim)
    assert known.run == RUNS[0]
    assert again.known(2, 1) == report(second, reason="because")
    assert again.known(2, 2) is None


def test_what_a_run_left_stays_on_the_disk_until_its_job_is_named(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    unnamed = claim(0, 0)
    claims.add([(unnamed, b"order")])
    claims.end(unnamed, ended(0, b"x" * 1000))
    claims.flush()
    assert unnamed.result is not None
    assert unnamed.result.log.data == b""
    assert claims.full_result(unnamed).log.data == b"x" * 1000


def test_cut_at_any_byte_the_file_holds_what_was_written_before(tmp_path: Path) -> None:
    # Given a file, and what was known after each of its records
    claims = Claims(tmp_path / "whole")
    path = tmp_path / "whole" / "claims.log"
    first, second = claim(0, 0), claim(1)
    steps = [
        lambda: claims.add([(first, b"order")]),
        lambda: claims.add([(second, b"")]),
        lambda: claims.acknowledge(first),
        lambda: claims.end(second, ended(1, b"some log")),
        lambda: claims.name(first, 9),
        lambda: claims.report(report(second)),
        lambda: claims.end(first, ended(0, b"", b"1")),
    ]
    states = [(0, seen(claims))]
    for step in steps:
        step()
        claims.flush()
        shutil.copytree(tmp_path / "whole", tmp_path / "copy")
        states.append((path.stat().st_size, seen(Claims(tmp_path / "copy"))))
        shutil.rmtree(tmp_path / "copy")
    data = path.read_bytes()
    # At the ends of records at every byte, else at some
    ends = [size for size, _ in states]
    for size in (size for size in range(len(data) + 1) if size % 8 == 3 or any(abs(size - end) <= 12 for end in ends)):
        # When it is cut, and another record is written behind that
        where = tmp_path / "cut"
        where.mkdir(exist_ok=True)
        (where / "claims.log").write_bytes(data[:size])
        cut = Claims(where)
        expected = max((state for state in states if state[0] <= size), key=lambda state: state[0])[1]
        # Then it is as it was after the last whole record
        assert seen(cut) == expected
        cut.add([(claim(50), b"")])
        cut.close()
        assert seen(Claims(where)) == expected | {RUNS[50]: (51, 1, 1_050, False, False, None)}


@given(st.integers(0, 10_000), st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_a_changed_bit_loses_nothing_before_it(tmp_path_factory: pytest.TempPathFactory, where: int, bit: int) -> None:
    directory = tmp_path_factory.mktemp("bits")
    claims = Claims(directory)
    for number in range(10):
        claims.add([(claim(number), b"order")])
    path = directory / "claims.log"
    data = bytearray(path.read_bytes())
    where %= len(data)
    data[where] ^= 1 << bit
    path.write_bytes(data)
    length = len(data) // 10
    assert list(Claims(directory).open) == RUNS[: where // length]


def test_a_claim_that_can_not_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = Claims(tmp_path)
    claims.add([(claim(0), b"")])
    before = (tmp_path / "claims.log").read_bytes()
    with monkeypatch.context() as patch:

        def half(fd: int, data: bytes, offset: int) -> int:
            if offset > len(before):
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(fd, data[:5], offset)

        real = os.pwrite
        patch.setattr(os, "pwrite", half)
        with pytest.raises(DiskFull):
            claims.add([(claim(1), b""), (claim(2), b"")])
        with pytest.raises(DiskFull):
            claims.try_writing()
    assert (tmp_path / "claims.log").read_bytes() == before
    assert list(claims.open) == RUNS[:1]
    claims.try_writing()
    claims.add([(claim(3), b"")])
    assert list(Claims(tmp_path).open) == [RUNS[0], RUNS[3]]


def test_a_claim_that_can_not_be_made_durable_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = Claims(tmp_path)
    with monkeypatch.context() as patch:

        def fails(_fd: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        patch.setattr(os, "fdatasync", fails)
        with pytest.raises(StorageError):
            claims.add([(claim(0), b"")])
    assert not claims.open
    assert not Claims(tmp_path).open


def test_the_file_stays_short_and_forgets_nothing_that_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REWRITE_BYTES", 20_000)
    monkeypatch.setattr(module, "KEPT", 50)
    claims = Claims(tmp_path)
    lasting, waiting = claim(0, 0), claim(1)
    claims.add([(lasting, b"order"), (waiting, b"")])
    claims.end(lasting, ended(0, b"log of it"))
    for number in range(2_000):
        one = Claim(f"{1000 + number:032x}", 1000 + number, 1, 5)
        claims.add([(one, b"")])
        claims.end(one, ended(0))
        claims.report(report(one))
        claims.flush()
    assert (tmp_path / "claims.log").stat().st_size < 45_000
    again = Claims(tmp_path)
    assert seen(again) == seen(claims)
    assert seen(again)[RUNS[0]] == (0, 1, 1_000, True, False, ended(0, b"log of it"))
    assert again.order(again.open[RUNS[0]]) == b"order"
    assert isinstance(again.known(2_999, 1), Finished)
    assert again.known(2_900, 1) is None


def test_a_run_that_nobody_wants_is_not_told_of_again(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    unnamed = claim(0, 0)
    claims.add([(unnamed, b"order")])
    claims.drop(unnamed)
    claims.close()
    assert not Claims(tmp_path).open
