"""Finds scripts, and what in them is run. Nothing here executes one.

A script is called by `folder/name`; its file is `<directory>/<folder>/<name>.py`.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from jobs.errors import BadScript

# Of a folder and of a script, wherever one is named. What begins with "_" is for the modules beside it.
MOST_REUSE = 1_000_000
_REUSE = re.compile(rb"#[ \t]*pulzar:[ \t]*reuse[ \t]*=[ \t]*([0-9]{1,7})\b")
FIRST_LINES = 5  # where a line `# pulzar: …` may stand
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Script(NamedTuple):
    """The place of a script. The file need not exist."""

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
    """The script at `folder/name`, with or without `.py`. Raises `BadScript`."""
    parts = path.removesuffix(".py").split("/")
    if len(parts) != 2 or not all(NAME.fullmatch(part) for part in parts):
        raise BadScript(
            f"{path[:200]!r} is no path of a script; it looks like folder/script, "
            "each of letters, digits, '_' and '-', beginning with a letter or digit, up to 64 characters"
        )
    return Script(os.path.abspath(directory), *parts)


def walk(
    directory: str | os.PathLike[str], complain: Callable[[str, str], None]
) -> Iterator[tuple[Script, os.DirEntry[str]]]:
    """All scripts below a directory with their files, in order of their paths. A file may be a broken link.

    Helper modules are among them. `complain` is called with each folder that cannot be read, and the reason.
    """
    above = os.path.abspath(directory)
    for folder in _inside(above, complain):
        if NAME.fullmatch(folder.name) and _is(folder, os.DirEntry.is_dir, complain):
            for file in _inside(folder.path, complain):
                name = file.name.removesuffix(".py")
                if name != file.name and NAME.fullmatch(name) and _is(file, os.DirEntry.is_file):
                    yield Script(above, folder.name, name), file


def _inside(directory: str, complain: Callable[[str, str], None]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        complain(directory, error.strerror or str(error))
        return []


def _is(
    entry: os.DirEntry[str],
    kind: Callable[[os.DirEntry[str]], bool],
    complain: Callable[[str, str], None] | None = None,
) -> bool:
    """Whether an entry is, or links to, a `kind`. A broken link is reported to `complain`; without one it counts."""
    try:
        if kind(entry):
            return True
        lost = entry.is_symlink() and not os.path.exists(entry.path)
    except OSError:  # links in a circle
        lost = True
    if lost and complain:
        complain(entry.path, lost_link(entry.path))
    return lost and not complain


def lost_link(path: str) -> str:
    """The reason for a broken link."""
    return f"it is a link to {os.readlink(path)}, where nothing is"


def class_names(name: str) -> tuple[str, str]:
    """The names that the class of a script may have: `WordCount` or `Word_count` for `word_count`."""
    return "".join(part[:1].upper() + part[1:] for part in re.split("[_-]", name)), name.capitalize()


def many_jobs(path: str, names: list[str]) -> str:
    """The reason for a script with several jobs and none of its name."""
    wanted = next((name for name in class_names(path.partition("/")[2]) if name.isidentifier()), "")
    advice = f"call the one that is to run {wanted}" if wanted else "have only one, and the others in modules beside it"
    return f"{path} has the jobs {' and '.join(sorted(names))}, and none is called like the script; {advice}"


def job_class(tree: ast.Module, name: str) -> ast.ClassDef | None:
    """The class of a script that is run. None for a script that is run from top to bottom.

    It has one of the names of `class_names`, and either a base called `Job`, or any base and a method `execute`.
    """
    names = class_names(name)
    found = None
    for part in tree.body:
        if isinstance(part, ast.ClassDef) and part.name in names and part.bases:
            bases = {ast.unparse(base).rpartition(".")[2] for base in part.bases}
            if "Job" in bases or execute_method(part):
                found = part
    return found


def reuse(tree: ast.Module, job: ast.ClassDef | None, first_lines: bytes) -> int:
    """How many runs may follow each other in one process: the attribute `reuse` of the class, or a line of its own."""
    found = _REUSE.search(first_lines)
    count = int(found[1]) if found else 0
    for part in job.body if job else ():
        targets = (
            part.targets if isinstance(part, ast.Assign) else [part.target] if isinstance(part, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == "reuse" for target in targets):
            value = getattr(part, "value", None)
            if isinstance(value, ast.Constant) and type(value.value) is int:
                count = value.value
    return count if 1 < count <= MOST_REUSE else 0


def execute_method(part: ast.ClassDef) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The method `execute` of a class. The catalog shows its docstring."""
    for member in part.body:
        if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and member.name == "execute":
            return member
    return None
