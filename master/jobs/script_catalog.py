"""The catalog: which scripts the nodes have, and which node a job goes to.

Nodes tell it whole whenever it changes; it is kept in the ledger, so that it is known right after a start.
"""

from __future__ import annotations

from typing import Any

import msgpack

from broker.messages import jobs
from broker.messages.jobs import Order
from broker.messages.runs import NodeCatalog
from broker.refusals import NotFound
from jobs import docstrings
from master.index.environment import pack
from master.jobs.ledger import Ledger

_COLUMNS = ("description", "args", "category", "author", "error", "kind", "arguments")
_HELPER = b"\0"  # stands before the paths of modules that are no scripts


def digest(ledger: Ledger, txn: Any, node: str) -> str:
    """Digest of the catalog that is known of a node, "" for none."""
    raw = txn.get(node.encode(), db=ledger.db["catalogs"])
    return raw.decode() if raw else ""


def keep(ledger: Ledger, txn: Any, catalog: NodeCatalog) -> None:
    """Note the scripts of a node, instead of those it had."""
    forget(ledger, txn, catalog.node)
    for row in catalog.rows:
        key = _key(row["path"], row.get("kind") == "helper") + catalog.node.encode()
        txn.put(key, pack({name: row.get(name) for name in _COLUMNS}), db=ledger.db["scripts"])
    txn.put(catalog.node.encode(), catalog.digest.encode(), db=ledger.db["catalogs"])


def _key(path: str, helper: bool = False) -> bytes:
    return (_HELPER if helper else b"") + path.encode() + b"\0"


def forget(ledger: Ledger, txn: Any, node: str) -> None:
    """Forget the scripts of a node."""
    end = b"\0" + node.encode()
    for key in [key for key, _ in ledger.up(txn, "scripts") if key.endswith(end)]:
        txn.delete(key, db=ledger.db["scripts"])
    txn.delete(node.encode(), db=ledger.db["catalogs"])


def nodes_with(ledger: Ledger, txn: Any, path: str) -> set[str]:
    """The nodes that have a script."""
    return {node.decode() for node, _ in ledger.up(txn, "scripts", _key(path))}


def check_known(ledger: Ledger, txn: Any, order: Order) -> None:
    """Raise `NotFound` when no node can run a job: none has its script, or the one it is bound to has not."""
    having = nodes_with(ledger, txn, order.job)
    if not having:
        for _, row in ledger.up(txn, "scripts", _key(order.job, helper=True)):
            raise NotFound(f"{order.job} is no job; it is {msgpack.unpackb(row)['error']}")
        raise NotFound(f"no node has the script {order.job}; GET /admin/job_catalog lists those there are")
    if order.options.node and order.options.node not in having:
        raise NotFound(f"node {order.options.node} has no script {order.job}; it is on {', '.join(sorted(having))}")


def warnings(ledger: Ledger, txn: Any, order: Order) -> list[str]:
    """What is odd about a job's arguments, as its script declares them; the launch goes on."""
    given = [*order.arguments, *([jobs.DATA] if order.data else [])]
    for _, raw in ledger.up(txn, "scripts", order.job.encode() + b"\0"):
        return docstrings.compare(msgpack.unpackb(raw)["args"] or "", given)
    return []


def rows(ledger: Ledger, txn: Any) -> list[dict[str, Any]]:
    """The catalog of the cluster by path; where the nodes' scripts differ, `differs` is true."""
    found: dict[str, dict[str, Any]] = {}
    for key, raw in ledger.up(txn, "scripts"):
        path, _, node = key.removeprefix(_HELPER).decode().partition("\0")
        row = msgpack.unpackb(raw)
        known = found.setdefault(path, {"path": path} | row | {"nodes": [], "differs": False})
        known["nodes"].append(node)
        known["differs"] |= any(known[name] != row[name] for name in _COLUMNS)
    return [found[path] for path in sorted(found)]
