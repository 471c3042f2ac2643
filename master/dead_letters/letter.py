"""One message of `pulzar.dead`: who sent it where, why it is here, and its body for people."""

from __future__ import annotations

import codecs
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from math import isfinite
from typing import NamedTuple

import msgpack

from broker import topology
from broker.errors import MessageError
from broker.link import Held
from broker.link.burials import AT, BY, HEADERS, ID, QUEUE, REASON, USER, own_headers
from broker.messages.codec import decode_any

AGAIN = "pulzar-again"  # header of a message that was sent again; makes it another one than before
_BY_RABBITMQ = {
    "delivery_limit": f"it was handed to {topology.DELIVERIES} nodes, and none of them took it",
    "expired": "it waited for too long",
    "maxlen": "its queue was full",
    "rejected": "it was refused",
}
_OWN = (ID, REASON, QUEUE, BY, USER, HEADERS, AT)
_MOST_CHARACTERS = 1000  # of a header's text, whoever wrote it
_MOST_HEADERS, _DEEPEST = 50, 8
_HEX_BYTES = 2048  # shown of what is no text
KEPT_BYTES = 65_536  # of a body, in a list


class Shown(NamedTuple):
    """A body for people."""

    format: str  # json, text, msgpack (a map, shown as JSON), message (of Pulzar's own), binary (shown in hexadecimal)
    text: str
    whole: bool  # whether that is all of it
    editable: bool


@dataclass
class Letter:
    """A message, with those that are the same one."""

    id: str
    body: bytes  # or its beginning
    size: int  # bytes, of all of it
    reason: str
    queue: str  # where it came from; "" when nobody knows
    by: str  # the process that gave it up
    user: str  # of RabbitMQ, who had sent it, as far as that can be believed; "" when nobody knows
    buried_by: str  # of RabbitMQ, who put it here; "" when it does not say
    at: float | None  # seconds since the epoch
    headers: Mapping[str, object]  # its own
    content_type: str
    held: list[Held] = field(default_factory=list)
    numbered: bool = False  # it has an id of its own, so all with it are one message that came twice
    unsure: bool = False  # it may have been sent again already

    @property
    def tags(self) -> list[int]:
        """Of this look: of all copies."""
        return [held.tag for held in self.held]

    @property
    def times(self) -> int:
        """How often it is sent when it is sent again."""
        return 1 if self.numbered else len(self.held)


def read(held: Held, number: str, kept: int | None = KEPT_BYTES) -> Letter:
    """The letter in a message, whose id is `number`, with so many bytes of its body; None: all."""
    headers = held.headers
    size = len(held.body)
    held = held if kept is None or size <= kept else held._replace(body=held.body[:kept])
    nested = headers.get(HEADERS)
    own = nested if isinstance(nested, dict) else own_headers(headers)
    death = _first_death(headers)
    reason = _text(headers.get(REASON)) or _BY_RABBITMQ.get(_text(death.get("reason")), _text(death.get("reason")))
    return Letter(
        id=number,
        body=held.body,
        size=size,
        reason=reason or "it does not say why",
        queue=_text(headers.get(QUEUE)) or _text(death.get("queue")),
        by=_text(headers.get(BY)) or ("RabbitMQ" if death else ""),
        user=_text(headers.get(USER)) if held.user == topology.MASTER_USER else held.user,
        buried_by=held.user,
        at=held.at,
        headers={name: value for name, value in own.items() if own is nested or name not in _OWN},
        content_type=held.content_type,
        held=[held],
        numbered=ID in headers,
    )


def show(body: bytes, size: int, most: int) -> Shown:
    """A body of `size` bytes, or its beginning, as text, up to `most` characters."""
    if len(body) < size:
        return _show_beginning(body, most)
    text = _as_text(body)
    if text is not None:
        kind = "json" if _is_json(text) else "text"
        return Shown(kind, text[:most], len(text) <= most, editable=len(text) <= most)
    try:
        fields = msgpack.unpackb(body, raw=False, strict_map_key=False)
        text = _json(fields) if isinstance(fields, dict) else _message(body, fields)
        editable = isinstance(fields, dict) and _is_plain(fields)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
        return _show_bytes(body, most)
    kind, whole = "msgpack" if isinstance(fields, dict) else "message", len(text) <= most
    return Shown(kind, text[:most], whole, editable and whole)


def _show_beginning(body: bytes, most: int) -> Shown:
    text = _as_text(body, cut=True)
    shown = _show_bytes(body, most) if text is None else Shown("text", text[:most], whole=False, editable=False)
    return shown._replace(whole=False)


def _show_bytes(body: bytes, most: int) -> Shown:
    part = body[: min(_HEX_BYTES, most // 3)]
    return Shown("binary", part.hex(" "), len(part) == len(body), editable=False)


def for_json(value: object, depth: int = _DEEPEST) -> object:
    """A value of a header as JSON has it: times, bytes and the like as texts, with bounds for all of it."""
    if depth == 0 and isinstance(value, dict | list | tuple):
        return "…"
    if isinstance(value, dict):
        return {_text(str(name)): for_json(each, depth - 1) for name, each in islice(value.items(), _MOST_HEADERS)}
    if isinstance(value, list | tuple):
        return [for_json(each, depth - 1) for each in value[:_MOST_HEADERS]]
    if isinstance(value, bytes):
        value = value[:_MOST_CHARACTERS]
        text = _as_text(value)
        return value.hex() if text is None else text
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    return value if isinstance(value, int | float | bool | None) else _text(str(value))


def _text(value: object) -> str:
    return value[:_MOST_CHARACTERS] if isinstance(value, str) else ""


def _first_death(headers: Mapping[str, object]) -> Mapping[str, object]:
    """The newest entry of what RabbitMQ says of a message that it has moved here."""
    deaths = headers.get("x-death")
    first = deaths[0] if isinstance(deaths, list) and deaths else None
    return first if isinstance(first, dict) else {}


def _as_text(body: bytes, cut: bool = False) -> str | None:
    try:
        # What was cut may end within a character.
        text = codecs.getincrementaldecoder("utf-8")().decode(body, final=not cut)
    except UnicodeDecodeError:  # it is no text
        return None
    return None if any(unicodedata.category(each) == "Cc" and each not in "\t\r\n" for each in text) else text


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):  # it is no JSON
        return False
    return True


def _is_plain(value: object) -> bool:
    """Whether a value is the same when it was JSON in between."""
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(each) for name, each in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, str | int | bool | None) or (isinstance(value, float) and isfinite(value))


def _json(value: object) -> str:
    return json.dumps(_named(value), ensure_ascii=False, indent=1, default=_shown_bytes)


def _named(value: object) -> object:
    """A value with names that JSON can have."""
    if isinstance(value, dict):
        return {name if isinstance(name, str) else str(name): _named(each) for name, each in value.items()}
    return [_named(each) for each in value] if isinstance(value, list | tuple) else value


def _shown_bytes(value: object) -> str:
    text = _as_text(value) if isinstance(value, bytes) else str(value)
    return value.hex() if text is None and isinstance(value, bytes) else str(text)


def _message(body: bytes, fields: object) -> str:
    try:
        message = decode_any(body)
    except MessageError:
        return _json(fields)
    return f"{type(message).__name__} {_json(message._asdict())}"
