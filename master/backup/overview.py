"""Backups as the API shows them. Times are seconds since the epoch."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from broker.backups import timetable
from broker.backups.address import without_password
from broker.messages.backups import MASTER, BackupState
from broker.settings import Settings
from master.backup import plan
from master.backup.plan import Member, Plan

Row = dict[str, object]

_LATE = 2  # times of the timetable that a backup may be old


def describe(config: Settings, nodes: Iterable[str]) -> Row:
    """The settings without secrets, what is going on, and every member."""
    backup, found = config.backup, _plan(config)
    current = found.current
    return {
        "active": backup.active,
        "type": backup.type or None,
        "address": without_password(backup.address) or None,
        "at": backup.at,
        "keep": backup.keep,
        "verify": backup.verify,
        "bandwidth": backup.bandwidth,
        "next": _next(config, found),
        "running": current.task.member if current else None,
        "waiting": [
            {"member": task.member, "work": task.work, "target": without_password(task.target) or None}
            for task in found.waiting
        ],
        "members": [_row(config, found, name) for name in [*sorted(set(nodes) - {MASTER}), MASTER]],
    }


def member(config: Settings, name: str) -> Row:
    """One member."""
    return _row(config, _plan(config), name)


def warnings(config: Settings, nodes: Iterable[str]) -> list[str]:
    """A sentence for each member whose last good backup is too old, when backups are made by themselves."""
    if not config.backup.active:
        return []
    now = time.time()
    allowed = _LATE * timetable.longest_pause(config.backup.at, now)
    found = _plan(config)
    sentences = []
    for name in [*sorted(set(nodes) - {MASTER}), MASTER]:
        known = found.members.get(name)
        if known is None:
            continue  # it was heard of just now
        good, since = known.state.good_at / 1000, known.since / 1000
        if now - (good or since) > allowed:
            age = f"is {_words(now - good)} old" if good else f"was to be made {_words(now - since)} ago"
            sentences.append(f"the last good backup of {name} {age}" + (f": {known.error}" if known.error else ""))
        if known.fault:
            sentences.append(f"the last verification of the backups of {name} failed: {known.fault}")
    return sentences


def _plan(config: Settings) -> Plan:
    return plan.read(Path(config.server.dir))


def _row(config: Settings, found: Plan, name: str) -> Row:
    known = found.members.get(name) or Member(BackupState(name), 0)
    state, current = known.state, found.current
    busy = current is not None and current.task.member == name
    ours = current is not None and busy and state.order == current.order
    return {
        "member": name,
        "kind": "ledger" if name == MASTER else "node",
        "last_good": _secs(state.good_at),
        "age": round(time.time() - state.good_at / 1000, 1) if state.good_at else None,
        "snapshot": state.snapshot or None,
        "size": state.size,
        "files": state.files,
        "sent": state.sent,
        "seconds": state.took_ms / 1000,
        "next": _due(config, found, known),
        "last_verified": _secs(state.verified_at),
        "running": {
            "work": current.task.work,
            "target": without_password(current.task.target) or None,
            "since": _secs(current.begun),
            "phase": state.phase if ours else "",
            "done": state.done if ours else 0,
            "total": state.total if ours else 0,
        }
        if busy and current
        else None,
        "error": known.problem or None,
        "failed": _secs(known.error_at if known.error else known.fault_at),
        "failures": known.failures,
    }


def _next(config: Settings, found: Plan) -> float | None:
    if not config.backup.active:
        return None
    return timetable.following(config.backup.at, found.due / 1000 if found.due else time.time())


def _due(config: Settings, found: Plan, known: Member) -> float | None:
    due = _next(config, found)
    if due is None or not known.retry_at:
        return due
    return min(due, known.retry_at / 1000)


def _secs(ms: int) -> float | None:
    return ms / 1000 if ms else None


def _words(secs: float) -> str:
    return f"{secs / 86_400:.1f} days" if secs >= 86_400 else f"{secs / 3600:.1f} hours"
