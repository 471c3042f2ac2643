"""`POST /launch_jobs`: up to `MOST` jobs in one request, each launched or refused on its own.

A body is `{"jobs": [{"job": "folder/script", "arguments": {…}, "options": {…}}, …]}`. `arguments` is what the body of
`/launch_job/folder/script` would be, `options` stands for `pulzar_options` among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from broker.contract.bodies import read_json
from broker.http import responses
from broker.http.responses import Response
from broker.messages import jobs
from broker.refusals import BadRequest, Refused, Unavailable
from master.jobs import script_catalog
from master.jobs.ledger import LedgerView
from master.web.jobs.launch_request import OPTIONS, JobLaunch, launch_with, short

MOST = 1_000  # jobs in a request
MAX_BYTES = 8 << 20  # of a body
MAX_KEY = jobs.MAX_TOKEN - 8  # characters of an idempotency key; a unique token has a number besides
_FIELDS = ("job", "arguments", "options")
_EXAMPLE = '{"jobs": [{"job": "example/factorial", "arguments": {"number": 5}}]}'
_LAUNCHED, _SOME_REFUSED = 200, 207


class JobReply(NamedTuple):
    """What came of one of the jobs."""

    status: int  # 200, 202, or that of a refusal
    number: int  # the id of the job, 0 for one that was refused
    message: str  # of a refusal
    warnings: Sequence[str] = ()


def read_many(body: bytes) -> list[object]:
    """The jobs in a body, not checked yet; raises `BadRequest`."""
    given = read_json(body) if body.strip() else None
    if not isinstance(given, dict) or not isinstance(given.get("jobs"), list):
        raise BadRequest(f"the body is {short(given)}; give an object with a list of jobs, like {_EXAMPLE}")
    unknown = [name for name in given if name != "jobs"]
    if unknown:
        raise BadRequest(f"the body has {short(unknown[0])}, which is not known; give {_EXAMPLE}")
    found: list[object] = given["jobs"]
    if not 1 <= len(found) <= MOST:
        raise BadRequest(f"there are {len(found)} jobs in the body; give 1 to {MOST} in one request")
    return found


def check_key(key: str) -> str:
    """The idempotency key of a request, "" for none; raises `BadRequest`."""
    if len(key) > MAX_KEY:
        raise BadRequest(f"the Idempotency-Key has {len(key)} characters, and {MAX_KEY} is the limit")
    return key


def launch_of_item(item: object, unique: str) -> JobLaunch:
    """One of the jobs, with this unique token if it has none of its own; raises `BadRequest`."""
    if not isinstance(item, dict):
        raise BadRequest(f"a job is {short(item)}; give an object like {_EXAMPLE[10:-2]}")
    unknown = [name for name in item if name not in _FIELDS]
    if unknown:
        raise BadRequest(f"a job has no field {short(unknown[0])}; it has {', '.join(_FIELDS)}")
    arguments = item.get("arguments", {})
    if not isinstance(arguments, dict):
        raise BadRequest(f'arguments = {short(arguments)} is no object like {{"number": 5}}')
    if "options" in item:
        if OPTIONS in arguments:
            raise BadRequest(f"a job has options and {OPTIONS} among its arguments; give one of them")
        arguments = {**arguments, OPTIONS: item["options"]}
    return launch_with(item.get("job"), arguments, unique=unique)


class Warner:
    """Compares the arguments of jobs with what their scripts declare, each kind of them once."""

    def __init__(self, view: LedgerView) -> None:
        self._view = view
        self._found: dict[tuple[object, ...], list[str]] = {}

    def warnings(self, launch: JobLaunch) -> list[str]:
        """What is odd about the arguments of a job."""
        order = launch.order
        kind = (order.job, bool(order.data), *order.arguments)
        found = self._found.get(kind)
        if found is None:
            found = self._found[kind] = script_catalog.warnings(self._view, order)
        return found


def refusal_of(error: Refused) -> JobReply:
    """The reply for a job that was refused."""
    return JobReply(error.status, 0, str(error))


def respond(replies: Sequence[JobReply]) -> Response:
    """The response: each job has the envelope that it would have alone, and `code`, its HTTP status.

    200 when all were launched, 207 when some were refused; when each was refused with one status, that.
    """
    launched = sum(1 for reply in replies if reply.number)
    status = _LAUNCHED if launched == len(replies) else _SOME_REFUSED
    message = f"{launched} of {len(replies)} jobs launched"
    if not launched and len({reply.status for reply in replies}) == 1:
        status = replies[0].status
        message += f"; {replies[0].message}"
    headers = Unavailable("").headers if status == Unavailable.status else []
    return responses.make_plain(status, [*map(_shown, replies)], message, headers, compact=True)


def _shown(reply: JobReply) -> Mapping[str, object]:
    if not reply.number:
        return {"code": reply.status, "data": None, "msg": reply.message, "status": "ko"}
    data: dict[str, object] = {"job_id": reply.number}
    if reply.warnings:
        data["warnings"] = reply.warnings
    return {"code": reply.status, "data": data, "msg": f"Job added with id {reply.number}", "status": "ok"}


def about(paths: Iterator[str]) -> str:
    """The scripts of a request, for the audit log."""
    found = sorted({*paths})
    return ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
