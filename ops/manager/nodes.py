"""The restore of the index from nodes, and a node that is forgotten."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

from ops.manager.errors import Conflicting, ManageError
from ops.manager.master import Master
from ops.manager.screen import Bar, answer

POLL_SECS = 0.2
PATIENCE_SECS = 3.0  # a busy node may miss its heartbeats for a moment
SILENCE_SECS = 60.0  # longest time without progress

Row = dict[str, Any]


def selected(master: Master, wanted: str) -> list[Row]:
    """The node of that name or URL, or all nodes (""), as `/admin/network` shows them. Raises `ManageError`."""
    nodes: list[Row] = master.ask("GET", "/admin/network")
    found = [row for row in nodes if not wanted or wanted.rstrip("/") in (row["url"].rstrip("/"), row["node"])]
    if not found:
        known = ", ".join(f"{row['node']} ({row['url']})" for row in nodes) or "none"
        raise ManageError(f"no node is {wanted or 'known to this master'}; known: {known}")
    return found


def heard(master: Master, wanted: str) -> list[Row]:
    """As `selected`, once all of them are heard from. Raises `ManageError` when some stay silent."""
    deadline = time.monotonic() + PATIENCE_SECS
    while True:
        nodes = selected(master, wanted)
        silent = [row["node"] for row in nodes if not row["synch"]]
        if not silent:
            return nodes
        if time.monotonic() > deadline:
            raise ManageError(f"not heard from lately: {', '.join(silent)}; start them first")
        time.sleep(POLL_SECS)


def restore(master: Master, wanted: str, *, quiet: bool = False) -> int:
    """Have the master apply the log of one node or of all from the beginning, with a bar of progress.

    Raises `ManageError`.
    """
    names = [row["node"] for row in heard(master, wanted)]
    before = {row["node"]: row["generation"] for row in master.ask("GET", "/internal/restore")["nodes"]}
    started = time.monotonic()
    for name in names:
        try:
            master.ask("POST", "/internal/restore", {"node": name})
        except Conflicting as error:
            # Somebody else has started it already.
            if not quiet:
                print(f"{str(error).partition(';')[0]}; following it")
            before.pop(name, None)
    state = _follow(master, names, before, quiet=quiet)
    if not quiet:
        print(f"{'node':<24} {'records':>12}")
        for row in state["nodes"]:
            if row["node"] in names:
                print(f"{row['node']:<24} {row['applied']:>12,}")
        print(f"restored in {time.monotonic() - started:.1f} s; the index has {state['keys']:,} keys")
    return 0


def _follow(master: Master, names: list[str], before: dict[str, int], *, quiet: bool) -> dict[str, Any]:
    """Show a bar until the logs of these nodes are applied; the last state. Raises `ManageError`."""
    last, moved = -1, time.monotonic()
    bar = Bar("records", quiet=quiet)
    try:
        while True:
            state: dict[str, Any] = master.ask("GET", "/internal/restore")
            rows = [row for row in state["nodes"] if row["node"] in names]
            begun = [row for row in rows if row["generation"] > before.get(row["node"], 0)]
            done = sum(min(row["applied"], row["seq"]) for row in begun)
            total = sum(row["seq"] for row in rows)
            finished = len(begun) == len(rows) and not any(row["restoring"] for row in rows)
            bar.show(total if finished else done, total)
            if finished:
                return state
            if done != last:
                last, moved = done, time.monotonic()
            if time.monotonic() - moved > SILENCE_SECS:
                raise ManageError(f"nothing has moved for {SILENCE_SECS:.0f} s; the master's log says why")
            time.sleep(POLL_SECS)
    finally:
        bar.end()


def drain(master: Master, wanted: str, *, stop: bool) -> int:
    """Have the master move all values of a node away, and follow that; or, with `stop`, no longer.

    Raises `ManageError`.
    """
    (name, *_) = [row["node"] for row in selected(master, wanted)]
    target = f"/admin/network/{quote(name, safe='')}/drain"
    if stop:
        master.ask("DELETE", target)
        print(f"node {name} takes values again, and its copies count again")
        return 0
    master.ask("POST", target)
    print(f"node {name} is being drained. Ctrl-C ends this line only; --stop ends the draining")
    bar, total = Bar("values"), 0
    try:
        while True:
            state = master.ask("GET", "/admin/status")["repair"]
            if name not in state["draining"]:
                raise ManageError(f"node {name} is drained no more: somebody else has ended it")
            left = state["draining"][name]
            total = max(total, left)
            if left >= 0:
                bar.show(total - left, total)
            if left == 0:
                break
            time.sleep(POLL_SECS)
    finally:
        bar.end()
    print(f"every value of {name} is on other nodes. Stop it, then: manage.py forget {name} --keys")
    return 0


def forget(master: Master, wanted: str, *, entries: bool, sure: bool) -> int:
    """Have the master forget a node that is gone for good, after a question. Raises `ManageError`."""
    known = master.ask("GET", "/admin/network")
    name = next(
        (node["node"] for node in known if wanted.rstrip("/") in (node["url"].rstrip("/"), node["node"])), wanted
    )
    target = f"/admin/network/{quote(name, safe='')}"
    node = master.ask("GET", f"{target}?entries=1")
    if node["synch"]:
        raise ManageError(f"node {name} is heard from; stop it first, and wait until its synch is false")
    silent = time.time() - node["last_seen"]
    print(
        f"node {name} ({node['url']}) was last heard {silent:,.0f} s ago; "
        f"{node['entries']:,} keys of the index are there."
    )
    if entries:
        print(
            "They leave the index and can be added again; their values are lost, "
            "unless the node comes back with its data."
        )
    elif node["entries"]:
        print("They stay in the index and answer 503; --keys removes them.")
    if not sure and answer(f"Type 'forget {name}' to go on: ") != f"forget {name}":
        print("nothing was changed")
        return 1
    done = master.ask("DELETE", f"{target}?keys={int(entries)}")
    print(f"node {name} is forgotten; {done['keys']:,} keys of it {'leave' if entries else 'stay in'} the index")
    return 0
