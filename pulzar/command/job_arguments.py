"""Arguments of a job as they are typed: `name=value`, by the types that the script declares. Pure functions.

| typed           | argument                                                                             |
| --------------- | ------------------------------------------------------------------------------------ |
| `name=text`     | of the declared type: a number, `true` or `false`, JSON for lists and objects, else text |
| `name:=JSON`    | any JSON, whatever is declared                                                       |
| `name=@file`    | the text of a file, of the declared type; `name=@@…` is a text that begins with `@`   |
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pulzar.errors import BadRequest

_FLAGS = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
RESERVED = ("scheduled", "pulzar_data", "pulzar_options")


def read(typed: Iterable[str], declared: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The arguments; raises `BadRequest` for one that is not of its declared type."""
    types = {str(row.get("name")): row for row in declared}
    arguments: dict[str, Any] = {}
    for text in typed:
        name, equals, value = text.partition("=")
        as_json = name.endswith(":")
        name = name.removesuffix(":")
        if not equals or not name:
            raise BadRequest(f"{text[:80]!r} is no argument; give name=value, or name:=JSON")
        if name in RESERVED:
            raise BadRequest(f"{name} is set by options of the command, see --help")
        if name in arguments:
            raise BadRequest(f"the argument {name} was given twice")
        if value.startswith("@@"):
            value = value[1:]
        elif value.startswith("@"):
            value = _text_of(name, value[1:])
        arguments[name] = _json(name, value) if as_json else of_type(name, value, types.get(name, {}))
    return arguments


def of_type(name: str, text: str, declared: Mapping[str, Any]) -> Any:
    """A text as a value of the declared type; raises `BadRequest`."""
    kind, choices = declared.get("type") or "", declared.get("choices") or []
    for choice in choices:
        if text == (choice if isinstance(choice, str) else json.dumps(choice)):
            return choice
    if choices:
        raise BadRequest(f"{name} is one of {', '.join(map(str, choices))}, not {text[:80]!r}")
    try:
        if kind == "int":
            return int(text)
        if kind == "float":
            number = float(text)
            if not math.isfinite(number):
                raise ValueError(text)
            return number
    except ValueError as error:
        raise BadRequest(f"{name} is declared as {kind}, and {text[:80]!r} is none") from error
    if kind == "bool":
        if text.lower() not in _FLAGS:
            raise BadRequest(f"{name} is declared as bool: true or false, not {text[:80]!r}")
        return _FLAGS[text.lower()]
    if kind == "list":
        return _json(name, text) if text.lstrip().startswith("[") else text.split(",") if text else []
    if kind in ("dict", "json"):
        value = _json(name, text)
        if kind == "dict" and not isinstance(value, dict):
            raise BadRequest(f"{name} is declared as an object, and {text[:80]!r} is none")
        return value
    return text


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{name} is to be JSON, and {text[:80]!r} is none: {error}") from error


def _text_of(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadRequest(f"{name}: {path} can't be read: {error}") from error
