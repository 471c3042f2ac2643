"""An output for people: as a table, a tree, a text or a picture. Pure functions."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

MOST_ROWS, MOST_COLUMNS = 200, 30
MOST_NODES, MOST_DEEP = 1_500, 12
MOST_CELL = 200  # characters
MOST_TEXT = 64_000
_FIRST_OPEN = 40  # a list or object with at most so many parts is open
_DATA = re.compile(r"data:(image/(?:png|jpeg|gif|webp));base64,")
# How the bytes of a picture begin, in base64.
_BEGINNINGS = {"iVBORw0KGgo": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}
_LEAST_PICTURE = 60  # characters
PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
PICTURE, TABLE, TREE, TEXT = "picture", "table", "tree", "text"


class Table(NamedTuple):
    """Rows of texts below heads."""

    heads: list[str]
    rows: list[list[str]]
    more: int  # rows that are left out
    more_columns: int = 0


class Node(NamedTuple):
    """A value in a tree."""

    name: str
    text: str  # of the value, or what it has
    parts: list[Node]
    open: bool


class Picture(NamedTuple):
    """The bytes of a picture."""

    kind: str  # its media type
    content: bytes


class Shown(NamedTuple):
    """An output in one of its views."""

    view: str  # "" when there is none
    views: list[str]  # all it can be shown as, the best first
    table: Table | None = None
    tree: Node | None = None
    text: str = ""
    cut: bool = False  # the text is only the beginning


def of_output(value: object, wanted: str = "", *, key_of_picture: str = "") -> Shown:
    """An output in the view that is wanted, or the best one. `key_of_picture`: that of a stored picture it names."""
    table = table_of(value)
    views = []
    if key_of_picture or picture_of(value):
        views.append(PICTURE)
    if table:
        views.append(TABLE)
    if isinstance(value, dict | list):
        views.append(TREE)
    views.append(TEXT)
    view = wanted if wanted in views else views[0]
    text = ""
    if view == TEXT:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
    return Shown(
        view,
        views,
        table if view == TABLE else None,
        tree_of(value) if view == TREE else None,
        text[:MOST_TEXT],
        len(text) > MOST_TEXT,
    )


def picture_of(value: object) -> Picture | None:
    """The picture that a text has in base64, or as a `data:` address; None for anything else."""
    if not isinstance(value, str) or len(value) < _LEAST_PICTURE:
        return None
    kind = next((kind for begin, kind in _BEGINNINGS.items() if value.startswith(begin)), "")
    if found := _DATA.match(value):
        kind, value = found[1], value[found.end() :]
    if not kind:
        return None
    try:
        return Picture(kind, base64.b64decode(value, validate=True))
    except ValueError:
        return None  # a text that only begins like a picture


def key_named(value: object) -> str:
    """The key that an output is, or names as `key`; "" for none. It may be the address of a key."""
    if isinstance(value, dict):
        value = value.get("key", "")
    if not isinstance(value, str) or not 0 < len(value) < 2_000:
        return ""
    return value.partition("/get_key/")[2].partition("?")[0] if "/get_key/" in value else value


def table_of(value: object) -> Table | None:
    """A list of objects, a list of lists of the same length, or an object of lists, as a table; None for others."""
    if isinstance(value, dict):
        return _of_columns(value)
    if not isinstance(value, list) or not value:
        return None
    shown = value[:MOST_ROWS]
    if all(isinstance(row, dict) and row for row in shown):
        heads = list(dict.fromkeys(str(name) for row in shown for name in row))
        if len(heads) > 4 * MOST_COLUMNS and len(shown) < 3:
            return None
        kept = heads[:MOST_COLUMNS]
        rows = [[_cell(row[name]) if name in row else "" for name in kept] for row in shown]
        return Table(kept, rows, len(value) - len(shown), len(heads) - len(kept))
    if all(isinstance(row, list) and row and len(row) == len(shown[0]) for row in shown):
        width = len(shown[0])
        rows = [[_cell(part) for part in row[:MOST_COLUMNS]] for row in shown]
        heads = [str(number + 1) for number in range(min(width, MOST_COLUMNS))]
        return Table(heads, rows, len(value) - len(shown), max(0, width - MOST_COLUMNS))
    return None


def _of_columns(value: Mapping[str, object]) -> Table | None:
    """The form that a table of pandas has: an object of columns, each an object or a list of the same length."""
    columns = list(value.values())
    if not columns:
        return None
    if all(isinstance(column, list) and len(column) == len(columns[0]) > 0 for column in columns):  # type: ignore[arg-type]
        parts: list[list[object]] = [list(column) for column in columns]  # type: ignore[call-overload]
    elif all(isinstance(column, dict) and column and column.keys() == columns[0].keys() for column in columns):  # type: ignore[attr-defined]
        parts = [list(column.values()) for column in columns]  # type: ignore[attr-defined]
    else:
        return None
    if any(isinstance(part, dict | list) for column in parts for part in column[:MOST_ROWS]):
        return None
    heads = [str(name) for name in value][:MOST_COLUMNS]
    length = len(parts[0])
    rows = [[_cell(column[number]) for column in parts[:MOST_COLUMNS]] for number in range(min(length, MOST_ROWS))]
    return Table(heads, rows, max(0, length - MOST_ROWS), max(0, len(parts) - MOST_COLUMNS))


def tree_of(value: object) -> Node:
    """Lists and objects as a tree of at most `MOST_NODES` values."""
    left = iter(range(MOST_NODES))
    return _node("", value, left, 0)


def _node(name: str, value: object, left: Iterator[int], deep: int) -> Node:
    if not isinstance(value, dict | list) or not value:
        return Node(name, _cell(value, 2_000), [], False)
    what = f"{len(value)} {'field' if isinstance(value, dict) else 'item'}{'s' * (len(value) != 1)}"
    if deep >= MOST_DEEP:
        return Node(name, _cell(value, 2_000), [], False)
    parts: list[Node] = []
    items: Iterable[tuple[object, object]] = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items:
        if next(left, None) is None:
            parts.append(Node("…", f"{len(value) - len(parts)} more", [], False))
            break
        parts.append(_node(str(key), part, left, deep + 1))
    return Node(name, what, parts, deep == 0 or (deep < 3 and len(value) <= _FIRST_OPEN))


def _cell(value: object, most: int = MOST_CELL) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[: most - 1]}…"
