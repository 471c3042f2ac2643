"""Which scripts a node has, and what they say of themselves."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from broker.messages.codec import encode
from broker.messages.runs import NodeCatalog as Message
from jobs import docstrings
from node.jobs.catalog import Catalog
from tests.support import decode, quickest

JOB = '''
from jobs import Job

class Report(Job):
    """Of a class."""

    def execute(self):
        """Description: Adds up
        two lines.
        Arguments: {"number": "int: how many", "kind": ["a", "b"], "rate": 0.5}
        Category: maths
        Author: Ada
        """
        open("/executed", "w")
'''


def write(directory: Path, **files: str | bytes) -> None:
    """Files of the folder `f`."""
    (directory / "f").mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / "f" / f"{name}.py").write_bytes(text if isinstance(text, bytes) else text.encode())


def catalog(directory: Path) -> dict[str, dict[str, Any]]:
    """Rows of a new catalog, by path."""
    found = Catalog(directory)
    found.scan()
    return {row["path"]: row for row in found.rows}


def jobs(directory: Path) -> set[str]:
    """Paths of what is no helper."""
    return {path for path, row in catalog(directory).items() if row["kind"] != "helper"}


def test_a_class_is_described_by_the_docstring_of_execute(tmp_path: Path) -> None:
    write(tmp_path, report=JOB)
    row = catalog(tmp_path)["f/report"]
    assert row | {"arguments": None} == {
        "path": "f/report",
        "description": "Adds up\ntwo lines.",
        "category": "maths",
        "author": "Ada",
        "args": '{"number": "int: how many", "kind": ["a", "b"], "rate": 0.5}',
        "error": "",
        "kind": "class",
        "arguments": None,
    }
    assert row["arguments"] == [
        {"name": "number", "type": "int", "default": None, "help": "how many", "choices": []},
        {"name": "kind", "type": "str", "default": "a", "help": "", "choices": ["a", "b"]},
        {"name": "rate", "type": "float", "default": 0.5, "help": "", "choices": []},
    ]


def test_a_plain_script_is_described_by_its_own(tmp_path: Path) -> None:
    write(tmp_path, plain='"""Cleans up.\n\nAuthor: Ada\n"""\nprint(1)', bare="print(1)", empty="")
    rows = catalog(tmp_path)
    assert (rows["f/plain"]["description"], rows["f/plain"]["author"]) == ("Cleans up.", "Ada")
    assert {row["kind"] for row in rows.values()} == {"script"}
    assert rows["f/bare"]["arguments"] is None
    assert set(rows) == {"f/plain", "f/bare", "f/empty"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"x = 1\ndef (", "line 2: invalid syntax"),
        (b"x = '\xff'", "(unicode error)"),
        (b"x = 1\0", "null bytes"),
        (b"(" * 300 + b")" * 300, "too many nested parentheses"),
        (b"x = " + b"-" * 100_000 + b"1", ""),
        (b"\n" * (5 << 20), "is the limit"),
    ],
    ids=["syntax", "encoding", "null", "parentheses", "deep", "large"],
)
def test_a_script_that_can_not_be_read_is_listed_with_its_error(tmp_path: Path, text: bytes, error: str) -> None:
    write(tmp_path, bad=text, good="")
    rows = catalog(tmp_path)
    assert error in rows["f/bad"]["error"]
    assert rows["f/bad"]["error"]
    assert rows["f/good"]["error"] == ""


def test_what_is_no_script_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, good="", _hidden="", **{"not good": "", "__init__": "", "x" * 65: "", "-a": ""})
    (tmp_path / "f" / "text.txt").touch()
    (tmp_path / "f" / "folder.py").mkdir()
    (tmp_path / "f" / "deeper").mkdir()
    (tmp_path / "f" / "deeper" / "script.py").touch()
    for folder in ("_private", ".git", "not good"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "script.py").touch()
    (tmp_path / "top.py").touch()
    assert set(catalog(tmp_path)) == {"f/good"}


def test_helper_modules_are_left_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        job="from . import one\nfrom .two import x\nimport three, os\nfrom four import y\ndef late():\n    import five",
        one="x = 1",
        two="x = 1",
        three="x = 1",
        four="y = 1",
        five="x = 1",
        alone="print(1)",
        said="# pulzar: helper\nx = 1",
        also="from jobs import Job\nclass Also(Job): pass",
        main="if __name__ == '__main__':\n    print(1)",
        user="from . import also, main, user",
    )
    assert jobs(tmp_path) == {"f/job", "f/alone", "f/also", "f/main", "f/user"}


def test_a_helper_is_listed_with_those_whose_it_is(tmp_path: Path) -> None:
    write(
        tmp_path,
        one="from . import shared",
        two="import shared",
        three="import shared",
        four="import shared",
        shared="x = 1",
        said="# pulzar: helper",
        **{"1st": "x = 1", "five": "from importlib import import_module"},
    )
    rows = catalog(tmp_path)
    assert (rows["f/shared"]["kind"], rows["f/shared"]["error"]) == (
        "helper",
        "a helper of f/four, f/one, f/three and others, which imports it; "
        'with a class Shared(Job) or `if __name__ == "__main__":` it is a job of its own',
    )
    assert (rows["f/said"]["kind"], rows["f/said"]["error"]) == (
        "helper",
        "a helper, as its line `# pulzar: helper` says",
    )
    found = Catalog(tmp_path)
    assert found.has("f/one")
    assert not found.has("f/shared")


@pytest.mark.parametrize("name", ["email", "json", "csv", "test", "jobs", "msgpack"])
def test_a_name_of_python_or_of_an_installed_package_makes_no_helper(tmp_path: Path, name: str) -> None:
    # Given a script called like a module that its neighbour means
    write(tmp_path, other=f"import {name}\nfrom {name}.utils import x", **{name: "print('works')"})
    assert jobs(tmp_path) == {f"f/{name}", "f/other"}
    # and one that its neighbour says it means
    write(tmp_path, other=f"from . import {name}")
    assert jobs(tmp_path) == {"f/other"}
    write(tmp_path, other=f"from .{name} import x")
    assert jobs(tmp_path) == {"f/other"}


def test_links_are_scripts_and_folders_like_any_others(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    write(outside, shared="")
    write(inside, real="")
    (inside / "f" / "link.py").symlink_to(outside / "f" / "shared.py")
    (inside / "f" / "same.py").symlink_to("real.py")
    (inside / "f" / "loose.py").symlink_to("nothing")
    (inside / "f" / "round.py").symlink_to("round.py")
    (inside / "f" / "folder.py").symlink_to(outside)
    (inside / "far").symlink_to(outside / "f")
    (inside / "near").symlink_to("f")
    (inside / "up").symlink_to(".")
    (inside / "lost").symlink_to("nothing")
    found = catalog(inside)
    names = ["link", "loose", "real", "round", "same"]
    assert list(found) == [*(f"f/{name}" for name in names), "far/shared", *(f"near/{name}" for name in names)]
    errors = {path: row["error"] for path, row in found.items() if row["error"] and path[0] == "f"}
    assert errors == {
        "f/loose": "it is a link to nothing, where nothing is",
        "f/round": "it is a link to round.py, where nothing is",
    }
    # and they are there once there is something
    (inside / "f" / "nothing").write_text("print(1)")
    assert catalog(inside)["f/loose"]["error"] == ""


JOBS = {
    "own": "from jobs import Job\nclass Any(Job):\n    def execute(self):\n        'of own'",
    "attribute": "import jobs as j\nclass Any(j.Job):\n    async def execute(self):\n        'of attribute'",
    "derived": "from jobs import Job as J\nclass Above(J):\n    def execute(self): 'above'\nclass Below(Above): 'below'",
    "core": "from jobs import *\nclass Nightly(Job):\n    def execute(self):\n        'of core'\nclass Part(Job): pass",
    "nightly": "from core import Nightly",
    "also": "from .core import Nightly as N",
    "built": "from . import core\nclass X(core.Part):\n    def execute(self): 'of built'",
    "two": "from jobs import Job\nclass A(Job):\n    def execute(self): 1\nclass B(A): pass",
    "both": "from jobs import Job\nclass Other(Job):\n    def execute(self): 1\nclass Both(Other): 'of both'",
    "unable": "from jobs import Job\nclass Some(Job): pass",
    "busy": "from jobs import Job\nclass A(Job):\n    def execute(self): 1\nclass B(A): pass\nprint(A().execute())",
    "theirs": "class Job: pass\nclass Any(Job):\n    def execute(self): 1",
    "round": "from jobs import Job\nclass A(B): pass\nclass B(A): pass\nclass C(C): pass",
    "uses": "from .core import Part\nprint(Part.__name__)",
}


def test_the_one_job_of_a_script_is_found_whatever_it_is_called(tmp_path: Path) -> None:
    write(tmp_path, **JOBS)
    rows = catalog(tmp_path)
    classes = {path.partition("/")[2]: row["description"] for path, row in rows.items() if row["kind"] == "class"}
    assert classes == {
        "own": "of own",
        "attribute": "of attribute",
        "nightly": "of core",
        "also": "of core",
        "built": "of built",
        "both": "of both",
    }
    errors = {path.partition("/")[2]: row["error"] for path, row in rows.items() if row["kind"] == "script"}
    assert errors == {
        "derived": "f/derived has the jobs Above and Below, and none is called like the script; call the one that is to run Derived",
        "two": "f/two has the jobs A and B, and none is called like the script; call the one that is to run Two",
        "unable": "the class Some of f/unable has no method execute",
        "busy": "",
        "theirs": "",
        "round": "",
        "uses": "",
    }
    assert rows["f/core"]["kind"] == "helper"


def test_no_class_can_be_called_like_a_script_that_begins_with_a_digit(tmp_path: Path) -> None:
    write(tmp_path, **{"01_load": JOBS["two"]})
    assert catalog(tmp_path)["f/01_load"]["error"].endswith("have only one, and the others in modules beside it")


def test_a_directory_that_is_not_there_has_no_scripts(tmp_path: Path) -> None:
    found = Catalog(tmp_path / "later")
    assert found.scan()
    assert found.digest
    assert not found.rows
    (tmp_path / "later").mkdir()
    write(tmp_path / "later", job="")
    assert found.has("f/job")
    assert not found.has("f/other")


def test_the_digest_changes_with_the_scripts_and_with_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, report=JOB, other="")
    first, second = Catalog(tmp_path), Catalog(tmp_path)
    assert first.scan()
    assert second.scan()
    assert first.digest == second.digest
    assert not first.scan()
    os.utime(tmp_path / "f" / "other.py", ns=(1, 1))
    assert not first.scan()
    write(tmp_path, other='"""Says something."""')
    assert first.scan()
    assert first.digest != second.digest
    (tmp_path / "f" / "other.py").unlink()
    assert first.scan()
    assert [row["path"] for row in first.rows] == ["f/report"]


def test_a_thousand_scripts_that_have_not_changed_are_looked_at_in_no_time(tmp_path: Path) -> None:
    for folder in range(20):
        (tmp_path / f"f{folder}").mkdir()
        for number in range(50):
            (tmp_path / f"f{folder}" / f"s{number}.py").write_text(JOB)
    found = Catalog(tmp_path)
    found.scan()
    assert len(found.rows) == 1_000

    def took() -> float:
        began = time.process_time()  # what others do on this machine does not count
        assert not found.scan()
        return time.process_time() - began

    assert quickest(took, 0.02, tries=20) < 0.02


@pytest.mark.parametrize(
    "documented",
    [
        '{"n": 1e999}',
        '{"n": NaN}',
        '{"n": 100000000000000000000000}',
        '{"n": "\\ud800"}',
        '["n"]',
        "n: int",
        "{" * 2000,
        "",
    ],
)
def test_arguments_that_are_no_json_object_stay_text(tmp_path: Path, documented: str) -> None:
    write(tmp_path, job=f'"""Arguments: {documented}"""'.replace("\\", "\\\\"))
    found = Catalog(tmp_path)
    found.scan()
    assert found.rows[0]["arguments"] is None
    message = Message("node-1", found.digest, found.rows)
    assert decode(encode(message), Message) == message


def test_arguments_are_typed() -> None:
    found = docstrings.parse_arguments(
        '{"a": "integer", "b": {"type": "bool", "default": true, "help": "yes"}, "c": "whatever you like", "d": null,'
        ' "e": {"default": [1], "choices": 7}, "f": "str", "g": "list[int], the numbers", "h": []}'
    )
    assert found is not None
    assert [(row["name"], row["type"], row["default"], row["help"]) for row in found] == [
        ("a", "int", None, ""),
        ("b", "bool", True, "yes"),
        ("c", "", None, "whatever you like"),
        ("d", "", None, ""),
        ("e", "list", [1], ""),
        ("f", "str", None, ""),
        ("g", "list", None, "the numbers"),
        ("h", "", None, ""),
    ]
