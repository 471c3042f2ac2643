"""Which modules are to be loaded ahead for which script, and which zygotes there are for that."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from broker.messages.runs import CatalogRow, NodeCatalog
from master.jobs import script_catalog
from master.jobs.ledger import Ledger
from node.jobs.catalog import Catalog
from node.runs.zygotes import fleet, packages, wishes
from node.runs.zygotes.demand import OFTEN_RUNS, OFTEN_SECS, Demand
from node.runs.zygotes.fleet import Fleet, Limits


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a package `pkg`, which has the module `pkg.part`, and a module `single`."""
    place = tmp_path / "site"
    (place / "pkg").mkdir(parents=True)
    (place / "pkg/__init__.py").write_text("def function(): pass\n")
    (place / "pkg/part.py").touch()
    (place / "single.py").touch()
    monkeypatch.setattr(sys, "path", [str(place), *sys.path])
    monkeypatch.setenv("PYTHONPATH", str(place))
    return place


HEAD = {"os", "json:loads", "jobs:Job", "pkg:part", "pkg:function", "single", "pkgs:other", "nowhere"}


@pytest.mark.parametrize(
    ("field", "for_all", "modules", "often"),
    [
        ("", (), (), ()),
        ("pkg", (), ("pkg", "pkg.part"), None),  # what the script imports of it, too
        ("pkg.part, single", (), ("pkg.part", "single"), None),
        ("sqlite3\nabsent.thing", (), ("absent.thing", "sqlite3"), None),
        ("auto", (), ("pkg", "pkg.part", "single"), None),
        ("none", ("single",), (), ()),
        ("", ("single", "pkg"), ("pkg", "pkg.part", "single"), None),
        ("sqlite3", ("single",), ("single", "sqlite3"), None),
        ("", ("auto",), (), ("pkg", "pkg.part", "single")),
        ("sqlite3", ("auto",), ("sqlite3",), ("pkg", "pkg.part", "single", "sqlite3")),
    ],
)
def test_a_wish_comes_from_the_docstring_the_imports_and_the_setting(
    site: Path, field: str, for_all: tuple[str, ...], modules: tuple[str, ...], often: tuple[str, ...] | None
) -> None:
    wish = wishes.of(field, HEAD, for_all)
    assert (wish.modules, wish.often) == (modules, modules if often is None else often)
    assert not wish.odd


def test_words_that_name_no_module_are_told() -> None:
    wish = wishes.of("../../etc, a;b, os.path, 9x", (), ())
    assert wish.modules == ("os.path",)
    assert Demand().left_out(wish) == dict.fromkeys(("../../etc", "a;b", "9x"), "this is no name of a module")


def test_a_script_that_runs_often_gets_what_it_imports() -> None:
    now = 0.0
    demand = Demand(["auto"], clock=lambda: now)
    demand.catalog({"f/often": wishes.Wish((), ("pkg",)), "f/named": wishes.Wish(("pkg",), ("pkg",))})
    assert demand.ahead() == [("pkg",)]
    # Given runs that are far from each other
    for _ in range(OFTEN_RUNS):
        assert demand.begin("f/often") == ()
        now += OFTEN_SECS + 1
    # When they come one after the other
    got = [demand.begin("f/often") for _ in range(OFTEN_RUNS)]
    # Then the last ones have it; a script that says so has it at once, and an unknown one never
    assert got == [(), (), ("pkg",)]
    assert demand.begin("f/named") == ("pkg",)
    assert demand.begin("f/unknown") == ()


def test_the_catalog_says_what_is_loaded_ahead_and_what_can_not_be(site: Path, tmp_path: Path) -> None:
    # Given a script that names a package, one with a helper that imports it, and one that says nothing
    folder = tmp_path / "jobs/f"
    folder.mkdir(parents=True)
    (folder / "named.py").write_text('"""Sums.\n\nPreload: pkg, ?\nCategory: c\n"""\nfrom pkg import part\n')
    (folder / "helped.py").write_text('"""Preload: auto"""\nfrom . import _tables\nimport tables\n')
    (folder / "tables.py").write_text("import single\n")
    (folder / "plain.py").write_text("import pkg\n")
    demand = Demand()
    catalog = Catalog(tmp_path / "jobs", demand)
    catalog.scan()
    rows = {row["path"]: row for row in catalog.rows}
    assert rows["f/named"]["preload"] == ["pkg", "pkg.part"]
    assert rows["f/named"]["preload_left_out"] == {"?": "this is no name of a module"}
    assert (rows["f/named"]["description"], rows["f/named"]["category"]) == ("Sums.", "c")
    assert rows["f/helped"]["preload"] == ["single"]
    assert "preload" not in rows["f/plain"]
    assert demand.ahead() == [("pkg", "pkg.part"), ("single",)]
    # When a node finds that a module can't be loaded ahead
    digest = catalog.digest
    demand.leave_out({"pkg.part": "it starts threads (1), which a fork would lack"})
    # Then the catalog is another one, which says so
    assert catalog.scan()
    assert catalog.digest != digest
    row = next(row for row in catalog.rows if row["path"] == "f/named")
    assert row["preload_left_out"]["pkg.part"].startswith("it starts threads")
    assert not catalog.scan()


def test_the_catalog_of_the_cluster_has_it_and_scripts_differ_by_their_text_alone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", write=True, map_size=64 << 20)
    row: CatalogRow = {"path": "a/b", "kind": "script", "preload": ["pkg"]}
    with ledger.write() as tables:
        tables.save_catalog(NodeCatalog("n1", "x", [{**row, "preload_left_out": {"pkg": "it is slow"}}]))
        tables.save_catalog(NodeCatalog("n2", "y", [row]))
    with ledger.read() as view:
        (found,) = script_catalog.rows(view)
    ledger.close()
    assert (found["preload"], found["preload_left_out"], found["differs"]) == (["pkg"], {"pkg": "it is slow"}, False)


class FakeClient:
    """A zygote that is told to end."""

    def __init__(self, number: int, modules: tuple[str, ...]) -> None:
        self.number, self.modules = number, modules
        self.pid = number
        self.left = self.killed = False

    def leave(self) -> None:
        self.left = True

    def gone(self) -> bool:
        return self.left or self.killed

    def kill(self) -> None:
        self.killed = True


class Place:
    """A fleet whose zygotes are ready at once."""

    def __init__(self, **limits: int) -> None:
        self.now = fleet.time.monotonic() + 1000.0
        self.clients: list[FakeClient] = []
        self.left_out: dict[str, str] = {}
        self.fleet = Fleet(
            Limits(**limits), start=self.start, stop=lambda _: None, left_out=lambda found: self.left_out.update(found)
        )

    def start(self, number: int, modules: tuple[str, ...]) -> FakeClient:
        self.clients.append(FakeClient(number, modules))
        return self.clients[-1]

    def turn(self, memory: int = 1) -> None:
        """Let the next one start and load its modules, each of so many bytes."""
        count = len(self.clients)
        self.fleet.turn(self.now)
        for client in self.clients[count:]:
            sizes = [(name, memory * (at + 1)) for at, name in enumerate(client.modules)]
            self.fleet.loaded(client, sizes, [])
            self.fleet.is_ready(client)
            member = self.fleet.member_of(client)
            if member:
                member.used = self.now

    def there(self) -> list[tuple[str, ...]]:
        return [member.modules for member in self.fleet.members() if not member.leaves]

    def of(self, *modules: str) -> tuple[str, ...] | None:
        member = self.fleet.of(modules, self.now)
        return member.modules if member else None


def test_a_run_gets_the_smallest_zygote_with_all_it_needs_or_the_one_with_most_of_it() -> None:
    place = Place()
    place.fleet.expect([("a", "b", "c"), ("a",), ("x",)])
    for _ in range(3):
        place.turn()
    # A set that another one has needs none of its own
    assert place.there() == [("a", "b", "c"), ("x",)]
    assert place.of("a") == ("a", "b", "c")
    assert place.of("b", "y") == ("a", "b", "c")
    place.now += 1
    assert place.of("z") is None
    # Those that runs have asked for come next
    place.turn()
    assert place.there()[2:] == [("z",)]
    assert place.of("z") == ("z",)


def test_there_are_no_more_than_the_limit_and_the_least_recently_used_one_goes() -> None:
    place = Place(zygotes=2)
    place.fleet.expect([("a",), ("b",), ("c",)])
    for _ in range(4):
        place.turn()
    assert place.there() == [("a",), ("b",)]
    place.now += 1
    assert place.of("a") == ("a",)
    # While both were used lately, none has to go for another one
    assert place.of("d") is None
    place.turn()
    place.turn()
    assert place.there() == [("a",), ("b",)]
    # Later the older one goes, unless it has a run
    place.now += fleet.IDLE_SECS
    busy = place.fleet.of(("b",), place.now)
    assert busy
    place.fleet.run_began(busy)
    assert place.of("a")
    busy.used -= fleet.IDLE_SECS
    for _ in range(2):
        assert place.of("d") is None
        place.turn()
    assert place.there() == [("a",), ("b",)]
    place.fleet.run_ended(busy)
    busy.used = place.now - fleet.IDLE_SECS
    for _ in range(2):
        place.of("d")
        place.turn()
    assert place.there() == [("a",), ("d",)]
    assert [client.left for client in place.clients] == [False, True, False]


def test_the_memory_of_all_is_limited() -> None:
    place = Place(zygotes=9, memory=250)
    place.fleet.expect([("a",), ("b",)])
    place.turn(100)
    place.turn(100)
    assert place.there() == [("a",), ("b",)]
    # When a third one needs room, the one that was not used for longest goes
    place.now += 1
    assert place.of("a")
    assert place.of("c") is None
    place.turn(100)
    assert place.there() == [("a",), ("c",)]
    # One that is too large for all of it has its largest module left out
    assert place.of("d", "e") is None
    place.turn(200)
    assert place.there() == []
    assert list(place.left_out) == ["d"]
    place.turn(200)
    assert place.there() == [("e",)]
    # With a limit of no zygote, there is none
    assert Place(zygotes=0).of("a") is None


def test_modules_that_break_a_zygote_are_left_out_until_packages_change(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place()
    place.fleet.expect([("a", "b")])
    place.fleet.turn(place.now)
    # When the import of one does not end
    place.fleet.trying(place.clients[0], "b")
    place.clients[0].kill()
    place.fleet.ended(place.clients[0], "killed by signal 14 (SIGALRM)")
    # Then the others are loaded without it
    assert place.left_out == {"b": "its import did not end: it took longer than 60 s"}
    place.turn()
    assert place.of("a", "b") == ("a",)
    # When a package is installed, all begins again, and a run meanwhile has nothing loaded
    monkeypatch.setattr(packages, "installation", lambda: {"site": (1, 2)})
    place.now += fleet.INSTALLATION_SECS
    assert place.of("a", "b") is None
    assert place.clients[-1].left
    place.turn()
    assert place.of("a", "b") == ("a", "b")


def test_a_file_that_is_another_one_by_now_makes_a_zygote_go(tmp_path: Path) -> None:
    file = tmp_path / "part.py"
    file.write_text("1")
    place = Place()
    place.fleet.expect([("a",)])
    place.turn()
    place.fleet.loaded(place.clients[0], [("a", 1)], [str(file)])
    place.now += fleet.LOOK_SECS
    assert place.of("a") == ("a",)
    file.write_text("22")
    place.now += fleet.LOOK_SECS
    assert place.of("a") is None
    assert place.clients[0].left
    # Once the next one is ready, runs have it again
    place.now += fleet.AGAIN_SECS
    place.turn()
    assert place.of("a") == ("a",)


def test_a_zygote_that_ends_is_made_again_and_not_at_once() -> None:
    place = Place()
    place.fleet.expect([("a",)])
    place.turn()
    place.fleet.ended(place.clients[0], "killed by signal 9")
    assert place.of("a") is None
    place.turn()
    assert not place.there()
    place.now += fleet.AGAIN_SECS
    place.turn()
    assert place.there() == [("a",)]
    assert place.clients[1].number != place.clients[0].number
