"""`sync`: a folder and the keys below a prefix are made alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pulzar import names
from pulzar.command.screen import size_text
from pulzar.command.task import FAILED, OK, Task, key_of
from pulzar.errors import BadRequest
from pulzar.sync import Result, Sync

_SHOWN_FAILURES = 20


def sync(task: Task) -> int:
    """Make the target like the source. One of both begins with a colon: the keys."""
    options = task.options
    source, target = options.source, options.target
    if source.startswith(":") == target.startswith(":"):
        raise BadRequest("one of source and target is keys, and begins with a colon: pulzar sync photos :photos/")
    up = target.startswith(":")
    prefix = key_of(target if up else source)
    prefix += "/" if prefix and not prefix.endswith("/") else ""
    began = time.monotonic()
    with task.screen.progress("sync") as progress:
        job = Sync(
            task.client,
            Path(source if up else target),
            prefix,
            delete=options.delete,
            dry=options.dry_run,
            threads=options.threads,
            wanted=wanted(options.include, options.exclude),
            told=progress.add,
        )
        result = job.up() if up else job.down()
    _tell(task, result, time.monotonic() - began)
    return FAILED if result.failures else OK


def wanted(include: list[str], exclude: list[str]) -> Callable[[str], bool]:
    """What tells whether a name is synced: it fits one that is included, if there are any, and none that is excluded.

    A pattern without a slash is for the last part of a name, or of a folder around it.
    """
    taken, left = ([_fits(text) for text in patterns] for patterns in (include, exclude))
    return lambda name: (not taken or any(fits(name) for fits in taken)) and not any(fits(name) for fits in left)


def _fits(text: str) -> Callable[[str], bool]:
    fits = names.pattern(text.removeprefix("/"))[1]
    if "/" in text:
        return lambda name: fits(name)
    return lambda name: any(map(fits, name.split("/")))


def _tell(task: Task, result: Result, seconds: float) -> None:
    options, screen = task.options, task.screen
    done = [step for step in result.steps if step.kind != "same"]
    if options.verbose or options.dry_run:
        for step in sorted(done, key=lambda step: step.name):
            screen.line(f"{step.kind:6} {step.name}", {"step": step.kind, "name": step.name})
    for said in result.left_out:
        screen.say(f"pulzar: left out {said}")
    for name, error in result.failures[:_SHOWN_FAILURES]:
        screen.say(f"pulzar: {name}: {error}")
    if len(result.failures) > _SHOWN_FAILURES:
        screen.say(f"pulzar: and {len(result.failures) - _SHOWN_FAILURES} more")
    counts = {
        "sent": result.count("up"),
        "received": result.count("down"),
        "deleted": result.count("delete"),
        "unchanged": result.count("same"),
        "failed": len(result.failures),
    }
    told = ", ".join(f"{number:,} {what}" for what, number in counts.items() if number) or "nothing to do"
    dry = "would be: " if options.dry_run else ""
    text = f"{dry}{told}; {size_text(result.bytes)} in {seconds:.1f} s"
    screen.line(text, counts | {"bytes": result.bytes, "seconds": round(seconds, 3), "dry_run": options.dry_run})
