"""The hub of a web worker: who listens gets what is asked for, once, and who waits is woken by the own key alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from broker import keys
from broker.refusals import Unavailable
from master.channel import Listen
from master.events import audience
from master.events import hub as module
from master.events.audience import Audience
from master.events.cloud_events import CloudEvents
from master.events.hub import Hub, Listener
from master.index import events as ring
from master.index.events import Event, KeyFacts, Position
from master.index.index import Index

ALL = audience.asked({})
FACTS = KeyFacts(7, 3, b"\1" * 32, 0)


class Controller:
    """Replies to calls as the controller does, whose index this is."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.calls: list[Listen] = []
        self.away = False
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def tell(self, *happened: Event) -> None:
        """These things happen."""
        with self.index.write() as tables:
            tables.tell(*happened)
        self._reply()

    async def ask(self, call: Listen) -> None:
        self.calls.append(call)
        if self.away:
            raise Unavailable("it is being started")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((call.number, future))
        self._reply()
        await future

    def _reply(self) -> None:
        with self.index.read() as tables:
            newest = tables.newest_event().number
        for number, future in self._waiting:
            if number < newest and not future.done():
                future.set_result(None)


class Desk:
    """A hub and its controller."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.controller = Controller(index)
        self.hub = Hub(index, self.controller.ask, CloudEvents("http://localhost:1"))

    def put(self, *names: str) -> None:
        self.controller.tell(*(Event("key.added", 5, keys.encode(name), FACTS) for name in names))

    def listen(self, who: Audience = ALL) -> Listener:
        listener = Listener(who)
        self.hub.add(listener)
        return listener

    def newest(self) -> Position:
        with self.index.read() as tables:
            return tables.newest_event()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index", 64 << 20, write=True)
    yield index
    index.close()


@pytest.fixture
def desk(index: Index, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(module, "PACE_SECS", 0.005)
    return Desk(index)


def names(text: bytes) -> list[str]:
    """The keys of server-sent events."""
    return [line.partition('"subject":"')[2].partition('"')[0] for line in text.decode().split("\n") if "data:" in line]


async def until(condition: Callable[[], object], secs: float = 30.0) -> None:
    async with asyncio.timeout(secs):
        while not condition():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def heard(listener: Listener) -> AsyncIterator[list[str]]:
    """The keys that a listener hears of, in a list that grows."""
    found: list[str] = []

    async def read() -> None:
        while text := await listener.take():
            found.extend(names(text))

    task = asyncio.create_task(read())
    yield found
    task.cancel()


def test_a_listener_gets_what_happens_from_then_on_in_order(desk: Desk) -> None:
    async def run() -> None:
        desk.put("before")
        async with heard(desk.listen()) as all_of_them, heard(desk.listen(audience.asked({"prefix": "a"}))) as some:
            desk.put("a1", "b1")
            desk.put("a2")
            await until(lambda: len(all_of_them) == 3 and len(some) == 2)
            assert (all_of_them, some) == (["a1", "b1", "a2"], ["a1", "a2"])

    asyncio.run(run())


def test_nobody_is_asked_for_events_while_nobody_listens(desk: Desk) -> None:
    async def run() -> None:
        desk.put("a")
        await asyncio.sleep(0.05)
        assert desk.controller.calls == []
        listener = desk.listen()
        async with heard(listener) as found:
            desk.put("b")
            await until(lambda: found == ["b"])
            desk.hub.remove(listener)
            desk.put("c")
            await asyncio.sleep(0.05)
        number = len(desk.controller.calls)
        desk.put("d")
        await asyncio.sleep(0.05)
        assert len(desk.controller.calls) == number
        # And who comes later gets what comes later
        async with heard(desk.listen()) as found:
            desk.put("e")
            await until(lambda: found)
            assert found == ["e"]

    asyncio.run(run())


def test_many_events_between_two_looks_all_come(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STRETCH", 10)

    async def run() -> None:
        async with heard(desk.listen()) as found:
            desk.put(*map(str, range(95)))
            await until(lambda: len(found) == 95)
            assert found == [str(number) for number in range(95)]

    asyncio.run(run())


def test_a_listener_goes_on_behind_what_it_has_got(desk: Desk) -> None:
    async def run() -> None:
        desk.put("a", "b")
        first = desk.newest()
        desk.put("c")
        page = desk.hub.page(Position(first.stream, 1), ALL)
        assert page is not None
        assert (names(page.text), page.until, page.is_last) == (["b", "c"], desk.newest(), True)
        async with heard(desk.listen()) as others:
            desk.put("d")
            await until(lambda: others)
            # What the hub has not handed out yet, and a page had already, does not come twice
            listener = desk.listen()
            desk.put("e")
            page = desk.hub.page(first, ALL)
            assert page is not None
            listener.after = page.until.number
            assert names(page.text) == ["c", "d", "e"]
            async with heard(listener) as found:
                desk.put("f")
                await until(lambda: len(found) == 1 and len(others) == 3)
                assert (found, others) == (["f"], ["d", "e", "f"])

    asyncio.run(run())


def test_pages_follow_each_other(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STRETCH", 10)
    start = desk.newest()

    async def run() -> None:
        desk.put(*map(str, range(25)))
        after, found = start, list[str]()
        for expected in (False, False, True):
            page = desk.hub.page(after, ALL)
            assert page is not None
            assert page.is_last is expected
            found += names(page.text)
            after = page.until
        assert found == [str(number) for number in range(25)]
        last = desk.hub.page(after, ALL)
        assert last == (b"", after, True)
        assert desk.hub.page(Position(after.stream - 1, 3), ALL) is None

    asyncio.run(run())


def test_many_listeners_all_get_everything_also_who_comes_in_between(desk: Desk) -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:
            found = [await stack.enter_async_context(heard(desk.listen())) for _ in range(3 * module.TOGETHER + 1)]
            for number in range(20):
                desk.put(str(number))
                # One more, in whatever state the handing out is
                await asyncio.sleep(0.001 * (number % 4))
                listener = Listener(ALL)
                desk.hub.add(listener)
                page = desk.hub.page(Position(desk.newest().stream, 0), ALL)
                assert page is not None
                listener.after = page.until.number
                found.append(await stack.enter_async_context(heard(listener)))
                found[-1] += names(page.text)
            await until(lambda: all(len(each) >= 20 for each in found))
            assert all(each == [str(number) for number in range(20)] for each in found)

    asyncio.run(run())


def test_a_slow_listener_is_cut_off_and_others_are_not(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LISTENER_BYTES", 5_000)

    async def run() -> None:
        slow = desk.listen()
        async with heard(desk.listen()) as found:
            for number in range(100):
                desk.put(str(number))
                await until(lambda number=number: len(found) == number + 1)  # type: ignore[misc]
            assert "slow" in slow.ended
            assert slow.size <= 5_000
            assert await slow.take() == b""

    asyncio.run(run())


def test_who_missed_events_is_cut_off_to_ask_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk.index, "_kept_events", 10)

    async def run() -> None:
        listener, changed = desk.listen(), desk.hub.expect(b"key")
        desk.put(*map(str, range(600)))
        await until(lambda: listener.ended)
        assert "missed" in listener.ended
        await until(changed.done)

    asyncio.run(run())


def test_who_waits_is_woken_by_the_own_key_alone(desk: Desk) -> None:
    async def run() -> None:
        waiting = {name: [desk.hub.expect(keys.encode(name)) for _ in range(3)] for name in "abc"}
        assert desk.hub.waiting == 9
        desk.put("b", "elsewhere")
        await until(lambda: all(future.done() for future in waiting["b"]))
        assert not any(future.done() for name in "ac" for future in waiting[name])
        for name, futures in waiting.items():
            for future in futures:
                desk.hub.forget(keys.encode(name), future)
        assert (desk.hub.waiting, desk.hub._waiters) == (0, {})

    asyncio.run(run())


def test_a_reset_wakes_all(desk: Desk) -> None:
    async def run() -> None:
        futures = [desk.hub.expect(keys.encode(name)) for name in "abc"]
        desk.controller.tell(Event(ring.RESET, 5, "", {"reason": "x"}))
        await until(lambda: all(future.done() for future in futures))

    asyncio.run(run())


def test_it_goes_on_when_the_controller_comes_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGAIN_SECS", 0.005)

    async def run() -> None:
        desk.controller.away = True
        async with heard(desk.listen()) as found:
            desk.put("a")
            await until(lambda: len(desk.controller.calls) > 3)
            assert found == []
            desk.controller.away = False
            await until(lambda: found == ["a"])

    asyncio.run(run())


def test_a_worker_that_is_to_stop_ends_all(desk: Desk) -> None:
    async def run() -> None:
        listener, changed = desk.listen(), desk.hub.expect(b"key")
        desk.hub.stop()
        assert changed.done()
        assert await listener.take() == b""
        with pytest.raises(Unavailable, match="ask again"):
            desk.hub.expect(b"key")

    asyncio.run(run())
