"""What the docstring of a job says: fields `Description:`, `Arguments:`, `Category:`, `Author:`, each up to the next one."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import msgpack

FIELDS = ("description", "arguments", "category", "author")
MOST_CHARACTERS = 4_000  # of a field

_FIELD = re.compile(rf"[ \t]*({'|'.join(FIELDS)})[ \t]*:[ \t]*", re.IGNORECASE)
_TYPES = {
    "int": "int", "integer": "int", "float": "float", "number": "float", "str": "str", "string": "str", "text": "str",
    "bool": "bool", "boolean": "bool", "list": "list", "array": "list", "dict": "dict", "object": "dict", "json": "json",
}  # fmt: skip
_WORD = re.compile(r"([A-Za-z]+)(?:\[[^\]]*\])?")


def read(docstring: str) -> dict[str, str]:
    """The fields of a docstring, "" where there is none; one without any field is a description as a whole."""
    fields = dict.fromkeys(FIELDS, "")
    name = "description"
    lines: dict[str, list[str]] = {}
    for line in inspect.cleandoc(docstring).splitlines():
        found = _FIELD.match(line)
        if found:
            name, line = found[1].lower(), line[found.end() :]
        lines.setdefault(name, []).append(line)
    for name, text in lines.items():
        # A lone surrogate in a string of the script could not be sent.
        fields[name] = "\n".join(text).strip()[:MOST_CHARACTERS].encode("utf-8", "replace").decode()
    return fields


def parse_arguments(text: str) -> list[dict[str, Any]] | None:
    """Documented arguments, typed, for forms; None when they are no JSON object.

    Each is given by its type (`"int"`), by its type and some words on it (`"int: how many"`), by a list of choices, by
    its default, or by an object with `type`, `default`, `help`, `choices`.
    """
    empty: dict[str, Any] = {"type": "", "default": None, "help": "", "choices": []}
    try:
        documented = json.loads(text, parse_constant=_no_constant)
        if not isinstance(documented, dict):
            return None
        arguments = [{"name": name} | empty | _argument(value) for name, value in documented.items()]
        msgpack.packb(arguments)  # as they travel
        json.dumps(arguments, allow_nan=False)  # as they are shown
    except (ValueError, OverflowError, RecursionError):
        return None
    return arguments


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _argument(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        given = {name: value[name] for name in ("default", "help", "choices") if name in value}
        if not isinstance(given.get("help", ""), str):
            given["help"] = str(given["help"])
        if not isinstance(given.get("choices", []), list):
            del given["choices"]
        kind = value.get("type")
        return {"type": _type(kind) if isinstance(kind, str) else _type_of(value.get("default"))} | given
    if isinstance(value, list):
        return {"type": _type_of(value[0]) if value else "", "choices": value, "default": value[0] if value else None}
    if isinstance(value, str):
        word = _WORD.match(value)
        kind = _TYPES.get(word[1].lower(), "") if word else ""
        if word and kind:
            return {"type": kind, "help": value[word.end() :].lstrip(" :,;-=").strip()}
        return {"help": value}
    return {"type": _type_of(value), "default": value}


def _type(word: str) -> str:
    return _TYPES.get(word.lower(), word)


def _type_of(value: Any) -> str:
    return "" if value is None else type(value).__name__
