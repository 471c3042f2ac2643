"""The parameters of requests: a name, a place, a kind of values, and a sentence about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from broker.contract.kinds import Kind, Schema
from broker.refusals import BadRequest

T = TypeVar("T")

QUERY, PATH, HEADER = "query", "path", "header"


class Parameter(Generic[T]):
    """A parameter of requests."""

    def __init__(
        self, name: str, kind: Kind[T], about: str, default: T, *, place: str = QUERY, required: bool = False
    ) -> None:
        """`default`: what is read when it was not given."""
        self.name = name
        self._kind = kind
        self._about = about
        self.default = default
        self._place = place
        self._required = required or place == PATH

    def read(self, given: Mapping[str, str]) -> T:
        """Its value among the parameters of a request; raises `BadRequest`."""
        text = given.get(self.name)
        if text is None:
            return self.default
        return self.of_text(text)

    def of_text(self, text: str) -> T:
        """The value of a text; raises `BadRequest`."""
        try:
            return self._kind.of_text(text)
        except ValueError as error:
            raise BadRequest(f"{self.name}={error}") from None

    def described(self) -> Schema:
        """The parameter object of OpenAPI."""
        schema = self._kind.schema()
        if self.default and not isinstance(self.default, bool) and "type" in schema:
            schema = schema | {"default": self.default}
        found: Schema = {"name": self.name, "in": self._place, "description": self._about, "schema": schema}
        return found | ({"required": True} if self._required else {})


def path(name: str, kind: Kind[T], about: str, default: T) -> Parameter[T]:
    """A part of the path."""
    return Parameter(name, kind, about, default, place=PATH)


def header(name: str, kind: Kind[str], about: str) -> Parameter[str]:
    """A header; its handler looks at it."""
    return Parameter(name, kind, about, "", place=HEADER)
