"""`/openapi.json`: a good document, and true: all that it says is there, and all that is there it says."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from broker import VERSION, settings
from broker.contract import document
from broker.link import Delivery, Link
from master import worker
from master.web.flask_routes import contract
from master.web.flask_routes.app import create_app
from ops.cluster import Cluster
from tests.event_stream import Stream
from tests.integration.wire import Client, good
from tests.support import unique, wait_for

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT: dict[str, Any] = contract.api()
METHODS = ("get", "put", "post", "delete", "head", "patch")
OPERATIONS = [
    (path, method.upper(), operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if method in METHODS
]


def template(path: str) -> str:
    """A path whose parameters have no names any more."""
    return re.sub(r"\{[^}]*\}|<[^>]*>", "{}", path)


DOCUMENTED = {(template(path), method) for path, method, _ in OPERATIONS}


def test_it_is_a_good_openapi_document() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    errors = [
        f"{list(error.absolute_path)}: {error.message}" for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()
    ]
    assert not errors


def test_the_master_serves_it(master: Client) -> None:
    answer = master.request("GET", "/openapi.json")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == document.at(DOCUMENT, answer.json["servers"][0]["url"], tokens=False)
    assert answer.json["servers"][0]["url"] == f"http://{master.host}"
    assert DOCUMENT["info"]["version"] == VERSION


def test_every_operation_has_a_summary_a_name_and_what_it_answers() -> None:
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(names)) == len(names)
    for path, method, operation in OPERATIONS:
        assert operation["summary"], (path, method)
        assert any(status.startswith(("2", "3")) for status in operation["responses"]), (path, method)
        named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert named == set(re.findall(r"\{([^}]*)\}", path)), (path, method)


def test_every_route_of_the_application_is_documented() -> None:
    app = create_app(
        SimpleNamespace(settings=settings.load(environ={}), ledger=Mock(), job_files=Mock(), secrets=Mock())
    )  # type: ignore[arg-type]
    routes = {
        (template(rule.rule), method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert len(routes) >= 8
    assert routes <= DOCUMENTED, routes - DOCUMENTED


def test_every_hot_route_is_documented() -> None:
    names = ("archives", "transfers", "deleted", "links", "lifetimes", "restic", "events", "waits")
    hot = worker.routes(Mock(), Mock(), Mock(), Mock(), Mock(), **{name: Mock() for name in names})
    routes = {
        (f"{path}{{}}" if path.endswith("/") else path, method) for path, handlers in hot.items() for method in handlers
    }
    assert len(routes) >= 7
    assert not routes - {(re.sub(r"/\{\}.*", "/{}", path), method) for path, method in DOCUMENTED}


@pytest.mark.parametrize(
    ("path", "method", "operation"), OPERATIONS, ids=[f"{method} {path}" for path, method, _ in OPERATIONS]
)
def test_every_documented_operation_answers_as_documented(
    cluster: Cluster, master: Client, path: str, method: str, operation: dict[str, Any]
) -> None:
    key = unique()
    if method not in ("PUT", "POST") and not path.startswith("/get_node"):
        good(master.put(key, b"value"), 201)
    if path.startswith("/undelete"):
        good(master.put(key, b"value"), 201)
        good(master.request("DELETE", f"/delete_key/{key}"))
    target = path.replace("{key}", key).replace("{node_id}", cluster.nodes[0].id)
    target = target.replace("{folder}", "example").replace("{script}", "factorial")
    target = target.replace("{prefix}", key).replace("{name}", "nobody")
    target = target.replace("{app_id}", "example").replace("{arguments}", "a/b")
    target = target.replace("{action}", "pause")
    if "{repository}" in path:
        target = restic_file(master, method, path, key)
    if operation["operationId"] == "verify":
        target += f"?node={cluster.nodes[0].id}"
    if operation["operationId"] == "schedule_preview":
        target += "?cron=0+9+*+*+1"
    if "{letter_id}" in path:
        target = target.replace("{letter_id}", bury(cluster, master))
    if "{job_id}" in path or "{number}" in path:
        target = re.sub(r"\{(job_id|number)\}", str(launch(master, scheduled="scheduled" in path)), target)
    if operation["operationId"] == "getEvents":  # which has no end
        with Stream(cluster.master_url) as stream:
            assert stream.response.headers["Content-Type"].partition(";")[0] in operation["responses"]["200"]["content"]
        return
    answer = master.request(method, target, b"value" if method in ("PUT", "POST") else b"")
    assert str(answer.status) in operation["responses"], (answer, list(operation["responses"]))
    assert answer.status not in (404, 405)
    # The node is there, and a file of tokens is not.
    if method != "POST" and operation["operationId"] not in ("forgetNode", "revokeToken"):
        assert answer.status < 400
    shown = method != "HEAD" and path != "/openapi.json"
    if answer.status < 300 and answer.headers.get("content-type") == "application/json" and shown:
        matches(answer.json, operation["responses"][str(answer.status)])


def restic_file(master: Client, method: str, path: str, repository: str) -> str:
    """The path of a file of a restic repository, which is there when it is to be read or deleted."""
    name = hashlib.sha256(b"value").hexdigest()
    target = path.replace("{repository}", repository).replace("{type}", "data").replace("{name}", name)
    if method != "POST" and not target.endswith("/"):
        assert master.request("POST", target, b"value").status == 200
    return f"{target}?create=true" if path.endswith("{repository}/") else target


def bury(cluster: Cluster, master: Client) -> str:
    """Id of a message that could not be used."""
    link = Link(cluster.broker_url, "test", list)
    link.start()
    assert link.wait(30)
    link.bury(Delivery(b"x", "pulzar.jobs", tag=0, connection=0, headers={}, redelivered=False), "a test")
    rows = wait_for(lambda: good(master.request("GET", "/admin/dead"))["messages"], what="the message")
    link.stop()
    return str(rows[0]["id"])


def launch(master: Client, scheduled: bool) -> int:
    """Id of a job, or of a schedule that is far off."""
    rhythm = {"scheduled": {"interval": "weeks", "time_unit": 9, "repeat": 0}} if scheduled else {}
    wait_for(lambda: master.request("GET", "/admin/job_catalog").json["data"], what="the catalog")
    answer = master.request("POST", "/launch_job/example/factorial", json.dumps({"number": 3, **rhythm}).encode())
    number: int = good(answer)["job_id"]
    return number


def matches(envelope: Any, response: dict[str, Any]) -> None:
    """An answer has what its description promises."""
    schema = next(iter(response["content"].values()))["schema"]
    promised = next(part["properties"]["data"] for part in schema["allOf"] if "properties" in part)
    for part in promised.get("allOf", [promised]):
        has_shape(envelope["data"], part)


def has_shape(data: Any, promised: dict[str, Any]) -> None:
    """Data is of a type that its schema names, and has what is always there."""
    if "$ref" in promised:
        promised = DOCUMENT["components"]["schemas"][promised["$ref"].rpartition("/")[2]]
    kinds = {"object": dict, "array": list, "null": type(None)}
    types = promised["type"] if isinstance(promised["type"], list) else [promised["type"]]
    assert isinstance(data, tuple(kinds[name] for name in types))
    if promised["type"] == "object":
        always = promised.get("required", promised.get("properties", {}))
        assert set(always) <= set(data), data


def test_the_statuses_that_a_put_can_have_are_documented() -> None:
    put = DOCUMENT["paths"]["/add_key/{key}"]["put"]["responses"]
    assert {"201", "307", "400", "408", "409", "412", "503", "507"} <= set(put)
    get = DOCUMENT["paths"]["/get_key/{key}"]["get"]["responses"]
    assert {"200", "206", "304", "307", "400", "404", "412", "416", "503"} <= set(get)
    delete = DOCUMENT["paths"]["/delete_key/{key}"]["delete"]["responses"]
    assert {"200", "400", "404", "412", "503"} <= set(delete)
