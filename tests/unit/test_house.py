"""The rules of the house (DESIGN.md, section 2)."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support import imports

ROOT = Path(__file__).parents[2]
PACKAGES = ("backup", "broker", "master", "node")
FOLDERS = (*PACKAGES, "extensions", "jobs", "ops", "pulzar", "tests")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
OTHERS = sorted(path for package in ("jobs", "extensions", "ops", "pulzar") for path in (ROOT / package).rglob("*.py"))
EVERYTHING = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts and path != Path(__file__)
)


def strings(path: Path) -> list[str]:
    """String literals of a module that are no docstrings."""
    tree = ast.parse(path.read_text())
    documentation = {
        id(part.body[0].value)
        for part in ast.walk(tree)
        if isinstance(part, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and part.body
        and isinstance(part.body[0], ast.Expr)
    }
    return [
        part.value
        for part in ast.walk(tree)
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and id(part) not in documentation
    ]


def relative(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


# Which room may import which. A room is a package, or a module directly in `master` or `node`: one for each process and
# what is between them. A module belongs to the longest name that it begins with. `*` stands for all rooms of `broker`.
BASE = ("broker", "broker.errors", "broker.integers", "broker.keys", "broker.logs", "broker.refusals")
LAYERS: dict[str, tuple[str, ...]] = {
    "broker": (),
    "broker.errors": (),
    "broker.integers": (),
    "broker.masks": (),
    "broker.topology": (),
    "broker.keys": ("broker.errors",),
    "broker.refusals": ("broker.errors",),
    "broker.lmdb_files": ("broker.errors",),
    "broker.logs": ("broker.errors", "broker.keys"),
    "broker.setting_types": ("broker", "broker.errors", "broker.integers", "broker.keys"),
    "broker.backups.timetable": ("broker",),
    "broker.backups.keep_rule": (),
    "broker.backups.address": ("broker", "broker.errors", "broker.settings"),
    "broker.backups": (*BASE, "broker.process", "broker.settings", "broker.messages", "broker.snapshot_files"),
    "broker.settings": (
        "broker",
        "broker.errors",
        "broker.setting_types",
        "broker.backups.timetable",
        "broker.backups.keep_rule",
    ),
    "broker.snapshot_files": ("broker.errors",),
    "broker.rights": ("broker.topology", "broker.messages"),
    "broker.messages": (*BASE, "broker.http"),
    "broker.tls": ("broker.errors",),
    "broker.contract": (*BASE,),
    "broker.http": (*BASE, "broker.tls"),
    "broker.server": (*BASE, "broker.http", "broker.tls"),
    "broker.link": (*BASE, "broker.topology", "broker.settings", "broker.tls"),
    "broker.metrics": (*BASE, "broker.http", "broker.link", "broker.lmdb_files"),
    "broker.process": (),
    "broker.service": (*BASE, "broker.process", "broker.settings", "broker.server"),
    "backup": (
        "broker",
        "broker.backups.address",
        "broker.errors",
        "broker.backups.keep_rule",
        "broker.process",
        "broker.settings",
        "broker.snapshot_files",
    ),
    "backup.mirror": ("broker", "broker.errors", "broker.backups.keep_rule", "broker.snapshot_files", "backup"),
    "backup.targets": ("broker.backups.keep_rule", "backup", "backup.mirror"),
    "backup.__main__": (
        "broker",
        "broker.errors",
        "broker.backups.keep_rule",
        "broker.process",
        "broker.setting_types",
        "broker.settings",
        "broker.snapshot_files",
        "backup",
        "backup.mirror",
        "backup.targets",
    ),
    "jobs": (),
    "pulzar": ("pulzar.errors", "pulzar.wire"),
    "pulzar.__main__": ("pulzar.command",),
    "pulzar.errors": (),
    "pulzar.wire": ("pulzar.errors",),
    "pulzar.command": ("pulzar", "pulzar.errors", "pulzar.wire"),
    "extensions": (*BASE, "broker.http", "broker.tls", "jobs"),
    "master": (),
    "master.errors": ("broker.errors",),
    "master.channel": ("*", "master.errors"),
    "master.index": ("*", "master.errors"),
    "master.cluster": ("*", "master.index"),
    "master.security": ("*",),
    "master.metrics": ("*", "master.security"),
    "master.store": ("*", "master.errors", "master.index", "master.cluster", "master.metrics"),
    "master.jobs": (
        "*",
        "jobs",
        "master.errors",
        "master.channel",
        "master.index",
        "master.cluster",
        "master.metrics",
    ),
    "master.jobs.history": ("*", "master.jobs"),
    "master.backup": ("*", "master.errors", "master.index", "master.jobs"),
    "master.events": (
        "*",
        "master.channel",
        "master.index",
        "master.cluster",
        "master.jobs",
        "master.backup",
        "master.security",
    ),
    "master.dead_letters": ("*",),
    "master.extensions": ("*", "extensions", "master.index"),
    "master.web.metrics": (
        "*",
        "master.backup",
        "master.cluster",
        "master.index",
        "master.jobs",
        "master.metrics",
    ),
    "master.web.keys": ("*", "master.errors", "master.index", "master.cluster", "master.security", "master.store"),
    "master.web.jobs": ("*", "master.channel", "master.index", "master.jobs", "master.security", "master.web.keys"),
    "master.web.events": (
        "*",
        "master.events",
        "master.index",
        "master.metrics",
        "master.security",
        "master.web.keys",
    ),
    "master.web.flask_routes": (
        "*",
        "jobs",
        "master.backup",
        "master.channel",
        "master.index",
        "master.cluster",
        "master.dead_letters",
        "master.events",
        "master.jobs",
        "master.jobs.history",
        "master.security",
        "master.web.keys",
        "master.web.jobs",
        "master.web.metrics",
        "master.web.restic",
    ),
    "master.web.restic": (
        "*",
        "master.index",
        "master.cluster",
        "master.security",
        "master.store",
        "master.web.keys",
    ),
    "master.web": ("*", "master.metrics", "master.security", "master.store"),
    "master.web.ui.frame": ("*", "master.security", "master.web"),
    "master.web.ui.parts": ("*", "master.security", "master.web.flask_routes", "master.web.ui.frame"),
    "master.web.ui.jobs": (
        "*",
        "jobs",
        "master.jobs",
        "master.jobs.history",
        "master.security",
        "master.web.flask_routes",
        "master.web.jobs",
        "master.web.keys",
        "master.web.ui.frame",
        "master.web.ui.parts",
    ),
    "master.web.ui.keys": (
        "*",
        "master.index",
        "master.cluster",
        "master.security",
        "master.web",
        "master.web.keys",
        "master.web.ui.frame",
        "master.web.ui.parts",
    ),
    "master.web.ui": (
        "*",
        "jobs",
        "master.backup",
        "master.channel",
        "master.index",
        "master.cluster",
        "master.jobs",
        "master.jobs.history",
        "master.extensions",
        "master.security",
        "master.web",
        "master.web.keys",
        "master.web.jobs",
        "master.web.flask_routes",
        "master.web.ui.frame",
        "master.web.ui.jobs",
        "master.web.ui.keys",
        "master.web.ui.parts",
    ),
    "master.controller": (
        "*",
        "master.errors",
        "master.channel",
        "master.index",
        "master.cluster",
        "master.jobs",
        "master.backup",
        "master.events",
        "master.metrics",
        "master.security",
    ),
    "master.worker": (
        "*",
        "master.channel",
        "master.events",
        "master.index",
        "master.cluster",
        "master.metrics",
        "master.security",
        "master.store",
        "master.jobs",
        "master.extensions",
        "master.web",
        "master.web.events",
        "master.web.keys",
        "master.web.jobs",
        "master.web.flask_routes",
        "master.web.restic",
        "master.web.ui",
        "master.web.ui.frame",
        "master.web.ui.keys",
    ),
    "master.__main__": ("*", "master.extensions", "master.index", "master.jobs", "master.security"),
    "node": (),
    "node.errors": ("broker.errors",),
    "node.metrics": ("*",),
    "node.storage.disk": ("broker.logs", "node.errors"),
    "node.storage.index": ("*", "node.errors", "node.storage.disk"),
    "node.storage.log": ("*", "node.errors", "node.storage.disk"),
    "node.storage": (
        "*",
        "node.errors",
        "node.metrics",
        "node.storage.disk",
        "node.storage.index",
        "node.storage.log",
    ),
    "node.identity": ("*", "node.storage.disk"),
    "node.runs": ("*", "jobs", "node.runs.fence", "node.runs.protocol", "node.runs.zygotes"),
    "node.runs.protocol": ("node.runs.fence",),
    "node.runs.zygotes": ("*", "node.runs.protocol"),
    "node.runs.fence": ("*",),
    "node.jobs": (
        "*",
        "jobs",
        "node.errors",
        "node.metrics",
        "node.runs",
        "node.runs.fence",
        "node.runs.zygotes",
        "node.storage",
        "node.storage.disk",
        "node.storage.log",
    ),
    "node.web": ("*", "node.errors", "node.identity", "node.metrics", "node.storage", "node.storage.disk"),
    "node.command_executor": ("*", "node.errors", "node.metrics", "node.storage"),
    "node.heartbeat": ("*", "node.errors", "node.jobs", "node.storage"),
    "node.gauges": ("*", "node.heartbeat", "node.jobs", "node.metrics", "node.storage"),
    "node.fetcher": ("*", "node.errors", "node.command_executor", "node.storage", "node.storage.disk"),
    "node.replayer": ("*", "node.errors", "node.storage"),
    "node.healer": ("*", "node.errors", "node.storage", "node.storage.disk"),
    "node.twin": ("*",),
    "node.backups": ("*", "node.storage"),
    "node.agent": (
        "*",
        "node.backups",
        "node.twin",
        "node.errors",
        "node.identity",
        "node.metrics",
        "node.command_executor",
        "node.fetcher",
        "node.gauges",
        "node.healer",
        "node.heartbeat",
        "node.replayer",
        "node.jobs",
        "node.storage",
    ),
    "node.backup_values": (
        "*",
        "node.errors",
        "node.storage",
        "node.storage.disk",
        "node.storage.log",
    ),
    "node.extract": ("*", "node.storage"),
    "node.__main__": ("*", "node.identity", "node.twin"),
}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("backup", "broker", "master", "node", "jobs", "extensions", "pulzar")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def room_of(module: str) -> str:
    """The room that a module is in; raises `StopIteration` when the table has none for it."""
    inside = module if MODULES[module].name == "__init__.py" or module in LAYERS else module.rpartition(".")[0]
    return next(
        room for room in (inside, inside.partition(".")[0]) if room in LAYERS and (room == inside or room == "jobs")
    )


def imported_modules(module: str, modules: Mapping[str, Path]) -> set[str]:
    """The modules of the project that a module imports anywhere: in functions and for type checking too."""
    found = set()
    for part in ast.walk(ast.parse(modules[module].read_text())):
        if isinstance(part, ast.Import):
            found |= {alias.name for alias in part.names}
        elif isinstance(part, ast.ImportFrom) and part.module:
            names = {f"{part.module}.{alias.name}" for alias in part.names}
            found |= {name if name in modules else part.module for name in names}
    return {name for name in found if name in modules and name != module}


def forbidden(modules: Mapping[str, Path]) -> list[str]:
    """The imports that the table does not allow."""
    broker = {room for room in LAYERS if room.partition(".")[0] == "broker"}
    found = []
    for module in modules:
        room = room_of(module)
        allowed = {room} | set(LAYERS[room]) | (broker if "*" in LAYERS[room] else set())
        found += [
            f"{module} imports {name}"
            for name in sorted(imported_modules(module, modules))
            if room_of(name) not in allowed
        ]
    return found


def test_rooms_import_only_what_the_table_allows() -> None:
    assert not forbidden(MODULES)


def test_the_table_catches_a_forbidden_import(tmp_path: Path) -> None:
    planted = tmp_path / "route.py"
    planted.write_text(
        "def later() -> None:\n    from node.storage import reader\n    from master.store.writer import Writer\n"
    )
    assert forbidden(MODULES | {"master.extensions.route": planted}) == [
        "master.extensions.route imports master.store.writer",
        "master.extensions.route imports node.storage.reader",
    ]


def test_no_room_stands_above_itself() -> None:
    """The table has no circle, so the rooms have an order from the bottom to the top."""
    heights: dict[str, int] = {}

    def height(room: str, above: tuple[str, ...] = ()) -> int:
        assert room not in above, f"a circle: {' -> '.join((*above, room))}"
        if room not in heights:
            below = [name for name in LAYERS[room] if name not in ("*", room)]
            heights[room] = max((height(name, (*above, room)) + 1 for name in below), default=0)
        return heights[room]

    assert max(map(height, LAYERS)) < 12


def test_no_modules_import_each_other_in_a_circle() -> None:
    needs = {module: imported_modules(module, MODULES) for module in MODULES}
    left = dict(needs)
    while free := [module for module, names in left.items() if not names & left.keys()]:
        for module in free:
            del left[module]
    assert not {module: sorted(names & left.keys()) for module, names in left.items()}


def test_a_folder_has_at_most_16_modules() -> None:
    folders = Counter(path.parent for path in MODULES.values() if path.name not in ("__init__.py", "__main__.py"))
    assert not {str(folder.relative_to(ROOT)): number for folder, number in folders.items() if number > 16}


# Participles that were names here, and told nobody what was inside.
PARTICIPLES = re.compile(
    r"^_?(live|settling|leavings|kept|pulling|waiting|incoming|running|healing|streamed|confided)$", re.I
)


def test_no_module_and_no_class_is_called_by_a_participle() -> None:
    modules = [module for module in MODULES if PARTICIPLES.match(module.rpartition(".")[2])]
    classes = [
        f"{path.relative_to(ROOT)}: {part.name}"
        for path in SOURCES
        for part in ast.walk(ast.parse(path.read_text()))
        if isinstance(part, ast.ClassDef) and PARTICIPLES.match(part.name)
    ]
    assert not modules + classes


def test_nothing_that_runs_needs_what_is_only_for_operating_or_testing() -> None:
    assert not relative([path for path in SOURCES if imports(path) & {"ops", "tests", "pytest", "requests"}])


def test_only_the_link_imports_pika() -> None:
    assert not relative(
        [path for path in SOURCES if "pika" in imports(path) and path.parent != ROOT / "broker" / "link"]
    )


def test_only_one_module_opens_lmdb_files() -> None:
    opening = [path for path in SOURCES if re.search(r"\blmdb\.(open|Environment)\(", path.read_text())]
    assert relative(opening) == ["broker/lmdb_files.py"]


def test_only_the_topology_names_a_queue() -> None:
    names = re.compile(r"pulzar\.(node|jobs|control|results|progress|heartbeats|events|dead)\b")
    naming = [path for path in SOURCES if any(names.search(text) for text in strings(path))]
    assert relative(naming) == ["broker/topology.py"]


def test_every_folder_says_what_it_is_and_what_to_open_first() -> None:
    packages = [
        path.parent for path in MODULES.values() if path.name == "__init__.py" and path.parent.name != "example"
    ]
    folders = {ROOT / folder for folder in FOLDERS} | {
        path for path in packages if path.parts[len(ROOT.parts)] != "jobs"
    }
    for folder in sorted(folders):
        text = (folder / "README.md").read_text()
        assert "first" in text, folder
        named = re.findall(r"`([a-z_/]+\.py)`", text)
        assert not [name for name in named if not (folder / name).exists()], folder


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError")
    assert not relative([path for path in EVERYTHING if marks.search(path.read_text())])


# What is not there any more can't be removed or killed.
SELF_EXPLAINING = (
    "FileNotFoundError",
    "ProcessLookupError",
    "ProcessLookupError, PermissionError",
    "psutil.NoSuchProcess",
)


def is_silent(handler: ast.ExceptHandler) -> bool:
    """Whether all that an `except` does is to go on, or to return nothing."""
    last = handler.body[0]
    if len(handler.body) > 1:
        return False
    nothing = (None, False, 0, "", b"")
    if isinstance(last, ast.Return):
        return last.value is None or (isinstance(last.value, ast.Constant) and last.value.value in nothing)
    return isinstance(last, ast.Pass | ast.Continue | ast.Break)


def swallowed(source: str) -> list[str]:
    """The errors that are caught without a word: no comment beside them says why."""
    lines = source.split("\n")
    found = []
    for part in ast.walk(ast.parse(source)):
        if isinstance(part, ast.ExceptHandler) and is_silent(part):
            caught, last = ast.unparse(part.type) if part.type else "everything", part.end_lineno
        elif isinstance(part, ast.withitem) and ast.unparse(part.context_expr).startswith(
            ("suppress(", "contextlib.suppress(")
        ):
            caught, last = ast.unparse(part.context_expr).partition("(")[2][:-1], part.context_expr.lineno
        else:
            continue
        first = part.lineno if isinstance(part, ast.ExceptHandler) else part.context_expr.lineno - 1
        if caught not in SELF_EXPLAINING and not any("#" in line for line in lines[first - 1 : last]):
            found.append(f"{first} {caught}")
    return found


def test_no_error_is_swallowed() -> None:
    assert not [
        f"{path.relative_to(ROOT)}:{what}" for path in (*SOURCES, *OTHERS) for what in swallowed(path.read_text())
    ]


@pytest.mark.parametrize("end", ["pass", "continue", "break", "return", "return None", "return False", 'return ""'])
def test_the_rule_sees_an_error_that_is_swallowed(end: str) -> None:
    text = f"def f():\n    while True:\n        try:\n            g()\n        except OSError:\n            {end}\n"
    assert swallowed(text) == ["5 OSError"]
    assert not swallowed(text.replace("OSError:", "OSError:  # it is gone"))
    assert swallowed("with suppress(OSError):\n    g()\n") == ["0 OSError"]


def test_a_function_has_at_most_five_positional_parameters() -> None:
    many = []
    for path in (*SOURCES, *OTHERS):
        for part in ast.walk(ast.parse(path.read_text())):
            if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [argument.arg for argument in part.args.posonlyargs + part.args.args]
                number = len(names) - (names[:1] in (["self"], ["cls"]))
                if number > 5:
                    many.append(f"{path.relative_to(ROOT)}:{part.lineno} {part.name} has {number}")
    assert not many


MOST_ANY = 100


def test_any_is_rare() -> None:
    lines = [line for path in SOURCES for line in path.read_text().split("\n") if re.search(r"\bAny\b", line)]
    assert len(lines) <= MOST_ANY


def test_no_pickle_goes_over_any_wire() -> None:
    assert not relative([path for path in SOURCES if imports(path) & {"pickle", "shelve", "marshal"}])
    # Connections of multiprocessing pickle in `send` and `recv`, not in `send_bytes` and `recv_bytes`.
    sockets = [path for path in SOURCES if "multiprocessing.connection" in path.read_text()]
    assert not relative(
        [path for path in sockets if re.search(r"\.(send|recv)\(\)|connection\.send\(", path.read_text())]
    )


@pytest.mark.parametrize("role", ["__main__", "errors", "web/application", "jobs/service"])
def test_the_same_role_has_the_same_file_name_on_both_sides(role: str) -> None:
    assert (ROOT / "master" / f"{role}.py").exists()
    assert (ROOT / "node" / f"{role}.py").exists()


def test_every_phase_is_one_at_which_a_test_interrupts() -> None:
    """Long operations announce their phases, so that a test can kill a real process there (`broker/phases.py`)."""
    sources = [path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py")]
    announced = {name for path in sources for name in re.findall(r'announce\("([a-z.]+)"\)', path.read_text())}
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__))
    assert len(announced) > 15
    assert not [name for name in sorted(announced) if f'"{name}"' not in tests]
