"""One key: its properties, what is in it, addresses of it, and what can be done with it."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from flask import Response, current_app, request

from broker import keys
from broker.clock import now_ms
from broker.http import content_types, request_fields
from broker.refusals import BadRequest, NotFound, Refused
from master.index.index import Entry
from master.web.ui.keys import preview
from master.web.ui.keys.preview import Kind, Preview
from master.web.ui.keys.reader import READER, ValueReader
from master.web.ui.keys.screen import blueprint, crumbs, held, link, word
from master.web.ui.parts import page, parts

_OF_A_JOB = re.compile(r"jobs/([0-9]{1,18})/([0-9]{1,9})/")


class Addresses(NamedTuple):
    """Where a value is for programs."""

    link: str
    curl: str
    opened: str  # the link below this page's root
    ends: bool  # the link is good for an hour, since clients need a token


@blueprint.get("/ui/keys/show")
def one() -> Response:
    """The whole screen."""
    key = request.args.get("key", "").removeprefix("/")
    if not key:
        raise BadRequest("no key was chosen; choose one in its folder")
    entry = parts().context.index.get(keys.encode(key)) if key.isascii() else None
    if entry is None or not entry.live(now_ms()):
        raise NotFound(f"there is no key {key}; it was deleted, or its lifetime is over")
    kind, encoding = content_types.type_of(key, entry.content_type)
    made = _OF_A_JOB.match(key)
    row = {
        "key": key,
        "size": entry.size,
        "type": kind,
        "encoding": encoding,
        "digest": entry.digest.hex(),
        "nodes": entry.nodes,
        "created": entry.created / 1000,
        "expires": entry.expires / 1000 if entry.expires else 0,
        "job": int(made[1]) if made else 0,
        "attempt": int(made[2]) if made else 0,
    }
    return page(
        "keys/one.html",
        here="keys",
        title=key,
        crumbs=crumbs(key),
        row=row,
        system=keys.is_system_name(key),
        shown=_preview(key, entry, kind, encoding),
        addresses=_addresses(key),
        held=held(),
    )


def _preview(key: str, entry: Entry, kind: str, encoding: str) -> Preview:
    if not entry.size:
        return Preview(Kind.NONE, note="It is empty.")
    if (element := preview.embedded(kind)) is not Kind.NONE:
        return Preview(element)
    if not preview.wants_text(kind):
        return Preview(Kind.NONE)
    reader: ValueReader = current_app.extensions[READER]
    try:
        beginning = parts().inner.run(lambda: reader.beginning(key, entry, preview.SHOWN_BYTES))
    except Refused as error:
        return Preview(Kind.NONE, note=f"{str(error)[:1].upper()}{str(error)[1:]}.")
    return preview.of_text(kind, encoding, beginning, entry.size)


def _addresses(key: str) -> Addresses:
    """Of a value for programs."""
    address = link({"key": key}, f"/get_key/{request_fields.quote_key(key)}")
    # The page may be below a proxy's path, where the master's own address leads nowhere.
    below = urlsplit(address)._replace(scheme="", netloc="").geturl().removeprefix("/")
    return Addresses(address, f"curl -L {word(address)}", f"../{below}", parts().gate.asks_for_tokens)
