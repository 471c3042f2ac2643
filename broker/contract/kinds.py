"""The kinds of values in requests: each reads a text or a field, and has the JSON schema of what it takes.

`of_text` and `of_json` raise `ValueError` with what was received and what is needed. The schema says the same: a value
that it forbids is refused, and one that it allows is read.
"""

from __future__ import annotations

import datetime
import re
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from broker import integers, keys
from broker.clock import DAY_MS
from broker.errors import InvalidKey

Schema = dict[str, object]
T = TypeVar("T")

_FLAGS = {"1": True, "true": True, "0": False, "false": False, "": True}
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}
_SPAN = re.compile(r"([0-9]{1,12})([smhd])")
_SPAN_CHARS = 13
_NUMBER = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,400})?(?:[eE][-+]?[0-9]{1,3})?", re.ASCII)


class Kind(ABC, Generic[T]):
    """A kind of values."""

    @abstractmethod
    def schema(self) -> Schema:
        """The JSON schema of what it takes."""

    @abstractmethod
    def of_text(self, text: str) -> T:
        """The value of a text in a query, path or header. Raises `ValueError`."""

    def of_json(self, value: object) -> T:
        """The value of a field in a JSON object: a text, unless the kind says otherwise. Raises `ValueError`."""
        if not isinstance(value, str):
            raise ValueError(f"{integers.short(value)} is no text")
        return self.of_text(value)


class Integer(Kind[int]):
    """An integer within bounds."""

    def __init__(self, most: int = integers.MAX, least: int = 1, *, needed: str = "") -> None:
        """`needed` tells what to give, when bounds alone don't."""
        self._least, self._most = least, most
        self._needed = needed

    def schema(self) -> Schema:
        """An integer."""
        return {"type": "integer", "minimum": self._least, "maximum": self._most}

    def of_text(self, text: str) -> int:
        """The integer."""
        try:
            return integers.parse(text, self._least, self._most)
        except ValueError:
            if not self._needed:
                raise
            raise ValueError(f"{text[:40]!r} {self._needed}") from None

    def of_json(self, value: object) -> int:
        """The integer."""
        return integers.bounded(value, self._least, self._most)


class Flag(Kind[bool]):
    """1 or 0; also true or false, in whatever case, and nothing at all for 1."""

    def schema(self) -> Schema:
        """A string."""
        words = "|".join("".join(f"[{letter}{letter.upper()}]" for letter in word) for word in ("true", "false"))
        return {"type": "string", "pattern": f"^(0|1|{words}|)$", "examples": ["0", "1"]}

    def of_text(self, text: str) -> bool:
        """Whether it is 1."""
        if text.lower() not in _FLAGS:
            raise ValueError(f"{text[:40]!r} is neither 1 nor 0")
        return _FLAGS[text.lower()]


class Choice(Kind[str]):
    """One of a few words."""

    def __init__(self, *words: str, what: str = "") -> None:
        """`what` they are, for the message."""
        self._words = words
        self._what = what

    def schema(self) -> Schema:
        """An enumeration."""
        return {"type": "string", "enum": [*self._words]}

    def of_text(self, text: str) -> str:
        """The word itself."""
        if text not in self._words:
            none = f"is no {self._what}; give {' or '.join(self._words)}" if self._what else "is none of "
            raise ValueError(f"{text[:40]!r} {none}" + ("" if self._what else ", ".join(self._words)))
        return text


class Text(Kind[str]):
    """A text of some length at most, that matches a pattern as a whole."""

    def __init__(self, most: int = 0, pattern: str = "", what: str = "printable ASCII text") -> None:
        """`most` counts characters; 0: as many as a request may have. `what` matches the pattern, for the message."""
        self._most = most
        self._pattern = re.compile(pattern) if pattern else None
        self._what = what

    def schema(self) -> Schema:
        """A string."""
        schema: Schema = {"type": "string"}
        if self._most:
            schema["maxLength"] = self._most
        if self._pattern:
            schema["pattern"] = f"^(?:{self._pattern.pattern})$"
        return schema

    def of_text(self, text: str) -> str:
        """The text itself."""
        if self._pattern and not (self._pattern.fullmatch(text) and len(text) <= (self._most or len(text))):
            limit = f" of up to {self._most} characters" if self._most else ""
            raise ValueError(f"{text[:80]!r} is no {self._what}{limit}")
        if self._most and len(text) > self._most:
            raise ValueError(f"{text[:40]!r}… has {len(text)} characters; {self._most} is the limit")
        return text


class Beginning(Text):
    """What keys begin with, or where a list of them goes on. A leading slash counts for nothing."""

    def __init__(self, most: int = keys.MAX_BYTES) -> None:
        super().__init__(most, "[ -~]*")

    def of_text(self, text: str) -> str:
        """The text without the slash."""
        return super().of_text(text.removeprefix("/"))


class Key(Kind[str]):
    """A key. A leading slash counts for nothing."""

    def schema(self) -> Schema:
        """A string."""
        return {"type": "string", "maxLength": keys.MAX_BYTES, "pattern": f"^/?{keys.PATTERN}$"}

    def of_text(self, text: str) -> str:
        """The key without the slash."""
        try:
            return keys.check(text)
        except InvalidKey as error:
            raise ValueError(f"{text[:80]!r}: {error}") from None


class Span(Kind[int]):
    """A time like 90s, 15m, 12h or 7d, in ms: more than nothing."""

    def __init__(self, most_ms: int, *words: str) -> None:
        """`words` are taken besides, for 0."""
        self._most_ms = most_ms
        self._words = words

    def schema(self) -> Schema:
        """A string."""
        bounds = "|".join(f"{digits_up_to(self._most_ms // ms)}{unit}" for unit, ms in _UNITS_MS.items())
        pattern = f"0*(?:{bounds})" + "".join(f"|{word}" for word in self._words)
        examples = ["90s", "15m", "12h", "7d", *self._words]
        return {"type": "string", "maxLength": _SPAN_CHARS, "pattern": f"^(?:{pattern})$", "examples": examples}

    def of_text(self, text: str) -> int:
        """The time in ms."""
        if text in self._words:
            return 0
        match = _SPAN.fullmatch(text)
        length = integers.parse(match[1]) * _UNITS_MS[match[2]] if match else 0
        if not 0 < length <= self._most_ms:
            words = "".join(f", or {word}" for word in self._words)
            most = f"{self._most_ms // DAY_MS}d"
            raise ValueError(f"{text[:40]!r} is no lifetime of up to {most}; give one like 90s, 15m, 12h or 7d{words}")
        return length


class Seconds(Kind[float]):
    """A number of seconds: more than nothing."""

    def __init__(self, most: float) -> None:
        self._most = most

    def schema(self) -> Schema:
        """A number."""
        return {"type": "number", "exclusiveMinimum": 0, "maximum": self._most}

    def of_text(self, text: str) -> float:
        """The seconds."""
        if not _NUMBER.fullmatch(text) or not 0 < float(text) <= self._most:
            raise ValueError(f"{text[:40]!r} is no time; give seconds, more than 0 and up to {self._most:g}")
        return float(text)


class Day(Kind[int]):
    """A day, as its beginning in UTC, in ms since the epoch."""

    def schema(self) -> Schema:
        """A date."""
        return {"type": "string", "format": "date"}

    def of_text(self, text: str) -> int:
        """Its beginning."""
        try:
            if len(text) != len("2026-11-29"):
                raise ValueError
            day = datetime.datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=datetime.UTC)
        except ValueError:
            raise ValueError(f"{text[:40]!r} is no day; give one like 2026-11-29, in UTC") from None
        return int(day.timestamp()) * 1000


class OrEmpty(Kind[T]):
    """Another kind, or nothing behind the name, which counts as if it was not there."""

    def __init__(self, kind: Kind[T], empty: T) -> None:
        self._kind = kind
        self._empty = empty

    def schema(self) -> Schema:
        """That of the other kind, and an empty string."""
        schema = self._kind.schema()
        if isinstance(words := schema.get("enum"), list):
            return schema | {"enum": [*words, ""]}
        return {"anyOf": [schema, {"type": "string", "maxLength": 0}]}

    def of_text(self, text: str) -> T:
        """The value; that for an empty text."""
        return self._kind.of_text(text) if text else self._empty


def digits_up_to(most: int) -> str:
    """A pattern for the integers from 1 to `most`, without leading zeros."""
    digits = str(most)
    parts = [f"[1-9][0-9]{{0,{len(digits) - 2}}}"] if len(digits) > 1 else []
    for place, digit in enumerate(digits):
        least = 1 if place == 0 else 0
        if int(digit) > least:
            rest = len(digits) - place - 1
            parts.append(f"{digits[:place]}[{least}-{int(digit) - 1}]" + (f"[0-9]{{{rest}}}" if rest else ""))
    return f"(?:{'|'.join([*parts, digits])})"
