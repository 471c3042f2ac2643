"""Which scripts a node has, and what they say of themselves."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from broker.messages.codec import encode
from broker.messages.runs import NodeCatalog as Message
from jobs import docstrings
from jobs.loader import Sources
from master.web.ui.jobs import fields
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


@pytest.mark.parametrize(
    ("head", "attribute", "said"),
    [
        ("", "reuse = 'lots'", "`reuse = 'lots'` is not counted"),
        ("", "reuse: int = -3", "`reuse = -3` is not counted"),
        ("", "reuse = True", "`reuse = True` is not counted"),
        ("", "reuse = 2_000_000", "`reuse = 2000000` is not counted"),
        ("", f"reuse = {'-' * 400}1", "`reuse = …` is not counted"),
        ("# pulzar: reuse=20", "reuse = ONE", "`reuse = ONE` is not counted"),
        ("# pulzar: reuse=lots", "", "`# pulzar: reuse=lots` is not counted"),
        ("# pulzar: reuse=1.5", "", "`# pulzar: reuse=1.5` is not counted"),
        ("# pulzar: reuse=12345678", "", "`# pulzar: reuse=12345678` is not counted"),
        ("# pulzar: reuse", "", "`# pulzar: reuse` is not counted"),
        ("# pulzar: reuse: 100 \r", "", "`# pulzar: reuse: 100` is not counted"),
        ("# pulzar: reuse=\xff", "", "is not counted"),
    ],
)
def test_a_wrong_number_of_warm_runs_is_told(tmp_path: Path, head: str, attribute: str, said: str) -> None:
    text = f"{head}\nONE = 1\nfrom jobs import Job\nclass Warm(Job):\n    {attribute}\n    def execute(self): 1\n"
    write(tmp_path, warm=text)
    row = catalog(tmp_path)["f/warm"]
    (told,) = row["problems"]
    assert said in told
    assert "so each run has a process of its own; give a number of runs from 1 to 1000000, like reuse = 100" in told
    # And it is so
    assert Sources().get(str(tmp_path / "f/warm.py")).reuse == 0
    assert decode(encode(Message("n1", "x", [row])), Message).rows == [row]


@pytest.mark.parametrize("line", ["", "reuse = 0", "reuse = 1", "reuse = 1000000", "reuse: int"])
def test_a_right_number_of_warm_runs_is_no_problem(tmp_path: Path, line: str) -> None:
    write(
        tmp_path,
        warm=f"from jobs import Job\nclass Warm(Job):\n    {line}\n    def execute(self): 1\n",
        plain="# pulzar: reuse=50, since it is short\nfrom jobs import run\n",
        tool="# pulzar: helper\n# pulzar: reuse=lots\n",
    )
    assert not [row["problems"] for row in catalog(tmp_path).values() if "problems" in row]


def test_a_class_by_another_name_tells_that_its_warm_runs_are_not_counted(tmp_path: Path) -> None:
    job = "from jobs import Job\nclass {}(Job):\n    reuse = 100\n    def execute(self): 1\n"
    write(tmp_path, one=job.format("Other"), two=job.format("Base") + "class Two(Base): pass\n")
    rows = catalog(tmp_path)
    for name, wanted in (("one", "One"), ("two", None)):
        (told,) = rows[f"f/{name}"]["problems"]
        assert told.startswith("`reuse` is not counted, so each run has a process of its own")
        assert wanted is None or f"call the class {wanted}" in told
        assert Sources().get(str(tmp_path / f"f/{name}.py")).reuse == 0


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"type": "int", "default": "lots"}, ['has the default "lots", which is no int']),
        ({"type": "int", "default": True}, ["has the default true, which is no int"]),
        ({"type": "int", "default": 1.5}, ["has the default 1.5, which is no int"]),
        ({"type": "float", "default": 1}, []),
        ({"type": "number", "default": "1"}, ['has the default "1", which is no float']),
        ({"type": "bool", "default": 0}, ["has the default 0, which is no bool"]),
        ({"type": "str", "default": 5}, ["has the default 5, which is no str"]),
        ({"type": "list", "default": {}}, ["has the default {}, which is no list"]),
        ({"type": "json", "default": "x"}, []),
        ({"type": "path", "default": 5}, []),
        ({"type": "date", "default": "tomorrow"}, ['has the default "tomorrow", which is no date']),
        ({"type": "date", "default": "2026-02-30"}, ['has the default "2026-02-30", which is no date']),
        ({"type": "date", "default": "2026-02-28"}, []),
        ({"type": "datetime", "default": "2026-02-28"}, ['has the default "2026-02-28", which is no datetime']),
        ({"type": "datetime", "default": "2026-02-28T08:30"}, []),
        ({"type": "int", "choices": [1, "two"]}, ['has the choice "two", which is no int']),
        ({"type": "int", "choices": [1, 2], "default": 3}, ["has the default 3, which is none of its choices"]),
        ({"choices": [1, "auto"], "default": "auto"}, []),
        ([1, "auto"], []),
        ({"type": "int", "default": None}, []),
        ("int", []),
        (5, []),
    ],
)
def test_a_default_that_does_not_fit_is_a_problem_of_the_script(
    tmp_path: Path, declared: object, told: list[str]
) -> None:
    write(tmp_path, plain=f'"""Arguments: {json.dumps({"size": declared})}"""')
    row = catalog(tmp_path)["f/plain"]
    assert row["error"] == ""
    assert row.get("problems", []) == [f"the argument size {text}" for text in told]
    # No input shows what its browser would refuse
    (field,) = fields.of_script(row)
    assert not any("has the default" in text and "which is no " in text for text in told) or field.proposed == ""


def test_a_paragraph_after_a_field_belongs_to_the_description(tmp_path: Path) -> None:
    write(
        tmp_path,
        plain='"""Description: Adds up.\n\nSlowly.\nArguments: {\n\n"a": "int",\n\n"b": "int"}\n\n`a` is large.\n'
        'Category: maths\n\nIt is exact.\nAuthor: Ada\nand others\n\n\nSee there.\n\nPreload: numpy\n\nThe end.\n"""',
    )
    row = catalog(tmp_path)["f/plain"]
    assert [found["name"] for found in row["arguments"]] == ["a", "b"]
    assert (row["category"], row["author"]) == ("maths", "Ada\nand others")
    assert " ".join(row["description"].split()) == "Adds up. Slowly. `a` is large. It is exact. See there. The end."
    assert "\n\n`a` is large.\n\nIt is exact.\n\n" in row["description"]
    ours = Catalog(Path(__file__).parents[2] / "jobs")
    ours.scan()
    assert {row["author"] for row in ours.rows if row["kind"] != "helper"} == {"Pulzar"}
    assert not [row["problems"] for row in ours.rows if "problems" in row]
