"""The JSON bodies of requests: objects whose fields are declared."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, NoReturn, TypeVar

from broker.contract.kinds import Kind, Schema
from broker.integers import short
from broker.refusals import BadRequest

T = TypeVar("T")

Fields = dict[str, Any]  # of an object, each as its kind has read it
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


class Field(Kind[T]):
    """A kind of values that only JSON has."""

    def of_text(self, text: str) -> T:
        """No text is one."""
        return self.of_json(text)


class Boolean(Field[bool]):
    """True or false."""

    def schema(self) -> Schema:
        """A boolean."""
        return {"type": "boolean"}

    def of_json(self, value: object) -> bool:
        """The value itself."""
        if not isinstance(value, bool):
            raise ValueError(f"{short(value)} is neither true nor false")
        return value


class OrNull(Field[T | None]):
    """Another kind, or null, which counts as if it was not there."""

    def __init__(self, kind: Kind[T]) -> None:
        self._kind = kind

    def schema(self) -> Schema:
        """That of the other kind, and null."""
        return {"anyOf": [self._kind.schema(), {"type": "null"}]}

    def of_json(self, value: object) -> T | None:
        """The value, or None."""
        return None if value is None else self._kind.of_json(value)


class ListOf(Field[list[T]]):
    """A list whose items are of one kind."""

    def __init__(self, kind: Kind[T], most: int, least: int = 1) -> None:
        """`most` and `least` count items."""
        self._kind = kind
        self._most, self._least = most, least

    def schema(self) -> Schema:
        """An array."""
        return {"type": "array", "items": self._kind.schema(), "minItems": self._least, "maxItems": self._most}

    def of_json(self, value: object) -> list[T]:
        """The items."""
        if not isinstance(value, list):
            raise ValueError(f"{short(value)} is no list")
        if not self._least <= len(value) <= self._most:
            raise ValueError(f"a list of {len(value)} was received; give {self._least} to {self._most}")
        return [self._kind.of_json(item) for item in value]


class Record(Field[Fields]):
    """An object with these fields and no others."""

    def __init__(self, fields: Mapping[str, tuple[Kind[Any], str]], required: Collection[str] = ()) -> None:
        """`fields`: the kind of each and a sentence about it. `required`: those that must be there."""
        self._fields = fields
        self._required = required
        self.names = frozenset(fields)

    def schema(self) -> Schema:
        """An object."""
        properties = {name: kind.schema() | {"description": about} for name, (kind, about) in self._fields.items()}
        found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        return found | ({"required": [*self._required]} if self._required else {})

    def of_json(self, value: object) -> Fields:
        """The fields that were given."""
        if not isinstance(value, dict):
            raise ValueError(f"{short(value)} is no object")
        if unknown := [name for name in value if name not in self._fields]:
            raise ValueError(f"there is no field {short(unknown[0])} here; there are {', '.join(self._fields)}")
        if missing := [name for name in self._required if name not in value]:
            raise ValueError(f"{missing[0]} is missing")
        return {name: self._read(name, given) for name, given in value.items()}

    def _read(self, name: str, value: object) -> object:
        try:
            return self._fields[name][0].of_json(value)
        except ValueError as error:
            raise ValueError(f"{name} = {error}") from None


class OneOf(Field[Fields]):
    """An object of one of several kinds."""

    def __init__(self, records: Sequence[Record], kind: Callable[[Mapping[str, object]], Record]) -> None:
        """`kind` says which of them an object is meant to be. It raises `ValueError`."""
        self._records = records
        self._kind = kind

    def schema(self) -> Schema:
        """Those of all of them."""
        return {"oneOf": [record.schema() for record in self._records]}

    def of_json(self, value: object) -> Fields:
        """The fields that were given."""
        return (self._kind(value) if isinstance(value, dict) else self._records[0]).of_json(value)


class Body(Generic[T]):
    """The body of a request."""

    def __init__(self, kind: Kind[T], example: str, *, empty: T | None = None) -> None:
        """`example` stands in messages. `empty`: what a request without a body is; None: it needs one."""
        self._kind = kind
        self._example = example
        self._empty = empty

    def read(self, body: bytes) -> T:
        """What is in it. Raises `BadRequest`."""
        if not body and self._empty is not None:
            return self._empty
        try:
            return self._kind.of_json(read_json(body))
        except (BadRequest, ValueError) as error:
            raise BadRequest(f"{error}; give {self._example} as JSON") from None

    def described(self) -> Schema:
        """The request body object of OpenAPI."""
        content = {"application/json": {"schema": self._kind.schema()}}
        return {"required": self._empty is None, "content": content}


def read_json(body: bytes) -> object:
    """The JSON in a body. Raises `BadRequest`."""
    if body.startswith(_MARKS):
        raise BadRequest("the body begins with a byte order mark; send UTF-8 without one")
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise BadRequest("the body has lists or objects too deep in each other") from None
    except ValueError as error:
        raise BadRequest(f"the body is no JSON in UTF-8: {error}; it begins with {body[:40]!r}") from error


def _no_constant(name: str) -> NoReturn:
    """Refuses NaN and the infinities: Python reads them, JSON has none."""
    raise ValueError(f"{name} is no JSON")
