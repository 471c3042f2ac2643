"""What the modules of the screen of keys share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from flask import Blueprint

from master.web.ui.frame.pages import Nav
from master.web.ui.parts import environ, parts

NAV = Nav("keys", "Keys", "keys", ("read",))
blueprint = Blueprint("keys", __name__)

ROWS = 100  # on a page
_LINK = "1h"  # how long a link is good that somebody copies


class Crumb(NamedTuple):
    """A folder above what is shown."""

    name: str
    prefix: str


def crumbs(prefix: str) -> list[Crumb]:
    """The folders on the way to a prefix or key."""
    names = prefix.split("/")[:-1]
    return [Crumb(name, "/".join(names[: number + 1]) + "/") for number, name in enumerate(names)]


def link(order: Mapping[str, object], path: str) -> str:
    """An address for programs: the master's own for a path, or a link by `/sign` for an order where they need tokens.

    Raises `Refused`.
    """
    known = parts()
    if not known.gate.asks_for_tokens:
        settings = known.context.settings
        return f"{settings.url(settings.server)}{path}"
    made = known.inner.call(environ(), "POST", "/sign", None, {**order, "for": _LINK})
    return str(json.loads(made.body)["data"]["url"])


def word(text: str) -> str:
    """A text as one word of a shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def held() -> str:
    """What becomes of what is deleted or overwritten, in a sentence."""
    days = parts().context.settings.volume.undelete_days
    return (
        f"It can be brought back for {days:g} days, unless a disk gets full." if days else "It can't be brought back."
    )
