"""A whole accident undone: every key below a prefix that was deleted since a time is brought back."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from ops.manager.errors import Answered, ManageError
from ops.manager.master import Master
from ops.manager.screen import Bar, answer, duration, moment, size

_AT_ONCE = 8  # requests
_PAGE = 1_000  # keys
_SHOWN = 10  # keys on the screen; --json has all
_AGO = re.compile(r"(\d{1,9})\s*([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

Row = dict[str, Any]


class Accident(NamedTuple):
    """What is to be undone. Times in seconds since the epoch."""

    prefix: str
    since: float
    until: float


class _Plan(NamedTuple):
    rows: list[Row]  # a version of each key, as `GET /keys?deleted=1` has it
    there: int  # keys that exist, so that nothing is brought back
    missing: list[str]  # nodes that did not answer


def read_time(text: str) -> float:
    """Seconds since the epoch of `10m`, `2h`, `3d` ago or of an ISO date, in local time unless it says another.

    Raises `ValueError` with what is needed.
    """
    if match := _AGO.fullmatch(text.strip()):
        return time.time() - int(match[1]) * _UNITS[match[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text[:40]!r} is no time; one like 10m, 2h or 3d ago, 2026-11-29 or 2026-11-29T02:30 is needed"
        ) from None


def undelete(master: Master, accident: Accident, *, sure: bool, as_json: bool) -> tuple[int, Row]:
    """Bring back the newest version of each key that was deleted in that time, after a question.

    What exists stays as it is. So this may be broken off and begun again. Raises `ManageError`.
    """
    plan = _plan(master, accident, as_json)
    total = sum(row["size"] for row in plan.rows)
    if not as_json:
        _show(plan, accident, total)
    if (
        plan.rows
        and not sure
        and answer(f"Type 'undelete {len(plan.rows)}' to go on: ") != f"undelete {len(plan.rows)}"
    ):
        print("nothing was changed")
        return 1, {}
    started = time.monotonic()
    failures = _bring_back(master, plan.rows, as_json)
    failed = {failure["key"] for failure in failures}
    back = [row for row in plan.rows if row["key"] not in failed]
    result: Row = {
        "undeleted": len(back),
        "bytes": sum(row["size"] for row in back),
        "there": plan.there,
        "failures": failures,
        "missing": plan.missing,
    }
    if plan.rows and not as_json:
        took = duration(time.monotonic() - started)
        print(f"brought back {len(back):,} of {len(plan.rows):,} keys, {size(result['bytes'])}, in {took}")
        _tell(failures)
    return (1 if failures or plan.missing else 0), result


def _plan(master: Master, accident: Accident, quiet: bool) -> _Plan:
    found: dict[str, Row] = {}
    missing: set[str] = set()
    bar = Bar("keys looked at", quiet=quiet)
    seen = 0
    try:
        for page in _pages(master, {"deleted": 1, "prefix": accident.prefix}):
            missing |= set(page["missing"])
            for row in page["keys"]:
                # They come in the order of keys and versions, so the newest is the last.
                if accident.since <= row["deleted"] <= accident.until:
                    found[row["key"]] = row
            seen += len(page["keys"])
            bar.show(seen, seen + (page["next"] is not None))
    finally:
        bar.end()
    there = 0
    if found:
        for page in _pages(master, {"prefix": accident.prefix}):
            there += sum(found.pop(row["key"], None) is not None for row in page["keys"])
    return _Plan(list(found.values()), there, sorted(missing))


def _pages(master: Master, query: Row) -> Iterator[Row]:
    after = ""
    while True:
        page: Row = master.ask_patiently("GET", f"/keys?{urlencode({**query, 'after': after, 'limit': _PAGE})}")
        yield page
        if page["next"] is None:
            return
        after = page["next"]


def _show(plan: _Plan, accident: Accident, total: int) -> None:
    where = f"below {accident.prefix!r}" if accident.prefix else "in all"
    print(f"{len(plan.rows):,} keys {where} were deleted since {moment(accident.since)}: {size(total)}")
    for row in plan.rows[:_SHOWN]:
        print(f"  {row['key']}  {size(row['size'])}, deleted {moment(row['deleted'])}")
    if len(plan.rows) > _SHOWN:
        print(f"  and {len(plan.rows) - _SHOWN:,} more")
    if plan.there:
        print(f"{plan.there:,} others exist, and stay as they are: POST /undelete/KEY?overwrite=1 replaces one")
    if plan.missing:
        print(f"did not answer, so that what they hold is not listed: {', '.join(plan.missing)}")


def _bring_back(master: Master, rows: list[Row], quiet: bool) -> list[Row]:
    """Bring back each version; those that could not be, with the reason."""
    failures: list[Row] = []
    given_up: set[str] = set()  # nodes that stayed silent
    bar = Bar("keys", quiet=quiet)
    threads = ThreadPoolExecutor(_AT_ONCE)
    try:
        tasks = {threads.submit(_one, master, row, given_up): row for row in rows}
        for done, task in enumerate(as_completed(tasks), 1):
            if reason := task.result():
                failures.append({"key": tasks[task]["key"], "version": tasks[task]["version"], "reason": reason})
            bar.show(done, len(rows))
    finally:
        threads.shutdown(cancel_futures=True)
        bar.end()
    return sorted(failures, key=lambda failure: str(failure["key"]))


def _one(master: Master, row: Row, given_up: set[str]) -> str:
    """Bring back one version; why not, "" when it is there."""
    key = quote(row["key"], safe="/")
    path = f"/undelete/{key}?version={row['version']}"
    ask = master.ask if row["node"] in given_up else master.ask_patiently
    try:
        ask("POST", path)
    except Answered as error:
        if error.status == 503:
            given_up.add(row["node"])
        if error.status == 409 and master.etag(f"/get_key/{key}") == row["etag"]:
            return ""  # somebody else was quicker
        return str(error).removeprefix("the master says: ")
    except ManageError as error:
        return str(error)
    return ""


def _tell(failures: list[Row]) -> None:
    if not failures:
        return
    print(f"{len(failures):,} could not be brought back:")
    for failure in failures[:_SHOWN]:
        print(f"  {failure['key']}  version {failure['version']}: {failure['reason']}")
    if len(failures) > _SHOWN:
        print(f"  and {len(failures) - _SHOWN:,} more; --json names all")
