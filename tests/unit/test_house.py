"""The rules of the house (DESIGN.md, section 2)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support import imports

ROOT = Path(__file__).parents[2]
PACKAGES = ("broker", "master", "node")
FOLDERS = (*PACKAGES, "extensions", "jobs", "ops", "tests")
MOST_LINES = 320
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
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


def test_master_and_node_never_import_each_other() -> None:
    assert not relative([path for path in SOURCES if path.parts[-2] == "master" and "node" in imports(path)])
    assert not relative([path for path in SOURCES if path.parts[-2] == "node" and "master" in imports(path)])
    assert not relative([p for p in SOURCES if "broker" in p.parent.parts and imports(p) & {"master", "node"}])


def test_nothing_that_runs_needs_what_is_only_for_operating_or_testing() -> None:
    assert not relative([path for path in SOURCES if imports(path) & {"ops", "tests", "pytest", "requests"}])


def test_only_the_link_imports_pika() -> None:
    assert not relative(
        [path for path in SOURCES if "pika" in imports(path) and path.parent != ROOT / "broker" / "link"]
    )


def test_only_one_module_opens_lmdb_files() -> None:
    opening = [path for path in SOURCES if re.search(r"\blmdb\.(open|Environment)\(", path.read_text())]
    assert relative(opening) == ["broker/maps.py"]


def test_only_the_topology_names_a_queue() -> None:
    names = re.compile(r"pulzar\.(node|jobs|control|results|progress|heartbeats|events|dead)\b")
    naming = [path for path in SOURCES if any(names.search(text) for text in strings(path))]
    assert relative(naming) == ["broker/topology.py"]


def test_a_module_has_one_noun_and_stays_readable() -> None:
    long = {path: len(path.read_text().splitlines()) for path in SOURCES}
    assert not {str(path.relative_to(ROOT)): lines for path, lines in long.items() if lines > MOST_LINES}


def test_every_folder_says_what_it_is_and_what_to_read_first() -> None:
    for folder in FOLDERS:
        text = (ROOT / folder / "README.md").read_text()
        assert "first" in text, folder
        named = re.findall(r"`([a-z_/]+\.py)`", text)
        assert not [name for name in named if not (ROOT / folder / name).exists()], folder


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError")
    assert not relative([path for path in EVERYTHING if marks.search(path.read_text())])


def test_no_error_is_swallowed() -> None:
    swallowing = []
    for path in SOURCES:
        for part in ast.walk(ast.parse(path.read_text())):
            if isinstance(part, ast.ExceptHandler) and len(part.body) == 1 and isinstance(part.body[0], ast.Pass):
                caught = ast.unparse(part.type) if part.type else "everything"
                # What is not there any more can't be removed, and that is fine.
                if caught not in ("FileNotFoundError", "ProcessLookupError"):
                    swallowing.append(f"{path.relative_to(ROOT)}:{part.lineno} {caught}")
    assert not swallowing


def test_no_pickle_goes_over_any_wire() -> None:
    assert not relative([path for path in SOURCES if imports(path) & {"pickle", "shelve", "marshal"}])
    # Connections of multiprocessing pickle in `send` and `recv`, not in `send_bytes` and `recv_bytes`.
    sockets = [path for path in SOURCES if "multiprocessing.connection" in path.read_text()]
    assert not relative(
        [path for path in sockets if re.search(r"\.(send|recv)\(\)|connection\.send\(", path.read_text())]
    )


@pytest.mark.parametrize("role", ["__main__", "web", "index", "errors"])
def test_the_same_role_has_the_same_file_name_on_both_sides(role: str) -> None:
    assert (ROOT / "master" / f"{role}.py").exists()
    assert (ROOT / "node" / f"{role}.py").exists()
