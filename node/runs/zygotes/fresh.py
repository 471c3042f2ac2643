"""What must not stay from one run to the next where a process is used again, and what two runs must not share."""

from __future__ import annotations

import _thread
import atexit
import gc
import os
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

GROWTH_BYTES = 256 << 20  # beyond what it held after its first run
_PAGE_BYTES = resource.getpagesize()
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
# Those of memory and of the mark belong to the run.
_LIMITS = tuple(
    getattr(resource, f"RLIMIT_{name}")
    for name in ("AS", "CORE", "CPU", "FSIZE", "MEMLOCK", "NOFILE", "NPROC", "STACK")
)


def seed() -> None:
    """Give the random numbers of loaded libraries another beginning. Python does so for its own after a fork."""
    numpy = sys.modules.get("numpy.random")
    if numpy:
        numpy.seed()
    torch = sys.modules.get("torch")
    if torch:
        torch.default_generator.seed()


class ExitFunctions:
    """What scripts give to `atexit` while they run, which is called at the end of the run.

    Libraries register theirs once, so those stay for the end of the process. So do those of a module that stays.
    """

    def __init__(self, directory: str) -> None:
        """`directory`: that of the scripts. From now on `atexit` asks here."""
        self._inside = directory + "/"
        self._register, self._unregister = atexit.register, atexit.unregister
        self._functions: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []
        self.open = False  # whether those of the script are of the run
        atexit.register, atexit.unregister = self.register, self.unregister

    def register(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """`atexit.register`."""
        if self.open and sys._getframe(1).f_code.co_filename.startswith(self._inside):
            self._functions.append((func, args, kwargs))
            return func
        self._register(func, *args, **kwargs)
        return func

    def unregister(self, func: Callable[..., Any], /) -> None:
        """`atexit.unregister`."""
        self._functions = [each for each in self._functions if each[0] != func]
        self._unregister(func)

    def call(self) -> None:
        """Call those of the run, the last one first."""
        self.open = False
        while self._functions:
            func, args, kwargs = self._functions.pop()
            try:
                func(*args, **kwargs)
            except BaseException:  # noqa: BLE001 - it changes nothing about the run, as at the end of Python
                print("Exception ignored in atexit callback", file=sys.stderr)
                traceback.print_exc()


class Baseline:
    """This process as it is before its first run, to make it so again."""

    def __init__(self) -> None:
        self._environ = dict(os.environ)
        self._handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        self._mask = os.umask(0o077)
        os.umask(self._mask)
        self._limits = _limits()
        self._nice = os.getpriority(os.PRIO_PROCESS, 0)
        self._streams = sys.stdin, sys.stdout, sys.stderr
        self._threads = _thread._count()
        self._resident = 0
        self._temporary: set[str] | None = None

    def look_at(self, temporary: str) -> None:
        """Take a directory that must be at the end of a run as it is now."""
        self._temporary = set(os.listdir(temporary))

    def restore(self) -> None:
        """Make everything as it was, as far as a run may change it without harm."""
        if dict(os.environ) != self._environ:
            for name in os.environ.keys() - self._environ.keys():
                del os.environ[name]
            os.environ |= self._environ
        for number, handler in self._handlers.items():
            if signal.getsignal(number) is not handler and handler is not None:
                signal.signal(number, handler)
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        sys.stdin, sys.stdout, sys.stderr = self._streams
        os.umask(self._mask)
        os.chdir("/")
        gc.enable()
        random.seed()
        seed()

    def unfit(self, temporary: str) -> str:
        """Why this process can't be used for another run, "" when it can."""
        if _thread._count() > self._threads:
            return "a thread is left"
        if any(stream is not None and stream.closed for stream in self._streams):
            return "a standard stream is closed"
        if _limits() != self._limits or os.getpriority(os.PRIO_PROCESS, 0) != self._nice:
            return "its limits are others"
        if os.getsid(0) != os.getpid():
            return "its session is another one"
        if self._temporary is not None and set(os.listdir(temporary)) != self._temporary:
            return f"{temporary} is not as it was"
        resident = _resident()
        self._resident = self._resident or resident
        if resident > self._resident + GROWTH_BYTES:
            return "it has grown"
        return ""


def _limits() -> tuple[tuple[int, int], ...]:
    return tuple(map(resource.getrlimit, _LIMITS))


def _resident() -> int:
    with suppress(OSError), open("/proc/self/statm", "rb") as file:  # not in every sandbox
        return int(file.read().split()[1]) * _PAGE_BYTES
    return 0
