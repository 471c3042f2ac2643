"""The state of a job in words. Pure functions of what the ledger knows. Times are seconds since the epoch."""

from __future__ import annotations

from typing import NamedTuple

from master.jobs.model import Job, JobState
from master.web.ui.frame import formats

SLOW_FACTOR = 1.5  # a run that takes longer than usual by so much is said to


class Sentence(NamedTuple):
    """What is said of a job: a tag, words, and the time that the words end with."""

    kind: str  # of the tag: ok, bad, warn, busy or plain
    tag: str
    words: str
    at: float = 0.0  # 0: none
    then: str = ""  # words after the time


def of_job(job: Job, now: float, *, why: str = "", usual: float = 0.0, grace: float = 5.0) -> Sentence:
    """The state of a job. `why`: it waits; `usual`: seconds that its script takes, 0 when nobody knows."""
    if job.state is JobState.PENDING:
        return _pending(job, why)
    if job.state is JobState.RUNNING:
        return _running(job, now, usual, grace)
    took = formats.duration((job.ended - job.started) / 1000) if job.started and job.ended else ""
    where = f" on {job.node}" if job.node else ""
    ended = (job.ended or job.closed) / 1000
    if job.state is JobState.COMPLETED:
        return Sentence("ok", "completed", f"Completed{where} after {took}," if took else f"Completed{where},", ended)
    if job.state is JobState.CANCELLED:
        return Sentence("plain", "cancelled", f"Cancelled{where} after {took}," if took else "Cancelled,", ended)
    again = f" in attempt {job.attempt}" if job.attempt > 1 else ""
    return Sentence("bad", "failed", f"Failed{where}{again} after {took}," if took else f"Failed{where}{again},", ended)


def launched(job: Job) -> str:
    """By whom and by which way it was launched, for the middle of a sentence."""
    by = f"by {job.by}" if job.by else ""
    if job.source == "queue":
        return f"{by} by a message to RabbitMQ".strip()
    if job.source == "schedule":
        return f"by schedule {job.schedule}"
    return by or "over HTTP"


def _pending(job: Job, why: str) -> Sentence:
    before = f"attempt {job.attempt - 1} failed: {job.reason.rstrip('.')}. " if job.attempt > 1 and job.reason else ""
    before = before[:1].upper() + before[1:]
    if job.due:
        return Sentence("warn", "waits for its retry", f"{before}Attempt {job.attempt} begins", job.due / 1000)
    return Sentence("plain", "waits", before + (why or "It waits for a free slot."))


def _running(job: Job, now: float, usual: float, grace: float) -> Sentence:
    begun = (job.started or job.claimed) / 1000
    attempt = f"Attempt {job.attempt} runs" if job.attempt > 1 else "Runs"
    if job.cancelling:
        words = f"Asked to stop on {job.node}. What does not end within {grace:g} s is killed. It began"
        return Sentence("warn", "cancel asked", words, begun)
    then = ""
    if usual > 0:
        over = now - begun - usual
        then = f"; it usually takes {formats.duration(usual)}"
        if over > usual * (SLOW_FACTOR - 1):
            then += f", and is {formats.duration(over)} late"
        elif over < 0:
            then += f", so about {formats.duration(-over)} are left"
    return Sentence("busy", "running", f"{attempt} on {job.node}. It began", begun, then)
