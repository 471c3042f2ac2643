"""A document of OpenAPI: what is written by hand about routes, and what is declared about requests. Pure functions."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Protocol

from broker.contract.kinds import Schema

Operation = tuple[str, str]  # method and path

# Statuses that every operation can have, and the response of the document for each.
ANY = {
    "400": "BadRequest",
    "421": "Misdirected",
    "500": "ServerError",
    "501": "NotSupported",
    "503": "Unavailable",
}
GUARDED = {"401": "Unauthorized", "403": "Forbidden"}  # those that need a token
WITH_BODY = {"403": "Forbidden", "408": "SlowClient", "411": "LengthRequired"}  # those of PUT and POST
_METHODS = ("get", "put", "post", "delete", "head")


class Described(Protocol):
    """A parameter or a body."""

    def described(self) -> Schema:
        """Its object of OpenAPI."""


def complete(
    written: Mapping[str, object],
    parameters: Mapping[Operation, Sequence[Described]],
    bodies: Mapping[Operation, Described],
) -> Schema:
    """The document with parameters and bodies of its operations, and with the statuses that every one can have."""
    document: Schema = copy.deepcopy(dict(written))
    responses = _object(_object(document["components"])["responses"])
    for path, item in _object(document["paths"]).items():
        for method, operation in _object(item).items():
            if method not in _METHODS:
                continue
            of = _object(operation)
            if declared := parameters.get((method.upper(), path)):
                of["parameters"] = [one.described() for one in declared]
            if body := bodies.get((method.upper(), path)):
                of["requestBody"] = body.described()
            _add_statuses(of, method)
            if method == "head":
                of["responses"] = {status: _bare(one, responses) for status, one in _object(of["responses"]).items()}
    return document


def at(document: Mapping[str, object], url: str, *, tokens: bool) -> Schema:
    """The document of a server at this URL; `tokens`: no request is handled without one."""
    security = [way for way in _list(document["security"]) if way or not tokens]
    return {**document, "servers": [{"url": url, "description": "The master"}], "security": security}


def _add_statuses(operation: Schema, method: str) -> None:
    more = dict(ANY)
    if operation.get("security") != []:
        more |= GUARDED
    if method in ("put", "post"):
        more |= WITH_BODY
    found = _object(operation["responses"])
    for status, name in more.items():
        found.setdefault(status, {"$ref": f"#/components/responses/{name}"})
    operation["responses"] = dict(sorted(found.items()))


def _bare(response: object, known: Mapping[str, object]) -> Schema:
    """A response without its body, as HEAD gets it."""
    found = _object(response)
    if "$ref" in found:
        found = _object(known[str(found["$ref"]).rpartition("/")[2]])
    return {name: part for name, part in found.items() if name != "content"}


def _object(given: object) -> Schema:
    assert isinstance(given, dict), given
    return given


def _list(given: object) -> list[object]:
    assert isinstance(given, list), given
    return given
