"""From the name in the URL to the class of an extension; nothing else of what a user sends is ever a path.

Extensions and the modules beside them are loaded from their text and again when any of them was changed. Compiled
files, which Python trusts by seconds and size, are not used: a quick edit would be missed.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
import time
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import extensions
from extensions import Extension
from master.extensions.errors import Failed

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_FRESH_NS = 100_000_000  # a file written so lately may be written again without a new modification time
_PACKAGE = "extensions"

Stamp = tuple[int, int, int, int]


def find(directory: Path, name: str) -> Path:
    """The file of an extension; raises `Failed` with 404 when there is none."""
    if not _NAME.fullmatch(name):
        raise Failed(
            404,
            f"{name[:80]!r} is no name of an extension; those begin with a-z, followed by a-z, 0-9 and _, up to 64 in all",
        )
    path = directory / f"{name}.py"
    if not path.is_file():
        raise Failed(
            404, f"there is no extension {name!r}; a file {name}.py in the folder of the extensions would make one"
        )
    return path


class _Source(importlib.machinery.SourceFileLoader):
    """Compiles what stands in the file, and notes which state of the file that was."""

    stamps: dict[str, Stamp | None]

    def get_code(self, fullname: str) -> CodeType:
        """Its code."""
        path = self.get_filename(fullname)
        with open(path, "rb") as file:
            self.stamps[path] = _stamp(os.fstat(file.fileno()), time.time_ns())
            text = file.read()
        return compile(text, path, "exec", dont_inherit=True)


def _stamp(status: os.stat_result, now_ns: int | None = None) -> Stamp | None:
    """What tells one state of a file from another; None when nothing does yet."""
    if now_ns is not None and now_ns - status.st_mtime_ns < _FRESH_NS:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev


class Loader:
    """Of one process, which it changes: the modules of `directory` are found in the package `extensions`."""

    def __init__(self, directory: Path) -> None:
        self._directory = Path(os.path.abspath(directory))
        self._stamps: dict[str, Stamp | None] = {}
        self._source = type("Source", (_Source,), {"stamps": self._stamps})
        place = str(self._directory)
        extensions.__path__ = [place, *(path for path in extensions.__path__ if os.path.abspath(path) != place)]
        sys.path_importer_cache.pop(place, None)
        sys.path_hooks.insert(0, self._finder)
        _provide_old_names()

    def _finder(self, path: str) -> importlib.machinery.FileFinder:
        place = str(self._directory)
        if path != place and not path.startswith(place + os.sep):
            raise ImportError(f"{path} is not below {place}", path=path)
        compiled = (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)
        return importlib.machinery.FileFinder(path, compiled, (self._source, [".py"]))

    def load(self, name: str) -> type[Extension]:
        """The class of an extension as its file is now; raises `Failed`, and whatever the file raises."""
        path = find(self._directory, name)
        if any(self._changed(path, stamp) for path, stamp in self._stamps.items()):
            self._forget()
        module = sys.modules.get(f"{_PACKAGE}.{name}") or self._import(name, path)
        expected = name.capitalize()
        found = getattr(module, expected, None)
        if not isinstance(found, type) or not issubclass(found, Extension):
            has = "has no class" if found is None else "has something else than an extension's class called"
            raise Failed(
                500,
                f"{path.name} {has} {expected}; it needs `class {expected}(Extension):`, a base that `from extensions import Extension` gives",
            )
        if found.execute is Extension.execute:
            raise Failed(500, f"the class {expected} in {path.name} has no method execute(self)")
        return found

    def _import(self, name: str, path: Path) -> ModuleType:
        importlib.invalidate_caches()
        full = f"{_PACKAGE}.{name}"
        spec = importlib.util.spec_from_file_location(full, path, loader=self._source(full, str(path)))
        if spec is None or spec.loader is None:
            raise Failed(500, f"{path.name} can't be loaded")
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(full, None)
            raise
        return module

    def _changed(self, path: str, stamp: Stamp | None) -> bool:
        try:
            return stamp is None or _stamp(os.stat(path)) != stamp
        except OSError:
            return True

    def _forget(self) -> None:
        """Let go of every module of the directory: which of them has what of which other can't be seen."""
        for full, module in list(sys.modules.items()):
            if getattr(module, "__file__", None) in self._stamps:
                del sys.modules[full]
                parent, _, name = full.rpartition(".")
                # `from extensions import _helper` would find the old one here.
                if getattr(sys.modules.get(parent), name, None) is module:
                    delattr(sys.modules[parent], name)
        self._stamps.clear()


def _provide_old_names() -> None:
    """Extensions of the first Pulzar begin with `from pulzarutils.extension import Extension`."""
    package: Any = ModuleType("pulzarutils", "Where extensions of the first Pulzar find their base class.")
    module: Any = ModuleType("pulzarutils.extension", package.__doc__)
    module.Extension = Extension
    package.extension, package.__path__ = module, []
    sys.modules |= {"pulzarutils": package, "pulzarutils.extension": module}
