#!/usr/bin/env python3
"""Manage a Pulzar cluster: fill the index again from the nodes, forget a node, remove all data.

Needs nothing but Python. The addresses and directories come from the configuration file (`--config`) and the
environment (`PULZAR_…`). For a cluster that `ops/up` runs, they come from its data directory (`--data`).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from broker import settings
from broker.errors import PulzarError
from broker.process import hold

POLL_SECS = 0.2
SILENCE_SECS = 60.0  # longest time without progress
BAR = 30

# All that Pulzar makes in its directories. Nothing else in them is removed.
MASTER_FILES = ("index", "ledger", "processes.lock", "keys.lock", "controller.sock")
NODE_FILES = ("log", "values", "staging", "index", "tmp", "node-id", "runs")


class ManageError(PulzarError):
    """Raised when something can't be done; the message is for a person."""


class Conflicting(ManageError):
    """Raised when the master refuses something in its state, or in that of a node (status 409)."""


class Place:
    """Where the cluster is: the master's address and all data directories."""

    def __init__(self, master: str, master_directory: Path, node_directories: Sequence[Path]) -> None:
        self.master = master
        self.master_directory = master_directory
        self.node_directories = list(node_directories)

    @classmethod
    def find(cls, config: Path | None, data: Path | None) -> Place:
        """The place from `cluster.json` in a data directory of `ops/up`, else from the settings.

        Raises `ManageError` or `SettingsError`.
        """
        if data is None:
            loaded = settings.load(config)
            return cls(loaded.address(loaded.server), Path(loaded.server.dir), [Path(loaded.volume.dir)])
        try:
            cluster = json.loads((data / "cluster.json").read_text())
            nodes = [Path(node["directory"]) for node in cluster["nodes"]]
            return cls(
                cluster["master"]["url"].removeprefix("http://").rstrip("/"),
                Path(cluster["master"]["directory"]),
                nodes,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ManageError(f"{data} is no data directory of ops/up: {error!r}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments ask for; exit status 0 when it was done."""
    parser = argparse.ArgumentParser(
        prog="manage.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration file, like ops/server.conf")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data directory of a cluster that ops/up runs")
    parser.add_argument(
        "--restore",
        nargs="?",
        const="",
        metavar="NODE",
        help="fill the index again from the log of one node (its URL or name), or of all nodes;\n"
        "entries with nothing behind them are removed",
    )
    parser.add_argument(
        "--reset", choices=["all"], help="remove all data of this machine's master and nodes; asks first"
    )
    parser.add_argument(
        "action",
        nargs="?",
        choices=["forget"],
        help="forget NODE: wait no more for a node that is gone for good; asks first",
    )
    parser.add_argument("node", nargs="?", metavar="NODE", help="with forget: the node's name or URL")
    parser.add_argument("--keys", action="store_true", help="with forget: its keys leave the index, too")
    parser.add_argument("--yes", action="store_true", help="with --reset and forget: do not ask")
    given = parser.parse_args(arguments)
    if (given.action is None) != (given.node is None):
        parser.error("forget needs the name of a node")
    if given.restore is None and given.reset is None and given.action is None:
        parser.print_help()
        return 0
    try:
        place = Place.find(given.config, given.data)
        if given.restore is not None:
            return restore(place.master, given.restore)
        if given.action:
            return forget(place.master, given.node, given.keys, given.yes)
        return reset(place, given.yes)
    except PulzarError as error:
        print(f"manage.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbroken off", file=sys.stderr)
        return 130


def restore(master: str, wanted: str) -> int:
    """Have the master apply the log of one node or of all from the beginning, with a bar of progress.

    Raises `ManageError`.
    """
    nodes = request(master, "GET", "/admin/network")
    names = [
        node["node"] for node in nodes if not wanted or wanted.rstrip("/") in (node["url"].rstrip("/"), node["node"])
    ]
    if not names:
        known = ", ".join(f"{node['node']} ({node['url']})" for node in nodes) or "none"
        raise ManageError(f"no node is {wanted or 'known to this master'}; known: {known}")
    silent = [node["node"] for node in nodes if node["node"] in names and not node["synch"]]
    if silent:
        raise ManageError(f"not heard from lately: {', '.join(silent)}; start them first")
    before = {row["node"]: row["generation"] for row in request(master, "GET", "/internal/restore")["nodes"]}
    started = time.monotonic()
    for name in names:
        try:
            request(master, "POST", "/internal/restore", {"node": name})
        except Conflicting as error:
            # Somebody else has started it already.
            print(f"{str(error).partition(';')[0]}; following it")
            before.pop(name, None)
    state = follow(master, names, before)
    print(f"{'node':<24} {'records':>12}")
    for row in state["nodes"]:
        if row["node"] in names:
            print(f"{row['node']:<24} {row['applied']:>12,}")
    print(f"restored in {time.monotonic() - started:.1f} s; the index has {state['keys']:,} keys")
    return 0


def follow(master: str, names: list[str], before: dict[str, int]) -> dict[str, Any]:
    """Show a bar until the logs of these nodes are applied; the last state. Raises `ManageError`."""
    last, moved = -1, time.monotonic()
    while True:
        state: dict[str, Any] = request(master, "GET", "/internal/restore")
        rows = [row for row in state["nodes"] if row["node"] in names]
        begun = [row for row in rows if row["generation"] > before.get(row["node"], 0)]
        done = sum(min(row["applied"], row["seq"]) for row in begun)
        total = sum(row["seq"] for row in rows)
        finished = len(begun) == len(rows) and not any(row["restoring"] for row in rows)
        show(total if finished else done, total)
        if finished:
            print()
            return state
        if done != last:
            last, moved = done, time.monotonic()
        if time.monotonic() - moved > SILENCE_SECS:
            print()
            raise ManageError(f"nothing has moved for {SILENCE_SECS:.0f} s; the master's log says why")
        time.sleep(POLL_SECS)


def forget(master: str, wanted: str, entries: bool, sure: bool) -> int:
    """Have the master forget a node that is gone for good, after a question. Raises `ManageError`."""
    known = request(master, "GET", "/admin/network")
    name = next(
        (node["node"] for node in known if wanted.rstrip("/") in (node["url"].rstrip("/"), node["node"])), wanted
    )
    target = f"/admin/network/{quote(name, safe='')}"
    node = request(master, "GET", f"{target}?entries=1")
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
    done = request(master, "DELETE", f"{target}?keys={int(entries)}")
    print(f"node {name} is forgotten; {done['keys']:,} keys of it {'leave' if entries else 'stay in'} the index")
    return 0


def show(done: int, total: int) -> None:
    """Show the progress as a bar on one line, in a terminal alone."""
    if sys.stdout.isatty():
        share = done / total if total else 1.0
        print(f"\r[{'#' * round(share * BAR):<{BAR}}] {share:4.0%}  {done:,} of {total:,} records", end="", flush=True)


def request(master: str, method: str, path: str, body: Any = None) -> Any:
    """Ask the master; the `data` of its response. Raises `ManageError`, for a 409 `Conflicting`."""
    host, _, port = master.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=30)
    try:
        connection.request(
            method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        answer = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ManageError(f"the master at {master} does not answer: {error}") from error
    finally:
        connection.close()
    if response.status == http.HTTPStatus.CONFLICT:
        raise Conflicting(str(answer.get("msg")))
    if answer.get("status") != "ok":
        raise ManageError(f"the master says: {answer.get('msg')}")
    return answer["data"]


def reset(place: Place, sure: bool) -> int:
    """Remove what Pulzar has made in its directories, after a question. Raises `ManageError`."""
    targets = [(place.master_directory, name) for name in MASTER_FILES]
    targets += [(directory, name) for directory in place.node_directories for name in NODE_FILES]
    there = [directory / name for directory, name in targets if (directory / name).exists()]
    if not there:
        print("there is no data to remove")
        return 0
    in_use(place)
    print("This removes every key, value and job kept on this machine:")
    for path in there:
        print(f"  {path}")
    if not sure and answer("Type 'remove all' to go on: ") != "remove all":
        print("nothing was removed")
        return 1
    for path in there:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    print(f"removed {len(there)} files and folders")
    return 0


def answer(question: str) -> str:
    """The line that the person types; empty when there is nobody."""
    try:
        return input(question).strip()
    except EOFError:
        print()
        return ""


def in_use(place: Place) -> None:
    """Raise `ManageError` when a master or a node runs in one of the directories."""
    for folder in (place.master_directory, *(directory / "log" for directory in place.node_directories)):
        if not folder.is_dir():
            continue
        try:
            os.close(hold(folder))  # its process holds it as long as it runs
        except BlockingIOError:
            raise ManageError(f"{folder} is in use; stop its process first") from None


if __name__ == "__main__":
    sys.exit(main())
