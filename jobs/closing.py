"""The end of a script: what Python does at its end, in a process that goes on."""

from __future__ import annotations

import atexit
import ctypes
import gc
import itertools
import sys
import threading
from contextlib import suppress
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from jobs import channel
from jobs.scripts import Script

_flush_programs_streams = ctypes.CDLL(None).fflush
_DEFINED = (ModuleType, ModuleSpec, SourceFileLoader, FunctionType, BuiltinFunctionType, type)


def finish(script: Script | None, before: int) -> None:
    """Wait for threads, call exit functions, drop the objects of the script, flush the streams.

    `before`: number of modules before the script ran. Later ones alone are looked at: all of them take long.
    """
    threading._shutdown()  # type: ignore[attr-defined] # waits for threads
    atexit._run_exitfuncs()
    _end_logging()
    if script:
        _forget(script, before)
    channel.flush()
    _flush_programs_streams(None)  # those of C, which libraries print to


def _end_logging() -> None:
    """Flush and close the handlers of `logging`, if the script has made any beside the one that is always there."""
    logging = sys.modules.get("logging")
    if logging and len(logging._handlerList) > 1:
        logging.shutdown()


def finish_run(module: ModuleType | None) -> None:
    """End a run of a process that is used again: drop the objects of its script's module, flush the streams."""
    if module:
        _drop([module.__dict__])
    else:
        gc.collect()
    logging = sys.modules.get("logging")
    for reference in list(logging._handlerList) if logging else ():
        with suppress(Exception):  # the script's own class may raise anything
            reference().flush()  # one that collects records would write them into the log of another run
    channel.flush()
    _flush_programs_streams(None)


def _forget(script: Script, before: int) -> None:
    """Drop the objects of the script and of the modules beside it. Open files get written, as at the end of Python.

    Objects go first, the last defined before the others. Then classes go, then modules, functions, texts and numbers.
    A `__del__` still finds what it uses.
    """
    main = sys.modules["__main__"]
    if getattr(main, "__file__", None) != script.file:
        return  # it did not begin
    modules = [main.__dict__]
    for name in list(itertools.islice(reversed(sys.modules), max(0, len(sys.modules) - before))):
        module = sys.modules[name]
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.startswith(script.directory + "/") and name.partition(".")[0] != __package__:
            modules.append(module.__dict__)
    _drop(modules)


def _drop(modules: list[dict[str, Any]]) -> None:
    """Empty the dicts of modules."""
    objects, classes = [], []
    for names in modules:
        for name, value in reversed(list(names.items())):
            if name[:2] == "__":
                continue
            if issubclass(type(value), type):
                if vars(value).get("__module__") == names.get("__name__"):
                    classes.append((names, name, value))
            elif gc.is_tracked(value) and not issubclass(type(value), _DEFINED):
                objects.append((names, name))
    value = None
    if objects or any(map(_holds, (each for *_, each in classes))):
        # A wrapper of a file comes before the file, and so is written before that is closed.
        gc.collect()
    for names, name in objects:
        names.pop(name, None)  # this may call anything of the script's
    for names, name, _ in classes:
        names.pop(name, None)
    del classes
    gc.collect()  # objects that hold each other, and what classes hold
    for names in modules:
        names.clear()


def _holds(some: type) -> bool:
    """Whether a class may hold objects with a `__del__`."""
    return any(
        gc.is_tracked(value) and not issubclass(type(value), _DEFINED)
        for name, value in vars(some).items()
        if name[:2] != "__" and name != "_abc_impl"
    )
