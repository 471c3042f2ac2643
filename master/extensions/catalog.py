"""What extensions say of themselves: their docstrings, their parameters, whether they take a file.

Files are read, never imported, so one that is broken is listed with what is wrong with it.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from master.extensions.errors import Failed
from master.extensions.loader import find

_MOST_BYTES = 1 << 20  # of a file that is read
_MOST_BASES = 8  # classes between one and the base of all
_PARAMS, _FILE = "params", "file_path"
_PACKAGE = "extensions."


class Described(NamedTuple):
    """One extension, as its file describes it."""

    name: str
    summary: str = ""  # docstring of the file
    about: str = ""  # of its class
    answer: str = ""  # of `execute`
    takes_file: bool = False
    parameters: tuple[str, ...] = ()  # of the query, as far as they stand in the text
    problem: str = ""  # why it can't run; "" when nothing is seen


def describe_all(directory: Path) -> list[Described]:
    """The extensions of a folder, by name; none when it can't be read."""
    try:
        names = sorted(path.stem for path in directory.glob("*.py"))
    except OSError:  # there is no such folder: no extension can be called either
        return []
    found = []
    for name in names:
        try:
            found.append(describe(directory, name))
        except Failed:  # no name that can be called: a helper
            continue
    return found


def describe(directory: Path, name: str) -> Described:
    """One extension; raises `Failed` with 404 when there is none."""
    path = find(directory, name)
    found, bases = _read(path), 0
    while found.base and bases < _MOST_BASES:
        try:
            below = _read(find(directory, found.base))
        except Failed:
            break  # the base is elsewhere
        found, bases = _joined(found, below), bases + 1
    return found.described


class _File(NamedTuple):
    """What stands in a file, and in which other one the class goes on."""

    described: Described
    base: str = ""  # name of the extension that this one is made from; "": of none


def _joined(found: _File, below: _File) -> _File:
    """An extension together with the one that its class is made from."""
    above, other = found.described, below.described
    described = above._replace(
        answer=above.answer or other.answer,
        takes_file=above.takes_file or other.takes_file,
        parameters=tuple(dict.fromkeys((*above.parameters, *other.parameters))),
    )
    return _File(described, below.base)


def _read(path: Path) -> _File:
    try:
        status = path.stat()
        return _parsed(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        return _File(Described(path.stem, problem=f"its file can't be read: {error.strerror}"))


@lru_cache(maxsize=512)
def _parsed(path: Path, _changed: int, size: int) -> _File:
    name = path.stem
    if size > _MOST_BYTES:
        return _File(Described(name, problem=f"its file has more than {_MOST_BYTES} bytes, and is not read here"))
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        return _File(Described(name, problem=f"{path.name}, line {error.lineno}: {error.msg}"))
    except (ValueError, RecursionError, MemoryError) as error:  # too deep for the parser is one of these
        return _File(Described(name, problem=f"{path.name}: {error or 'it is nested too deep'}"))
    summary = _docstring(tree)
    expected = name.capitalize()
    made = next((part for part in tree.body if isinstance(part, ast.ClassDef) and part.name == expected), None)
    if made is None:
        if expected in {alias.asname or alias.name for part in tree.body for alias in _aliases(part)}:
            return _File(Described(name, summary))  # it is made elsewhere, and only named here
        return _File(Described(name, summary, problem=f"{path.name} has no class {expected}"))
    runs = next(
        (part for part in made.body if isinstance(part, ast.FunctionDef) and part.name == "execute"),
        None,
    )
    described = Described(
        name,
        summary,
        _docstring(made),
        "" if runs is None else _docstring(runs),
        any(isinstance(part, ast.Attribute) and part.attr == _FILE for part in ast.walk(tree)),
        tuple(dict.fromkeys(_parameters(tree))),
    )
    return _File(described, "" if runs else _base(tree, made))


def _docstring(part: ast.Module | ast.ClassDef | ast.FunctionDef) -> str:
    return inspect.cleandoc(ast.get_docstring(part) or "")


def _aliases(part: ast.stmt) -> list[ast.alias]:
    return part.names if isinstance(part, ast.ImportFrom) else []


def _base(tree: ast.Module, made: ast.ClassDef) -> str:
    """The name of the extension whose class this one is made from; "" for none in this folder."""
    names = {base.id for base in made.bases if isinstance(base, ast.Name)}
    for part in tree.body:
        for alias in _aliases(part):
            module = getattr(part, "module", None) or ""
            if (alias.asname or alias.name) in names and module.startswith(_PACKAGE):
                return module.removeprefix(_PACKAGE)
    return ""


def _parameters(tree: ast.Module) -> Iterator[str]:
    """Names of parameters: texts that stand beside `params`."""
    for part in ast.walk(tree):
        match part:
            case ast.Call(func=ast.Attribute(value=of, attr="get"), args=[ast.Constant(value=str(name)), *_]) if (
                _is_params(of)
            ):
                yield name
            case ast.Call(args=[of, ast.Constant(value=str(name)), *_]) if _is_params(of):
                yield name
            case ast.Subscript(value=of, slice=ast.Constant(value=str(name))) if _is_params(of):
                yield name
            case ast.Compare(left=ast.Constant(value=str(name)), comparators=[of]) if _is_params(of):
                yield name


def _is_params(part: ast.expr) -> bool:
    match part:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name == _PARAMS
    return False
