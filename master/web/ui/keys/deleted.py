"""What can be brought back below a prefix, and bringing it back."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import quote

from flask import Response, request

from broker import keys
from broker.clock import now_ms
from master.web.ui.frame.inner import message_of
from master.web.ui.keys.screen import ROWS, blueprint, crumbs
from master.web.ui.parts import environ, fragment, page, parts, see


@blueprint.get("/ui/keys/deleted")
def deleted() -> Response:
    """The whole screen."""
    found = _listed()
    return page(
        "keys/deleted.html", here="keys", title="Deleted keys", crumbs=crumbs(request.args.get("prefix", "")), **found
    )


@blueprint.get("/ui/keys/deleted/rows")
def more_deleted() -> Response:
    """More rows of the table, for its last row."""
    return fragment("keys/deleted_rows.html", **_listed())


@blueprint.post("/ui/keys/undelete")
def undelete() -> Response:
    """Bring a version of a key back, the newest one when none is named."""
    key, version = request.form.get("key", ""), request.form.get("version", "")
    query = ({"version": version} if version else {}) | ({"overwrite": "1"} if request.form.get("overwrite") else {})
    done = parts().inner.call(environ(), "POST", f"/undelete/{key}", query)
    return see(f"keys/show?key={quote(key)}", message_of(done))


def _listed() -> dict[str, object]:
    prefix, after = request.args.get("prefix", ""), request.args.get("after", "")
    asked = {"deleted": 1, "prefix": prefix, "limit": ROWS} | ({"after": after} if after else {})
    found = cast("dict[str, Any]", parts().inner.data(environ(), "GET", "/keys", asked))
    index, now = parts().context.index, now_ms()
    for row in found["keys"]:
        entry = index.get(keys.encode(row["key"]))
        row["taken"] = entry is not None and entry.live(now)  # the key has another value now
    return {"prefix": prefix, "rows": found["keys"], "following": found["next"], "missing": found["missing"]}
