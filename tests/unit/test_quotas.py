"""Quotas of folders: what is refused, what is not, and what requests under way count for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker import keys, settings
from broker.clock import now_ms
from broker.errors import SettingsError
from broker.messages.store import Delete, Status, Store
from broker.refusals import NoRoom
from master.index.index import Entry, Index
from master.store.dispatcher import Ticket
from master.store.quotas import Quotas
from master.store.writer import Put, StoredValue
from tests.unit.test_writer import Bench, FakeDispatcher

A1, A2, A3, OTHER = (keys.encode(name) for name in ("a/1", "a/2", "a/b/3", "other/1"))


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index", 64 << 20, write=True)
    yield index
    index.close()


def put(index: Index, key: bytes, size: int, version: int = 1) -> None:
    with index.write() as tables:
        tables.put_entry(key, tables.entry(key), Entry(version, "n1", 1, 1, 1, 0, size, "", b"d" * 32, None))


def drop(index: Index, key: bytes) -> None:
    with index.write() as tables:
        entry = tables.entry(key)
        assert entry
        tables.drop_entry(key, entry)


def test_what_goes_beyond_a_quota_is_refused_with_used_quota_and_asked(index: Index) -> None:
    quotas = Quotas(index, {"a/": 10_000})
    put(index, A1, 4_000)
    quotas.check(A2, 6_000)
    with pytest.raises(
        NoRoom, match=re.escape("the folder a/ holds 4,000 bytes; its quota is 10,000, and a value has 6,001")
    ):
        quotas.check(A3, 6_001)
    quotas.check(OTHER, 1 << 40)
    quotas.check(keys.encode("a"), 1 << 40)  # beside the folder, not in it


def test_every_folder_around_a_key_counts_and_so_does_the_whole_store(index: Index) -> None:
    quotas = Quotas(index, {"a/": 100, "a/b/": 10, "": 200})
    with pytest.raises(NoRoom, match="the folder a/b/ "):
        quotas.check(A3, 11)
    put(index, A1, 95)
    with pytest.raises(NoRoom, match="the folder a/ "):
        quotas.check(A3, 6)
    put(index, OTHER, 100)
    with pytest.raises(NoRoom, match="the whole store holds 195 bytes"):
        quotas.check(keys.encode("zz"), 6)


def test_an_overwrite_counts_by_the_difference_and_may_always_shrink(index: Index) -> None:
    quotas = Quotas(index, {"a/": 100})
    put(index, A1, 90)
    quotas.check(A1, 100)
    with pytest.raises(NoRoom, match="a value has 101 bytes, 11 more than the value it replaces"):
        quotas.check(A1, 101)
    put(index, A2, 60)  # beyond, as by a quota that was lowered
    quotas.check(A1, 90)
    quotas.check(A1, 0)
    with pytest.raises(NoRoom):
        quotas.check(A1, 91)
    quotas.check(keys.encode("a/empty"), 0)


def test_without_a_length_there_must_be_any_room(index: Index) -> None:
    quotas = Quotas(index, {"a/": 10})
    quotas.check(A1, None)
    put(index, A1, 10)
    with pytest.raises(NoRoom, match="no room for more"):
        quotas.check(A2, None)


def test_what_is_under_way_counts_until_it_is_in_the_index_and_never_twice(index: Index) -> None:
    quotas = Quotas(index, {"a/": 100})
    with ExitStack() as under_way:
        under_way.enter_context(quotas.reserve(A1, 60))
        with pytest.raises(NoRoom, match="holds 0 bytes, and 60 more are being stored"):
            quotas.check(A2, 41)
        put(index, A1, 60)  # its request goes on
        quotas.check(A2, 40)
        with pytest.raises(NoRoom, match="holds 60 bytes; "):
            quotas.check(A2, 41)
        # An overwrite, and its entry that goes meanwhile because its lifetime ends
        put(index, A3, 10)
        under_way.enter_context(quotas.reserve(A3, 30))
        with pytest.raises(NoRoom, match="holds 70 bytes, and 20 more are being stored"):
            quotas.check(A2, 11)
        drop(index, A3)
        with pytest.raises(NoRoom, match="holds 60 bytes, and 30 more are being stored"):
            quotas.check(A2, 11)
        drop(index, A1)
    quotas.check(A2, 100)


def test_a_reservation_ends_with_a_request_that_fails(index: Index) -> None:
    quotas = Quotas(index, {"a/": 100})
    with pytest.raises(ZeroDivisionError), quotas.reserve(A1, 100):
        raise ZeroDivisionError
    with pytest.raises(NoRoom), quotas.reserve(A1, 101):
        pytest.fail("it was let in")
    quotas.check(A1, 100)


def test_without_quotas_the_index_is_not_even_read(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Index, "read", lambda _: pytest.fail("it was read"))
    quotas = Quotas(index, {})
    quotas.check(A1, 1 << 60)
    with quotas.reserve(A1, 1 << 60):
        pass


class SlowDispatcher(FakeDispatcher):
    """Settles a command after a while, and puts its entry into the index before that, as the controller does."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.network)
        self.index = bench.index

    def send(
        self, make: Callable[[int], Store | Delete], node: str | None = None, exclude: Collection[str] = ()
    ) -> Ticket:
        ticket, command = Ticket(1, "a"), make(1)
        assert isinstance(command, Store)
        asyncio.get_running_loop().call_later(0.05, self.store, ticket, command)
        return ticket

    def store(self, ticket: Ticket, command: Store) -> None:
        put(self.index, command.key, command.size, command.version)
        ticket.settle(Status.DONE, "")


def test_requests_of_one_worker_never_go_beyond_together(tmp_path: Path) -> None:
    # Given a folder with room for ten more values
    bench = Bench(tmp_path, {"a/": 100})
    bench.writer._dispatcher = SlowDispatcher(bench)  # type: ignore[assignment]

    async def one(number: int) -> StoredValue:
        request = Put(keys.encode(f"a/{number}"), 10, b"d" * 32, "", 0, False, lambda _: None, b"0123456789")
        return await bench.writer.put(request)

    async def all_of_them() -> list[StoredValue | BaseException]:
        return await asyncio.gather(*map(one, range(16)), return_exceptions=True)

    # When sixteen are under way at once, then ten are stored, and the others hear 507
    outcomes = asyncio.run(all_of_them())
    assert sum(isinstance(outcome, StoredValue) for outcome in outcomes) == 10
    assert sum(isinstance(outcome, NoRoom) for outcome in outcomes) == 6
    with bench.index.read() as tables:
        assert tables.usage("a/") == (10, 100)
    bench.index.close()


def test_an_entry_whose_lifetime_has_ended_counts_until_it_is_removed(index: Index) -> None:
    quotas = Quotas(index, {"a/": 100})
    entry = Entry(1, "n1", 1, 1, 1, now_ms() - 1, 90, "", b"d" * 32, None)
    with index.write() as tables:
        tables.put_entry(A1, None, entry)
    with pytest.raises(NoRoom):
        quotas.check(A2, 11)
    quotas.check(A1, 100)


# The setting.


def read(text: str) -> dict[str, int]:
    return dict(settings.load(environ={"PULZAR_GENERAL_QUOTAS": text}).general.quotas)


def test_the_setting_names_folders_and_sizes() -> None:
    assert read("") == read("None") == {}
    assert read("folder/: 100GB, other/: 5GiB") == {"folder/": 100 * 10**9, "other/": 5 << 30}
    assert read("/:1T,a/b c/ : 10") == {"": 1 << 40, "a/b c/": 10}
    assert read("/a/: 0, x%2C y%25/: 1kb, a:b/:1KiB,") == {"a/": 0, "x, y%/": 1000, "a:b/": 1024}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1G", "ends with a slash"),
        ("a/", "ends with a slash"),
        ("1G", "ends with a slash"),
        ("a/: 1X", "a size from"),
        ("a/: -1", "a size from"),
        ("a/: 99999999999T", "a size from"),
        ("a//: 1G", "empty segment"),
        ("../: 1G", "segment . or .."),
        ("ü/: 1G", "only ASCII"),
        ("a/: 1G, a/: 2G", "has a quota already"),
    ],
)
def test_a_bad_quota_stops_the_start_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(reason)):
        read(text)
