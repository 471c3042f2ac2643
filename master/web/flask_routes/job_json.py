"""Jobs and schedules as JSON objects of the REST API.

Times are seconds since the epoch, or texts in UTC where the API always had those.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from broker.messages.jobs import no_constant
from master.jobs.history import timing
from master.jobs.history.wait_reason import WaitReason
from master.jobs.model import Attempt, Job, JobProgress, JobState, Schedule, ScheduleState, arguments_bytes

SHOWN_BYTES = 1 << 20  # of a log or an output
ROW_BYTES = 1 << 10  # of arguments, a log or an output in a row of a list
SHOWN_DEPTH = 100  # lists and objects in each other; an output with more is shown as its text

# Reads the value of a key; None when there is none. If it is longer than so many bytes: its end with at least one more.
Read = Callable[[str, int], bytes | None]
Row = dict[str, object]  # a JSON object


class Files(NamedTuple):
    """Where logs and outputs of jobs come from."""

    read: Read
    url: Callable[[str], str]  # address of a key


_STATUS = {JobState.COMPLETED: "completed", JobState.FAILED: "failed", JobState.CANCELLED: "failed"}  # else pending
_SCHEDULE_STATES = {
    ScheduleState.ACTIVE: "scheduled",
    ScheduleState.ENDED: "ended",
    ScheduleState.CANCELLED: "canceled",
    ScheduleState.PAUSED: "paused",
}


def row(job: Job) -> Row:
    """A job in a list."""
    return {
        "job_id": job.id,
        "job_name": _name(job.path),
        **_parameters(job.arguments),
        "node": job.node,
        "creation_time": job.created // 1000,
        "status": _STATUS.get(job.state, "pending"),
        "state": job.state.name.lower(),
        "job_path": job.path,
        "source": job.source,
        "attempt": job.attempt,
        "cancelling": job.cancelling,
        "reason": job.reason,
        "schedule": job.schedule or None,
        "started": _seconds(job.started),
        "ended": _seconds(job.ended),
    }


def detail(job: Job, live: JobProgress | None, files: Files) -> Row:
    """One job with its log and output."""
    progress = live.progress if live else job.progress
    seconds = max(0, job.ended - job.started) / 1000 if job.ended and job.started else 0.0
    return {
        "job": job.id,
        **row(job),
        "parameters": job.arguments,
        "parameters_cut": False,
        "time": seconds,
        **_log(job, live, files, SHOWN_BYTES),
        **_output(job, files, SHOWN_BYTES),
        "progress": {"done": progress[0], "total": progress[1], "text": progress[2]},
        "options": {name: value for name, value in job.options._asdict().items() if value not in (0, "", ())},
        "data": job.data,
        "run": job.run,
        "claimed": _seconds(job.claimed),
        "retry_at": _seconds(job.due),
        "attempts": [_attempt(attempt) for attempt in job.attempts],
    }


def waits(reason: WaitReason | None) -> Row | None:
    """Why a job waits."""
    if reason is None:
        return None
    return {**reason._asdict(), "until": _seconds(reason.until)}


def scheduled(schedule: Schedule) -> Row:
    """A schedule."""
    return {
        "job_id": schedule.id,
        "job_name": _name(schedule.path),
        **_parameters(schedule.arguments),
        "interval": schedule.interval,
        "time_unit": _time_unit(schedule),
        "repeat": int(schedule.repeat),
        "cron": schedule.cron or None,
        "zone": schedule.zone or None,
        "timing": timing.words(schedule.rhythm, schedule.created),
        "creation_time": _text(schedule.created),
        "next_execution": _text(schedule.next) if schedule.active else None,
        "state": _SCHEDULE_STATES[schedule.state],
        "job_path": schedule.path,
        "executions": schedule.executions,
        "skipped": schedule.skipped,
        "skipped_at": _text(schedule.skipped_at) if schedule.skipped_at else None,
        "missed": schedule.missed,
        "last_job": schedule.last or None,
    }


def schedule_detail(schedule: Schedule, executions: list[Row]) -> Row:
    """One schedule with its last executions."""
    gaps = [{"due": gap.due / 1000, "number": gap.number, "cause": gap.cause} for gap in schedule.gaps]
    return _whole(schedule) | {"creation": _text(schedule.created), "gaps": gaps, "last_executions": executions}


def schedule_as_job(schedule: Schedule) -> Row:
    """A schedule in place of a job: it is neither completed nor failed while it is active."""
    status = {ScheduleState.ENDED: "completed", ScheduleState.CANCELLED: "failed"}
    return _whole(schedule) | {"status": status.get(schedule.state, "pending"), "log": "", "time": 0.0, "output": None}


def _whole(schedule: Schedule) -> Row:
    whole = {"parameters": schedule.arguments, "parameters_cut": False}
    return {"job": schedule.id} | scheduled(schedule) | whole


class Execution(NamedTuple):
    """A job that a schedule launched."""

    job: Job
    schedule: Schedule | None  # None when it has been forgotten
    live: JobProgress | None  # while the job runs


def execution(found: Execution, files: Files) -> Row:
    """One execution of a schedule. Its `exec_id` is the id of its job; `/admin/jobs/{id}` shows more."""
    job, schedule, live = found
    states = {JobState.COMPLETED: "ok", JobState.FAILED: "failed", JobState.CANCELLED: "failed"}
    return {
        "exec_id": job.id,
        "job_id": job.schedule,
        "job_name": _name(job.path),
        "job_path": job.path,
        **_parameters(job.arguments),
        "state": states.get(job.state, "pending"),
        "job_state": job.state.name.lower(),
        **_log(job, live, files, ROW_BYTES),
        **_output(job, files, ROW_BYTES),
        "datetime": _text(job.created),
        "reason": job.reason,
        "node": job.node,
        "interval": schedule.interval if schedule else None,
        "time_unit": _time_unit(schedule) if schedule else None,
        "creation": _text(schedule.created) if schedule else None,
        "next_execution": _text(schedule.next) if schedule and schedule.active else None,
    }


def _parameters(arguments: str) -> Row:
    """Arguments in a row. If they are cut, their beginning as a JSON text."""
    if arguments_bytes(arguments) <= ROW_BYTES:
        return {"parameters": arguments, "parameters_cut": False}
    beginning = arguments[:ROW_BYTES]
    while (over := arguments_bytes(shown := json.dumps(beginning + "…", ensure_ascii=False)) - ROW_BYTES) > 0:
        beginning = beginning[: -(over // 6 + 1)]  # a character takes up to 6 bytes
    return {"parameters": shown, "parameters_cut": True}


def _log(job: Job, live: JobProgress | None, files: Files, most: int) -> Row:
    """The end of a log, up to `most` bytes."""
    raw = (live.log if live else files.read(job.log_key, most) if job.log_key else None) or b""
    return {
        "log": raw[-most:].decode(errors="replace"),
        "log_url": files.url(job.log_key) if job.log_key and raw else None,
        "log_cut": (live.end if live else len(raw)) > min(len(raw), most),
        "log_end": live.end if live else None,  # bytes so far, while it runs
    }


def _output(job: Job, files: Files, most: int) -> Row:
    """An output, if it has up to `most` bytes."""
    raw = files.read(job.output_key, most) if job.output_key else None
    if raw is None:
        return {"output": None, "output_url": None, "output_cut": False}
    address = files.url(job.output_key)
    if len(raw) > most:
        return {"output": None, "output_url": address, "output_cut": True}
    return {"output": output_value(raw), "output_url": address, "output_cut": False}


def output_value(raw: bytes) -> object:
    """An output as JSON; as text if it is no JSON, or none that every reader of the response can take."""
    try:
        value: object = json.loads(raw, parse_constant=no_constant, parse_float=_finite)
    except (ValueError, RecursionError):  # its text is all there is to show
        return raw.decode(errors="replace")
    return raw.decode(errors="replace") if _is_deep(value) else value


def _is_deep(value: object) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(SHOWN_DEPTH):
        level = [
            item
            for one in level
            for item in (one.values() if isinstance(one, dict) else one)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else no_constant(text)


def _attempt(attempt: Attempt) -> Row:
    state, reason, started, ended = attempt.end
    shown = {"attempt": attempt.attempt, "node": attempt.node, "state": state.name.lower(), "reason": reason}
    return shown | {"started": _seconds(started), "ended": _seconds(ended), "late": attempt.late}


def _time_unit(schedule: Schedule) -> str:
    return str(schedule.time_unit or "")


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _seconds(ms: int) -> float | None:
    return ms / 1000 if ms else None


def _text(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
