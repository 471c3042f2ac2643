"""Locks of keys and numbers of processes, across threads and processes."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from master.locks import KeyLocks
from master.versions import Versions

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, pathlib
from master.locks import KeyLocks
from master.versions import Versions
versions = Versions(pathlib.Path(sys.argv[1]))
with KeyLocks(pathlib.Path(sys.argv[1])).hold(b"key", 1) as held:
    print(held, versions.number, flush=True)
    sys.stdin.readline()
"""


def test_a_key_is_held_by_one_thread_at_a_time(tmp_path: Path) -> None:
    locks = KeyLocks(tmp_path)
    inside = 0
    most = 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with locks.hold(b"key", 10) as held:
                assert held
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert not locks._held


def test_another_key_is_free_and_the_same_one_times_out(tmp_path: Path) -> None:
    locks = KeyLocks(tmp_path)
    answers: list[bool] = []

    def ask(key: bytes) -> None:
        with locks.hold(key, 0.05) as held:
            answers.append(held)

    with locks.hold(b"key", 1) as held:
        assert held
        for key in (b"key", b"other"):
            thread = threading.Thread(target=ask, args=(key,))
            thread.start()
            thread.join()
    assert answers == [False, True]


def test_a_lock_is_seen_by_other_processes_and_freed_when_its_holder_is_killed(tmp_path: Path) -> None:
    locks, versions = KeyLocks(tmp_path), Versions(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().split() == ["True", str(versions.number + 1)]
        with locks.hold(b"key", 0.05) as held:
            assert not held
        holder.kill()
        holder.wait()
        with locks.hold(b"key", 5) as held:
            assert held
    finally:
        holder.kill()
        holder.communicate()


def test_versions_rise_and_are_above_what_is_known_whatever_the_clock_says(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    made = [versions.next() for _ in range(1000)]
    assert made == sorted(set(made))
    future = made[-1] + (1 << 40)
    assert versions.next(future) > future
    assert versions.next() > future
    assert made[-1] < 1 << 63
