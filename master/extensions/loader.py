"""From the name in the URL to the class of an extension. Nothing else that a user sends becomes a path.

Extensions and the modules beside them are loaded from their text, and again when any of them was changed. Compiled
files are not used: Python trusts them by seconds and size, and would miss a quick edit.
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

import extensions
from extensions import Extension
from master.extensions.errors import Failed

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_FRESH_NS = 100_000_000  # a file this young may be written again without a new modification time
_PACKAGE = "extensions"

Stamp = tuple[int, int, int, int]


def find(directory: Path, name: str) -> Path:
    """The file of an extension; raises `Failed` with 404 when there is none."""
    if not _NAME.fullmatch(name):
        rule = "those begin with a-z, followed by a-z, 0-9 and _, up to 64 in all"
        raise Failed(404, f"{name[:80]!r} is no name of an extension; {rule}")
    path = directory / f"{name}.py"
    if not path.is_file():
        remedy = f"a file {name}.py in the folder of the extensions would make one"
        raise Failed(404, f"there is no extension {name!r}; {remedy}")
    return path


class _Source(importlib.machinery.SourceFileLoader):
    """Compiles the text of a file, and notes the state of the file."""

    stamps: dict[str, Stamp | None]

    def get_code(self, fullname: str) -> CodeType:
        """The code of a module."""
        path = self.get_filename(fullname)
        with open(path, "rb") as file:
            self.stamps[path] = _stamp(os.fstat(file.fileno()), time.time_ns())
            text = file.read()
        return compile(text, path, "exec", dont_inherit=True)


def _stamp(status: os.stat_result, now_ns: int | None = None) -> Stamp | None:
    """What differs between two states of a file; None while the file is too young for that."""
    if now_ns is not None and now_ns - status.st_mtime_ns < _FRESH_NS:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev


class Loader:
    """Loads extensions in this process. Modules of `directory` are found in the package `extensions` from then on."""

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
            remedy = f"`class {expected}(Extension):`, a base that `from extensions import Extension` gives"
            raise Failed(500, f"{path.name} {has} {expected}; it needs {remedy}")
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
            return True  # it is gone, or can't be seen

    def _forget(self) -> None:
        """Drop every module of the directory, since it is not known which of them use which other."""
        for full, module in list(sys.modules.items()):
            if getattr(module, "__file__", None) in self._stamps:
                del sys.modules[full]
                parent, _, name = full.rpartition(".")
                # `from extensions import _helper` would find the old module here.
                if getattr(sys.modules.get(parent), name, None) is module:
                    delattr(sys.modules[parent], name)
        self._stamps.clear()


def _provide_old_names() -> None:
    """Extensions of the first Pulzar begin with `from pulzarutils.extension import Extension`."""
    package = ModuleType("pulzarutils", "Where extensions of the first Pulzar find their base class.")
    module = ModuleType("pulzarutils.extension", package.__doc__)
    vars(module)["Extension"] = Extension
    vars(package).update(extension=module, __path__=[])
    sys.modules |= {"pulzarutils": package, "pulzarutils.extension": module}
