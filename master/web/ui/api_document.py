"""The routes of the API as people read them: made from its contract and the table of rights. Pure functions.

Read once, since neither changes while the master runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

from master.security.routes import Routes
from master.web.flask_routes import contract

_DEEPEST = 3  # objects within an object
_FIELD_PLACE = "body"
_AT_NODES = ("/get_key/", "/add_key/", "/get_node/")  # how paths begin that may lead to a node

Node = Mapping[str, object]  # an object of the document


class Field(NamedTuple):
    """A parameter, or a field of a body."""

    name: str
    place: str  # path, query, header or body; "" in a response
    type: str  # in words
    required: bool
    about: str


class Answer(NamedTuple):
    """One response."""

    status: str
    about: str
    fields: list[Field]  # of `data`


class Operation(NamedTuple):
    """One method of one path."""

    id: str
    tag: str
    method: str
    path: str
    summary: str
    about: str
    fields: list[Field]
    takes: str  # the type of its body; "" for none
    answers: list[Answer]
    rights: list[str]
    own: bool  # what one has launched oneself needs none of them
    open: bool  # nobody needs a token

    @property
    def text(self) -> str:
        """All of it in lower case, for a search."""
        fields = [f"{field.name} {field.about}" for field in self.fields]
        answers = [f"{answer.status} {answer.about}" for answer in self.answers]
        return " ".join(
            [self.method, self.path, self.tag, self.summary, self.about, *fields, *answers, *self.rights]
        ).casefold()


@lru_cache(maxsize=1)
def operations() -> list[Operation]:
    """All operations in the order of the document."""
    return list(read(contract.api()))


def read(document: Node) -> Iterator[Operation]:
    """The operations of a document of OpenAPI 3.1."""
    reader, routes = _Reader(document), Routes()
    for path, item in _node(document["paths"]).items():
        for method, operation in _node(item).items():
            yield reader.operation(routes, method.upper(), path, _node(operation))


def search(found: list[Operation], words: str) -> list[Operation]:
    """Those in which every word stands."""
    wanted = words.casefold().split()
    return [one for one in found if all(word in one.text for word in wanted)]


def curl(operation: Operation, base: str, *, token: bool, authority: bool) -> str:
    """A command that calls it, with words in capitals where something is to be put in.

    `token`: the cluster asks for one. `authority`: clients need its certificate.
    """
    words = ["curl"]
    if operation.path.startswith(_AT_NODES):
        words += ["-L"]
    if operation.method == "HEAD":
        words += ["-I"]
    if operation.takes and operation.takes != "application/json":
        words += ["-T FILE"]
    elif operation.takes:
        body = {
            field.name: [field.name.upper()] if field.type.startswith("list") else field.name.upper()
            for field in operation.fields
            if field.place == _FIELD_PLACE and field.required and "." not in field.name
        }
        words += ["-d", _quoted(json.dumps(body))]
    elif operation.method not in ("GET", "HEAD"):
        words += [f"-X {operation.method}"]
    if token and not operation.open:
        words += ['-H "Authorization: Bearer $PULZAR_TOKEN"']
    if authority:
        words += ["--cacert ca.pem"]
    query = "&".join(
        f"{quote(one.name)}={one.name.upper()}" for one in operation.fields if one.place == "query" and one.required
    )
    return " ".join([*words, _quoted(f"{base}{_sample(operation.path)}" + (f"?{query}" if query else ""))])


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _sample(path: str) -> str:
    """A path whose parameters are words in capitals."""
    return re.sub(r"\{([^}]*)\}", lambda found: found[1].upper(), path)


class _Reader:
    """Reads parts of one document, which refer to each other."""

    def __init__(self, document: Node) -> None:
        self._document = document

    def operation(self, routes: Routes, method: str, path: str, of: Node) -> Operation:
        fields = [self._parameter(_node(one)) for one in _list(of.get("parameters"))]
        contents = _node(self._resolved(of.get("requestBody")).get("content"))
        for content in contents.values():
            fields += [one._replace(place=_FIELD_PLACE) for one in self._fields(_node(content).get("schema"))]
        answers = [self._answer(status, answer) for status, answer in _node(of["responses"]).items()]
        sample = _sample(path)
        found = routes.find(method, sample)
        need = None if found is None else found.row.need
        rights: list[str] = []
        if found is not None and need is not None:
            query = "prefix=PREFIX&to=TO&key=KEY"
            request = {"REQUEST_METHOD": method, "PATH_INFO": sample, "QUERY_STRING": query}
            asked = need(request, found.prefix)
            rights = [str(right) for right in asked]
        return Operation(
            str(of["operationId"]),
            ", ".join(map(str, _list(of.get("tags")))),
            method,
            path,
            str(of["summary"]),
            str(of.get("description", "")),
            fields,
            next(iter(contents), ""),
            answers,
            rights,
            found is not None and found.row.own,
            need is None,
        )

    def _parameter(self, one: Node) -> Field:
        place = str(one["in"])
        return Field(
            str(one["name"]),
            place,
            self._type(one.get("schema")),
            bool(one.get("required", False)),
            str(one.get("description", "")),
        )

    def _answer(self, status: str, given: object) -> Answer:
        answer = self._resolved(given)
        fields: list[Field] = []
        for content in _node(answer.get("content")).values():
            # The envelope says that there is data; the response's own part, behind it, says which.
            data = [one for name, one in self._properties(_node(content).get("schema")) if name == "data"]
            fields += self._fields(data[-1] if data else None)
        return Answer(status, str(answer.get("description", "")), list(dict.fromkeys(fields)))

    def _fields(self, schema: object, before: str = "", depth: int = 0) -> list[Field]:
        """The fields of an object, those of objects in it as `outer.inner`."""
        found: list[Field] = []
        resolved = self._resolved(schema)
        items = self._resolved(resolved.get("items"))
        if items:
            return self._fields(items, f"{before}[]", depth)
        required = _list(resolved.get("required"))
        for name, part in self._properties(schema):
            full = f"{before}.{name}" if before else name
            about = str(self._resolved(part).get("description", _node(part).get("description", "")))
            found.append(Field(full, "", self._type(part), name in required, about))
            if depth < _DEEPEST:
                found += self._fields(part, full, depth + 1)
        return found

    def _properties(self, schema: object) -> Iterator[tuple[str, object]]:
        resolved = self._resolved(schema)
        for part in (*_list(resolved.get("allOf")), *_list(resolved.get("oneOf")), *_list(resolved.get("anyOf"))):
            yield from self._properties(part)
        yield from _node(resolved.get("properties")).items()

    def _type(self, schema: object) -> str:
        """A schema in words."""
        found = self._resolved(schema)
        if "enum" in found:
            text = " or ".join("null" if one is None else str(one) for one in _list(found["enum"]))
        else:
            kinds = found.get("type", "object" if "properties" in found or "allOf" in found else "any")
            text = " or ".join(map(str, kinds)) if isinstance(kinds, list) else str(kinds)
            if found.get("format") == "binary":
                text = "bytes"
        if "items" in found:
            text = text.replace("array", f"list of {self._type(found['items'])}")
        least, most = found.get("minimum"), found.get("maximum")
        if least is not None:
            text += f" from {least}"
        if most is not None:
            text += f" to {most}"
        if "examples" in found:
            text += f" like {', '.join(map(str, _list(found['examples'])))}"
        if "default" in found:
            text += f"; {found['default']} by default"
        return text

    def _resolved(self, given: object) -> Node:
        """An object of the document, or the one that it refers to."""
        found = _node(given)
        while "$ref" in found:
            place: object = self._document
            for name in str(found["$ref"]).removeprefix("#/").split("/"):
                place = _node(place)[name]
            found = _node(place)
        return found


def _node(given: object) -> Node:
    return given if isinstance(given, Mapping) else {}


def _list(given: object) -> list[object]:
    return given if isinstance(given, list) else []
