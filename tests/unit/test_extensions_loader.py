"""From the name of an extension to its class."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import extensions
from extensions import Extension
from master.extensions import libraries
from master.extensions.errors import Failed
from master.extensions.loader import Loader

OLD = """\
from pulzarutils.extension import Extension


class Mysuperextension(Extension):
    def __init__(self, arguments, params, file_path=None):
        self.args = arguments
        self.params = params

    def execute(self):
        return {"my_arg": self.args, "my_params": self.params}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for extensions; what a loader changes of this process is put back."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path_hooks", sys.path_hooks[:])
    monkeypatch.setattr(extensions, "__path__", list(extensions.__path__))
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("extensions.", "pulzarutils")):
            del sys.modules[name]
            if name.startswith("extensions."):
                vars(extensions).pop(name.partition(".")[2], None)
    for path in list(sys.path_importer_cache):
        if path.startswith(str(tmp_path)) or path == str(Path(extensions.__file__ or "").parent):
            del sys.path_importer_cache[path]


def write(path: Path, text: str, age: float = 10.0) -> None:
    """A file that was written some seconds ago, so that it counts as finished."""
    path.write_text(text)
    when = path.stat().st_mtime - age
    os.utime(path, (when, when))


def returning(name: str, value: str, before: str = "") -> str:
    """The text of an extension that returns `value`."""
    return (
        f"from extensions import Extension\n{before}\nclass {name}(Extension):\n"
        f"    def execute(self):\n        return {value}\n"
    )


def result(loader: Loader, name: str) -> Any:
    return loader.load(name)([], {}, None).execute()


def test_a_file_written_for_the_first_pulzar_works_unchanged(folder: Path) -> None:
    write(folder / "mysuperextension.py", OLD)
    made = Loader(folder).load("mysuperextension")(["a", "b"], {"x": ["1"]}, None)
    assert made.execute() == {"my_arg": ["a", "b"], "my_params": {"x": ["1"]}}
    assert isinstance(made, Extension)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../up",
        "a/b",
        "a.b",
        "A",
        "aB",
        "_helper",
        "__init__",
        "1a",
        "a-b",
        "a b",
        "é",
        "a\n",
        "a" * 65,
        "a\0",
    ],
)
def test_what_is_no_plain_name_is_never_looked_for(folder: Path, name: str) -> None:
    for file in ("_helper", "__init__", "A", "a.b", "a-b"):
        write(folder / f"{file}.py", returning(file.capitalize().replace(".", ""), "[]"))
    with pytest.raises(Failed, match="no name of an extension") as refused:
        Loader(folder).load(name)
    assert refused.value.status == 404


def test_a_name_without_a_file_is_404_and_so_is_a_folder_or_a_missing_folder(folder: Path) -> None:
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text("")
    for place, name in ((folder, "nothing"), (folder, "package"), (folder / "missing", "nothing")):
        with pytest.raises(Failed, match="there is no extension") as refused:
            Loader(place).load(name)
        assert refused.value.status == 404


def test_an_edit_counts_at_once_even_one_of_the_same_length_in_the_same_moment(folder: Path) -> None:
    loader = Loader(folder)
    for number in range(5):
        (folder / "edited.py").write_text(returning("Edited", f"[{number}]"))
        assert result(loader, "edited") == [number]


def test_an_old_date_on_a_new_file_is_an_edit_too(folder: Path) -> None:
    loader = Loader(folder)
    write(folder / "edited.py", returning("Edited", "[1]"), age=10)
    assert result(loader, "edited") == [1]
    write(folder / "edited.py", returning("Edited", "[2]"), age=1000)
    assert result(loader, "edited") == [2]


def test_a_file_that_was_not_changed_is_not_loaded_again(folder: Path) -> None:
    loader = Loader(folder)
    write(folder / "kept.py", returning("Kept", "[]"))
    assert loader.load("kept") is loader.load("kept")


def test_an_edit_of_a_module_beside_it_counts_at_once(folder: Path) -> None:
    loader = Loader(folder)
    write(folder / "_helper.py", "value = 1\n")
    write(folder / "user.py", returning("User", "[_helper.value]", "from extensions import _helper\n"))
    assert result(loader, "user") == [1]
    write(folder / "_helper.py", "value = 2\n", age=5)
    assert result(loader, "user") == [2]


def test_two_extensions_can_share_a_class(folder: Path) -> None:
    loader = Loader(folder)
    write(folder / "first.py", returning("First", "[1]"))
    write(folder / "second.py", "from extensions.first import First\n\n\nclass Second(First):\n    pass\n")
    assert result(loader, "second") == [1]
    assert result(loader, "first") == [1]


def test_a_broken_edit_is_told_and_a_good_one_mends_it(folder: Path) -> None:
    loader = Loader(folder)
    write(folder / "fragile.py", returning("Fragile", "[1]"))
    assert result(loader, "fragile") == [1]
    write(folder / "fragile.py", "def (:\n", age=5)
    for _ in range(2):
        with pytest.raises(SyntaxError) as error:
            loader.load("fragile")
        assert error.value.lineno == 1
    write(folder / "fragile.py", returning("Fragile", "[3]"), age=2)
    assert result(loader, "fragile") == [3]


def test_a_removed_file_is_gone(folder: Path) -> None:
    loader = Loader(folder)
    write(folder / "brief.py", returning("Brief", "[1]"))
    loader.load("brief")
    (folder / "brief.py").unlink()
    with pytest.raises(Failed, match="there is no extension"):
        loader.load("brief")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"named\.py has no class Named; it needs `class Named\(Extension\):`"),
        ("class named: pass", "has no class Named"),
        ("Named = 5", "something else than an extension's class called Named"),
        ("class Named: pass", "something else than an extension's class called Named"),
        ("from extensions import Extension\nclass Named(Extension): pass", r"has no method execute\(self\)"),
    ],
)
def test_a_file_without_the_right_class_says_which_it_needs(folder: Path, text: str, message: str) -> None:
    write(folder / "named.py", text)
    with pytest.raises(Failed, match=message) as refused:
        Loader(folder).load("named")
    assert refused.value.status == 500


def test_the_class_is_called_like_the_file_capitalised(folder: Path) -> None:
    write(folder / "my_app2.py", returning("My_app2", "[7]"))
    assert result(Loader(folder), "my_app2") == [7]


def test_a_file_called_like_a_module_of_python_hides_it_from_nobody(folder: Path) -> None:
    write(folder / "json.py", returning("Json", "json.loads('[1]')", "import json\n"))
    assert result(Loader(folder), "json") == [1]


def test_the_command_for_a_library_names_its_package() -> None:
    assert libraries.command("shapely.geometry") == "pip install shapely"
    assert libraries.command("yaml") == "pip install PyYAML"


@pytest.mark.parametrize("module", ["extensions._gone", "json.gone", "_gone", "pulzarutils.gone", "master.gone"])
def test_what_is_no_library_has_no_command(module: str) -> None:
    assert not libraries.installable(module)
