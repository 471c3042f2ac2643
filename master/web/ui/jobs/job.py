"""The page of one job: its state in words, log, output, attempts; cancel it, or run it again."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flask import Blueprint, Response, current_app, request

from broker import integers
from broker.http import responses
from broker.messages import jobs
from broker.refusals import BadRequest, NotFound
from master.jobs.history import script_runs, wait_reason
from master.jobs.ledger import LedgerView
from master.jobs.model import Job, JobProgress, JobState
from master.jobs.routing import loads
from master.web.flask_routes.context import from_response
from master.web.flask_routes.job_json import SHOWN_BYTES, output_value
from master.web.flask_routes.visible_jobs import VisibleJobs
from master.web.jobs import own_jobs
from master.web.jobs.launch_request import OPTIONS
from master.web.ui.frame import formats
from master.web.ui.frame.inner import message_of
from master.web.ui.jobs import log_sources, log_windows, outputs, sentences
from master.web.ui.jobs.catalog import KINDS
from master.web.ui.jobs.log_sources import LogSource
from master.web.ui.jobs.log_windows import Tail, Window
from master.web.ui.jobs.sentences import Sentence
from master.web.ui.parts import ask, confirmed, environ, fragment, page, parts, see, visit

NAV = None
blueprint = Blueprint("job", __name__)

_ENDED = 286  # a status that has htmx ask no more
_POLL_SECS = 2
_USUAL = "pulzar ui usual"  # key of what `_usual_secs` keeps in the application's extensions
_USUAL_SECS = 30.0
_MOST_KEPT = 1_000
_OPTIONS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "priority": ("Priority", str),
    "node": ("Bound to", str),
    "timeout": ("Timeout", formats.duration),
    "attempts": ("Attempts at most", str),
    "retry_delay": ("Delay before a retry", formats.duration),
    "memory_mb": ("Memory at most", "{} MiB".format),
    "unique": ("Unique", str),
    "overlap": ("Executions may overlap", lambda _: "yes"),
    "argv": ("Words for sys.argv", shlex.join),
}
_TEXT = ("Content-Type", "text/plain; charset=utf-8")


class _Found(NamedTuple):
    """A job, and what is known of it."""

    job: Job  # as it is in the ledger: never shown
    shown: Job  # without secrets and passwords
    live: JobProgress | None


class _Log(NamedTuple):
    """What the page shows of the log."""

    source: LogSource
    window: Window
    tail: Tail | None  # instead of the window while more comes
    find: str
    note: str
    earlier: int | None  # the byte where the part before this one ends
    later: int | None
    next_hit: int | None
    previous_hit: int | None
    error: bool  # the first error was looked for


@blueprint.get("/ui/jobs/<number>")
def shown(number: str) -> Response:
    """The whole page; a schedule has one of its own."""
    if _is_schedule(number):
        return see(f"schedules/{number}")
    found = _find(number)
    return page(
        "jobs/job.html",
        here="jobs",
        title=f"{found.job.path} {found.job.id}: {found.job.state.name.lower()}",
        log=_log(found),
        wanted=request.args.get("view", ""),
        output=_output(found.job),
        poll=_POLL_SECS,
        may_launch=visit().may("launch", found.job.path),
        **_facts(found),
    )


@blueprint.get("/ui/jobs/<number>/now")
def now(number: str) -> Response:
    """The state and the progress."""
    found = _find(number)
    response = fragment("jobs/now.html", **_facts(found))
    if response.status_code == 200 and found.job.state.final:
        response.status_code = _ENDED
    return response


@blueprint.get("/ui/jobs/<number>/log")
def log(number: str) -> Response:
    """A part of the log for the script of the page: what has come after a byte, or what stands before one."""
    found = _find(number)
    source = _source(found)
    data: dict[str, object] = {"size": source.size, "live": source.live, "attempt": source.attempt}
    if before := _integer("before"):
        window = log_windows.before(source.read, source.size, before)
        data |= {"begin": max(window.begin, source.begin), "text": window.text}
    else:
        after = _integer("after")
        gap = source.live and after < source.begin
        if source.live:
            data |= log_windows.tail(source.read, max(after, source.begin), source.size)._asdict()
        else:
            window = log_windows.last(source.read, source.size)
            data |= {"begin": window.begin, "lines": window.text, "rest": "", "next": window.end}
        data["gap"] = gap
    body = json.dumps(data, ensure_ascii=False).encode("utf-8", "replace")
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store"), responses.NO_FRAMES]
    return from_response(responses.Response(200, headers, body))


@blueprint.get("/ui/jobs/<number>/log/file")
def log_file(number: str) -> Response:
    """The whole log as a file."""
    found = _find(number)
    source = _source(found)
    name = f"job-{found.job.id}-{source.attempt}.log.txt"
    if source.live:
        return _attachment(name, source.read(source.begin, source.size - source.begin))
    return _value(source.key, name)


@blueprint.get("/ui/jobs/<number>/output")
def output(number: str) -> Response:
    """The whole output as a file."""
    found = _find(number)
    return _value(found.job.output_key, f"job-{found.job.id}-output.json.txt")


@blueprint.get("/ui/jobs/<number>/picture")
def picture(number: str) -> Response:
    """The picture that the output is, or names."""
    value = _value_of(_find(number).job)
    found = outputs.picture_of(value)
    if found is None and (key := _picture_key(value)):
        kind, _ = _type_of(key)
        content = parts().context.job_files.read(key, SHOWN_BYTES)
        found = None if content is None or len(content) > SHOWN_BYTES else outputs.Picture(kind, content)
    if found is None:
        raise NotFound("the output is no picture of up to 1 MiB, or its node can't be asked at the moment")
    policy = ("Content-Security-Policy", "sandbox; default-src 'none'")
    headers = [("Content-Type", found.kind), policy, responses.NO_SNIFFING, ("Cache-Control", "private, max-age=60")]
    return from_response(responses.Response(200, headers, found.content))


@blueprint.post("/ui/jobs/<number>/cancel")
def cancel(number: str) -> Response:
    """Cancel the job, after a question."""
    found = _find(number)
    if not confirmed():
        text = (
            "A run that has begun gets SIGTERM, and is killed when it does not end soon. What it has done stays done."
        )
        return ask(f"Cancel job {found.job.id}?", text, "Cancel the job", back=f"jobs/{found.job.id}")
    done = parts().inner.call(environ(), "POST", f"/cancel_job/{found.job.id}")
    return see(f"jobs/{found.job.id}", message_of(done))


@blueprint.post("/ui/jobs/<number>/again")
def again(number: str) -> Response:
    """Launch the same job once more."""
    job = _find(number).job
    options = {
        name: value
        for name, value in job.options._asdict().items()
        if value not in (0, "", ()) and name not in ("unique", "overlap")
    }
    body = json.loads(job.arguments)
    body |= {OPTIONS: options} if options else {}
    body |= {jobs.DATA: job.data} if job.data else {}
    done = parts().inner.call(environ(), "POST", f"/launch_job/{job.path}", None, body)
    return see(f"jobs/{int(json.loads(done.body)['data']['job_id'])}", f"{message_of(done)}, as job {job.id}")


def _find(text: str) -> _Found:
    """Raises `NotFound`, or `Forbidden` for somebody else's."""
    try:
        number = integers.parse(text, 1)
    except ValueError:
        raise NotFound(f"{text[:40]!r} is no id of a job; it is an integer from 1 on") from None
    with parts().context.ledger.read() as view:
        own_jobs.require(view, number, environ())
        job = view.job(number)
        if job is None:
            what = "is a schedule, no job" if view.schedule(number) else "is not known; it was forgotten, or never was"
            raise NotFound(f"job {number} {what}")
        return _Found(job, VisibleJobs(view, parts().context.secrets)(job), view.progress(number))


def _is_schedule(text: str) -> bool:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        return False
    with parts().context.ledger.read() as view:
        return view.schedule(int(text)) is not None


def _sentence(job: Job, now: float) -> Sentence:
    """The state in words, with why it waits, or how long its script usually takes."""
    settings, why, usual = parts().context.settings, "", 0.0
    with parts().context.ledger.read() as view:
        if job.state is JobState.PENDING and (
            reason := wait_reason.of_job(view, job, loads(parts().context.network.describe()), settings.jobs.data_wait)
        ):
            why = f"{reason.text[:1].upper()}{reason.text[1:]}."
        elif job.state is JobState.RUNNING:
            usual = _usual_secs(view, job.path)
    return sentences.of_job(job, now, why=why, usual=usual, grace=settings.jobs.grace)


def _usual_secs(view: LedgerView, path: str) -> float:
    """How long a script usually takes, 0 when nobody knows. It is kept for a while: open pages ask every 2 s.

    Looking it up takes long where a script has never been completed among a million jobs of others.
    """
    known: dict[str, tuple[float, float]] = current_app.extensions.setdefault(_USUAL, {})
    now = time.monotonic()
    until, secs = known.get(path, (0.0, 0.0))
    if now >= until:
        if len(known) >= _MOST_KEPT:
            known.clear()
        typical = script_runs.typical(view, path)
        secs = typical.secs if typical else 0.0
        known[path] = now + _USUAL_SECS, secs
    return secs


def _facts(found: _Found) -> dict[str, object]:
    """What the templates say of a job, without its secrets."""
    job = found.shown
    arguments = json.loads(job.arguments)
    moment = time.time()
    done, total, text = found.live.progress if found.live else job.progress
    return {
        "job": job,
        "final": job.state.final,
        "arguments": json.dumps(arguments, ensure_ascii=False, indent=2) if arguments else "",
        "sentence": _sentence(job, moment),
        "launched": sentences.launched(job),
        "progress": {"done": done, "total": total, "text": text, "percent": _percent(done, total)},
        "state": job.state.name.lower(),
        "kinds": {state.name: kind for state, kind in KINDS.items()},
        "options": _options(job),
        "stamp": f"{job.state.name}-{job.attempt}-{int(job.cancelling)}",
        "moment": moment,
    }


def _options(job: Job) -> list[tuple[str, str]]:
    """The options that a job was launched with, in words."""
    given = {name: value for name, value in job.options._asdict().items() if value not in (0, "", (), "normal")}
    return [(label, said(given[name])) for name, (label, said) in _OPTIONS.items() if name in given]


def _percent(done: float, total: float) -> float | None:
    return min(100.0, max(0.0, 100 * done / total)) if total > 0 else None


def _source(found: _Found) -> LogSource:
    attempt = _integer("attempt")
    if attempt > found.job.attempt:
        raise NotFound(f"job {found.job.id} has no attempt {attempt}; the last one is {found.job.attempt}")
    return log_sources.of_job(found.job, found.live, parts().context.job_files, attempt)


def _log(found: _Found) -> _Log:
    """The part of the log that the address asks for."""
    source = _source(found)
    read, size = source.read, source.size
    find, error = request.args.get("find", "").strip()[: log_windows.MOST_WANTED], bool(request.args.get("error"))
    tail, note = None, ""
    next_hit = previous_hit = None
    if find or error:
        hit = _hit(source, find)
        if hit.at >= 0:
            window = log_windows.around(read, size, hit)
            next_hit = hit.at + hit.length
            previous_hit = hit.at if hit.at > source.begin else None
        else:
            window = log_windows.last(read, size)
            what = f"{find!r} is not there" if find else "No line looks like an error"
            note = (
                what
                if hit.upto in (0, size) or request.args.get("back")
                else f"{what} in the first {formats.size(hit.upto)}"
            )
            next_hit = hit.upto if hit.upto < size and not request.args.get("back") else None
    elif "begin" in request.args:
        begin = _integer("begin")
        window = log_windows.between(read, size, begin, begin + log_windows.WINDOW_BYTES)
    elif end := _integer("end"):
        window = log_windows.before(read, size, end)
    else:
        window = log_windows.last(read, size)
        if source.live:
            tail = log_windows.tail(read, max(window.begin, source.begin), size)
    if size and not window.text and not source.live:
        note = "The log can't be read from its node at the moment. Load the page again later."
    begin = max(window.begin, source.begin)
    return _Log(
        source,
        window,
        tail,
        find,
        note,
        begin if begin > source.begin else None,
        window.end if window.end < size and window.text else None,
        next_hit,
        previous_hit,
        error,
    )


def _hit(source: LogSource, find: str) -> log_windows.Found:
    after = max(_integer("after"), source.begin)
    if not find:
        return log_windows.first_error(source.read, source.size, after)
    if request.args.get("back"):
        return log_windows.search_back(source.read, source.size, find, _integer("after"))
    return log_windows.search(source.read, source.size, find, after)


def _output(job: Job) -> dict[str, object] | None:
    """What the page shows of the output; None when there is none."""
    if not job.output_key:
        return None
    files = parts().context.job_files
    size = files.size(job.output_key)
    if size is None:
        return None
    if size > SHOWN_BYTES:
        return {"size": size, "shown": None, "lost": False}
    raw = files.read(job.output_key, SHOWN_BYTES)
    if raw is None:
        return {"size": size, "shown": None, "lost": True}
    value = output_value(raw)
    made = outputs.of_output(value, request.args.get("view", ""), key_of_picture=_picture_key(value))
    return {"size": size, "shown": made, "lost": False}


def _value_of(job: Job) -> object:
    raw = parts().context.job_files.read(job.output_key, SHOWN_BYTES) if job.output_key else None
    return None if raw is None or len(raw) > SHOWN_BYTES else output_value(raw)


def _picture_key(value: object) -> str:
    """The key of a stored picture that an output names, if the visitor may read it."""
    key = outputs.key_named(value)
    if not key or not key.isascii() or not key.isprintable() or not visit().may("read", key):
        return ""
    kind, size = _type_of(key)
    return key if kind in outputs.PICTURES and size <= SHOWN_BYTES else ""


def _type_of(key: str) -> tuple[str, int]:
    """Content type and size of a value; "" when there is none."""
    found = parts().context.job_files.describe(key)
    return ("", 0) if found is None else found


def _value(key: str, name: str) -> Response:
    """A value as a file: from here when it is short, else from its node, by a signed address."""
    files = parts().context.job_files
    size = files.size(key) if key else None
    if size is None:
        raise NotFound("there is no such file; the run wrote none, or its lifetime is over")
    if size > SHOWN_BYTES and (place := files.place(key)):
        return from_response(responses.Response(303, [("Location", place), ("Content-Length", "0")]))
    content = files.piece(key, 0, SHOWN_BYTES) if size else b""
    if content is None:
        raise NotFound("the file can't be read from its node at the moment; try again")
    return _attachment(name, content)


def _attachment(name: str, content: bytes) -> Response:
    disposition = ("Content-Disposition", f'attachment; filename="{name}"')
    headers = [_TEXT, disposition, responses.NO_SNIFFING, responses.NO_FRAMES, ("Cache-Control", "no-store")]
    return from_response(responses.Response(200, headers, content))


def _integer(name: str) -> int:
    text = request.args.get(name, "")
    if not text:
        return 0
    try:
        return integers.parse(text)
    except ValueError as error:
        raise BadRequest(f"{name}: {error}") from None
