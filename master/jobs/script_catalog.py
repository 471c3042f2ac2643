"""The catalog: which scripts the nodes have.

A node sends all of its scripts whenever they change. The ledger keeps them, so that they are known right after a start.
"""

from __future__ import annotations

from collections.abc import Mapping

from broker.messages import jobs
from broker.messages.jobs import Order
from broker.messages.runs import CatalogRow
from broker.refusals import NotFound
from jobs import docstrings
from master.jobs.ledger import LedgerView


def check_known(view: LedgerView, order: Order) -> None:
    """Raise `NotFound` when no node can run a job: none has its script, or the one it is bound to has not."""
    having = view.nodes_with(order.job)
    if not having:
        advice = "" if view.script(order.job, helper=True) else "; GET /admin/job_catalog lists those there are"
        raise NotFound(f"{lacking(view, order.job)}{advice}")
    if order.options.node and order.options.node not in having:
        raise NotFound(f"node {order.options.node} has no script {order.job}; it is on {', '.join(sorted(having))}")


def lacking(view: LedgerView, path: str) -> str:
    """Why no node can run a script that none of them has: it is a helper, or there is none of that name."""
    helper = view.script(path, helper=True)
    return f"{path} is no job; it is {helper['error']}" if helper else f"no node has the script {path}"


def warnings(view: LedgerView, order: Order) -> list[str]:
    """What is odd about a job's script, and about its arguments by the declaration there; the launch goes on."""
    script = view.script(order.job)
    given = [*order.arguments, *([jobs.DATA] if order.data else [])]
    return [*script.get("problems", []), *docstrings.compare(script.get("args") or "", given)] if script else []


def password_names(view: LedgerView, path: str) -> set[str]:
    """The arguments that a script declares as passwords, on any node."""
    return {
        str(argument.get("name"))
        for node in view.nodes_with(path)
        if (row := view.script_on(node, path)) and isinstance(declared := row.get("arguments"), list)
        for argument in declared
        if isinstance(argument, dict) and argument.get("type") == "password"
    }


def rows(view: LedgerView) -> list[Mapping[str, object]]:
    """The catalog of the cluster by path; where the nodes' scripts differ, `differs` is true."""
    first: dict[str, CatalogRow] = {}
    nodes: dict[str, list[str]] = {}
    differing = set()
    for node, row in view.scripts():
        nodes.setdefault(row["path"], []).append(node)
        if _text(first.setdefault(row["path"], row)) != _text(row):
            differing.add(row["path"])
    return [{**first[path], "nodes": nodes[path], "differs": path in differing} for path in sorted(first)]


def _text(row: CatalogRow) -> dict[str, object]:
    """What a row says of the script's text. What can be loaded ahead depends on the node."""
    return {name: value for name, value in row.items() if not name.startswith("preload")}
