"""Hooks of Schemathesis: what OpenAPI can't say about requests.

A schema describes each parameter by itself. Where two of them contradict each other, or a body and its checksum, a
request is refused though each part is good. Such requests are put right here, each with its reason. Those that break a schema stay
as they are.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from contextlib import suppress
from typing import Any

import schemathesis
from schemathesis import Case, GenerationMode, HookContext

from broker.http import checksums, conditions
from master.web.keys.parameters import MOST_WAIT_SECS

KEPT_TOKEN = "all"  # name of the token that requests are made with
TARGET = "CONTRACT_TARGET"  # the environment variable with the directory for backups
RESERVED = {"scheduled", "pulzar_data", "pulzar_options"}
MOST_WAIT = 0.1  # seconds
CRON, ZONE = "0 9 * * 1", "Europe/Vienna"
_FORMS = {
    "content-md5": checksums.MD5,
    "x-checksum-sha256": checksums.SHA256,
    "content-range": r"bytes 0-[0-9]{1,19}/[0-9]{1,19}",
    "if-none-match": conditions.LIST,
}


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Puts right what no schema can say, so that requests come further than its checks."""
    _keep_token(case)
    _send_backups_here(case)
    _describe_body(case)
    _wait_shortly(case)
    if case.meta is not None and case.meta.generation.mode == GenerationMode.NEGATIVE:
        return
    for name in [
        name
        for name, form in _FORMS.items()
        if name in case.headers and not re.fullmatch(form, str(case.headers[name]))
    ]:
        del case.headers[name]  # one of its cases has 0 in each header, whatever the pattern
    path, query = case.operation.path, case.query or {}
    _one_lifetime(path, query)
    if path == "/keys":
        _one_list(query)
    elif path.startswith(("/copy/", "/move/")):
        _elsewhere(str((case.path_parameters or {}).get("key", "")), query)
    elif path == "/schedule_preview":
        _a_timing(query)
    elif path == "/internal/verify":
        query["node"] = query.get("node") or "node-1"  # it may be missing where the files of the master are looked at
    elif path == "/restic/{repository}/{type}/{name}" and case.method == "POST":
        # Files are named so. Schemathesis looks at the path again, in which it has encoded the repository.
        case.path_parameters["name"] = hashlib.sha256(_bytes(case)).hexdigest()
        case.path_parameters["repository"] = re.sub("%..", "-", str(case.path_parameters["repository"]))
    elif path == "/admin/dead/send" and isinstance(case.body, dict) and len(case.body.get("ids", ())) > 1:
        case.body.pop("body", None)  # another body is for one message alone
    elif path.startswith("/launch_job"):
        _a_launch(case.body)
    if query:
        case.query = query


def _keep_token(case: Case) -> None:
    """All other requests are made with one of the tokens, so it is not revoked."""
    if case.operation.path == "/admin/tokens/{name}" and case.path_parameters.get("name") == KEPT_TOKEN:
        case.path_parameters["name"] = "other"


def _send_backups_here(case: Case) -> None:
    """Backups go to a directory of the test; any other path, or machine, is none of its business."""
    if case.operation.path == "/admin/backup" and isinstance(case.body, dict):
        target = case.body.get("target")
        if isinstance(target, str) and ("/" in target or ":" in target):
            case.body["target"] = os.environ[TARGET]


def _wait_shortly(case: Case) -> None:
    """A read waits for a moment, not for minutes, where the time is one."""
    query = case.query or {}
    with suppress(ValueError, TypeError):  # it is none, and is to be refused
        if "wait" in query and MOST_WAIT < float(query["wait"]) <= MOST_WAIT_SECS:
            query["wait"] = MOST_WAIT


def _describe_body(case: Case) -> None:
    """Checksums and range are those of the body, where they are well formed."""
    body = _bytes(case)
    right = {
        "content-md5": base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode(),
        "x-checksum-sha256": hashlib.sha256(body).hexdigest(),
        "content-range": f"bytes 0-{len(body) - 1}/{len(body)}",
    }
    for name, value in list((case.headers or {}).items()):
        if name.lower() not in right or not re.fullmatch(_FORMS[name.lower()], str(value)):
            continue
        case.headers[name] = right[name.lower()]
        if name.lower() == "content-range" and not body:
            del case.headers[name]  # nothing has no first byte


def _bytes(case: Case) -> bytes:
    body = getattr(case.body, "data", case.body)
    return body if isinstance(body, bytes) else b""


def _one_lifetime(path: str, query: dict[str, Any]) -> None:
    """`temporal` and `ttl` both say how long a value lives, so only one of them is given; for `/lifetime`, one is."""
    if "temporal" in query:
        query.pop("ttl", None)
    elif path.startswith("/lifetime/"):
        query.setdefault("ttl", "7d")


def _one_list(query: dict[str, Any]) -> None:
    """A list of keys is folded at a delimiter, or filtered, or one of deleted versions; days are in their order."""
    deleted = "deleted" in query and str(query["deleted"]).lower() not in ("0", "false")
    if deleted or any(query.get(name) for name in ("contains", "since", "until")):
        query.pop("delimiter", None)
    if deleted:
        query.pop("after", None)  # which is KEY:VERSION there
    if query.get("since") and query.get("until"):
        query["since"], query["until"] = sorted((str(query["since"]), str(query["until"])))


def _elsewhere(source: str, query: dict[str, Any]) -> None:
    """A value goes to another key, which has no slash at its end: only that of a folder has."""
    target = str(query["to"]).rstrip("/") or "x"
    query["to"] = f"{target[:300]}x" if target.removeprefix("/") == source.removeprefix("/") else target


def _a_timing(query: dict[str, Any]) -> None:
    """A timing is an interval with all it needs, or the fields of cron, of which no schema knows the grammar."""
    if "cron" in query:
        query["cron"] = CRON
        query.pop("interval", None)
        query.pop("time_unit", None)
        if "zone" in query:
            query["zone"] = ZONE
    else:
        query.pop("zone", None)
        query |= {"interval": "days", "time_unit": 1} | ({} if "repeat" in query else {"repeat": 1})


def _a_launch(body: object) -> None:
    """Whether an execution waits for the last one is said of a schedule; options are given once; cron is cron.

    JSON Schema takes 5.0 for an integer, and the API does not: what counts is written without a point.
    """
    if not isinstance(body, dict):
        return
    for one in body.get("jobs", ()) if isinstance(body.get("jobs"), list) else ():
        _a_launch(one)
    arguments = body.get("arguments", body)
    if not isinstance(arguments, dict):
        return
    if "options" in body and "job" in body:
        arguments.pop("pulzar_options", None)
    for name in arguments.keys() - RESERVED:
        arguments[name] = _in_64_bits(arguments[name])
    options = body.get("options", arguments.get("pulzar_options"))
    rhythm = arguments.get("scheduled")
    for given in (options, rhythm):
        if isinstance(given, dict):
            given |= {
                name: int(value) for name, value in given.items() if isinstance(value, float) and value.is_integer()
            }
    if isinstance(options, dict) and rhythm is None:
        options.pop("overlap", None)
    if isinstance(rhythm, dict) and "cron" in rhythm:
        rhythm |= {"cron": CRON} | ({"zone": ZONE} if "zone" in rhythm else {})


def _in_64_bits(value: Any) -> Any:
    """A value whose integers can stand in a message. To say so in the schema would take one that contains itself.

    Generators of clients can't read such a schema.
    """
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return value % (1 << 63)
    if isinstance(value, list):
        return [_in_64_bits(one) for one in value]
    return {name: _in_64_bits(one) for name, one in value.items()} if isinstance(value, dict) else value
