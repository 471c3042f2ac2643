"""`python -m backup`: send a snapshot to a target, verify, list and restore what is there."""

from __future__ import annotations

import argparse
import calendar
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from backup import address
from backup.address import Target
from backup.errors import BackupError, Busy, Damaged
from backup.mirror import layout
from backup.ownership import Ownership
from backup.progress import Progress
from backup.results import Row
from backup.targets import Backups, opened
from backup.value_check import ValueCheck
from broker import phases, process, setting_types, settings, snapshot_files
from broker.backups import keep_rule
from broker.errors import PulzarError

T = TypeVar("T")

DONE, FAILED, WRONG_USE = 0, 1, 2
_SHOWN = 3  # faults in a reason
_LAST = "-9999"  # behind a time: all snapshots of that second
_DAY = "%Y-%m-%d"
_TIMES = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; exit status 0 done, 1 not done, 2 wrong use."""
    given = _parser().parse_args(arguments)
    progress = Progress(sys.stdout)
    begun = time.monotonic()
    try:
        if given.config:
            os.environ[settings.CONFIG_VARIABLE] = str(given.config.resolve())
        config = settings.load()
        target = address.chosen(config.backup, given.to)
        rate = config.backup.bandwidth if given.bandwidth is None else given.bandwidth
        backups = opened(target, rate, progress)
        if given.command == "send" and given.keep is None:
            given.keep = keep_rule.parse(config.backup.keep)
    except PulzarError as error:
        print(f"pulzar backup: {error}", file=sys.stderr)
        return WRONG_USE
    try:
        fields = _COMMANDS[given.command](given, backups, target)
    except PulzarError as error:
        faults = error.faults if isinstance(error, Damaged) else []
        reason = "; ".join([str(error), *faults[:_SHOWN]]) + (f"; {len(faults)} in all" if len(faults) > _SHOWN else "")
        fields = {"outcome": "failed", "reason": reason, "kind": type(error).__name__, "faults": faults}
    except KeyboardInterrupt:
        fields = {"outcome": "failed", "reason": "it was interrupted", "kind": "KeyboardInterrupt", "faults": []}
    finally:
        backups.close()
    if given.command == "list" and "outcome" not in fields:
        return DONE
    if given.command == "list":
        print(f"pulzar backup: {fields['reason']}", file=sys.stderr)
        return FAILED
    progress.outcome(fields | {"seconds": round(time.monotonic() - begun, 3)})
    return DONE if fields["outcome"] == "good" else FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m backup", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    send = commands.add_parser("send", help="send a snapshot, verify that it has arrived, remove old ones")
    verify = commands.add_parser("verify", help="read a share of the newest snapshot back and compare it")
    shown = commands.add_parser("list", help="the snapshots at the target")
    restore = commands.add_parser("restore", help="put a snapshot into a new directory, verified")
    for one in (send, verify, shown, restore):
        one.add_argument("--to", metavar="TARGET", help="another target than [backup] type and address")
        one.add_argument("--config", type=Path, metavar="FILE", help="configuration file; see ops/server.conf")
        one.add_argument(
            "--bandwidth",
            type=_typed(setting_types.size(0, setting_types.TB)),
            metavar="BYTES",
            help="a second at most",
        )
    for one in (send, verify, restore):
        one.add_argument("--member", required=True, type=_member, help="the node's name, or master")
    shown.add_argument("--member", type=_member, help="of this one only")
    shown.add_argument("--json", action="store_true", help="a list of objects")
    send.add_argument("--snapshot", required=True, type=Path, metavar="DIR", help="the snapshot's folder")
    send.add_argument("--keep", type=_typed(keep_rule.parse), metavar="RULE", help="like '7 daily, 4 weekly'")
    verify.add_argument(
        "--share",
        type=_typed(setting_types.seconds(0, 100)),
        default=5.0,
        metavar="PERCENT",
        help="of the bytes; 5 by default",
    )
    verify.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="the member's data directory: a node's values are compared with it, and it remembers what is damaged",
    )
    restore.add_argument("--into", required=True, type=Path, metavar="DIR", help="a new or empty directory")
    restore.add_argument("--at", type=_time, metavar="TIME", help="the newest one until then: a name or a time in UTC")
    return parser


def _send(given: argparse.Namespace, backups: Backups, target: Target) -> dict[str, object]:
    snapshot = given.snapshot.absolute()
    parent = snapshot.parent
    data = parent.parent if parent.name == snapshot_files.FOLDER else parent
    try:
        lock = process.hold(parent)
    except BlockingIOError as error:
        raise Busy(f"another backup of {given.member} is at work") from error
    except OSError as error:
        raise BackupError(f"{parent} can't be read: {error.strerror or error}") from error
    try:
        phases.announce("backup.begun")
        sent = backups.send(given.member, snapshot, Ownership(data, str(target)), given.keep)
    finally:
        os.close(lock)
    return {
        "outcome": "good",
        "member": given.member,
        "snapshot": sent.name,
        "time": sent.head.time,
        "files": sent.head.files,
        "bytes": sent.head.bytes,
        "sent_files": sent.files,
        "sent_bytes": sent.bytes,
        "removed": sent.removed,
        "warnings": sent.warnings,
    }


def _verify(given: argparse.Namespace, backups: Backups, target: Target) -> dict[str, object]:
    if given.data and (given.data / "log").is_dir():  # the ledger has no values
        with ValueCheck(given.data.absolute()) as check:
            found = backups.verify(given.member, given.share / 100, check)
    else:
        found = backups.verify(given.member, given.share / 100, None)
    if found.damaged and given.data:
        ownership = Ownership(given.data.absolute(), str(target))
        ownership.note_damaged(ownership.damaged | set(found.damaged))
    if found.faults:
        raise Damaged(f"the backup of {given.member} of {found.name} is damaged", found.faults)
    return {
        "outcome": "good",
        "member": given.member,
        "snapshot": found.name,
        "files": found.files,
        "bytes": found.bytes,
        "of_bytes": found.of_bytes,
        "values": found.values,
    }


def _list(given: argparse.Namespace, backups: Backups, target: Target) -> dict[str, object]:
    rows = backups.rows(given.member)
    print(json.dumps([row._asdict() for row in rows]) if given.json else _table(rows))
    return {}


def _restore(given: argparse.Namespace, backups: Backups, target: Target) -> dict[str, object]:
    done = backups.restore(given.member, given.at, given.into)
    return {
        "outcome": "good",
        "member": given.member,
        "snapshot": done.name,
        "time": done.head.time,
        "into": str(given.into),
        "files": done.files,
        "bytes": done.bytes,
    }


_COMMANDS = {"send": _send, "verify": _verify, "list": _list, "restore": _restore}


def _table(rows: list[Row]) -> str:
    lines = [f"{'MEMBER':24} {'SNAPSHOT':20} {'FILES':>9} {'BYTES':>15}"]
    lines += [
        f"{row.member:24} {row.name:20} {row.files:9} {row.bytes:15}{'' if row.complete else '  not complete'}"
        for row in rows
    ]
    return "\n".join(lines)


def _typed(parse: Callable[[str], T]) -> Callable[[str], T]:
    """A setting's parser as a type of argparse."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error

    return parsed


def _member(text: str) -> str:
    if not layout.is_member(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a node, nor master")
    return text


def _time(text: str) -> str:
    """The name of a snapshot, also for a time; a day means its end."""
    if snapshot_files.is_name(text):
        return text
    for form, more in ((_DAY, 86_399), *((form, 0) for form in _TIMES)):
        try:
            at = calendar.timegm(time.strptime(text.removesuffix("Z"), form)) + more
        except ValueError:
            continue  # it may have another form
        return snapshot_files.name_of(at) + _LAST
    raise argparse.ArgumentTypeError(
        f"{text!r} is no time in UTC like 20261129T023000Z, 2026-11-29T02:30 or 2026-11-29"
    )


if __name__ == "__main__":
    sys.exit(main())
