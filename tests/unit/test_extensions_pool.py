"""The processes for extensions: real ones, with an empty index and no master."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from master.extensions import frames
from master.extensions.errors import Failed, ProcessDied
from master.extensions.frames import Failure, Invocation, Setup
from master.extensions.pool import Pool
from master.extensions.process_client import Process
from master.index.index import Index
from tests.support import wait_for

HEAD = "import os, subprocess, sys, time\nfrom extensions import Extension\n\n\n"


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    (tmp_path / "apps").mkdir()
    Index(tmp_path / "index", 1 << 24, write=True).close()
    return Setup(str(tmp_path / "apps"), str(tmp_path / "index"), 1 << 24, "127.0.0.1:9")


def app(setup: Setup, name: str, *lines: str) -> Invocation:
    """Write an extension whose `execute` has these lines; a request to it."""
    body = "".join(f"        {line}\n" for line in lines)
    text = f"{HEAD}class {name.capitalize()}(Extension):\n    def execute(self):\n{body}"
    (Path(setup.directory) / f"{name}.py").write_text(text)
    return Invocation(name, ["a"], {}, None)


def with_pool(setup: Setup, tmp_path: Path, work: Callable[[Pool], Awaitable[Any]], size: int = 2) -> Any:
    """What `work` returns, which has a pool; nothing of the pool is left afterwards."""

    async def run() -> Any:
        pool = Pool(setup, size, tmp_path / "scratch")
        try:
            return await work(pool)
        finally:
            await pool.close()

    return asyncio.run(run())


async def ask(process: Process, request: Invocation) -> tuple[bytes, bytes, Any]:
    """Kind of the last frame of a response, its data and what the last frame says."""
    process.begin(request)
    data = b""
    while (got := await process.receive())[0] == frames.DATA:
        data += got[1]
    last, body = got
    return last, data, Failure.decode(body) if last == frames.FAILURE else frames.decode_flag(body)


def test_a_process_answers_one_request_after_the_other(setup: Setup, tmp_path: Path) -> None:
    request = app(setup, "who", "return [os.getpid(), os.nice(0), os.getpgid(0)]")

    async def work(pool: Pool) -> list[bytes]:
        answers = []
        for _ in range(3):
            async with pool.slot():
                process = await pool.take()
                kind, data, go_on = await ask(process, request)
                assert (kind, go_on) == (frames.END, True)
                pool.give_back(process)
                answers.append(data)
        return answers

    first, *others = with_pool(setup, tmp_path, work)
    assert others == [first, first]
    pid, nice, group = map(int, first.strip(b"[]").split(b","))
    assert nice == min(19, os.nice(0) + 10)  # the tests may run with nice themselves
    assert group == pid
    assert not psutil.pid_exists(pid)
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize(
    ("line", "how"),
    [
        ("os.kill(os.getpid(), 9)", r"was killed by signal 9 \(SIGKILL\)"),
        ("os.kill(os.getpid(), 11)", r"was killed by signal 11 \(SIGSEGV\)"),
        ("os._exit(3)", "ended with exit status 3"),
        ("os.closerange(0, 100)\n        return []", "before it had answered"),
    ],
)
def test_a_process_that_dies_says_how_and_another_one_goes_on(
    setup: Setup, tmp_path: Path, line: str, how: str
) -> None:
    deadly, slow = app(setup, "deadly", line), app(setup, "slow", "time.sleep(0.5)", "return ['fine']")

    async def work(pool: Pool) -> tuple[bytes, bytes, Any]:
        one, other = await pool.take(), await pool.take()
        answer = asyncio.ensure_future(ask(other, slow))
        with pytest.raises(ProcessDied, match=how):
            await ask(one, deadly)
        pool.discard(one)
        found = await answer
        pool.give_back(other)
        return found

    assert with_pool(setup, tmp_path, work) == (frames.END, b'["fine"]', True)


def test_ending_a_process_ends_its_children_also_those_of_another_session(setup: Setup, tmp_path: Path) -> None:
    request = app(
        setup,
        "parent",
        "children = [subprocess.Popen(['setsid', 'sleep', '600']), subprocess.Popen(['sleep', '600'])]",
        "subprocess.run(['sh', '-c', 'setsid sleep 600 & echo $! > ' + os.environ['TMPDIR'] + '/orphan'])",
        "orphan = open(os.environ['TMPDIR'] + '/orphan').read()",
        "open(__file__ + '.pids', 'w').write(' '.join([str(os.getpid()), orphan] + [str(c.pid) for c in children]))",
        "while True: pass",
    )
    file = Path(setup.directory) / "parent.py.pids"

    async def work(pool: Pool) -> list[int]:
        process = await pool.take()
        process.begin(request)
        while not file.exists() or len(file.read_text().split()) < 4:
            await asyncio.sleep(0.02)
        pids = [int(pid) for pid in file.read_text().split()]
        assert all(map(psutil.pid_exists, pids))
        await pool.discard(process)
        return [pid for pid in pids if psutil.pid_exists(pid)]

    assert with_pool(setup, tmp_path, work) == []


def test_what_an_extension_leaves_running_ends_with_its_process(setup: Setup, tmp_path: Path) -> None:
    request = app(setup, "leaver", "return [subprocess.Popen(['setsid', 'sleep', '600']).pid]")

    async def work(pool: Pool) -> tuple[bytes, bytes, Any]:
        process = await pool.take()
        answer = await ask(process, request)
        await pool.discard(process)
        return answer

    kind, data, go_on = with_pool(setup, tmp_path, work)
    assert (kind, go_on) == (frames.END, False)
    assert not psutil.pid_exists(int(data.strip(b"[]")))


def test_a_fork_that_comes_back_gives_no_second_answer(setup: Setup, tmp_path: Path) -> None:
    request = app(setup, "fork", "pid = os.fork()", "if pid: os.waitpid(pid, 0)", "return ['once']")

    async def work(pool: Pool) -> list[Any]:
        process = await pool.take()
        answers = [await ask(process, request), await ask(process, request)]
        pool.give_back(process)
        return answers

    assert with_pool(setup, tmp_path, work) == [(frames.END, b'["once"]', True)] * 2


def test_what_is_printed_goes_to_the_log_with_a_limit_and_never_into_the_answer(
    setup: Setup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loud = app(
        setup,
        "loud",
        "print('first line')",
        "os.write(2, b'x' * 79 + b'\\n')",
        "for _ in range(131072): print('x' * 79)",
        "return ['quiet']",
    )

    async def work(pool: Pool) -> tuple[bytes, bytes, Any]:
        process = await pool.take()
        answer = await ask(process, loud)
        pool.give_back(process)
        return answer

    with caplog.at_level("INFO"):
        assert with_pool(setup, tmp_path, work) == (frames.END, b'["quiet"]', True)
    printed = [record for record in caplog.records if record.getMessage() == "extension printed"]
    fields = [vars(record)["fields"] for record in printed]
    assert {"extension": "loud", "text": "first line"} in fields
    assert len(fields) <= 200
    dropped = [record for record in caplog.records if record.getMessage() == "extension printed more than is logged"]
    assert sum(vars(record)["fields"]["bytes"] for record in dropped) > 10_000_000


@pytest.mark.parametrize(
    ("lines", "status", "message"),
    [
        (["raise ValueError('of its own')"], 500, "ValueError: of its own"),
        (["raise KeyError"], 500, "failed: KeyError"),
        (["sys.exit(4)"], 500, "SystemExit: 4"),
        (["return 'text'"], 500, r"returned str, and a list, a dict or an iterator"),
        (["return None"], 500, "returned NoneType"),
        (["return {'a': {1, 2}}"], 500, "can't be written as JSON: .*set"),
        (["return [float('nan')]"], 500, "can't be written as JSON"),
        (["value = []", "value.append(value)", "return value"], 500, "can't be written as JSON: Circular"),
        (["from extensions import Refused", "raise Refused(418, 'tea only')"], 418, "^tea only$"),
        (["import nosuchlibrary.part"], 501, "nosuchlibrary.*not installed.*pip install nosuchlibrary"),
        (
            ["from extensions import MissingLibrary", "raise MissingLibrary('tool', 'apt-get install tool')"],
            501,
            "tool is not installed on the master; install it there with: apt-get install tool",
        ),
        (["from extensions import _gone"], 500, "ImportError"),
        (["raise ValueError('\\ud800' + 'x' * 200000)"], 500, "ValueError"),
        (["compile('a b', 'given', 'exec')"], 500, "given, line 1"),
    ],
)
def test_whatever_an_extension_raises_or_returns_is_told_and_the_process_goes_on(
    setup: Setup, tmp_path: Path, lines: list[str], status: int, message: str
) -> None:
    request, good = app(setup, "bad", *lines), app(setup, "good", "return {'good': self.arguments}")

    async def work(pool: Pool) -> Failure:
        process = await pool.take()
        kind, data, content = await ask(process, request)
        assert (kind, data) == (frames.FAILURE, b"")
        assert await ask(process, good) == (frames.END, b'{"good": ["a"]}', True)
        pool.give_back(process)
        return content

    failure = with_pool(setup, tmp_path, work)
    assert failure.status == status
    assert failure.reusable
    assert re.search(message, failure.message), failure.message


NASTY = """
from extensions import MissingLibrary, Refused

def fail(self):
    raise ZeroDivisionError("no text for you")

class Plain(Exception):
    __str__ = fail

class Worse(BaseException):
    def __str__(self):
        raise SystemExit(3)

class NoText(Exception):
    def __str__(self):
        return 5

class Said(Refused):
    __str__ = fail

class Gone(Refused):
    status = property(fail)

    def __init__(self):
        pass

class Missing(MissingLibrary):
    __str__ = fail

class Name(ModuleNotFoundError):
    name = property(fail)

class Typed(SyntaxError):
    filename = property(fail)
"""


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        ("Plain()", 500, "the extension bad failed: Plain: (its message raised ZeroDivisionError)"),
        ("Worse()", 500, "the extension bad failed: Worse: (its message raised SystemExit)"),
        ("NoText()", 500, "the extension bad failed: NoText: (its message raised TypeError)"),
        ("Said(422, 'x')", 422, "(its message raised ZeroDivisionError)"),
        ("Gone()", 500, "the extension bad failed: Gone"),
        ("Missing('a', 'b')", 501, "the extension bad can't work: (its message raised ZeroDivisionError)"),
        ("Name()", 500, "the extension bad failed: Name"),
        ("Typed()", 500, "the extension bad failed: Typed"),
    ],
)
def test_an_exception_that_has_no_text_is_told_by_its_type_and_the_process_lives_on(
    setup: Setup, tmp_path: Path, raised: str, status: int, message: str
) -> None:
    request = app(setup, "bad", f"raise {raised}")
    file = Path(setup.directory) / "bad.py"
    file.write_text(NASTY + file.read_text())
    good = app(setup, "good", "return [os.getpid()]")

    async def work(pool: Pool) -> None:
        async with pool.slot():
            process = await pool.take()
            _, before, _ = await ask(process, good)
            kind, _, content = await ask(process, request)
            failure = content
            assert (kind, failure.status, failure.message) == (frames.FAILURE, status, message)
            assert failure.reusable
            assert (await ask(process, good))[1] == before
            pool.give_back(process)

    with_pool(setup, tmp_path, work)


def test_items_of_an_iterator_come_while_they_are_made(setup: Setup, tmp_path: Path) -> None:
    request = app(setup, "stream", "for number in range(10): yield 'x' * 200_000", "raise ValueError('late')")

    async def work(pool: Pool) -> tuple[int, Failure]:
        process = await pool.take()
        kind, data, content = await ask(process, request)
        assert kind == frames.FAILURE
        pool.give_back(process)
        return len(data), content

    sent, failure = with_pool(setup, tmp_path, work)
    assert sent > 1_500_000
    assert "ValueError: late" in failure.message


def test_who_waits_for_a_process_gets_one_in_turn_also_when_others_give_up(setup: Setup, tmp_path: Path) -> None:
    order: list[int] = []

    async def work(pool: Pool) -> None:
        async def use(number: int) -> None:
            async with pool.slot():
                order.append(number)
                await asyncio.sleep(0)

        async with pool.slot():
            tasks = [asyncio.ensure_future(use(number)) for number in range(6)]
            await asyncio.sleep(0)
            tasks[0].cancel()
            tasks[3].cancel()
        # The turn of the first one that waits has just been given to it; it gives up before it knows.
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(60), pool.slot():
            order.append(99)

    with_pool(setup, tmp_path, work, size=1)
    assert order == [2, 4, 5, 99]


def test_an_idle_process_that_was_killed_is_not_used_again(setup: Setup, tmp_path: Path) -> None:
    request = app(setup, "fine", "return [os.getpid()]")

    async def work(pool: Pool) -> list[bytes]:
        process = await pool.take()
        _, first, _ = await ask(process, request)
        pool.give_back(process)
        os.kill(int(first.strip(b"[]")), 9)
        until = time.monotonic() + 60
        while not process.ended:
            assert time.monotonic() < until
            await asyncio.sleep(0.02)
        other = await pool.take()
        _, second, _ = await ask(other, request)
        pool.give_back(other)
        return [first, second]

    first, second = with_pool(setup, tmp_path, work)
    assert first != second


def test_a_process_that_can_not_start_says_so_in_the_log(setup: Setup, tmp_path: Path) -> None:
    broken = setup._replace(index_directory=str(tmp_path / "missing"))

    async def work(pool: Pool) -> Failed:
        with pytest.raises(Failed, match="did not start") as failed:
            await pool.take()
        return failed.value

    failed = with_pool(broken, tmp_path, work)
    assert failed.status == 500
    assert "exit status 1" in failed.detail


def test_extensions_do_not_see_the_settings_which_hold_credentials(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULZAR_BROKER_URL", "amqp://user:password@host/")
    monkeypatch.setenv("PULZAR_TOKEN", "pz_ci_x")
    monkeypatch.setenv("OF_THE_OPERATOR", "1")
    request = app(setup, "looker", "return sorted(name for name in os.environ if name[:7] in ('PULZAR_', 'OF_THE_'))")

    async def work(pool: Pool) -> bytes:
        process = await pool.take()
        _, data, _ = await ask(process, request)
        pool.give_back(process)
        return data

    assert with_pool(setup, tmp_path, work) == b'["OF_THE_OPERATOR"]'


def test_signals_end_the_programs_of_extensions_also_when_the_master_was_told_to_ignore_them(
    setup: Setup, tmp_path: Path
) -> None:
    line = "return [subprocess.check_output(['grep', '-E', 'Sig(Blk|Ign)', '/proc/self/status']).decode().split()]"
    request = app(setup, "asker", line)

    async def work(pool: Pool) -> bytes:
        process = await pool.take()
        _, data, _ = await ask(process, request)
        pool.give_back(process)
        return data

    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGQUIT)}
    try:
        found = with_pool(setup, tmp_path, work)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert json.loads(found) == [["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]]


def test_a_killed_guard_takes_its_process_along(setup: Setup, tmp_path: Path) -> None:
    request = app(setup, "fine", "return [os.getpid()]")

    async def work(pool: Pool) -> int:
        process = await pool.take()
        _, data, _ = await ask(process, request)
        os.kill(process.pid, 9)
        await pool.discard(process)
        return int(data.strip(b"[]"))

    pid = with_pool(setup, tmp_path, work)
    wait_for(lambda: not psutil.pid_exists(pid), what="the end of the process")
