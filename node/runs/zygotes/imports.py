"""Loads modules in a zygote before anything is forked from it, and finds those that can't be forked.

Each import is announced to the agent first. So the agent knows which one hangs or breaks the process.
"""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import sys
import tempfile
import weakref
from collections.abc import Callable, Sequence

from node.runs.protocol import FAILED, LOADED, TRYING

IMPORT_SECS = 60  # for one module
_KNOWN = {
    "jax": "it starts threads, and does not work in a fork",
    "ray": "it belongs to the process that loaded it",
    "tensorflow": "it starts threads, and does not work in a fork",
}
_REASON_CHARACTERS = 200
_VARIABLES = ("HOME", "TMPDIR")
_SITES = {"site-packages", "dist-packages"}


def load(modules: Sequence[str], home: str, tell: Callable[[Sequence[object]], None]) -> bool:
    """Load modules, and say how that goes (`protocol.py`); whether this process may be forked then.

    `home`: directory that libraries may use meanwhile.
    """
    os.makedirs(home, 0o700, exist_ok=True)
    os.environ |= dict.fromkeys(_VARIABLES, home)
    directory, mask = os.getcwd(), os.umask(0o077)
    os.umask(mask)
    sizes = []
    for name in modules:
        tell([TRYING, name])
        reason, fit = _load(name)
        if reason:
            tell([FAILED, name, reason])
        if not fit:
            return False
        sizes.append((name, memory()))
    for variable in _VARIABLES:
        os.environ.pop(variable, None)
    os.chdir(directory)
    os.umask(mask)
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _drop_exit_functions()
    tell([LOADED, sizes, files()])
    return True


def _load(name: str) -> tuple[str, bool]:
    """Load a module; why it is not loaded ahead, "" if it is, and whether this process can be forked now."""
    top = name.partition(".")[0]
    if top in _KNOWN:
        return _KNOWN[top], True
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it ends this process, whatever an import is at
    signal.alarm(IMPORT_SECS)
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        return str(error), True
    except BaseException as error:  # noqa: BLE001 - what is left of it may disturb the others, whatever it is
        return f"{type(error).__name__}: {error}"[:_REASON_CHARACTERS], False
    finally:
        signal.alarm(0)
    reason = _unfit()
    return reason, not reason


def _unfit() -> str:
    """Why nothing may be forked from this process, "" when it may.

    The threads of OpenBLAS and others end by themselves before a fork. So there is a fork first.
    """
    if len(os.listdir("/proc/self/task")) == 1:
        return ""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    threads = len(os.listdir("/proc/self/task")) - 1
    return f"it starts threads ({threads}), which a fork would lack" if threads else ""


def _drop_exit_functions() -> None:
    """Forget what was to be done at the end of this process: a run has not begun it.

    What Python's own modules have registered stays. They would not register it again.
    """
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False
    atexit._clear()
    if weakref.finalize._registered_with_atexit:  # type: ignore[attr-defined]
        atexit.register(weakref.finalize._exitfunc)  # type: ignore[attr-defined]
    processes = sys.modules.get("multiprocessing.util")
    if processes:
        atexit.register(processes._exit_function)


def memory() -> int:
    """The bytes that this process holds and shares with no other."""
    with open("/proc/self/smaps_rollup", "rb") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith(b"Pss:")) << 10


def files() -> list[str]:
    """The files of all modules that belong to installed packages."""
    found = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return [file for file in found if isinstance(file, str) and (_SITES & {*file.split(os.sep)} or _is_foreign(file))]


def _is_foreign(file: str) -> bool:
    return not file.startswith(os.path.dirname(os.__file__) + os.sep)
