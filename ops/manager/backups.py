"""Backups: made now by the cluster, listed, and restored into a directory of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from broker import settings
from ops.manager import nodes
from ops.manager.errors import Conflicting, ManageError, WrongUse
from ops.manager.master import Master
from ops.manager.screen import Bar, duration, size, table

MASTER = "master"  # the member that is the ledger
ROOT = Path(__file__).resolve().parents[2]
_POLL_SECS = 0.5
_WRONG_USE = 2  # exit status of the engine

Row = dict[str, Any]


# Made by the cluster.


def backup(master: Master, wanted: str, target: str, *, as_json: bool) -> tuple[int, Row]:
    """Have the cluster back up one member or all (""), and follow it; the second result is for `--json`.

    A backup that is on its way is followed first, so this may be broken off and begun again. Raises `ManageError`.
    """
    name = wanted if wanted in ("", MASTER) else nodes.selected(master, wanted)[0]["node"]
    before = _members(master.ask_patiently("GET", "/admin/backup"))
    names = [name] if name else list(before)
    body = {"node": name or None, "target": target or None}
    said = as_json
    while True:
        try:
            made = master.ask("POST", "/admin/backup", body)
            break
        except Conflicting as error:
            if not said:
                print(f"{str(error).partition(';')[0]}; waiting for its end")
                said = True
            overview = master.ask_patiently("GET", "/admin/backup")
            under_way = _under_way(overview)
            if not under_way:  # it reads a backup back, as it does once a week
                time.sleep(_POLL_SECS)
            seen = _follow(master, list(under_way), _members(overview), as_json)
            if set(names) <= set(under_way) and set(under_way.values()) == {target or None}:
                return _told({name: seen[name] for name in names}, as_json)
            before = _members(master.ask_patiently("GET", "/admin/backup"))
    return _told(_follow(master, made["members"], before, as_json, made["since"]), as_json)


def _members(overview: Row) -> dict[str, Row]:
    return {row["member"]: row for row in overview["members"]}


def _under_way(overview: Row) -> dict[str, str | None]:
    """The members whose backup runs or waits, each with its target (None: that of the settings)."""
    found: dict[str, str | None] = {
        row["member"]: row.get("target") for row in overview["waiting"] if row["work"] == "send"
    }
    for row in overview["members"]:
        if row["running"] and row["running"]["work"] == "send":
            found[row["member"]] = row["running"]["target"]
    return found


def _follow(
    master: Master, names: Sequence[str], before: dict[str, Row], quiet: bool, since: float = 0
) -> dict[str, Row]:
    """Show how far these members are, until each is done; their rows then, with `good`.

    What failed is told from their rows `before`. A failure before `since` was that of another backup.
    """
    left = list(names)
    done: dict[str, Row] = {}
    bar = Bar("bytes", quiet=quiet)
    try:
        while left:
            overview = master.ask_patiently("GET", "/admin/backup")
            rows = {row["member"]: row for row in overview["members"]}
            waiting = {row["member"] for row in overview["waiting"]} | {overview["running"]}
            for name in [name for name in left if name not in waiting]:
                left.remove(name)
                row = rows.get(name, {"member": name, "error": "this node was forgotten", "failed": -1})
                failed = row["failed"] not in (None, before.get(name, {"failed": None})["failed"])
                done[name] = row | {"good": not (failed and not 0 <= row["failed"] < since)}
                bar.end()
                if not quiet:
                    print(_line(done[name], before.get(name)))
            running = (rows.get(overview["running"]) or {}).get("running")
            if running and left:
                bar.show(running["done"], running["total"] or 1, f"{overview['running']}: {running['phase']}")
            if left:
                time.sleep(_POLL_SECS)
    finally:
        bar.end()
    return done


def _line(row: Row, before: Row | None) -> str:
    name = row["member"]
    if not row["good"]:
        return f"{name}: failed: {row['error']}"
    if before is not None and row["snapshot"] == before["snapshot"]:
        return f"{name}: good"
    sent = f"{size(row['sent'])} of {size(row['size'])} sent"
    return f"{name}: good, {row['snapshot']}: {row['files']:,} files, {sent} in {duration(row['seconds'])}"


def _told(rows: dict[str, Row], as_json: bool) -> tuple[int, Row]:
    bad = [name for name, row in rows.items() if not row["good"]]
    if bad and not as_json:
        print(f"no good backup of {', '.join(bad)}")
    return (1 if bad else 0), {"good": not bad, "members": list(rows.values())}


# At the target.


def listed(master: Master, config: Path | None, target: str, *, as_json: bool) -> tuple[int, Any]:
    """List the snapshots at a target, "" for that of the settings; the second result is for `--json`."""
    arguments = ["list", "--json", *_named(master, config, target)]
    done = subprocess.run(_command(arguments, config), capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise _failed(done.returncode, done.stderr)
    rows = json.loads(done.stdout)
    if not as_json:
        lines = [("member", "snapshot", "files", "bytes", "size", "")]
        for row in rows:
            note = "" if row["complete"] else "not complete"
            lines.append(
                (row["member"], row["name"], f"{row['files']:,}", f"{row['bytes']:,}", size(row["bytes"]), note)
            )
        print(table(lines) if rows else "there is no backup")
    return 0, rows


def restore(
    config: Path | None, target: str, member: str, into: Path, at: str | None, *, as_json: bool
) -> tuple[int, Any]:
    """Restore a member's snapshot into a new directory, every digest compared; then say what to do with it."""
    where = into.absolute()
    arguments = ["restore", "--to", _absolute(target), "--member", member, "--into", str(where)]
    arguments += ["--at", at] if at else []
    bar = Bar("bytes", quiet=as_json)
    last: Row = {}
    command = _command(arguments, config)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as engine:
        assert engine.stdout is not None
        assert engine.stderr is not None
        try:
            for line in engine.stdout:
                last = json.loads(line)
                if "phase" in last:
                    bar.show(last["done"], last["total"] or 1, last["phase"])
                elif last["outcome"] == "good":
                    bar.show(last["bytes"], last["bytes"], "restored")
        finally:
            bar.end()
            if engine.poll() is None and "outcome" not in last:
                engine.terminate()
        words = engine.stderr.read()
    if last.get("outcome") != "good":
        if "reason" not in last:
            raise _failed(engine.returncode, words)
        if not as_json:
            print(f"not restored: {last['reason']}", file=sys.stderr)
            for fault in last.get("faults", []):
                print(f"  {fault}", file=sys.stderr)
        return 1, last
    if not as_json:
        print(f"{member} of {last['time']} is in {where}: {last['files']:,} files, {size(last['bytes'])}, all verified")
        print(_advice(member, where))
    return 0, last


def _advice(member: str, where: Path) -> str:
    if member == MASTER:
        return (
            "Next: stop the master, put the folder `ledger` of it in the place of the one in the master's directory\n"
            "([server] dir), and start the master. Jobs and schedules are as they were then; keys come from the nodes."
        )
    return (
        f"Next: a node started on it is {member}: PULZAR_VOLUME_DIR={where}, or move it to the place of the old one.\n"
        "The old one must not run any more. The master notices it, and applies its log from the beginning."
    )


def _named(master: Master, config: Path | None, target: str) -> list[str]:
    """The arguments for a target. Without one in the settings here, the master says what its own are."""
    if target:
        return ["--to", _absolute(target)]
    own = settings.load(config).backup
    if own.type and own.address:
        return []
    overview = master.ask("GET", "/admin/backup")
    if not overview["type"] or not overview["address"]:
        raise ManageError("no target is set: set [backup] type and address, or name one with --to")
    kind, address = overview["type"], overview["address"]
    return ["--to", address if kind in ("directory", "sftp") else f"{kind}:{address}"]


def _absolute(target: str) -> str:
    """A path as the engine takes it; it runs in another directory."""
    return target if ":" in target else str(Path(target).absolute())


def _command(arguments: Sequence[str], config: Path | None) -> list[str]:
    more = ["--config", str(config.absolute())] if config else []
    return [sys.executable, "-m", "backup", *arguments, *more]


def _failed(status: int, words: str) -> ManageError:
    reason = (words.strip().splitlines() or [f"it ended with status {status}"])[-1]
    reason = reason.removeprefix("pulzar backup: ").removeprefix("python -m backup: ")
    return WrongUse(reason) if status == _WRONG_USE else ManageError(reason)
