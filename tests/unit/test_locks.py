"""Locks of keys and numbers of processes, across threads and processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import zlib
from pathlib import Path

from master.store.key_locks import KeyLocks
from master.store.versions import Versions

ROOT = Path(__file__).parents[2]
HOLDER = """
import asyncio, sys, pathlib
import pytest

from broker.messages.horizon import Horizon
from master.store.key_locks import KeyLocks
from master.store.versions import Versions
versions = Versions(pathlib.Path(sys.argv[1]))
async def hold():
    async with KeyLocks(pathlib.Path(sys.argv[1])).hold(b"key", 1) as held:
        print(held, versions.number, flush=True)
        sys.stdin.readline()
asyncio.run(hold())
"""


def test_a_key_is_held_by_one_request_at_a_time_and_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    locks = KeyLocks(tmp_path)
    inside = 0
    most = 0
    order: list[int] = []

    async def work(number: int) -> None:
        nonlocal inside, most
        for turn in range(50):
            async with locks.hold(b"key", 10) as held:
                assert held
                inside += 1
                most = max(most, inside)
                if turn == 0:
                    order.append(number)
                await asyncio.sleep(0)
                inside -= 1

    async def all_of_them() -> None:
        await asyncio.gather(*(work(number) for number in range(8)))

    asyncio.run(all_of_them())
    assert most == 1
    assert order == list(range(8))
    assert not locks._held


def test_another_key_is_free_and_the_same_one_times_out(tmp_path: Path) -> None:
    locks = KeyLocks(tmp_path)

    async def ask(key: bytes) -> bool:
        async with locks.hold(key, 0.05) as held:
            return held

    async def while_it_is_held() -> list[bool]:
        async with locks.hold(b"key", 1) as held:
            assert held
            return [await ask(key) for key in (b"key", b"other")]

    assert asyncio.run(while_it_is_held()) == [False, True]
    assert asyncio.run(ask(b"key"))


def test_a_request_that_is_given_up_while_it_waits_leaves_the_key_to_the_next(tmp_path: Path) -> None:
    locks = KeyLocks(tmp_path)

    async def ask() -> bool:
        async with locks.hold(b"key", 5) as held:
            return held

    async def give_up() -> bool:
        async with locks.hold(b"key", 1):
            waiting = [asyncio.create_task(ask()) for _ in range(2)]
            await asyncio.sleep(0)
        waiting[0].cancel()  # it was just given its turn
        return await waiting[1]

    assert asyncio.run(give_up())
    assert not locks._held


def test_a_lock_is_seen_by_other_processes_and_freed_when_its_holder_is_killed(tmp_path: Path) -> None:
    locks, versions = KeyLocks(tmp_path), Versions(tmp_path)

    async def ask(timeout: float) -> bool:
        async with locks.hold(b"key", timeout) as held:
            return held

    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().split() == ["True", str(versions.number + 1)]
        assert not asyncio.run(ask(0.05))
        holder.kill()
        holder.wait()
        assert asyncio.run(ask(5))
    finally:
        holder.kill()
        holder.communicate()


def test_several_keys_are_held_without_waiting_in_a_circle_also_when_they_share_a_byte(tmp_path: Path) -> None:
    locks = KeyLocks(tmp_path)
    first, second = _with_one_checksum()
    inside = 0

    async def work(keys: list[bytes]) -> None:
        nonlocal inside
        for _ in range(50):
            async with locks.hold_all(keys, 10) as held:
                assert held
                inside += 1
                assert inside == 1
                await asyncio.sleep(0)
                inside -= 1

    async def all_of_them() -> None:
        pairs = [[b"a", b"b"], [b"b", b"a"], [first, b"a"], [b"a", second], [first, second, b"b", b"a"]]
        async with asyncio.timeout(20):
            await asyncio.gather(*map(work, pairs))
        # And when one of them is not free in time, none is held
        async with locks.hold(b"b", 1), locks.hold_all([b"a", b"b", b"c"], 0.05) as held:
            assert not held
        async with locks.hold_all([b"a", b"b", b"c"], 0.05) as held:
            assert held

    asyncio.run(all_of_them())
    assert not locks._held


def _with_one_checksum() -> tuple[bytes, bytes]:
    """Two keys whose lock is the same byte of the file."""
    seen: dict[int, bytes] = {}
    for number in range(1_000_000):
        key = b"%d" % number * 3
        if other := seen.get(zlib.crc32(key)):
            return other, key
        seen[zlib.crc32(key)] = key
    raise AssertionError("none of a million keys")
