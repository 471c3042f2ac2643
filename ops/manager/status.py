"""The cluster on one screen, warnings first."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from ops.manager.errors import Answered
from ops.manager.master import Master
from ops.manager.screen import duration, moment, size, table

_FULL_PERCENT = 90
_MOST_JOBS = 1_000  # of each list
_STATES = ("pending", "running", "completed", "failed", "cancelled")

Row = dict[str, Any]


def gather(master: Master) -> Row:
    """All that the screen shows, as the master says it. Raises `ManageError`."""
    return {
        "master": {"address": urlsplit(master.url).netloc, **master.ask("GET", "/admin/status")},
        "health": master.ask("GET", "/health?live=1"),
        "nodes": master.ask("GET", "/admin/network"),
        "jobs": _jobs(master),
        "schedules": master.ask("GET", f"/admin/jobs?list=scheduled&limit={_MOST_JOBS}")["scheduled"],
        "backup": _backup(master),
    }


def status(master: Master, *, as_json: bool) -> tuple[int, Row]:
    """Show the cluster; the second result is for `--json`. Raises `ManageError`."""
    state = gather(master)
    state["warnings"] = warnings(state)
    if not as_json:
        print("\n\n".join(filter(None, (_warnings(state), _master(state), _nodes(state), _rest(state)))))
    return 0, state


def warnings(state: Row) -> list[str]:
    """What an operator should look at, in words."""
    found = [f"not ready: {reason}"] if (reason := _objection(state["health"], state["master"])) else []
    for row in state["nodes"]:
        name = row["node"]
        if not row["synch"]:
            found.append(f"node {name} was last heard {duration(time.time() - row['last_seen'])} ago; start it")
        elif row["full"]:
            found.append(f"node {name} takes no more values: its disk has less than [volume] reserve free")
        elif row["percent"] >= _FULL_PERCENT:
            found.append(f"the disk of node {name} is {row['percent']} % full")
        if row["version"] != state["master"]["version"]:
            found.append(f"node {name} has version {row['version']}, the master {state['master']['version']}")
    awaited = state["master"]["restoring"]
    found += [f"the index may lack keys of {name}: its log is not applied yet" for name in awaited]
    found += [str(text) for text in state["health"].get("warnings", [])]
    found += [
        f"the backup of {row['member']} failed on {moment(row['failed'])}: {row['error']}"
        for row in (state["backup"] or {}).get("members", [])
        if row["error"]
    ]
    return found


def _objection(health: Row, master: Row) -> str:
    if not health["broker"]:
        return f"no connection to RabbitMQ: {master['broker']['problem']}"
    if not health["controller"]:
        return "the controller is being started again"
    return "" if health["ready"] or master["restoring"] else "no node takes values now; GET /health says why"


def _jobs(master: Master) -> dict[str, int]:
    """How many jobs have each state, up to a limit."""
    counts: Counter[str] = Counter()
    for name in ("pendings", "ready", "failed"):
        rows = master.ask("GET", f"/admin/jobs?list={name}&limit={_MOST_JOBS}")[name]
        counts.update(row["state"] for row in rows)
    return dict(counts)


def _backup(master: Master) -> Row | None:
    """None for a master that has no backup."""
    try:
        found: Row = master.ask("GET", "/admin/backup")
    except Answered as error:
        if error.status == 404:
            return None
        raise
    return found


def _warnings(state: Row) -> str:
    return "\n".join(["warnings", *(f"  {text}" for text in state["warnings"])]) if state["warnings"] else "all is well"


def _master(state: Row) -> str:
    master = state["master"]
    held = ""
    if master.get("held_keys"):
        held = f", {master['held_keys']:,} deleted ones ({size(master['held_bytes'])}) can be brought back"
    lines = (
        f"master     {master['address']}, version {master['version']}, up {duration(master['uptime'])}\n"
        f"keys       {master['keys']:,}, {size(master['bytes'])}{held}\n"
        f"RabbitMQ   {'connected' if master['broker']['connected'] else master['broker']['problem']}"
    )
    return lines + _repair(master.get("repair") or {})


def _repair(state: Row) -> str:
    """What is copied, how much is left, how fast, and why not; nothing while no copies are missing."""
    checked = state.get("checked", True)
    if checked and not any(state.get(name) for name in ("lacking", "under_way", "lost", "draining", "surplus", "move")):
        return ""
    lost = f"; lost: {', '.join(state['lost'])}" if state["lost"] else ""
    lost += "".join(
        f"; {node} is being drained, {'some' if left < 0 else f'{left:,}'} left"
        for node, left in state["draining"].items()
    )
    if state.get("surplus"):
        lost += f"; {state['surplus']:,} have too many copies, {state['removed']:,} copies were removed"
    if move := state.get("move"):
        lost += f"; {size(move['left'])} are to be moved from {move['source']} to {move['target']}"
    lost += "" if checked else "; more may be missing: they are looked through just now"
    reasons = "".join(f"\n           {count:,} not copied: {why}" for why, count in state["reasons"].items())
    return (
        f"\nrepair     {state['lacking']:,} values lack copies, {state['under_way']:,} are being made"
        f" ({size(state['rate'])}/s); {state['copies']:,} were made{lost}{reasons}"
    )


def _nodes(state: Row) -> str:
    now = time.time()
    rows = [("node", "heard", "disk", "free", "load", "keys", "held", "running", "version", "last backup")]
    for row in state["nodes"]:
        heard = f"{max(0.0, now - row['last_seen']):.0f} s ago" if row["synch"] else "silent"
        rows.append(
            (
                row["node"],
                heard,
                f"{row['percent']} %",
                size(row["disk_free"]),
                f"{row['load']:.2f}",
                f"{row['keys']:,}",
                f"{row['held_keys']:,}" if "held_keys" in row else "-",
                f"{len(row['running'])} of {row['slots']}",
                row["version"],
                _age(_member(state, row["node"]), now),
            )
        )
    return table(rows) if len(rows) > 1 else "no node has been heard of"


def _member(state: Row, name: str) -> Row | None:
    members: list[Row] = (state["backup"] or {}).get("members", [])
    return next((row for row in members if row.get("member") == name), None)


def _age(member: Row | None, now: float) -> str:
    if member is None or not member.get("last_good"):
        return "-"
    return f"{duration(now - member['last_good'])} ago"


def _rest(state: Row) -> str:
    jobs = state["jobs"]
    counts = [f"{jobs[name]:,}{'+' if jobs[name] >= _MOST_JOBS else ''} {name}" for name in _STATES if name in jobs]
    schedules = state["schedules"]
    lines = [
        f"jobs       {', '.join(counts) or 'none'}",
        f"schedules  {len(schedules):,}" + (f", the next {_next(schedules)}" if schedules else ""),
    ]
    lines.append(f"backup     {_backup_line(state)}")
    return "\n".join(lines)


def _next(schedules: list[Row]) -> str:
    first = min(schedules, key=lambda row: str(row["next_execution"]))
    return f"{first['job_name']} at {str(first['next_execution'])[:19]} UTC"


def _backup_line(state: Row) -> str:
    backup = state["backup"]
    if backup is None or not (backup["type"] and backup["address"]):
        return "not set up, see [backup]"
    good = [row["last_good"] for row in backup["members"] if row["last_good"]]
    oldest = f"every member has one of {moment(min(good))} or later" if good else "none yet"
    if len(good) < len(backup["members"]):
        oldest = f"{len(good)} of {len(backup['members'])} members have one"
    next_ = f", the next {moment(backup['next'])}" if backup["next"] else ", none by itself: [backup] active is off"
    running = f", running: {backup['running']}" if backup["running"] else ""
    return f"to {backup['address']}: {oldest}{next_}{running}"
