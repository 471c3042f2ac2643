"""`status`, `nodes`, `health`: the cluster itself."""

from __future__ import annotations

from pulzar.command.screen import plain, time_text
from pulzar.command.task import OK, UNAVAILABLE, Task


def status(task: Task) -> int:
    """Show statistics of the master and its index."""
    found = task.client.status()
    task.screen.line("\n".join(f"{name + ':':16} {plain(value)}" for name, value in found.items()), found)
    return OK


def nodes(task: Task) -> int:
    """List the nodes."""
    found = task.client.nodes()
    lines = [("NODE", "STATE", "DISK", "RUNNING", "VERSION", "LAST SEEN", "URL")]
    for node in found:
        raw = node.raw
        slots = f"{len(raw.get('running') or ())} of {raw.get('slots', '')}"
        seen = time_text(raw.get("last_seen"))
        state = "ok" if node.alive else "silent"
        lines.append((node.name, state, f"{node.disk_percent:g} %", slots, str(raw.get("version", "")), seen, node.url))
    task.screen.table(lines, [node.raw for node in found])
    return OK


def health(task: Task) -> int:
    """Say whether a value would be stored now; else the exit status is 69."""
    found = task.client.health()
    task.screen.line(found.message, {"healthy": found.healthy, "message": found.message} | found.raw)
    for warning in () if task.screen.json else found.warnings:
        task.screen.say(f"warning: {warning}")
    return OK if found.healthy else UNAVAILABLE
