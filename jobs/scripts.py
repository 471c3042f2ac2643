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
_REUSE = re.compile(r"#[ \t]*pulzar:[ \t]*reuse\b[ \t]*=?[ \t]*([^\r\n]*)")
_NUMBER = re.compile(r"([0-9]{1,7})(?!\w|[.,][0-9])")
_SHOWN_CHARACTERS = 80  # of what a script says
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


class Reuse(NamedTuple):
    """How many runs of a script may follow each other in one process, and what is wrong with that number."""

    runs: int = 0  # 0: each run has a process of its own
    problem: str = ""


def first_lines(source: bytes) -> bytes:
    """The lines of a script where `# pulzar: …` may stand."""
    return b"\n".join(source.split(b"\n", FIRST_LINES)[:FIRST_LINES])


def reuse(tree: ast.Module, job: ast.ClassDef | None, first_lines: bytes) -> Reuse:
    """What a script says of warm runs: by the attribute `reuse` of the class, or else by a line of its own."""
    value = reuse_value(job) if job else None
    if value is not None:
        number = value.value if isinstance(value, ast.Constant) and type(value.value) is int else None
        return _reuse(number, f"reuse = {_written(value)}")
    found = _REUSE.search(first_lines.decode("utf-8", "replace"))
    if not found:
        return Reuse()
    digits = _NUMBER.match(found[1]) if "=" in found[0] else None
    return _reuse(int(digits[1]) if digits else None, found[0].strip())


def _written(value: ast.expr) -> str:
    try:
        return ast.unparse(value)
    except RecursionError:  # Python reads expressions that are deeper than it can write
        return "…"


def _reuse(number: int | None, said: str) -> Reuse:
    if number is not None and 0 <= number <= MOST_REUSE:
        return Reuse(number if number > 1 else 0)
    said = said if len(said) <= _SHOWN_CHARACTERS else f"{said[: _SHOWN_CHARACTERS - 1]}…"
    return Reuse(
        problem=f"`{said}` is not counted, so each run has a process of its own; "
        f"give a number of runs from 1 to {MOST_REUSE}, like reuse = 100"
    )


def reuse_value(job: ast.ClassDef) -> ast.expr | None:
    """What a class gives its attribute `reuse`; None when it does not."""
    found = None
    for part in job.body:
        targets = (
            part.targets if isinstance(part, ast.Assign) else [part.target] if isinstance(part, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == "reuse" for target in targets):
            found = getattr(part, "value", None) or found
    return found


def execute_method(part: ast.ClassDef) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The method `execute` of a class. The catalog shows its docstring."""
    for member in part.body:
        if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and member.name == "execute":
            return member
    return None
