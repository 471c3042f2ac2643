"""Loads scripts and the modules beside them from their text, without the compiled files that Python keeps.

Python compares those by seconds and size, and misses a quick edit.
"""

from __future__ import annotations

import ast
import builtins
import importlib.machinery
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from importlib.machinery import ModuleSpec
from types import CodeType, CoroutineType, ModuleType
from typing import Any, NamedTuple

from jobs import context
from jobs.errors import BadScript, NoSuchScript
from jobs.job import Job
from jobs.scripts import Script, class_names, first_lines, job_class, many_jobs, reuse
from jobs.surroundings import PACKAGE

_EXTENSIONS = (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)
_COMPILED = (importlib.machinery.SourcelessFileLoader, importlib.machinery.BYTECODE_SUFFIXES)
_FRESH_NS = 100_000_000  # a file written so lately may be written again without a new modification time


Stamp = tuple[int, int, int, int]


class Source(NamedTuple):
    """A compiled script."""

    stamp: Stamp
    code: CodeType
    class_name: str  # "": a plain script
    spec: ModuleSpec  # of it as a script
    reuse: int = 0  # how many of its runs may follow each other in one process; 0: one


class Sources:
    """Compiled files. Each is used until its file changes."""

    def __init__(self) -> None:
        self._kept: dict[str, Source] = {}
        self.used: dict[str, Stamp] = {}  # the states of all files that this process has loaded

    def known(self, file: str) -> Source | None:
        """A file as it was compiled here, None when it was not, or has changed since."""
        kept = self._kept.get(file)
        try:
            return kept if kept and kept.stamp == stamp_of(file) else None
        except OSError:  # it is gone
            return None

    def get(self, file: str, quiet: bool = False) -> Source:
        """Compile a file. `quiet` hides warnings. Raises what reading and compiling raise."""
        status = os.stat(file)
        kept = self._kept.get(file)
        stamp = _stamp(status)
        self.used[file] = stamp
        if kept and kept.stamp == stamp:
            return kept
        with open(file, "rb") as text:
            stamp = _stamp(os.fstat(text.fileno()))
            content = text.read()
        with warnings.catch_warnings(action="ignore") if quiet else nullcontext():
            tree = ast.parse(content, file)
            code = compile(tree, file, "exec", dont_inherit=True)
        found = job_class(tree, os.path.basename(file).removesuffix(".py"))
        again = reuse(tree, found, first_lines(content)).runs
        source = Source(stamp, code, found.name if found else "", _spec(file), again)
        self.used[file] = stamp
        if time.time_ns() - stamp[0] > _FRESH_NS:
            self._kept[file] = source
        return source


def _spec(file: str) -> ModuleSpec:
    """The spec of a script's module, as with `python -m`. Processes that the script starts find it by that."""
    folder, name = file.removesuffix(".py").rsplit("/", 2)[-2:]
    name = f"{PACKAGE}.{folder}.{name}"
    spec = ModuleSpec(name, importlib.machinery.SourceFileLoader(name, file), origin=file)
    spec.has_location = True
    return spec


def stamp_of(file: str) -> Stamp:
    """The state of a file. Raises `OSError`."""
    return _stamp(os.stat(file))


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev


class _Loader(importlib.machinery.SourceFileLoader):
    """The loader of a module beside a script."""

    def __init__(self, sources: Sources, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self._sources = sources

    def get_code(self, fullname: str) -> CodeType:
        """Its code."""
        return self._sources.get(self.get_filename(fullname)).code


def _finders(directory: str, sources: Sources) -> Callable[[str], importlib.machinery.FileFinder]:
    loader: Any = partial(_Loader, sources)  # a class for each run would take longer

    def finder(path: str) -> importlib.machinery.FileFinder:
        if path != directory and not path.startswith(directory + "/"):
            raise ImportError(f"{path} is not below {directory}", path=path)
        if not os.path.isdir(path):
            raise ImportError(f"{path} is no directory", path=path)  # a zip file, say: there are others for those
        return importlib.machinery.FileFinder(path, _EXTENSIONS, (loader, [".py"]), _COMPILED)

    return finder


class Program:
    """A script in this process, which is run once, or again and again."""

    def __init__(self, script: Script, sources: Sources) -> None:
        self._script, self._sources = script, sources
        self._job: type[Job] | None = None  # of a module that stays
        self._module: ModuleType | None = None
        self._is_prepared = False

    def load(self, argv: Sequence[str] = ()) -> type[Job] | None:
        """Run the text of the script, if it is to be run; its job, None for a script that has none.

        `argv`: words for `sys.argv`, after the name of the script.
        Raises `NoSuchScript`, `BadScript`, and whatever the script raises.
        """
        sys.argv = [self._script.file, *argv]
        if self._job:
            return self._job
        script = self._script
        try:
            source = self._sources.get(script.file)
        except (FileNotFoundError, NotADirectoryError):
            raise NoSuchScript(f"no such script: {script.path}") from None
        module = self._module = _module(source)
        if not self._is_prepared:
            self._prepare()
        sys.modules["__main__"] = sys.modules[module.__name__] = module
        exec(source.code, module.__dict__)
        found = getattr(module, source.class_name, None) if source.class_name else _job(module, script)
        if found is None and not source.class_name:
            return None
        if not isinstance(found, type) or not issubclass(found, Job):
            raise BadScript(f"the class {source.class_name} of {script.path} has not the base jobs.Job")
        if _is_unable(found):
            raise BadScript(f"the class {found.__name__} of {script.path} has no method execute")
        self._job = found if source.class_name else None
        return found

    @property
    def file(self) -> str:
        """Its file."""
        return self._script.file

    @property
    def passing(self) -> ModuleType | None:
        """The script's module, when the next run makes another one; None when it stays."""
        return None if self._job else self._module

    def _prepare(self) -> None:
        self._is_prepared = True
        above = ModuleType(PACKAGE)
        above.__path__ = [self._script.directory]
        sys.path_hooks.insert(0, _finders(self._script.directory, self._sources))
        sys.path.insert(0, os.path.dirname(self._script.file))
        sys.modules[PACKAGE] = above


def perform(job: type[Job] | None) -> Any:
    """Execute a job; the result of `execute`, None without a job. Raises whatever the script raises."""
    if job is None:
        return None
    returned = job().execute()
    if isinstance(returned, CoroutineType):
        import asyncio  # takes its time, and few jobs need it

        returned = asyncio.run(returned)
    return returned


def execute(script: Script, sources: Sources, argv: Sequence[str] = ()) -> Any:
    """Run a script, once in this process. Returns the result of `execute`, or None. Raises as `Program.load` does."""
    return perform(Program(script, sources).load(argv))


def _is_unable(job: type[Job]) -> bool:
    return "execute" in job.__abstractmethods__


def _module(source: Source) -> ModuleType:
    """The script's module, empty."""
    spec = source.spec
    module = ModuleType(spec.name if source.class_name else "__main__")
    module.__spec__ = spec
    module.__loader__ = spec.loader
    module.__file__ = spec.origin
    module.__package__ = spec.parent
    module.__dict__["__builtins__"] = builtins
    return module


def _job(module: ModuleType, script: Script) -> type[Job] | None:
    """The one job among the names of a script that was run from top to bottom; None: it is a plain one.

    It is that as well when it has made a job itself. Raises `BadScript` when there are several jobs.
    """
    if context.job_made():
        return None
    jobs = {
        value.__name__: value
        for value in vars(module).values()
        if issubclass(type(value), type) and Job in value.__mro__ and value is not Job
    }
    named = [job for name, job in jobs.items() if name in class_names(script.name)]
    able = named or [job for job in jobs.values() if not _is_unable(job)]
    if len(able) > 1 and not named:
        raise BadScript(many_jobs(script.path, [job.__name__ for job in able]))
    own = [job for job in jobs.values() if job.__module__ == module.__name__]
    return next(iter(able or own), None)
