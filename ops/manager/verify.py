"""Every value read and compared, node against index both ways, and LMDB's files audited."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

from ops.manager import nodes
from ops.manager.master import Master
from ops.manager.screen import Bar, duration, moment, size

_LIMIT = 1_000  # keys of a page
_FILE_SECS = 3_600.0
_SHOWN = 20  # faults of a node on the screen; --json has all

Row = dict[str, Any]


def verify(master: Master, wanted: str, *, repair: bool, as_json: bool) -> tuple[int, Row]:
    """Verify one node or all (""), and the master's files; the second result is for `--json`. Raises `ManageError`."""
    rows = nodes.heard(master, wanted)
    result: Row = {"nodes": [], "files": _files(master, [row["node"] for row in rows], as_json)}
    for row in rows:
        found = _node(master, row, read=True, quiet=as_json)
        result["nodes"].append(found)
        if not as_json:
            _tell(found)
    if repair:
        for found in result["nodes"]:
            _repair(master, found, as_json)
    left = sum(len(found["faults"]) for found in result["nodes"]) + sum(len(row["faults"]) for row in result["files"])
    result["good"] = not left
    if not as_json:
        print("everything is good" if not left else f"{left:,} {'thing is' if left == 1 else 'things are'} wrong")
    return (1 if left else 0), result


def _files(master: Master, names: list[str], as_json: bool) -> list[Row]:
    found = []
    for name in ("", *names):
        query = urlencode({"files": 1, "node": name})
        for row in master.ask_patiently("GET", f"/internal/verify?{query}", secs=_FILE_SECS)["files"]:
            found.append({"of": name or "master", **row})
            if not as_json:
                faults = row["faults"]
                print(f"{name or 'master'}: {row['file']} {'is damaged' if faults else 'is sound'}")
                for text in faults:
                    print(f"  {text}")
    return found


def _node(master: Master, row: Row, *, read: bool, quiet: bool) -> Row:
    """What is wrong on a node, with a bar of progress."""
    found: Row = {"node": row["node"], "keys": 0, "bytes": 0, "faults": []}
    started = time.monotonic()
    bar = Bar(f"keys of {row['node']}", quiet=quiet)
    try:
        for page in _pages(master, row["node"], read):
            found["keys"] += page["keys"]
            found["bytes"] += page["bytes"]
            found["faults"] += page["faults"]
            within = page["within"]
            note = f"in a value of {size(within['size'])}: {within['done'] / within['size']:.0%}" if within else ""
            done = found["keys"]
            bar.show(done, done if page["complete"] else max(row["keys"], done + 1), note)
    finally:
        bar.end()
    return found | {"seconds": round(time.monotonic() - started, 1)}


def _pages(master: Master, node: str, read: bool) -> Iterator[Row]:
    after = ""
    while True:
        query = urlencode({"node": node, "after": after, "limit": _LIMIT, "read": int(read)})
        page: Row = master.ask_patiently("GET", f"/internal/verify?{query}")
        yield page
        if page["complete"]:
            return
        after = page["next"]


def _tell(found: Row) -> None:
    faults = found["faults"]
    counts = Counter(fault["kind"] for fault in faults)
    verdict = ", ".join(f"{number:,} {kind}" for kind, number in sorted(counts.items())) or "all good"
    read = f"{found['keys']:,} keys, {size(found['bytes'])} read in {duration(found['seconds'])}"
    print(f"{found['node']}: {read}: {verdict}")
    for fault in faults[:_SHOWN]:
        print(f"  {fault['kind']:<9} {fault['key']}  version {fault['version']}: {fault['reason']}")
    if len(faults) > _SHOWN:
        print(f"  and {len(faults) - _SHOWN:,} more; --json names all")


def _repair(master: Master, found: Row, as_json: bool) -> None:
    """Have the index follow the node's log where they differ; a corrupt value stays a fault."""
    faults = found["faults"]
    differ = [fault for fault in faults if fault["kind"] != "corrupt"]
    if differ:
        nodes.restore(master, found["node"], quiet=as_json)
        row = nodes.selected(master, found["node"])[0]
        left = _node(master, row, read=False, quiet=as_json)["faults"]
        found["repaired"] = len(differ) - len(left)
        found["faults"] = [fault for fault in faults if fault["kind"] == "corrupt"] + left
        if not as_json:
            print(f"{found['node']}: the index follows the node's log again; {found['repaired']:,} faults are mended")
    corrupt = [fault for fault in faults if fault["kind"] == "corrupt"]
    if corrupt and not as_json:
        print(_advice(master, found["node"], corrupt))


def _advice(master: Master, node: str, corrupt: list[Row]) -> str:
    """How damaged values get their bytes again."""
    text = f"{node}: {len(corrupt):,} damaged values need their bytes: put them again with ?overwrite=1"
    overview = master.ask("GET", "/admin/backup")
    row = next((row for row in overview["members"] if row["member"] == node and row["last_good"]), None)
    if row is None:
        return f"{text}; there is no backup of this node"
    key = corrupt[0]["key"]
    etag = master.etag(f"/get_key/{quote(key)}")
    return (
        f"{text}. The backup of {moment(row['last_good'])} at {overview['address']} may have them:\n"
        f"  ops/manage.py restore-backup TARGET --node {node} --into DIR\n"
        f"  .venv/bin/python -m node.extract DIR {shlex.quote(key)} > value    # and so on for each\n"
        f"  curl -T value -H 'If-Match: {etag}' '{master.url}/add_key/{quote(key)}'"
    )
