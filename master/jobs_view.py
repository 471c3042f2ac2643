"""Jobs and schedules as the REST API shows them: rows of JSON.

Times are seconds since the epoch, or texts in UTC where the API always had those.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from master.job import Attempt, Job, JobState, Live, Schedule, ScheduleState

SHOWN_BYTES = 1 << 20  # of a log or an output
ROW_BYTES = 16 << 10  # the same in a row of a list

# The value of a key, None when there is none (any more); of a long one, at least its last `SHOWN_BYTES`.
Read = Callable[[str], bytes | None]

_STATUS = {
    JobState.PENDING: "pending", JobState.RUNNING: "pending", JobState.COMPLETED: "completed",
    JobState.FAILED: "failed", JobState.CANCELLED: "failed",
}  # fmt: skip
_SCHEDULE_STATES = {
    ScheduleState.ACTIVE: "scheduled", ScheduleState.ENDED: "ended", ScheduleState.CANCELLED: "canceled",
}  # fmt: skip


def row(job: Job) -> dict[str, Any]:
    """A job in a list."""
    return {
        "job_id": job.id,
        "job_name": _name(job.path),
        "parameters": job.arguments,
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


def detail(job: Job, live: Live | None, read: Read, url: Callable[[str], str]) -> dict[str, Any]:
    """One job, with its log and output; `url` makes the address of a key."""
    progress = live.progress if live else job.progress
    seconds = max(0, job.ended - job.started) / 1000 if job.ended and job.started else 0.0
    return {
        "job": job.id,
        **row(job),
        "time": seconds,
        **_log(job, live, read, url, SHOWN_BYTES),
        **_output(job, read, url, SHOWN_BYTES),
        "progress": {"done": progress[0], "total": progress[1], "text": progress[2]},
        "options": {name: value for name, value in job.options._asdict().items() if value not in (0, "")},
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
        "parameters": schedule.arguments,
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
        "creation": _text(schedule.created),
        "last_executions": executions,
    }


def schedule_as_job(schedule: Schedule) -> dict[str, Any]:
    """A schedule where a job was asked for: it is neither completed nor failed while it goes on."""
    status = {ScheduleState.ACTIVE: "pending", ScheduleState.ENDED: "completed", ScheduleState.CANCELLED: "failed"}
    return {
        "job": schedule.id, **scheduled(schedule), "status": status[schedule.state], "log": "", "time": 0.0,
        "output": None,
    }  # fmt: skip


def execution(
    job: Job, schedule: Schedule | None, live: Live | None, read: Read, url: Callable[[str], str]
) -> dict[str, Any]:
    """One execution of a schedule. Its `exec_id` is the id of its job, which `/admin/jobs/{id}` tells more of."""
    states = {JobState.COMPLETED: "ok", JobState.FAILED: "failed", JobState.CANCELLED: "failed"}
    return {
        "exec_id": job.id,
        "job_id": job.schedule,
        "job_name": _name(job.path),
        "job_path": job.path,
        "parameters": job.arguments,
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


def _log(job: Job, live: Live | None, read: Read, url: Callable[[str], str], most: int) -> dict[str, Any]:
    raw = (live.log if live else read(job.log_key) if job.log_key else None) or b""
    return {
        "log": raw[-most:].decode(errors="replace"),
        "log_url": url(job.log_key) if job.log_key and raw else None,
        # Of a long value, what was read is its end already.
        "log_cut": live.end > len(raw) if live else len(raw) > most or len(raw) >= SHOWN_BYTES,
    }


def _output(job: Job, read: Read, url: Callable[[str], str], most: int) -> dict[str, Any]:
    raw = read(job.output_key) if job.output_key else None
    if raw is None:
        return {"output": None, "output_url": None}
    address = url(job.output_key)
    if len(raw) > most or len(raw) >= SHOWN_BYTES:
        return {"output": None, "output_url": address}
    try:
        return {"output": json.loads(raw, parse_constant=_no_constant), "output_url": address}
    except (ValueError, RecursionError):
        return {"output": raw.decode(errors="replace"), "output_url": address}


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.attempt,
        "node": attempt.node,
        "state": attempt.state.name.lower(),
        "reason": attempt.reason,
        "started": _seconds(attempt.started),
        "ended": _seconds(attempt.ended),
        "late": attempt.late,
    }


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _seconds(ms: int) -> float | None:
    return ms / 1000 if ms else None


def _text(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
