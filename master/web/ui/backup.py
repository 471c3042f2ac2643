"""The screen of backups: how those of every member are, buttons that make one, how to restore."""

from __future__ import annotations

import time

from flask import Blueprint, Response, request

from broker.backups.address import Target
from broker.messages.backups import MASTER
from master.backup import overview
from master.web.ui.frame.inner import message_of
from master.web.ui.frame.pages import Nav
from master.web.ui.parts import environ, fragment, page, parts, see

NAV = Nav("backup", "Backup", "backup", ("backup",))
blueprint = Blueprint("backup", __name__)

_SOON_SECS = 60.0  # a time nearer than this is due


@blueprint.get("/ui/backup")
def shown() -> Response:
    """The whole screen."""
    settings = parts().context.settings.backup
    target = str(Target(settings.type, settings.address)) if settings.type and settings.address else ""
    values = _values()
    return page("backup/backup.html", here="backup", title="Backup", target=target, ledger=MASTER, **values)


@blueprint.get("/ui/backup/now")
def now() -> Response:
    """What moves on it."""
    return fragment("backup/now.html", ledger=MASTER, **_values())


@blueprint.post("/ui/backup/start")
def start() -> Response:
    """Back up one member or all, to the target of the form or the one in the settings."""
    given = {name: text for name in ("node", "target") if (text := request.form.get(name, "").strip())}
    done = parts().inner.call(environ(), "POST", "/admin/backup", body=given)
    return see("backup", message_of(done).partition(";")[0])


def _values() -> dict[str, object]:
    context = parts().context
    found = parts().inner.data(environ(), "GET", "/admin/backup")
    assert isinstance(found, dict)
    moment = time.time()
    return {
        "backup": found,
        "members": found["members"],
        "warnings": overview.warnings(context.settings, [row["node"] for row in context.network.describe()]),
        "due": [row["member"] for row in found["members"] if row["next"] and row["next"] - moment < _SOON_SECS],
    }
