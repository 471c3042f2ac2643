"""How a script ended: a reason for people, and an exit status."""

from __future__ import annotations

import sys
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple

from jobs import channel
from jobs.errors import JobError
from jobs.scripts import Script
from jobs.surroundings import PACKAGE

_REASON_CHARACTERS = 500


class Ending(NamedTuple):
    """How a script ended."""

    status: int  # of the process
    reason: str  # "" for success, and for a status that says it all


def ending(error: BaseException | None, script: Script | None) -> Ending:
    """The ending of a script that raised `error`, or None. Prints an error with its traceback."""
    if error is None:
        return Ending(0, "")
    channel.flush()
    if isinstance(error, SystemExit):
        return _exited(error.code)
    trace = _from_script(error.__traceback__, script)
    if trace is None and isinstance(error, JobError):  # no script was begun
        _say(error)
        return Ending(1, str(error)[:_REASON_CHARACTERS])
    error = error.with_traceback(trace)
    try:
        sys.excepthook(type(error), error, trace)
    except BaseException:  # noqa: BLE001 - a hook of the script's own may do anything
        sys.__excepthook__(type(error), error, trace)
    return Ending(1, describe(error))


def describe(error: BaseException) -> str:
    """`Type: message`, cut where it gets long."""
    kind = type(error)
    plain = kind.__module__ in ("builtins", "__main__") or kind.__module__.startswith(PACKAGE + ".")
    name = kind.__qualname__ if plain else f"{kind.__module__}.{kind.__qualname__}"
    message = _text(error)
    return (f"{name}: {message}" if message else name)[:_REASON_CHARACTERS]


def _text(value: object) -> str:
    try:
        return str(value)
    except BaseException as another:  # noqa: BLE001 - the script's own class may raise anything
        return f"(its message raised {type(another).__name__})"


def _say(message: object) -> None:
    """Print to standard error. If the script replaced it by something broken, use the original one."""
    for stream in (sys.stderr, sys.__stderr__):
        with suppress(Exception):  # a class of the script's own may do anything
            print(message, file=stream)
            return


def _exited(code: object) -> Ending:
    """What `sys.exit(code)` means."""
    if code is None:
        return Ending(0, "")
    if isinstance(code, int):
        return Ending(code & 0xFF, "")
    text = _text(code)
    _say(text)
    return Ending(1, f"exit status 1: {text}"[:_REASON_CHARACTERS])


def _from_script(trace: TracebackType | None, script: Script | None) -> TracebackType | None:
    """The part of a traceback that begins in the script. The frames above it are ours."""
    while trace is not None and script is not None:
        if trace.tb_frame.f_code.co_filename == script.file:
            return trace
        trace = trace.tb_next
    return None
