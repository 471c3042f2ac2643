"""Tells jobs from helper modules by reading scripts, without running them.

A helper is a module that another one in its folder imports. A job's class of its own name, or
`if __name__ == "__main__"`, makes it a job. `# pulzar: helper` in one of its first lines makes it a helper.
"""

from __future__ import annotations

import ast
import importlib.machinery
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from jobs import docstrings as fields
from jobs.scripts import (
    class_names,
    execute_method,
    first_lines,
    job_class,
    lost_link,
    many_jobs,
    reuse,
    reuse_value,
)
from jobs.surroundings import PACKAGE

MOST_BYTES = 4 << 20  # of a script; a larger one is listed as unreadable

_HELPER = re.compile(rb"#\s*pulzar:\s*helper\b")
_MOST_NAMED = 3  # modules that import a helper
_OURS = ("jobs", PACKAGE)
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Class(NamedTuple):
    """A class at the top of a script."""

    bases: tuple[str, ...]  # as they are written
    able: bool  # it has a method `execute`
    docstrings: tuple[str, ...]  # of that, of itself
    reuse: bool = False  # it, or its base, gives an attribute of that name


class Text(NamedTuple):
    """What one script says."""

    error: str = ""  # why it can't be read, "" when it can
    docstring: str = ""
    job: str = ""  # the class that is called like it
    says_helper: bool = False
    guarded: bool = False  # by `if __name__ == "__main__"`
    classes: Mapping[str, Class] = {}
    imported: Mapping[str, tuple[str, str]] = {}  # name → module beside it, or "jobs", and what of that; "": all
    called: frozenset[str] = frozenset()  # names
    beside: frozenset[str] = frozenset()  # modules that it imports relatively
    by_name: frozenset[str] = frozenset()  # and those by name
    head: frozenset[str] = frozenset()  # its imports at the top: `module`, or `module:name` for a name of one
    reuse: str = ""  # what is wrong with what it says of warm runs


class Verdict(NamedTuple):
    """What a script is."""

    kind: str  # class, script or helper
    error: str  # what is wrong with it; of a helper, whose it is
    docstrings: tuple[str, ...]  # the first one that says something counts
    head: frozenset[str] = frozenset()  # as in `Text`; of the helpers that it imports, too
    reuse: str = ""  # what is wrong with what it says of warm runs

    def documented(self) -> dict[str, str]:
        """The fields of its docstrings. What the method does not say, its class or its module may."""
        found = dict.fromkeys(fields.FIELDS, "")
        for docstring in self.docstrings:
            for name, text in fields.read(docstring).items():
                found[name] = found[name] or text
        return found

    def problems(self) -> list[str]:
        """What is wrong with what it says of itself. It runs all the same."""
        told = [] if self.kind == "helper" else fields.problems(self.documented()["arguments"])
        return [*([self.reuse] if self.reuse else []), *told]


def look(path: str, file: os.DirEntry[str]) -> Text:
    """Read the script `folder/name` from a file. Never raises."""
    try:
        size = file.stat().st_size
        if size > MOST_BYTES:
            return Text(f"it has {size} bytes, and {MOST_BYTES} is the limit")
        with open(file.path, "rb") as source:
            return read(path, source.read())
    except OSError as error:
        lost = file.is_symlink() and not os.path.exists(file.path)
        return Text(lost_link(file.path) if lost else f"it can't be read: {error.strerror}")


def read(path: str, source: bytes) -> Text:
    """Read the script `folder/name` from its text. Never raises."""
    head = first_lines(source)
    helper = bool(_HELPER.search(head))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd in a script, its own run tells
            return _text(path.partition("/")[2], ast.parse(source, f"{path}.py"), head, helper)
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno else ""
        return Text(f"{where}{error.msg}", says_helper=helper)
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes, or far too deep
        return Text(str(error) or type(error).__name__, says_helper=helper)


def judge(folder: str, texts: Mapping[str, Text]) -> dict[str, Verdict]:
    """Verdicts on the scripts of a folder, by name."""
    importers: dict[str, list[str]] = {}
    for name, text in texts.items():
        for other in (text.beside | text.by_name) & texts.keys() - {name}:
            if other in text.beside or not _is_elsewhere(other):
                importers.setdefault(other, []).append(f"{folder}/{name}")
    return {
        name: _verdict(f"{folder}/{name}", name, texts, importers.get(name, []))._replace(head=_heads(name, texts))
        for name in texts
    }


def _heads(name: str, texts: Mapping[str, Text]) -> frozenset[str]:
    """The imports of a script and of the modules beside it that it imports."""
    seen: set[str] = set()
    waiting = {name}
    while waiting:
        text = texts[waiting.pop()]
        near = (text.beside | text.by_name) & texts.keys()
        waiting |= near - seen
        seen |= near | {name}
    return frozenset[str]().union(*(texts[each].head for each in seen | {name})) - seen


def _verdict(path: str, name: str, texts: Mapping[str, Text], importers: list[str]) -> Verdict:
    text = texts[name]
    if text.says_helper:
        return Verdict("helper", "a helper, as its line `# pulzar: helper` says", (text.docstring,))
    if text.error:
        return Verdict("script", text.error, ())
    if text.job:
        return Verdict("class", "", (*text.classes[text.job].docstrings, text.docstring), reuse=text.reuse)
    if importers and not text.guarded:
        return Verdict("helper", _whose(name, importers), (text.docstring,))
    jobs = {each: found for each in (*text.classes, *text.imported) if (found := _resolve(texts, name, each))}
    if text.guarded or text.called & jobs.keys():
        return Verdict("script", "", (text.docstring,), reuse=text.reuse)  # it sees to its jobs itself
    able = {each: found for each, found in jobs.items() if found.able}
    named = [each for each in class_names(name) if each in able]
    if len(able) > 1 and not named:
        return Verdict("script", many_jobs(path, list(able)), (text.docstring,))
    if able:
        found = able[named[0]] if named else next(iter(able.values()))
        return Verdict("class", "", (*found.docstrings, text.docstring), reuse=text.reuse or _lost_reuse(name, found))
    own = [each for each in jobs if each in text.classes]
    error = f"the class {own[0]} of {path} has no method execute" if own else ""
    return Verdict("script", error, (text.docstring,), reuse=text.reuse)


def _lost_reuse(name: str, job: Class) -> str:
    """What is wrong with the attribute `reuse` of a class that is not called like its script."""
    if not job.reuse:
        return ""
    wanted = next((f"call the class {each}, or " for each in class_names(name) if each.isidentifier()), "")
    return (
        "`reuse` is not counted, so each run has a process of its own: the class is not called like the script; "
        f"{wanted}say `# pulzar: reuse=100` in one of the first lines"
    )


def _whose(name: str, importers: list[str]) -> str:
    """Whose helper a module is, and what would make it a job."""
    whose = ", ".join(sorted(importers)[:_MOST_NAMED]) + (" and others" if len(importers) > _MOST_NAMED else "")
    own = next((f"a class {each}(Job) or " for each in class_names(name) if each.isidentifier()), "")
    return f'a helper of {whose}, which imports it; with {own}`if __name__ == "__main__":` it is a job of its own'


def _resolve(texts: Mapping[str, Text], module: str, name: str, deep: int = 0) -> Class | None:
    """The job's class that a name in a module stands for, None for others. A base may give it its `execute`."""
    text = texts.get(module)
    head, _, rest = name.partition(".")
    if text is None or deep > len(texts) + 8:
        return None
    if head in text.imported:
        module, inside = text.imported[head]
        whole = ".".join(filter(None, (inside, rest)))
        if module in ("jobs", "jobs.job"):
            return Class((), False, ()) if whole == "Job" and deep else None
        return _resolve(texts, module, whole, deep + 1)
    found = text.classes.get(name)
    for base in found.bases if found else ():
        above = _resolve(texts, module, base, deep + 1) if base != name else None
        if found and above:
            docstrings = found.docstrings if found.able else (*found.docstrings, *above.docstrings)
            return Class(found.bases, found.able or above.able, docstrings, found.reuse or above.reuse)
    return None


def _text(name: str, tree: ast.Module, head: bytes, helper: bool) -> Text:
    classes: dict[str, Class] = {}
    imported: dict[str, tuple[str, str]] = {}
    beside: set[str] = set()
    by_name: set[str] = set()
    for each in tree.body:
        if isinstance(each, ast.ClassDef):
            method = execute_method(each)
            docstrings = tuple(_docstring(said) for said in (method, each) if said)
            bases = tuple(map(ast.unparse, each.bases))
            classes[each.name] = Class(bases, bool(method), docstrings, reuse_value(each) is not None)
    for part in ast.walk(tree):
        if isinstance(part, ast.Import):
            by_name |= {alias.name.partition(".")[0] for alias in part.names}
            imported |= {alias.asname or alias.name: (alias.name, "") for alias in part.names if "." not in alias.name}
        elif isinstance(part, ast.ImportFrom):
            modules = beside if part.level == 1 else by_name if not part.level else set()
            modules |= set(_modules(part))
            if part.level < 2:
                imported |= {alias.asname or alias.name: _origin(part, alias) for alias in part.names}
                if part.module == "jobs" and part.names[0].name == "*":
                    imported["Job"] = ("jobs", "Job")
    found = job_class(tree, name)
    return Text(
        "",
        _docstring(tree),
        found.name if found else "",
        helper,
        _has_main_guard(tree),
        classes,
        imported,
        frozenset(_called(tree)),
        frozenset(beside),
        frozenset(by_name),
        frozenset(_head(tree)),
        reuse(tree, found, head).problem,
    )


def _head(tree: ast.Module) -> Iterator[str]:
    """The imports at the top of a module, but for those beside it that are written relatively."""
    for part in tree.body:
        if isinstance(part, ast.Import):
            yield from (alias.name for alias in part.names)
        elif isinstance(part, ast.ImportFrom) and part.module and not part.level:
            yield from (part.module if alias.name == "*" else f"{part.module}:{alias.name}" for alias in part.names)


def _docstring(part: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return ast.get_docstring(part, clean=False) or ""


def _modules(part: ast.ImportFrom) -> Iterator[str]:
    if part.module:
        yield part.module.partition(".")[0]
    elif part.level == 1:
        yield from (alias.name for alias in part.names)


def _origin(part: ast.ImportFrom, alias: ast.alias) -> tuple[str, str]:
    return (part.module, alias.name) if part.module else (alias.name, "")


def _called(tree: ast.Module) -> Iterator[str]:
    """Names of functions that are called outside of classes."""
    parts: list[ast.AST] = [tree]
    while parts:
        part = parts.pop()
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name):
            yield part.func.id
        parts += [child for child in ast.iter_child_nodes(part) if not isinstance(child, ast.ClassDef)]


def _has_main_guard(tree: ast.Module) -> bool:
    for part in tree.body:
        if isinstance(part, ast.If) and isinstance(part.test, ast.Compare):
            names = {leaf.id for leaf in ast.walk(part.test) if isinstance(leaf, ast.Name)}
            texts = {leaf.value for leaf in ast.walk(part.test) if isinstance(leaf, ast.Constant)}
            if "__name__" in names and "__main__" in texts:
                return True
    return False


def _is_elsewhere(name: str) -> bool:
    """Whether a module of this name is Python's, ours, or installed. An import by name then means that one."""
    if name in sys.stdlib_module_names or name in _OURS:
        return True
    here = os.getcwd()  # by `python -m`
    paths = [path for path in sys.path if path and path != here and os.path.abspath(path) != _ROOT]
    spec = importlib.machinery.PathFinder.find_spec(name, paths)
    return spec is not None and spec.loader is not None  # any folder at all is a package without a loader
