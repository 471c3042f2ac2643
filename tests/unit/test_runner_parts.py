"""The parts of the runner one by one: the log that is kept, frames, marks, what a wait status says."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.runs import processes
from node.runs.framing import Frames
from node.runs.log_capture import LIVE_BYTES, LogCapture
from node.runs.processes import describe_bytes, describe_status
from tests.support import wait_for

# The log.


@pytest.mark.parametrize("limit", [0, 1, 10, 1000, LIVE_BYTES, 100_000])
def test_a_log_keeps_its_beginning_and_its_end(limit: int) -> None:
    seed = random.Random(limit)
    capture, whole = LogCapture(limit), b""
    for _ in range(300):
        piece = seed.randbytes(seed.choice([0, 1, 7, 300, 5000])).hex().encode()
        capture.feed(piece)
        whole += piece
        text = capture.text()
        if len(whole) <= limit:
            assert text == whole
        else:
            left_out = b"[... %d bytes left out ...]\n" % (len(whole) - limit)
            head, tail = text.split(left_out)
            assert head.removesuffix(b"\n") == whole[: limit // 2]
            assert tail == whole[len(whole) - (limit - limit // 2) :]


def test_a_log_takes_no_more_memory_than_it_keeps() -> None:
    capture = LogCapture(10_000)
    for _ in range(1000):
        capture.feed(bytes(65536))
        assert len(capture._head) + len(capture._tail) < 10_000 + 2 * LIVE_BYTES + 65536


def test_what_is_new_is_told_once_and_of_much_the_end() -> None:
    seed = random.Random(1)
    for limit in (100, 50_000, 1_000_000):
        capture, whole, told = LogCapture(limit), b"", 0
        for _ in range(200):
            piece = seed.randbytes(seed.choice([0, 10, 3000, 20_000]))
            capture.feed(piece)
            whole += piece
            if seed.random() < 0.5:
                assert capture.news == len(whole) - told
                log, offset = capture.take_news()
                assert offset == max(told, len(whole) - LIVE_BYTES)
                assert log == whole[offset:]
                told = len(whole)
        assert capture.total == len(whole)


# Frames.


@pytest.fixture
def pair() -> Iterator[tuple[Frames, Frames]]:
    one, two = socket.socketpair()
    one.setblocking(False)
    frames = Frames(one), Frames(two)
    yield frames
    for end in frames:
        end.close()


def test_messages_and_their_descriptors_arrive_in_order(pair: tuple[Frames, Frames]) -> None:
    one, two = pair
    pipes = [os.pipe() for _ in range(20)]
    for number, (_, write) in enumerate(pipes):
        one.send([number, b"x" * number * 100], (write,))
    messages = []
    while len(messages) < 20:
        one.flush()
        messages += two.receive()
    assert messages == [[number, b"x" * number * 100] for number in range(20)]
    for read, _ in pipes:
        write = two.descriptors.popleft()
        os.write(write, b"through")
        os.close(write)
        # The sender's copy is closed, so that this is the end
        assert os.read(read, 100) + os.read(read, 100) == b"through"
        os.close(read)


def test_a_message_larger_than_the_socket_waits_and_goes_on(pair: tuple[Frames, Frames]) -> None:
    one, two = pair
    read, write = os.pipe()
    assert not one.send(["x" * 5_000_000], (write,))
    assert not one.send(["next"])
    messages: list[object] = []
    while len(messages) < 2:
        one.flush()
        messages += two.receive()
    assert messages == [["x" * 5_000_000], ["next"]]
    assert one.flush()
    os.close(two.descriptors.popleft())
    assert os.read(read, 1) == b""
    os.close(read)


def test_an_end_that_is_closed_closes_what_was_not_sent_and_not_taken() -> None:
    ends = [Frames(end) for end in socket.socketpair()]
    ends[0].socket.setblocking(False)
    pipes = [os.pipe() for _ in range(2)]
    ends[0].send(["x" * 1_000_000], (pipes[0][1],))
    ends[0].send(["never"], (pipes[1][1],))
    ends[1].receive()
    for end in ends:
        end.close()
    for read, _ in pipes:
        assert os.read(read, 1) == b""
        os.close(read)


def test_the_end_of_the_other_end_is_told(pair: tuple[Frames, Frames]) -> None:
    one, two = pair
    assert one.receive() == []
    two.socket.close()
    with pytest.raises(EOFError):
        one.receive()
    with pytest.raises(OSError, match="Broken pipe"):
        one.send(["x"])


# Marks.


def test_a_mark_is_inherited_whatever_a_process_does_and_is_told_from_others() -> None:
    ours, others = processes.Marks("12345678"), processes.Marks("87654321")
    code = "import sys; from node.runs.processes import Marks; Marks('12345678').put(7); import os; os.execvp(sys.argv[1], sys.argv[1:])"
    with subprocess.Popen([sys.executable, "-c", code, "env", "-i", "setsid", "sleep", "60"]) as process:
        try:
            wait_for(lambda: ours.serial(process.pid) == 7)
            assert others.serial(process.pid) == -1
            assert ours.serial(os.getpid()) == -1
            assert process.pid in ours.everything()
            assert process.pid not in others.everything()
            assert processes.sweep(others, 0.1) == 0
            assert process.poll() is None
            assert processes.sweep(ours, 5) == 0
            assert process.wait() == -9
        finally:
            process.kill()
    assert ours.serial(process.pid) == -1


def test_processes_that_began_since_are_among_those_that_may_have() -> None:
    clock = processes.Clock()
    last = clock.last()
    begun = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
    try:
        assert {process.pid for process in begun} <= set(clock.since(last))
        # also when the numbers have come round, or there were many
        assert {process.pid for process in begun} <= set(clock.since(clock.last() + 5))
        assert {process.pid for process in begun} <= set(clock.since(max(0, last - 5000)))
    finally:
        for process in begun:
            process.kill()
            process.wait()


def test_memory_that_is_shared_is_counted_once_by_the_slow_look() -> None:
    kept = bytearray(os.urandom(1 << 20)) * 40
    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        children.append(child)
    try:
        assert processes.resident(children) > 2 * len(kept)
        # A third of it is this process's own
        assert processes.proportional(children) < 0.5 * processes.resident(children)
    finally:
        for child in children:
            os.kill(child, 9)
            os.waitpid(child, 0)
    assert processes.resident(children) == processes.proportional(children) == 0


# Those that tidy up.

BARE = """
import ctypes, time
start = int(open("/proc/self/stat").read().rpartition(") ")[2].split()[45])
stack = next(line for line in open("/proc/self/maps") if line.endswith("[stack]\\n"))
end = int(stack.split()[0].partition("-")[2], 16)
print("ready", flush=True)
page = start & -4096
ctypes.CDLL(None).munmap(ctypes.c_void_p(page), ctypes.c_size_t(end - page))  # where its command line is
time.sleep(600)
"""


def test_a_process_that_is_about_to_become_a_program_may_become_one_that_tidies_up() -> None:
    # Given a process as it is in the middle of exec: it has no command line
    with subprocess.Popen([sys.executable, "-c", BARE], stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            wait_for(lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes() == b"")
            # When all are to be killed but those that tidy up, then it may become one for a while
            processes.kill_but_trackers([process.pid], time.monotonic() + 60)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.2)
            # and not for ever
            processes.kill_but_trackers([process.pid], time.monotonic() - 1)
            assert process.wait(30) == -9
        finally:
            process.kill()


# The zygote: whatever it imports, every run has in its memory, and every start of a node waits for.


def test_the_zygote_loads_few_modules_of_ours() -> None:
    code = "import sys, node.runs.zygote; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in loaded if name.partition(".")[0] in ("broker", "master", "node", "jobs", "extensions")}
    runs = (
        "bytecode",
        "early_tracker",
        "framing",
        "process_tree",
        "processes",
        "protocol",
        "run_process",
        "scratch",
        "zygote",
    )
    scripts = [
        "channel",
        "closing",
        "context",
        "errors",
        "events",
        "failures",
        "job",
        "loader",
        "scripts",
        "surroundings",
    ]
    assert ours == {
        *("node", "node.runs", "node.runs.fence", "node.runs.zygotes", "jobs"),
        *("node.runs.zygotes.fresh", "node.runs.zygotes.workers"),
        *(f"node.runs.fence.{name}" for name in ("groups", "kernel", "options", "quota", "view")),
        *(f"node.runs.{name}" for name in runs),
        *(f"jobs.{name}" for name in scripts),
    }


# Words.


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, ""),
        (3 << 8, "exit status 3"),
        (9, "killed by signal 9 (SIGKILL)"),
        (11 | 0x80, "killed by signal 11 (SIGSEGV)"),
        (37, "killed by signal 37"),
    ],
)
def test_a_wait_status_is_said_in_words(status: int, text: str) -> None:
    assert describe_status(status) == text


def test_sizes_are_said_in_round_numbers() -> None:
    texts = ["1023 bytes", "1 KiB", "64 MiB", "1.5 GiB", "4.883 KiB"]
    assert [describe_bytes(count) for count in (1023, 1024, 64 << 20, 3 << 29, 5000)] == texts
