"""`run`, `logs`, `jobs`, `cancel`, `schedule`: jobs, from the launch to the end."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pulzar.command import job_arguments
from pulzar.command.screen import plain, time_text
from pulzar.command.task import FAILED, OK, Task, key_of
from pulzar.errors import BadRequest, NotFound
from pulzar.models import Job

_EXIT_STATUS = re.compile(r"exit status (\d+)")
_EVERY = re.compile(r"([1-9][0-9]{0,8})([mhdw])")
_INTERVALS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def run(task: Task) -> int:
    """Launch a job, show its log and output; the exit status of its script."""
    launched = _launch(task, None)
    if task.options.detach:
        task.screen.line(f"job {launched}", {"job_id": launched})
        return OK
    try:
        return state_of_job(task, launched, follow=True)
    except KeyboardInterrupt:
        task.screen.say(f"pulzar: job {launched} goes on; pulzar cancel {launched} ends it")
        raise


def _launch(task: Task, scheduled: Mapping[str, Any] | None) -> int:
    options = task.options
    script = options.script.removesuffix(".py").strip("/")
    arguments = job_arguments.read(options.arguments, _declared(task, script))
    names = ("timeout", "attempts", "retry_delay", "priority", "memory_mb", "node", "unique")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    data = key_of(options.data) if options.data else ""
    launched = task.client.launch(script, arguments, data=data, options=chosen, scheduled=scheduled)
    for warning in launched.warnings:
        task.screen.say(f"pulzar: {warning}")
    return launched.job_id


def _declared(task: Task, script: str) -> list[dict[str, Any]]:
    """The arguments that a script declares. Raises `NotFound` for a script that no node has."""
    if not any("=" in text and ":=" not in text for text in task.options.arguments):
        return []
    for row in task.client.catalog():
        if row["path"] == script:
            return row.get("arguments") or []
    raise NotFound(f"no node has the script {script}; pulzar jobs --scripts lists those there are")


def state_of_job(task: Task, job_id: int, follow: bool) -> int:
    """Show the log of a job as it comes, and then its output; the exit status of its script."""
    for piece in task.client.log(job_id, follow=follow):
        task.screen.log(piece)
    job = task.client.job(job_id)
    if job.state == "completed":
        if job.raw.get("output_cut"):
            key = str(job.raw["output_url"]).partition("/get_key/")[2]
            task.screen.say(f"pulzar: the output is long: pulzar cat {key}")
        elif job.output is not None or task.screen.json:
            task.screen.line(_text(job.output), _row(job) | {"output": job.output})
        return OK
    if not job.ended:
        return OK
    task.screen.say(f"pulzar: job {job_id} {job.state}" + (f": {job.reason}" if job.reason else ""))
    if task.screen.json:
        task.screen.line("", _row(job) | {"output": job.output})
    found = _EXIT_STATUS.fullmatch(job.reason)
    return min(int(found[1]), 255) if found else FAILED


def _text(output: Any) -> str:
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)


def _row(job: Job) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "script": job.script,
        "state": job.state,
        "reason": job.reason,
        "node": job.node,
        "created": job.created,
        "seconds": round(job.seconds, 3),
    }


def logs(task: Task) -> int:
    """Show the log of a job on standard output."""
    for piece in task.client.log(task.options.job_id, follow=task.options.follow):
        task.screen.raw(piece)
    if not task.options.follow:
        return OK
    job = task.client.job(task.options.job_id)
    if job.state != "completed":
        task.screen.say(f"pulzar: job {job.job_id} {job.state}" + (f": {job.reason}" if job.reason else ""))
    return OK if job.state == "completed" else FAILED


def jobs(task: Task) -> int:
    """List jobs, or the scripts that may be launched, or show one job."""
    options = task.options
    if options.scripts:
        rows = task.client.catalog()
        lines = [("SCRIPT", "DESCRIPTION"), *((row["path"], _first_line(row.get("description"))) for row in rows)]
        task.screen.table(lines, rows)
        return OK
    if options.job_id is not None:
        job = task.client.job(options.job_id)
        shown = {name: value for name, value in _row(job).items() if value not in ("", None)}
        shown |= {"created": time_text(job.created), "output": plain(job.output)}
        task.screen.line("\n".join(f"{name + ':':9} {value}" for name, value in shown.items()), job.raw)
        return OK
    filters = {"state": options.state, "script": options.script, "node": options.node, "text": options.text}
    found = list(task.client.jobs(**{name: value or "" for name, value in filters.items()}, limit=options.limit))
    lines_ = [("ID", "STATE", "SCRIPT", "NODE", "CREATED", "SECONDS", "REASON")]
    for job in found:
        seconds = f"{job.seconds:.1f}" if job.seconds else ""
        lines_.append(
            (str(job.job_id), job.state, job.script, job.node, time_text(job.created), seconds, _first_line(job.reason))
        )
    task.screen.table(lines_, [_row(job) for job in found])
    return OK


def _first_line(text: object) -> str:
    return (str(text or "").splitlines() or [""])[0][:80]


def cancel(task: Task) -> int:
    """Cancel jobs and schedules."""
    for job_id in task.options.job_ids:
        said = task.client.cancel(job_id)
        task.screen.line(said, {"job_id": job_id})
    return OK


def schedule(task: Task) -> int:
    """Launch a script on a schedule; list schedules; pause, resume or run one."""
    options = task.options
    if options.action == "list":
        rows = task.client.schedules(options.limit)
        lines = [("ID", "STATE", "SCRIPT", "TIMING", "NEXT")]
        for row in rows:
            following = str(row.get("next_execution") or "").partition(".")[0]
            lines.append((str(row["job_id"]), row["state"], row["job_path"], str(row.get("timing", "")), following))
        task.screen.table(lines, rows)
    elif options.action == "add":
        number = _launch(task, _timing(task))
        task.screen.line(f"schedule {number}", {"job_id": number})
    else:
        data = task.client.schedule_action(options.schedule_id, options.action)
        number = data["job_id"]
        said = f"job {number}" if options.action == "run" else f"schedule {number}: {options.action}"
        task.screen.line(said, data)
    return OK


def _timing(task: Task) -> dict[str, Any]:
    options = task.options
    repeat = 0 if options.once else 1
    if options.cron:
        return {"cron": options.cron, "repeat": repeat} | ({"zone": options.zone} if options.zone else {})
    found = _EVERY.fullmatch(options.every or "")
    if not found:
        raise BadRequest("give a timing: --every 5m, 2h, 1d or 1w, or --cron '0 9 * * 1'")
    return {"interval": _INTERVALS[found[2]], "time_unit": int(found[1]), "repeat": repeat}
