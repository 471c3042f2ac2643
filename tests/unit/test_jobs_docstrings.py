"""Arguments of a launch against those that the script declares."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import docstrings

ROOT = Path(__file__).parents[2]
DECLARED = """{
    "width": "int: in metres", "height": {"type": "int"}, "unit": ["m", "cm"], "deep": {"type": "int", "default": 1},
    "name": "str, optional", "level": 5, "note": null, "kind": {"type": "str", "help": "plain by default"}
}"""


@pytest.mark.parametrize(
    ("text", "given", "odd"),
    [
        (DECLARED, ["width", "height"], []),
        (DECLARED, ["width", "height", "deep", "name", "level", "note", "kind", "unit"], []),
        (DECLARED, ["width", "height", "pulzar_data", "scheduled", "pulzar_options"], []),
        (
            DECLARED,
            ["height", "widht"],
            [
                "the argument width is missing; the script declares it as int: in metres",
                "the script declares no argument widht; width?",
            ],
        ),
        ('{"a": "int"}', ["a", "zzz"], ["the script declares no argument zzz; there are a"]),
        ("{}", ["a"], ["the script declares no argument a; there is none"]),
        ("{}", [], []),
        ("", ["a"], []),
        ("width: a number", ["a"], []),
        ("[1]", ["a"], []),
        ("[" * 3000, ["a"], []),
        (
            '{"pulzar_data": "str: a key"}',
            [],
            ["the argument pulzar_data is missing; the script declares it as str: a key"],
        ),
        ('{"a": ""}', [], ["the argument a is missing; the script declares it as documented"]),
    ],
)
def test_missing_and_unknown_arguments_are_told(text: str, given: list[str], odd: list[str]) -> None:
    assert docstrings.compare(text, given) == odd


def test_of_many_odd_arguments_the_first_are_told() -> None:
    odd = docstrings.compare("{}", [f"name{number}" for number in range(50)])
    assert len(odd) == 21
    assert odd[-1] == "and 30 more"
    assert max(map(len, docstrings.compare('{"a": 1}', ["x" * 10_000]))) < 150


def test_a_run_by_hand_tells_of_them_too_and_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "shapes/area.py"
    file.parent.mkdir()
    file.write_text(
        "from jobs import Job\nclass Area(Job):\n    def execute(self):\n"
        '        """Arguments: {"width": "int", "height": "int"}"""\n        return self.arguments\n'
    )
    command = [sys.executable, "-m", "jobs", "run", "--dir", tmp_path, "shapes/area", '{"width": 3, "hight": 4}']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    assert (done.returncode, done.stdout) == (0, 'output: {"width": 3, "hight": 4}\n')
    assert done.stderr.splitlines() == [
        "warning: the argument height is missing; the script declares it as int",
        "warning: the script declares no argument hight; height?",
    ]
