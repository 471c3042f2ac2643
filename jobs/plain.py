"""Values as JSON has them: what a script has at its end is seldom made of texts, numbers, lists and dicts alone.

| a value | is written as |
| --- | --- |
| dates, times, durations | text, ISO 8601 |
| Decimal, Fraction, UUID, Path, IP address | text |
| set, tuple, deque, range, view of a dict, array, tensor | list; a set in order |
| mapping, dataclass, pydantic model, attrs, struct of msgspec | object |
| DataFrame, Series | object, as their `to_dict()` gives it; those of polars and Arrow: list |
| Enum | its value |
| scalar of numpy, pandas, Arrow, torch | number, text, true, false, null |
| NaN, infinity | null, with a note |
| bytes | text in base64, with a note |

Anything else is refused with the path to it. Libraries are known by what their objects have: none is imported here.
"""

from __future__ import annotations

import base64
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set, ValuesView
from dataclasses import is_dataclass
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import PurePath
from reprlib import Repr
from typing import Any
from uuid import UUID

from jobs import foreign
from jobs.errors import BadOutput

MOST_DEEP = 100  # lists and objects in each other
SHOWN_CHARACTERS = 8_000  # of a value that is refused
_MOST_NOTES = 20
_NAME_CHARACTERS = 40  # of a key in a path
_MOST_BITS = 14_284  # of an integer: Python writes no more than 4,300 digits
_TEXTS = (Decimal, Fraction, UUID, PurePath, IPv4Address, IPv6Address, IPv4Network, IPv6Network)
_LISTS = (list, tuple, deque, Sequence, ValuesView)


class Plain:
    """Makes values plain, and notes what was changed on the way."""

    def __init__(self, most: int, name: str = "output") -> None:
        """`most` bytes are the most that it may take as JSON, `name` is what a path to a part begins with."""
        self._name = name
        self._most = self._left = most
        self._at = name
        self._inside: set[int] = set()  # of what holds what is being looked at
        self._notes: list[str] = []
        self._noted = 0

    @property
    def notes(self) -> list[str]:
        """What a reader of the value has to know."""
        more = self._noted - len(self._notes)
        return [*self._notes, *([f"{self._name}: {more} more like these"] if more else [])]

    def make(self, value: Any) -> Any:
        """The value, plain; raises `BadOutput` with the path to what can't be."""
        try:
            return self._make(value, self._name)
        except RecursionError:
            raise BadOutput(f"{self._name} has too many lists or objects in each other") from None
        except (BadOutput, MemoryError):
            raise
        except Exception as error:  # whatever a class of others raises, the path to it is to be told
            raise BadOutput(f"{self._at} can't be converted: {_said(error)}") from error

    def _make(self, value: Any, path: str) -> Any:
        self._at = path
        self._spend(1)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            self._spend(len(value))
            return value
        if isinstance(value, int):
            if value.bit_length() > _MOST_BITS:
                raise BadOutput(f"{path} is an integer of {value.bit_length()} bits; give it as text")
            return int(value)
        if isinstance(value, float):
            return self._float(float(value), path)
        if isinstance(value, bytes | bytearray | memoryview):
            return self._bytes(value, path)
        text = foreign.text(value)
        if text is not None:
            return self._make(text, path)
        if type(value).__name__ in foreign.NOT_A_VALUE:
            return None
        if isinstance(value, Decimal) and not value.is_finite():
            return self._float(float("nan"), path)
        if isinstance(value, _TEXTS):
            return self._make(str(value), path)
        if len(self._inside) >= MOST_DEEP:
            raise BadOutput(f"{path[:200]} is inside more than {MOST_DEEP} lists or objects in each other")
        if id(value) in self._inside:
            raise BadOutput(f"{path} holds itself")
        self._inside.add(id(value))
        try:
            return self._made_of_parts(value, path)
        finally:
            self._inside.discard(id(value))

    def _made_of_parts(self, value: Any, path: str) -> Any:
        if isinstance(value, Enum):
            return self._make(value.value, path)
        if isinstance(value, Mapping):
            return self._object(value.items(), path)
        if isinstance(value, Set):
            return sorted(self._list(value, path), key=_order)
        if isinstance(value, _LISTS):
            return self._list(value, path)
        given = self._converted(value, path)
        if given is not None:
            return self._make(given[0], path)
        names = foreign.names(value)
        if names is not None:
            return self._object(((name, getattr(value, name)) for name in names if hasattr(value, name)), path)
        raise BadOutput(f"{path} is {_kind(value)}, which JSON has not{_advice(value)}")

    def _converted(self, value: Any, path: str) -> tuple[Any] | None:
        """What an object of a library makes of itself, None when it is none."""
        if isinstance(value, type):
            return None
        try:
            return foreign.by_library(value, self._left)
        except BadOutput as error:
            raise type(error)(f"{path} {error}") from None

    def _list(self, values: Iterable[Any], path: str) -> list[Any]:
        return [self._make(value, f"{path}[{number}]") for number, value in enumerate(values)]

    def _object(self, items: Iterable[tuple[Any, Any]], path: str) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in items:
            name = self._key(key, path)
            if name in made:
                raise BadOutput(f"{path} has two keys that are both {_cut(name)!r} as text")
            self._spend(len(name) + 3)
            made[name] = self._make(value, f"{path}{_step(name)}")
        return made

    def _key(self, key: Any, path: str) -> str:
        if isinstance(key, str):
            return str.__str__(key)
        text = None
        if not isinstance(key, bytes | tuple | frozenset) and not is_dataclass(key):
            plain = Plain(self._most, f"a key of {path}")
            made = plain.make(key)
            if made is None or isinstance(made, str | bool | int | float):
                text = made if isinstance(made, str) else json.dumps(float(key) if plain.notes else made)
        if text is None:
            raise BadOutput(
                f"{path} has the key {show(key, 100)}, {_kind(key)}, which can be no name in JSON; give a text"
            )
        return text

    def _float(self, value: float, path: str) -> float | None:
        if math.isfinite(value):
            return value
        self._note(f"{path}: {value}, written as null")
        return None

    def _bytes(self, value: bytes | bytearray | memoryview, path: str) -> str:
        size = memoryview(value).nbytes
        self._spend(size * 4 // 3)
        self._note(f"{path}: {size} bytes, written as base64")
        return base64.b64encode(value).decode()

    def _note(self, text: str) -> None:
        self._noted += 1
        if len(self._notes) < _MOST_NOTES:
            self._notes.append(text)

    def _spend(self, count: int) -> None:
        """Count what a value takes at least, so that one that is far too large ends here and not in memory."""
        self._left -= count
        if self._left < 0:
            raise foreign.TooLarge(f"the {self._name} has more than {self._most} bytes; store it under a key instead")


def show(value: Any, characters: int = SHOWN_CHARACTERS) -> str:
    """A bounded `repr` of any value; never raises."""
    try:
        text = _Shown().repr(value)
    except Exception as error:  # noqa: BLE001 - a class of others may do anything
        text = f"({_kind(value)}, whose repr raised {type(error).__name__})"
    return text if len(text) <= characters else f"{text[:characters]}…"


class _Shown(Repr):
    """Of a value with any number of parts so much is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 8
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdeque = 200
        self.maxstring = self.maxother = self.maxlong = 1_000
        self._left = 2_000  # parts

    def repr1(self, x: Any, level: int) -> str:
        """One part."""
        self._left -= 1
        return super().repr1(x, level) if self._left > 0 else "…"


def _order(plain: Any) -> tuple[int, Any, str]:
    """Numbers, then all else as it is written."""
    if isinstance(plain, int | float) and not isinstance(plain, bool):
        return 0, plain, ""
    return 1, 0, plain if isinstance(plain, str) else json.dumps(plain, sort_keys=True)


def _step(name: str) -> str:
    return f".{name}" if name.isidentifier() and len(name) <= _NAME_CHARACTERS else f"[{_cut(name)!r}]"


def _cut(text: str) -> str:
    return text if len(text) <= _NAME_CHARACTERS else f"{text[:_NAME_CHARACTERS]}…"


def _kind(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    kind = type(value)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    return f"{'an' if name[:1].lower() in 'aeio' else 'a'} {name}"


def _said(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:200]
    except Exception:  # noqa: BLE001 - a class of others may do anything
        return type(error).__name__


def _advice(value: Any) -> str:
    if hasattr(value, "__next__"):
        return "; give list(…) of it"
    return "; await it" if hasattr(value, "__await__") else ""


def encode(value: Any, limit: int, note: Callable[[str], None], name: str = "output") -> bytes:
    """A value as JSON of up to `limit` bytes; what a reader has to know goes to `note`. Raises `BadOutput`."""
    plain = Plain(limit, name)
    try:
        encoded = _dumps(plain.make(value))
        if len(encoded) > limit:
            raise foreign.TooLarge(too_large(len(encoded), limit, name))
    except BadOutput as error:
        note(refused(value, name))
        if isinstance(error, foreign.TooLarge):
            raise BadOutput(str(error)) from None
        raise BadOutput(f"the {name} can't be written as JSON: {error}") from error.__cause__
    for text in plain.notes:
        note(text)
    return encoded


def refused(value: Any, name: str = "output") -> str:
    """What the log keeps of a value that is refused."""
    return f"the {name} that was refused: {show(value)}"


def too_large(size: int, limit: int, name: str = "output") -> str:
    """Why a value of so many bytes is refused."""
    return f"the {name} has {size} bytes and {limit} are allowed; store it under a key instead"


def _dumps(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(value, allow_nan=False).encode()
