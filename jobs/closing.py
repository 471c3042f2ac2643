"""The end of a script: what Python does at its own, without taking the whole interpreter down."""

from __future__ import annotations

import atexit
import ctypes
import gc
import itertools
import sys
import threading
from collections.abc import Callable
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from jobs import channel
from jobs.scripts import Script

_flush_programs_streams = ctypes.CDLL(None).fflush
_DEFINED = (ModuleType, ModuleSpec, SourceFileLoader, FunctionType, BuiltinFunctionType, type)


def finish(script: Script | None, before: int) -> None:
    """Wait for threads, call what is to be called at the exit, let go of what the script holds, write what is printed.

    `before` is how many modules there were before the script was run: to look at all of them takes long in a new fork.
    """
    threading._shutdown()  # type: ignore[attr-defined] # waits for threads
    atexit._run_exitfuncs()
    if script:
        _forget(script, before)
    channel.flush()
    _flush_programs_streams(None)  # those of C, which libraries print to


def _forget(script: Script, before: int) -> None:
    """Let go of what the script and the modules beside it hold, as the end of Python does: files left open are written.

    Names go one by one, the last defined first: objects before classes before modules, functions and what is only text
    or a number. So what cleans up when it goes still finds what it uses.
    """
    main = sys.modules["__main__"]
    if getattr(main, "__file__", None) != script.file:
        return  # it was never begun
    new = list(itertools.islice(reversed(sys.modules), max(0, len(sys.modules) - before)))
    others = [sys.modules[name] for name in new if name.partition(".")[0] != __package__]
    modules = [
        module.__dict__
        for module in [main, *others]
        if str(getattr(module, "__file__", None)).startswith(script.directory + "/")
    ]
    # Of what lives through this, a file comes before what is below it, and so is written before that is closed.
    gc.collect()
    for names in modules:
        _let_go(names, lambda value: gc.is_tracked(value) and not issubclass(type(value), _DEFINED))
    for names in modules:
        _let_go(names, lambda value: issubclass(type(value), type))
    gc.collect()  # objects that hold each other, and what classes hold
    for names in modules:
        _let_go(names, lambda _: True)


def _let_go(names: dict[str, Any], which: Callable[[Any], bool]) -> None:
    for name in reversed([name for name, value in list(names.items()) if which(value)]):
        names.pop(name, None)  # this may call anything of the script's
