"""The docstring of a job: its fields `Description:`, `Arguments:`, `Category:` and `Author:`."""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Callable, Collection
from datetime import date, datetime
from functools import lru_cache
from typing import Any

FIELDS = ("description", "arguments", "category", "author", "preload")
MOST_CHARACTERS = 4_000  # of a field
RESERVED = ("scheduled", "pulzar_data", "pulzar_options")  # among the arguments of a launch

_MOST_DEEP = 100  # nested lists and objects
_MOST_ODD = 20
_SHOWN_CHARACTERS = 60
_LEFT_OUT = re.compile(r"optional|default", re.IGNORECASE)

_FIELD = re.compile(rf"[ \t]*({'|'.join(FIELDS)})[ \t]*:[ \t]*", re.IGNORECASE)
_TYPES = {
    "int": "int",
    "integer": "int",
    "float": "float",
    "number": "float",
    "str": "str",
    "string": "str",
    "text": "str",
    "bool": "bool",
    "boolean": "bool",
    "list": "list",
    "array": "list",
    "dict": "dict",
    "object": "dict",
    "json": "json",
}
_WORD = re.compile(r"([A-Za-z]+)(?:\[[^\]]*\])?")
# What a form has a field of its own for. They also begin sentences, so alone or before a mark they are types.
_FIELD_TYPES = ("date", "datetime", "file", "key", "password")
_PYTHON: dict[str, type] = {
    "str": str,
    "bool": bool,
    "list": list,
    "dict": dict,
    "file": str,
    "key": str,
    "password": str,
}
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
# As inputs of a browser take them.
_TIMES: dict[str, tuple[re.Pattern[str], Callable[[str], date]]] = {
    "date": (re.compile(_DAY), date.fromisoformat),
    "datetime": (re.compile(_DAY + r"[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,3})?)?"), datetime.fromisoformat),
}
_MARK = re.compile(r"\s*(?:$|[:,;=-])")


def read(docstring: str) -> dict[str, str]:
    """The fields of a docstring, "" for one that is not there. A docstring without fields is a description.

    A paragraph of its own ends a field, and belongs to the description. Only that may have more than one, and arguments
    that are not complete yet.
    """
    fields = dict.fromkeys(FIELDS, "")
    name = "description"
    lines: dict[str, list[str]] = {}
    for line in inspect.cleandoc(docstring).splitlines():
        found = _FIELD.match(line)
        if found:
            name, line = found[1].lower(), line[found.end() :]
        elif not line.strip() and name != "description" and _is_over(name, lines[name]):
            name = "description"
        lines.setdefault(name, []).append(line)
    for name, text in lines.items():
        # A lone surrogate in a string of the script could not be sent.
        fields[name] = "\n".join(text).strip()[:MOST_CHARACTERS].encode("utf-8", "replace").decode()
    return fields


def _is_over(name: str, lines: list[str]) -> bool:
    """Whether a field is complete at an empty line."""
    text = "\n".join(lines).strip()
    return bool(text) and (name != "arguments" or parse_arguments(text) is not None)


def parse_arguments(text: str) -> list[dict[str, Any]] | None:
    """The declared arguments with their types, for forms. None when they are no JSON object.

    An argument is declared by its type (`"int"`), a type and words (`"int: how many"`), a list of choices, its default,
    or an object with `type`, `default`, `help`, `choices`. Of a type like `date` its value is a text.
    """
    empty: dict[str, Any] = {"type": "", "default": None, "help": "", "choices": []}
    try:
        documented = _documented(text)
        arguments = [{"name": name} | empty | _argument(value) for name, value in documented.items()]
        _check(arguments, _MOST_DEEP)  # as they travel
        json.dumps(arguments, allow_nan=False)  # as they are shown
    except (ValueError, RecursionError):
        return None  # the docstring of a script may hold anything
    return arguments


def problems(text: str) -> list[str]:
    """What is wrong with the declared arguments in the field `Arguments`: defaults and choices that do not fit."""
    arguments = parse_arguments(text) or []
    documented = _documented(text) if arguments else {}
    told = []
    for argument in arguments:
        kind, default, choices = argument["type"], argument["default"], argument["choices"]
        declared = documented[argument["name"]]
        if not (isinstance(declared, dict) and "type" in declared):
            kind = ""  # it was not declared, but is that of the first choice
        name = f"the argument {argument['name'][:_SHOWN_CHARACTERS]}"
        told += [
            f"{name} has the choice {_short(each)}, which is no {kind}" for each in choices if not fits(kind, each)
        ]
        if default is not None and not fits(kind, default):
            told.append(f"{name} has the default {_short(default)}, which is no {kind}")
        elif default is not None and choices and default not in choices:
            told.append(f"{name} has the default {_short(default)}, which is none of its choices")
    more = len(told) - _MOST_ODD
    return [*told[:_MOST_ODD], *([f"and {more} more"] if more > 0 else [])]


def fits(kind: str, value: object) -> bool:
    """Whether a value is of a declared type. Any value is of a type that is not known."""
    if kind in ("int", "float"):
        return type(value) is int or (kind == "float" and type(value) is float)
    if kind in ("date", "datetime"):
        return isinstance(value, str) and _is_time(kind, value)
    return isinstance(value, _PYTHON.get(kind, object))


def _is_time(kind: str, text: str) -> bool:
    pattern, parse = _TIMES[kind]
    try:
        return bool(pattern.fullmatch(text)) and bool(parse(text))
    except ValueError:
        return False  # like 2026-02-30


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"


def compare(text: str, given: Collection[str]) -> list[str]:
    """Warnings about the arguments with these names: which declared ones are missing, which are unknown.

    `text` is the field `Arguments`; there are no warnings when it is no JSON object. An argument may be left out
    when it is declared with a default, with choices, or with "optional" or "default" among its words.
    """
    declared = _declared(text)
    if declared is None:
        return []
    odd = [
        f"the argument {name} is missing; the script declares it as {declared[name]}" for name in missing(text, given)
    ]
    for name in given:
        if name not in declared and name not in RESERVED:
            near = difflib.get_close_matches(name, declared, 1)
            there = f"; {near[0]}?" if near else f"; there are {_listed(declared)}" if declared else "; there is none"
            odd.append(f"the script declares no argument {name[:_SHOWN_CHARACTERS]}{there}")
    more = len(odd) - _MOST_ODD
    return [*odd[:_MOST_ODD], *([f"and {more} more"] if more > 0 else [])]


def missing(text: str, given: Collection[str]) -> list[str]:
    """The declared arguments that are not among the names `given`, and may not be left out; see `compare`."""
    return [name for name, word in (_declared(text) or {}).items() if word and name not in given]


@lru_cache(maxsize=1024)
def _declared(text: str) -> dict[str, str] | None:
    """The declared arguments and their types; "" for one that may be left out. None when they are no JSON object."""
    try:
        return {name[:_SHOWN_CHARACTERS]: _needed(value) for name, value in _documented(text).items()}
    except (ValueError, RecursionError):
        return None  # the docstring of a script may hold anything


def _needed(value: Any) -> str:
    if isinstance(value, dict):
        words = json.dumps({name: word for name, word in value.items() if name != "type"})
        return "" if "default" in value or _LEFT_OUT.search(words) else str(value.get("type", "documented"))
    return "" if not isinstance(value, str) or _LEFT_OUT.search(value) else value[:_SHOWN_CHARACTERS] or "documented"


def _listed(declared: Collection[str]) -> str:
    text = ", ".join(declared)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _documented(text: str) -> dict[str, Any]:
    found = json.loads(text, parse_constant=_no_constant)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _check(value: Any, deep: int) -> None:
    """Raise `ValueError` for what can't be packed into a message."""
    if isinstance(value, dict | list):
        if not deep:
            raise ValueError("too deep")
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            _check(part, deep - 1)
    elif isinstance(value, str):
        value.encode()
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise ValueError("too large")


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
        if word and word[1].lower() in _FIELD_TYPES and _MARK.match(value, word.end()):
            kind = word[1].lower()
        if word and kind:
            return {"type": kind, "help": value[word.end() :].lstrip(" :,;-=").strip()}
        return {"help": value}
    return {"type": _type_of(value), "default": value}


def _type(word: str) -> str:
    word = word.lower() if word.lower() in _FIELD_TYPES else word
    return _TYPES.get(word.lower(), word)


def _type_of(value: Any) -> str:
    return "" if value is None else type(value).__name__
