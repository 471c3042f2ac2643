"""The screen that verifies a node: every value read, node and index compared, a page of keys with each request.

How far it is stands in the address, so the master remembers nothing, and a verification goes on where it was left.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from flask import Blueprint, Response, request

from broker.contract.kinds import Integer
from broker.contract.parameters import Parameter
from broker.refusals import Refused
from master.web.ui.frame import formats
from master.web.ui.frame.inner import message_of
from master.web.ui.parts import ask, confirmed, environ, fragment, page, parts, see, visit

NAV = None
blueprint = Blueprint("verify", __name__)

_KEYS = 100  # with each request
_SECS = 120.0  # for one request; a node is given up before that
_CORRUPT = "corrupt"  # what following the node's log does not mend


class Progress(NamedTuple):
    """How far the verification of a node is: what has been looked at before the key `after`."""

    node: str
    after: str = ""
    keys: int = 0
    bytes: int = 0
    corrupt: int = 0  # values whose bytes are not those that were stored
    differ: int = 0  # keys on which node and index disagree

    @classmethod
    def sent(cls) -> Progress:
        """The one in the address of this request. Raises `BadRequest`."""
        given = request.args
        numbers = (Parameter(name, Integer(), "", 0).read(given) for name in cls._fields[2:])
        return cls(given.get("node", ""), given.get("after", ""), *numbers)

    @property
    def address(self) -> str:
        """Where it goes on."""
        return f"verify{formats.query(**self._asdict())}"

    @property
    def wrong(self) -> int:
        """How many things are wrong."""
        return self.corrupt + self.differ


@blueprint.get("/ui/verify")
def shown() -> Response:
    """The form that begins one; with a node, the next page of its keys. Scripts go on from there by themselves."""
    nodes = parts().context.network.describe()
    common = {"here": "backup", "title": "Verify", "nodes": nodes, "corrupt": _CORRUPT}
    progress = Progress.sent()
    if not progress.node:
        return page("verify/verify.html", progress=None, **common)
    values = _next(progress) | {"total": next((row["keys"] for row in nodes if row["node"] == progress.node), 0)}
    if visit().fragment:
        return fragment("verify/step.html", corrupt=_CORRUPT, **values)
    return page("verify/verify.html", **common, **values)


@blueprint.post("/ui/verify/repair")
def repair() -> Response:
    """Have the index follow the log of a node, after a question."""
    node = request.form.get("node", "")
    if not confirmed():
        text = "The index then has what the node's log says. Values that are corrupt stay so. Everything runs on."
        return ask(f"Have the index follow the log of {node}?", text, "Follow it", back="verify")
    done = parts().inner.call(environ(), "POST", "/internal/restore", body={"node": node})
    return see("verify", message_of(done).partition(";")[0])


def _next(progress: Progress) -> dict[str, object]:
    """What a page shows behind `progress`."""
    asked = {"node": progress.node, "after": progress.after, "limit": _KEYS}
    try:
        answer = parts().inner.call(environ(), "GET", "/internal/verify", asked, secs=_SECS)
    except Refused as error:
        return {"progress": progress, "complete": False, "problem": str(error), "within": None, "faults": []}
    found = json.loads(answer.body)["data"]
    faults = found["faults"]
    corrupt = sum(fault["kind"] == _CORRUPT for fault in faults)
    following = Progress(
        progress.node,
        found["next"] or "",
        progress.keys + found["keys"],
        progress.bytes + found["bytes"],
        progress.corrupt + corrupt,
        progress.differ + len(faults) - corrupt,
    )
    rest = {"complete": found["complete"], "problem": "", "within": found["within"], "faults": faults}
    return {"progress": following, **rest}
