"""Jobs and schedules as the REST API shows them: rows of JSON.

Times are seconds since the epoch, or texts in UTC where the API always had those.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from master.jobs.model import Attempt, Job, JobProgress, JobState, Schedule, ScheduleState, arguments_bytes

SHOWN_BYTES = 1 << 20  # of a log or an output
ROW_BYTES = 1 << 10  # of arguments, a log or an output in a row of a list
SHOWN_DEPTH = 100  # lists and objects in each other; an output with more is shown as its text

# The value of a key, None when there is none (any more); of one longer than so many bytes its end, which is longer, too.
Read = Callable[[str, int], bytes | None]

_STATUS = {
    JobState.PENDING: "pending",
    JobState.RUNNING: "pending",
    JobState.COMPLETED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "failed",
}
_SCHEDULE_STATES = {
    ScheduleState.ACTIVE: "scheduled",
    ScheduleState.ENDED: "ended",
    ScheduleState.CANCELLED: "canceled",
}


def row(job: Job) -> dict[str, Any]:
    """A job in a list."""
    return {
        "job_id": job.id,
        "job_name": _name(job.path),
        **_parameters(job.arguments),
        "node": job.node,
        "creation_time": job.created // 1000,
        "status": _STATUS[job.state],
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


def detail(job: Job, live: JobProgress | None, read: Read, url: Callable[[str], str]) -> dict[str, Any]:
    """One job, with its log and output; `url` makes the address of a key."""
    progress = live.progress if live else job.progress
    seconds = max(0, job.ended - job.started) / 1000 if job.ended and job.started else 0.0
    return {
        "job": job.id,
        **row(job),
        "parameters": job.arguments,
        "parameters_cut": False,
        "time": seconds,
        **_log(job, live, read, url, SHOWN_BYTES),
        **_output(job, read, url, SHOWN_BYTES),
        "progress": {"done": progress[0], "total": progress[1], "text": progress[2]},
        "options": {name: value for name, value in job.options._asdict().items() if value not in (0, "", ())},
        "data": job.data,
        "run": job.run,
        "claimed": _seconds(job.claimed),
        "retry_at": _seconds(job.due),
        "attempts": [_attempt(attempt) for attempt in job.attempts],
    }


def scheduled(schedule: Schedule) -> dict[str, Any]:
    """A schedule."""
    active = schedule.state is ScheduleState.ACTIVE
    return {
        "job_id": schedule.id,
        "job_name": _name(schedule.path),
        **_parameters(schedule.arguments),
        "interval": schedule.interval,
        "time_unit": str(schedule.time_unit),
        "repeat": int(schedule.repeat),
        "creation_time": _text(schedule.created),
        "next_execution": _text(schedule.next) if active else None,
        "state": _SCHEDULE_STATES[schedule.state],
        "job_path": schedule.path,
        "executions": schedule.executions,
        "skipped": schedule.skipped,
        "skipped_at": _text(schedule.skipped_at) if schedule.skipped_at else None,
        "last_job": schedule.last or None,
    }


def schedule_detail(schedule: Schedule, executions: list[dict[str, Any]]) -> dict[str, Any]:
    """One schedule with its last executions."""
    return {
        "job": schedule.id,
        **scheduled(schedule),
        "parameters": schedule.arguments,
        "parameters_cut": False,
        "creation": _text(schedule.created),
        "last_executions": executions,
    }


def schedule_as_job(schedule: Schedule) -> dict[str, Any]:
    """A schedule where a job was asked for: it is neither completed nor failed while it goes on."""
    status = {ScheduleState.ACTIVE: "pending", ScheduleState.ENDED: "completed", ScheduleState.CANCELLED: "failed"}
    return {
        "job": schedule.id,
        **scheduled(schedule),
        "parameters": schedule.arguments,
        "parameters_cut": False,
        "status": status[schedule.state],
        "log": "",
        "time": 0.0,
        "output": None,
    }


def execution(
    job: Job, schedule: Schedule | None, live: JobProgress | None, read: Read, url: Callable[[str], str]
) -> dict[str, Any]:
    """One execution of a schedule. Its `exec_id` is the id of its job, which `/admin/jobs/{id}` tells more of."""
    states = {JobState.COMPLETED: "ok", JobState.FAILED: "failed", JobState.CANCELLED: "failed"}
    return {
        "exec_id": job.id,
        "job_id": job.schedule,
        "job_name": _name(job.path),
        "job_path": job.path,
        **_parameters(job.arguments),
        "state": states.get(job.state, "pending"),
        "job_state": job.state.name.lower(),
        **_log(job, live, read, url, ROW_BYTES),
        **_output(job, read, url, ROW_BYTES),
        "datetime": _text(job.created),
        "reason": job.reason,
        "node": job.node,
        "interval": schedule.interval if schedule else None,
        "time_unit": str(schedule.time_unit) if schedule else None,
        "creation": _text(schedule.created) if schedule else None,
        "next_execution": _text(schedule.next) if schedule and schedule.state is ScheduleState.ACTIVE else None,
    }


def _parameters(arguments: str) -> dict[str, Any]:
    """Arguments in a row: JSON all the same when they are cut, a text with the beginning of what they are."""
    if arguments_bytes(arguments) <= ROW_BYTES:
        return {"parameters": arguments, "parameters_cut": False}
    beginning = arguments[:ROW_BYTES]
    while (over := arguments_bytes(shown := json.dumps(beginning + "…", ensure_ascii=False)) - ROW_BYTES) > 0:
        beginning = beginning[: -(over // 6 + 1)]  # a character takes up to 6 bytes
    return {"parameters": shown, "parameters_cut": True}


def _log(job: Job, live: JobProgress | None, read: Read, url: Callable[[str], str], most: int) -> dict[str, Any]:
    raw = (live.log if live else read(job.log_key, most) if job.log_key else None) or b""
    return {
        "log": raw[-most:].decode(errors="replace"),
        "log_url": url(job.log_key) if job.log_key and raw else None,
        "log_cut": (live.end if live else len(raw)) > min(len(raw), most),
    }


def _output(job: Job, read: Read, url: Callable[[str], str], most: int) -> dict[str, Any]:
    raw = read(job.output_key, most) if job.output_key else None
    if raw is None:
        return {"output": None, "output_url": None, "output_cut": False}
    address = url(job.output_key)
    if len(raw) > most:
        return {"output": None, "output_url": address, "output_cut": True}
    return {"output": _json(raw), "output_url": address, "output_cut": False}


def _json(raw: bytes) -> Any:
    """An output as JSON; its text where it is none, or none that every reader of the answer could take."""
    try:
        value = json.loads(raw, parse_constant=_no_constant, parse_float=_finite)
        if not _is_deep(value):
            return value
    except (ValueError, RecursionError):  # then its text is all there is to show
        return raw.decode(errors="replace")
    return raw.decode(errors="replace")


def _is_deep(value: Any) -> bool:
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
    return number if math.isfinite(number) else _no_constant(text)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.attempt,
        "node": attempt.node,
        "state": attempt.end.state.name.lower(),
        "reason": attempt.end.reason,
        "started": _seconds(attempt.end.started),
        "ended": _seconds(attempt.end.ended),
        "late": attempt.late,
    }


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _seconds(ms: int) -> float | None:
    return ms / 1000 if ms else None


def _text(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
