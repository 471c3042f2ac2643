"""Folders and keys below a prefix, in the order that was asked for, and keys that are found by text and days."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from flask import Response, request

from broker.http import request_fields
from master.web.ui.keys.screen import ROWS, blueprint, crumbs, link, word
from master.web.ui.parts import environ, fragment, page, parts, visit

MOST_SORTED = 1_000  # rows of a folder; a larger one is in the order of its names
_MOST_BY_ITSELF = 2_000_000  # keys that a page goes on to look at by itself
_MOST_NODES = 64  # whose addresses are in the policy of a page

_ORIGIN = re.compile(r"https?://[\w.\[\]:-]+", re.ASCII)

Row = Mapping[str, Any]
_ORDERS: dict[str, tuple[Callable[[Row], Any], Callable[[Row], Any]]] = {
    # Of folders, and of keys.
    "name": (lambda folder: folder["prefix"], lambda row: row["key"]),
    "size": (lambda folder: folder["bytes"], lambda row: row["size"]),
    "stored": (lambda folder: folder["prefix"], lambda row: row["created"]),
}


class Asked(NamedTuple):
    """What the address of the page asks for."""

    prefix: str
    q: str  # a text in the name
    since: str  # a day
    until: str
    sort: str  # a name of `_ORDERS`, with "-" in front: downwards
    after: str  # the cursor of the next rows
    first: int  # the number of the first row, of sorted ones
    looked: int  # keys that were looked at for the rows before

    @classmethod
    def read(cls) -> Asked:
        """Of this request. A sort that is not known counts for nothing."""
        given = request.args
        sort = given.get("sort", "")
        q, since, until = (given.get(name, "").strip() for name in ("q", "since", "until"))
        return cls(
            prefix=given.get("prefix", "").removeprefix("/"),
            q=q,
            since=since,
            until=until,
            sort=sort if sort.removeprefix("-") in _ORDERS and sort != "name" else "",
            after=given.get("after", ""),
            first=_number(given.get("first", "")),
            looked=_number(given.get("looked", "")),
        )

    @property
    def finds(self) -> bool:
        """Whether keys are looked for, wherever they lie below the prefix."""
        return bool(self.q or self.since or self.until)

    def kept(self) -> dict[str, object]:
        """What all addresses of the same rows have in common."""
        return {name: getattr(self, name) for name in ("prefix", "q", "since", "until", "sort")}


@blueprint.get("/ui/keys")
def shown() -> Response:
    """The whole screen."""
    asked = Asked.read()
    uploads = visit().may("write", asked.prefix) and not asked.finds
    return page(
        "keys/keys.html",
        here="keys",
        title=asked.prefix or "Keys",
        crumbs=crumbs(asked.prefix),
        direct=parts().context.settings.volume.inline,
        connect=nodes() if uploads else (),
        archive=_archive_line(asked.prefix),
        ends=parts().gate.asks_for_tokens,
        **_listed(asked),
    )


@blueprint.get("/ui/keys/list")
def listed() -> Response:
    """The table, for a page that has stored something."""
    return fragment("keys/list.html", **_listed(Asked.read()))


@blueprint.get("/ui/keys/rows")
def rows() -> Response:
    """More rows of the table, for its last row."""
    return fragment("keys/rows.html", **_listed(Asked.read()))


def nodes() -> tuple[str, ...]:
    """The origins of the nodes, to which the page's script may send values; none when there are too many."""
    urls = {row["url"] or "" for row in parts().context.network.describe()}
    found = sorted(filter(_ORIGIN.fullmatch, urls))  # it is what a node says of itself
    return tuple(found) if len(found) <= _MOST_NODES else ()


def _archive_line(prefix: str) -> str:
    """How a program gets all values below a prefix."""
    address = link({"prefix": prefix}, f"/archive/{request_fields.quote_key(prefix)}")
    return f"curl {word(address)} | tar -x"


def _listed(asked: Asked) -> dict[str, object]:
    found = _found(asked) if asked.finds else _sorted(asked) if asked.sort else _in_order(asked)
    total = None if asked.finds or asked.after or asked.first else _total(asked.prefix)
    return {"asked": asked, "total": total, "unsorted": False, "by_itself": False, "looked": 0} | found


def _in_order(asked: Asked) -> dict[str, object]:
    found = _page({"prefix": asked.prefix, "delimiter": "/", "after": asked.after, "limit": ROWS})
    following = {"after": found["next"]} if found["next"] else None
    return {"folders": found["folders"], "rows": found["keys"], "following": following}


def _sorted(asked: Asked) -> dict[str, object]:
    """A folder with few enough rows to be sorted, else the same as without a sort."""
    found = _page({"prefix": asked.prefix, "delimiter": "/", "limit": MOST_SORTED})
    if found["next"]:
        return _in_order(asked) | {"unsorted": True}
    of_folder, of_key = _ORDERS[asked.sort.removeprefix("-")]
    down = asked.sort.startswith("-")
    folders = sorted(found["folders"], key=of_folder, reverse=down)
    keys = sorted(found["keys"], key=of_key, reverse=down)
    end = asked.first + ROWS
    return {
        "folders": folders[asked.first : end],
        "rows": keys[max(0, asked.first - len(folders)) : max(0, end - len(folders))],
        "following": {"first": end} if end < len(folders) + len(keys) else None,
    }


def _found(asked: Asked) -> dict[str, object]:
    found = _page(
        {
            "prefix": asked.prefix,
            "contains": asked.q,
            "since": asked.since,
            "until": asked.until,
            "after": asked.after,
            "limit": ROWS,
        }
    )
    looked = asked.looked + found["looked"]
    by_itself = len(found["keys"]) < ROWS and looked < _MOST_BY_ITSELF
    following = {"after": found["next"], "looked": looked} if found["next"] else None
    return {"folders": [], "rows": found["keys"], "following": following, "looked": looked, "by_itself": by_itself}


def _page(query: Mapping[str, object]) -> dict[str, Any]:
    given = {name: value for name, value in query.items() if value != ""}
    return cast("dict[str, Any]", parts().inner.data(environ(), "GET", "/keys", given))


def _total(prefix: str) -> object:
    """Keys, bytes and the quota of a folder; None of a prefix that ends inside a name."""
    if prefix and not prefix.endswith("/"):
        return None
    return parts().inner.data(environ(), "GET", f"/stats/{prefix}")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else 0
