"""The jobs of a cluster: launch, follow, cancel, schedule."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from pulzar.errors import BadRequest, Forbidden, NotFound
from pulzar.models import Job, Launched
from pulzar.wire import addresses
from pulzar.wire.exchange import Ask, Exchange, Repeat, pieces_of

POLL_SECS = (0.1, 0.1, 0.2, 0.3, 0.5)  # between two looks at a job; the last one again and again
_PAGE = 100


class Jobs:
    """What a client can do with jobs and schedules."""

    _exchange: Exchange

    def launch(
        self,
        script: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        data: str = "",
        options: Mapping[str, Any] | None = None,
        scheduled: Mapping[str, Any] | None = None,
    ) -> Launched:
        """Launch the script `folder/name` with arguments that can be JSON, once, also when a connection is lost.

        `data`: the key for `pulzar_data`. `options`: those of `pulzar_options`. `scheduled`: a timing, as
        `{"interval": "minutes", "time_unit": 5, "repeat": 1}` or `{"cron": "0 9 * * 1", "repeat": 1}`.
        Raises `NotFound` for an unknown script, `BadRequest` and others.
        """
        # A second launch with the same token gives the id of the first one.
        chosen = {"unique": uuid.uuid4().hex} | dict(options or {})
        body = dict(arguments or {}) | {"pulzar_options": chosen}
        if data:
            body["pulzar_data"] = data
        if scheduled:
            body["scheduled"] = dict(scheduled)
        try:
            content = json.dumps(body, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise BadRequest(f"the arguments can't be JSON: {error}") from error
        target = addresses.target("launch_job", script)
        data_of = self._exchange.data(Ask("POST", target, {"Content-Type": "application/json"}, pieces_of(content)))
        return Launched(int(data_of["job_id"]), tuple(data_of.get("warnings", ())))

    def job(self, job_id: int) -> Job:
        """A job with its output and the end of its log; raises `NotFound`."""
        return Job.of(self._raw(job_id))

    def _raw(self, job_id: int) -> dict[str, Any]:
        found: dict[str, Any] = self._exchange.data(Ask("GET", addresses.target(f"admin/jobs/{job_id}")))
        if "state" not in found or "source" not in found:
            raise NotFound(f"{job_id} is a schedule, no job", 404)
        return found

    def wait(self, job_id: int, timeout: float | None = None) -> Job:
        """Wait until a job has ended, well or not; raises `TimeoutError` after `timeout` seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        for pause in itertools.chain(POLL_SECS, itertools.repeat(POLL_SECS[-1])):
            job = self.job(job_id)
            if job.ended:
                return job
            if until is not None and time.monotonic() + pause > until:
                raise TimeoutError(f"job {job_id} is {job.state} after {timeout:g} s")
            time.sleep(pause)
        raise AssertionError("the pauses never end")

    def log(self, job_id: int, *, follow: bool = False) -> Iterator[bytes]:
        """The log of a job in pieces; with `follow`, until the job has ended.

        While a job runs, the master knows the last 16 KiB of its log. What was written faster than it was asked for is
        left out there, and a line says so.
        """
        shown = 0  # bytes of the log
        for pause in itertools.chain(POLL_SECS, itertools.repeat(POLL_SECS[-1])):
            row = self._raw(job_id)
            if Job.of(row).ended:
                yield from self._rest(row, shown)
                return
            piece, shown = _news(row, shown)
            if piece:
                yield piece
            if not follow:
                return
            time.sleep(pause)

    def _rest(self, row: Mapping[str, Any], shown: int) -> Iterator[bytes]:
        """The log of a job that has ended, from a byte on."""
        tail = str(row["log"]).encode()
        if row.get("log_cut") and (url := row.get("log_url")):
            headers = {"Range": f"bytes={shown}-"} if shown else {}
            ask = Ask("GET", addresses.target("get_key", url.partition("/get_key/")[2]), headers, accepted=(416,))
            try:
                with self._exchange.open(ask) as response:
                    while response.status < 300 and (piece := response.read(1 << 18)):
                        yield piece
                return
            except Forbidden:  # the token may not read keys, but its own jobs: the end of the log has to do
                yield b"(the beginning of the log needs the right to read its key)\n"
                yield tail
                return
        yield tail[shown:]

    def jobs(
        self, *, state: str = "", script: str = "", node: str = "", text: str = "", limit: int = _PAGE
    ) -> Iterator[Job]:
        """Jobs, the newest first, by any of these filters; up to `limit` of them, 0: all."""
        given = {"state": state, "script": script, "node": node, "text": text}
        query = {name: value or None for name, value in given.items()}
        cursor: str | None = None
        left = limit or (1 << 62)
        while left:
            page = self._exchange.data(
                Ask("GET", addresses.target("admin/job_history", **query, cursor=cursor, limit=min(left, _PAGE)))
            )
            rows = page["jobs"]
            yield from map(Job.of, rows)
            left -= len(rows)
            cursor = page.get("cursor")
            if cursor is None:
                return

    def cancel(self, job_id: int) -> str:
        """Cancel a job or a schedule; what the master says. Raises `NotFound`, and `Conflict` when it has ended."""
        ask = Ask("POST", f"/cancel_job/{job_id}", body=pieces_of(b""), repeat=Repeat.ASK)
        self._exchange.data(ask)
        return f"{job_id} is cancelled"

    def catalog(self) -> list[dict[str, Any]]:
        """The scripts that may be launched: `path`, `description`, `arguments` and more."""
        found: list[dict[str, Any]] = self._exchange.data(Ask("GET", "/admin/job_catalog"))
        return found

    def schedules(self, limit: int = _PAGE) -> list[dict[str, Any]]:
        """Schedules, the newest first, as the master describes them: `job_id`, `job_path`, `timing`, `state` …"""
        found: list[dict[str, Any]] = self._exchange.data(Ask("GET", f"/admin/scheduled_jobs?limit={limit}"))
        return found

    def schedule_action(self, schedule_id: int, action: str) -> Any:
        """`pause`, `resume` or `run` a schedule; what the master says. Raises `NotFound` and `Conflict`."""
        # A run has a token of its own, so that it is launched once.
        query = {"unique": uuid.uuid4().hex} if action == "run" else {}
        target = addresses.target(f"scheduled_jobs/{schedule_id}/{action}", **query)
        return self._exchange.data(Ask("POST", target, body=pieces_of(b"")))


def _news(row: Mapping[str, Any], shown: int) -> tuple[bytes, int]:
    """What is new in the log of a job that has not ended, and the bytes that are shown by then."""
    window = str(row["log"]).encode()
    end = row.get("log_end") or len(window)
    begin = end - len(window)
    if begin > shown:
        return b"(%d bytes are left out here)\n" % (begin - shown) + window, end
    return window[max(0, shown - begin) :], max(shown, end)
