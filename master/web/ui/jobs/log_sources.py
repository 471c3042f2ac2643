"""The log of one attempt at a job: its last bytes while it runs, all that is kept afterwards."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from master.jobs.model import Job, JobProgress
from master.web.jobs.files import JobFiles
from master.web.ui.jobs.log_windows import Read


class LogSource(NamedTuple):
    """A log that can be read in pieces."""

    attempt: int
    begin: int  # the first byte that is known
    size: int  # bytes that were written, as far as is known
    read: Read
    live: bool = False  # more may come
    key: str = ""  # where it is kept, "" for one that is not yet


def _nothing(_begin: int, _most: int) -> bytes:
    return b""


def of_job(job: Job, live: JobProgress | None, files: JobFiles, attempt: int = 0) -> LogSource:
    """The log of an attempt; 0: the current one, or the last that has a log."""
    attempt = attempt or job.attempt
    if attempt == job.attempt and not job.state.final and live is not None:
        begin, text = live.end - len(live.log), live.log

        def tail(at: int, most: int) -> bytes:
            return text[max(0, at - begin) : max(0, at - begin + most)]

        return LogSource(attempt, begin, live.end, tail, True)
    if attempt == job.attempt and not job.state.final:
        return LogSource(attempt, 0, 0, _nothing, True)
    key = job.log_key if attempt == job.attempt else f"jobs/{job.id}/{attempt}/log.txt"
    size = files.size(key) if key else None
    if size is None:
        return LogSource(attempt, 0, 0, _nothing, key=key)
    return LogSource(attempt, 0, size, _cached(files, key), key=key)


def _cached(files: JobFiles, key: str) -> Read:
    """Reads pieces; the last ones are kept for this request, since a search is followed by a look around."""

    @lru_cache(maxsize=2)
    def read(begin: int, most: int) -> bytes:
        return files.piece(key, begin, most) or b""

    return read
