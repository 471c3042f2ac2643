"""Scripts: which there are, where they are, and what in them is run. Nothing here executes any.

A script is called by `folder/name`; its file is `<directory>/<folder>/<name>.py`.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from jobs.errors import BadScript

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")


class Script(NamedTuple):
    """A script's place; whether there is a file is another question."""

    directory: str
    folder: str
    name: str

    @property
    def path(self) -> str:
        """`folder/name`."""
        return f"{self.folder}/{self.name}"

    @property
    def file(self) -> str:
        """Where its text is."""
        return f"{self.directory}/{self.folder}/{self.name}.py"


def locate(directory: str | os.PathLike[str], path: str) -> Script:
    """The script of this path; `.py` at its end is dropped. Raises `BadScript`."""
    parts = path.removesuffix(".py").split("/")
    if len(parts) != 2 or not all(_PART.fullmatch(part) for part in parts):
        raise BadScript(
            f"{path[:200]!r} is no path of a script; it looks like folder/script, "
            "each of letters, digits, '_' and '-', not beginning with '-', up to 64 characters"
        )
    return Script(os.path.abspath(directory), *parts)


def walk(directory: str | os.PathLike[str]) -> Iterator[Script]:
    """All scripts below a directory, in order of their paths; helper modules look the same and are among them."""
    for folder in sorted(os.listdir(directory)):
        inside = os.path.join(directory, folder)
        if _PART.fullmatch(folder) and os.path.isdir(inside):
            for file in sorted(os.listdir(inside)):
                name = file.removesuffix(".py")
                if file != name and _PART.fullmatch(name) and name != "__init__":
                    yield Script(os.path.abspath(directory), folder, name)


def job_class(tree: ast.Module, name: str) -> ast.ClassDef | None:
    """The class of a script that is run; None: the script is a plain one.

    Its name is that of the script, capitalised (`word_count`: `Word_count`) or in camel case (`WordCount`). It has a
    base that is called `Job`, or any base and a method `execute`.
    """
    names = {name.capitalize(), "".join(part[:1].upper() + part[1:] for part in re.split("[_-]", name))}
    found = None
    for part in tree.body:
        if isinstance(part, ast.ClassDef) and part.name in names and part.bases:
            bases = {ast.unparse(base).rpartition(".")[2] for base in part.bases}
            if "Job" in bases or execute_method(part):
                found = part
    return found


def execute_method(part: ast.ClassDef) -> ast.FunctionDef | None:
    """The method `execute` that stands in a class; its docstring is what the catalog shows."""
    for member in part.body:
        if isinstance(member, ast.FunctionDef) and member.name == "execute":
            return member
    return None
