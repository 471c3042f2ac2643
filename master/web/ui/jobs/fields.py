"""Inputs of a form, made from the arguments that a script declares. Pure functions.

| declared type       | input              | argument                                                     |
| ------------------- | ------------------ | ------------------------------------------------------------ |
| `int`, `float`      | a number           | number                                                       |
| `bool`              | yes or no          | true or false                                                |
| choices             | a list to choose from | the choice                                                |
| `list`              | a text, an item a line, or a JSON list | list of texts, or the JSON list          |
| `dict`, `json`      | a text with JSON   | any JSON                                                     |
| `date`, `datetime`  | a date, with time  | text: `2026-11-29`, `2026-11-29T08:30`                       |
| `file`              | a file, or a key   | text: the key that it is stored under                        |
| `key`               | a text with proposals | text: the key                                             |
| `password`          | a hidden text      | text, never shown again                                      |
| anything else       | a text             | text                                                         |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from jobs import docstrings

LONG_TEXT = 80  # characters of a text that gets a larger input
_KINDS = {
    "int": "integer",
    "float": "number",
    "bool": "flag",
    "list": "list",
    "dict": "json",
    "json": "json",
    "date": "date",
    "datetime": "moment",
    "file": "file",
    "key": "key",
    "password": "password",
}


class Field(NamedTuple):
    """An input for one argument."""

    name: str
    kind: str  # integer, number, flag, choice, list, json, date, moment, file, key, password or text
    help: str = ""
    default: object = None
    choices: tuple[object, ...] = ()
    type: str = ""  # as it was declared

    @property
    def proposed(self) -> str:
        """The default as the text of an input."""
        return "" if self.kind == "password" else text_of(self.kind, self.default)

    @property
    def options(self) -> list[tuple[str, str]]:
        """Choices: the value that is sent, and the text that is shown."""
        return [(json.dumps(choice), text_of("text", choice)) for choice in self.choices]


def of_script(row: Mapping[str, object] | None) -> list[Field]:
    """Inputs for a script of the catalog; none when it declares nothing that can be read."""
    declared = row.get("arguments") if row else None
    return [_field(found) for found in declared if isinstance(found, dict)] if isinstance(declared, list) else []


def text_of(kind: str, value: object) -> str:
    """A value of JSON as the text of an input."""
    if value is None:
        return ""
    if kind == "choice":
        return json.dumps(value)
    if kind == "list" and isinstance(value, list) and all(map(_is_line, value)):
        return "\n".join(map(str, value))
    if kind in ("list", "json") and not (kind == "list" and isinstance(value, str)):
        return json.dumps(value, ensure_ascii=False, indent=1)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_line(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value == value.strip() and value.splitlines() == [value]


def _field(found: Mapping[str, object]) -> Field:
    name, help_text = str(found.get("name", "")), str(found.get("help") or "")
    choices, kind = found.get("choices"), str(found.get("type") or "")
    default = found.get("default")
    if not docstrings.fits(kind, default):
        default = None  # the catalog says so, and no input could show it
    if isinstance(choices, list) and choices:
        return Field(name, "choice", help_text, default, tuple(choices), kind)
    return Field(name, _KINDS.get(kind, "text"), help_text, default, (), kind)
