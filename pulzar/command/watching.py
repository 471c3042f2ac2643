"""`watch`, `events`: what happens, as it happens."""

from __future__ import annotations

import itertools
import json
import sys
import time

from pulzar.command.screen import printable
from pulzar.command.task import OK, Task, key_of
from pulzar.errors import NotFound

_WAIT_SECS = 25.0  # less than the time without a byte after which a connection counts as broken


def watch(task: Task) -> int:
    """Print a line whenever a key gets another value."""
    options = task.options
    key = key_of(options.key)
    known = _state(task, key)
    _told(task, key, known)
    left = itertools.repeat(None, options.count) if options.count else itertools.repeat(None)
    for _ in left:
        known = _next(task, key, known)
        _told(task, key, known)
    return OK


def _next(task: Task, key: str, known: str | None) -> str | None:
    """The digest of the next value, None for no value."""
    while True:
        began = time.monotonic()
        state = task.client.wait_for_change(key, known, _WAIT_SECS)
        if state != known:
            return state
        # A master that does not wait is asked now and then.
        time.sleep(max(0.0, min(task.options.every, _WAIT_SECS) - (time.monotonic() - began)))


def _state(task: Task, key: str) -> str | None:
    try:
        return task.client.stat(key).digest
    except NotFound:  # no value is a state, too
        return None


def _told(task: Task, key: str, digest: str | None) -> None:
    task.screen.line(f"{key}  {digest or 'is not there'}", {"key": key, "sha256": digest})
    sys.stdout.flush()


def events(task: Task) -> int:
    """Print a line for each thing that happens."""
    options = task.options
    happening = task.client.events(options.prefix, types=options.types, after=options.after)
    for event in itertools.islice(happening, options.count):
        told = {"id": event.id, "type": event.type, "time": event.time, "subject": event.subject, "data": event.data}
        details = json.dumps(event.data) if event.type == "reset" else event.subject
        task.screen.line(f"{event.time}  {event.type}  {printable(details)}", told)
        sys.stdout.flush()
    return OK
