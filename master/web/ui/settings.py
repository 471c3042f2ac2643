"""The screen of settings: the value of each, where it comes from, and who must be restarted for a change."""

from __future__ import annotations

import re
from itertools import groupby
from typing import NamedTuple

from flask import Blueprint, Response, current_app, request
from flask.blueprints import BlueprintSetupState

from broker import settings
from broker.backups.address import without_password
from broker.errors import SettingsError
from broker.settings import Setting, Settings
from master.web.ui.frame.pages import Nav
from master.web.ui.parts import page, parts

NAV = Nav("settings", "Settings", "settings", ("admin",))
blueprint = Blueprint("settings", __name__)

_ORIGINS = "pulzar ui origins"  # key in the application's extensions
_MASTER, _NODES, _BOTH = "master", "nodes", "master and nodes"
_OF_SECTION = {"server": _MASTER, "volume": _NODES, "jobs": _NODES, "extensions": _MASTER}
# Settings whose section says something else.
_OF = {
    **dict.fromkeys(("[server] put_timeout", "[server] client_timeout", "[server] client_rate"), _BOTH),
    **dict.fromkeys(("[server] dir", "[server] key"), _BOTH),  # a node hides them from its runs
    **dict.fromkeys(("[server] cors", "[server] hosts", "[volume] open_reads", "[jobs] secrets"), _BOTH),
    **dict.fromkeys(("[server] tls", "[server] cached"), _NODES),
    **dict.fromkeys(("[volume] inline", "[general] quotas", "[general] events", "[security] queue"), _MASTER),
    **dict.fromkeys(("[security] audit", "[backup] active", "[backup] at", "[jobs] data_wait"), _MASTER),
    **dict.fromkeys(("[jobs] lease", "[jobs] lost_attempts", "[jobs] max_pending"), _MASTER),
    **dict.fromkeys(("[jobs] max_pending_bytes", "[jobs] max_schedules", "[jobs] ledger_map"), _MASTER),
}
# What is read again by itself.
_FRESH = {
    "[security] tokens": "the file is read again within 2 s",
    "[jobs] secrets": "the file is read again for each run",
    "[jobs] dir": "scripts are read again within 2 s",
    "[extensions] dir": "an edit counts from the next request",
    **dict.fromkeys(
        ("[server] cert", "[server] key", "[volume] cert", "[volume] key"), "the file is read again within seconds"
    ),
}
_PLACES = {"[backup] address"}  # texts into which some write a password
_SIZES = ((1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"))
_SIZE = re.compile(r"\((?:bytes|bytes per second)\)$")


class Row(NamedTuple):
    """A setting as the page shows it."""

    name: str
    section: str
    about: str
    value: str
    default: str
    origin: str  # "": the default
    restart: str  # who must be restarted for a change
    fresh: str  # what is read again without that
    changed: str | None  # what the file says now, when that is something else; "": something hidden

    @property
    def text(self) -> str:
        """What a search looks at."""
        return f"{self.name} {self.about} {self.value}".casefold()


@blueprint.record
def _begin(state: BlueprintSetupState) -> None:
    """Note where the settings of this worker come from: the file may be another one later."""
    try:
        found = settings.origins()
    except SettingsError:  # it was changed since the worker read it, a moment ago
        found = {}
    state.app.extensions[_ORIGINS] = found


@blueprint.get("/ui/settings")
def shown() -> Response:
    """All settings, or those in which every word of `q` stands; `set=1`: those that are not the default."""
    words, chosen = request.args.get("q", "")[:200], request.args.get("set") == "1"
    fresh, problem = None, ""
    try:
        fresh = settings.load()
    except SettingsError as error:
        problem = str(error)
    everything = rows(parts().context.settings, fresh, current_app.extensions[_ORIGINS])
    found = [row for row in everything if all(word in row.text for word in words.casefold().split())]
    if chosen:
        found = [row for row in found if row.origin]
    return page(
        "settings/settings.html",
        here="settings",
        title="Settings",
        words=words,
        chosen=chosen,
        number=len(found),
        sections=[(name, list(some)) for name, some in groupby(found, key=lambda row: row.section)],
        changes=[row for row in everything if row.changed is not None],
        problem=problem,
        nodes=parts().context.network.describe(),
    )


def rows(loaded: Settings, fresh: Settings | None, origins: dict[str, str]) -> list[Row]:
    """The table for people. `loaded` is in force, `fresh` what a restart would take; None when it can't be used."""
    found = []
    for one in settings.TABLE:
        value = _value(loaded, one)
        now = value if fresh is None else _value(fresh, one)
        found.append(
            Row(
                one.name,
                one.section,
                one.help[:1].upper() + one.help[1:],
                "hidden" if one.secret else _written(one, value),
                "" if one.secret else _written(one, one.default),
                origins.get(one.name, ""),
                _OF.get(one.name) or _OF_SECTION.get(one.section, _BOTH),
                _FRESH.get(one.name, ""),
                None if now == value else "" if one.secret else _written(one, now),
            )
        )
    return found


def _value(of: Settings, one: Setting) -> object:
    return getattr(getattr(of, one.section), one.key)


def _written(one: Setting, value: object) -> str:
    """A value as the file would have it."""
    if one.name in _PLACES:
        return without_password(str(value))
    match value:
        case bool():
            return str(value)
        case int() if value and _SIZE.search(one.help):
            return next((f"{value // unit}{name}" for unit, name in _SIZES if value % unit == 0), str(value))
        case float():
            return f"{value:g}"
        case tuple():
            return ", ".join(": ".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in value)
    return str(value)
