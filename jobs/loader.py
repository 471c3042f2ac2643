"""Loads scripts and the modules beside them from their text, without the compiled files that Python keeps.

Those are trusted by seconds and size, so that a quick edit would be missed. Here the text counts that is there.
"""

from __future__ import annotations

import ast
import importlib.machinery
import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from jobs.errors import BadScript, NoSuchScript
from jobs.job import Job
from jobs.scripts import Script, job_class

# Scripts are modules of packages of this one, so that a folder may be called like any other module.
PACKAGE = "job_scripts"

_FRESH_NS = 100_000_000  # a file written so lately may be written again without a new modification time


class Source(NamedTuple):
    """A compiled script."""

    stamp: tuple[int, int, int, int]
    code: CodeType
    class_name: str  # "": a plain script


class Sources:
    """Compiled files, for as long as they are not changed."""

    def __init__(self) -> None:
        self._kept: dict[str, Source] = {}

    def get(self, file: str, quiet: bool = False) -> Source:
        """A file compiled, `quiet`: without warnings of what is odd in it; raises what reading and compiling raise."""
        status = os.stat(file)
        kept = self._kept.get(file)
        stamp = _stamp(status)
        if kept and kept.stamp == stamp:
            return kept
        with open(file, "rb") as text:
            stamp = _stamp(os.fstat(text.fileno()))
            content = text.read()
        with warnings.catch_warnings(action="ignore") if quiet else nullcontext():
            tree = ast.parse(content, file)
            code = compile(tree, file, "exec", dont_inherit=True)
        found = job_class(tree, os.path.basename(file).removesuffix(".py"))
        source = Source(stamp, code, found.name if found else "")
        if time.time_ns() - stamp[0] > _FRESH_NS:
            self._kept[file] = source
        return source


def _stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev


class _Loader(importlib.machinery.SourceFileLoader):
    """Of a module beside a script."""

    sources: Sources

    def get_code(self, fullname: str) -> CodeType:
        """Its code."""
        return self.sources.get(self.get_filename(fullname)).code


def _finders(directory: str, sources: Sources) -> Callable[[str], importlib.machinery.FileFinder]:
    loader = type("Loader", (_Loader,), {"sources": sources})
    extensions = (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)

    def finder(path: str) -> importlib.machinery.FileFinder:
        if path != directory and not path.startswith(directory + "/"):
            raise ImportError(f"{path} is not below {directory}", path=path)
        return importlib.machinery.FileFinder(path, extensions, (loader, [".py"]))

    return finder


def execute(script: Script, sources: Sources) -> Any:
    """Run a script in this process, which is good for this one script; what its `execute` returned, None for a plain one.

    Raises `NoSuchScript`, `BadScript`, and whatever the script raises.
    """
    try:
        source = sources.get(script.file)
    except (FileNotFoundError, NotADirectoryError):
        raise NoSuchScript(f"no such script: {script.path}") from None
    package = f"{PACKAGE}.{script.folder}"
    module = ModuleType("__main__" if not source.class_name else f"{package}.{script.name}")
    module.__file__ = script.file
    module.__package__ = package
    above = ModuleType(PACKAGE)
    above.__path__ = [script.directory]
    sys.path_hooks.insert(0, _finders(script.directory, sources))
    sys.path.insert(0, os.path.dirname(script.file))
    sys.argv = [script.file]
    sys.modules[PACKAGE] = above
    sys.modules["__main__"] = sys.modules[module.__name__] = module
    exec(source.code, module.__dict__)
    if not source.class_name:
        return None
    found = getattr(module, source.class_name, None)
    if not isinstance(found, type) or not issubclass(found, Job):
        raise BadScript(f"the class {source.class_name} of {script.path} has not the base jobs.Job")
    if "execute" in found.__abstractmethods__:
        raise BadScript(f"the class {source.class_name} of {script.path} has no method execute")
    return found().execute()


def forget(script: Script, before: int) -> None:
    """Let go of what the script and the modules beside it hold, as the end of Python does: files left open are written.

    `before` is how many modules there were before the script was run: to look at all of them takes long in a new fork.
    """
    new = itertools.islice(reversed(sys.modules), max(0, len(sys.modules) - before))
    for module in [sys.modules["__main__"], *(sys.modules[name] for name in list(new))]:
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.startswith(script.directory + "/"):
            module.__dict__.clear()
