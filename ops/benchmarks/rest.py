"""The requests of the jobs' benchmark, over one connection that stays open."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from ops.benchmarks.errors import RunFailed

PAGE = 1000
LOOK_SECS = 0.02  # between two looks whether all jobs have ended
ONE_SECS = 0.001  # between two looks whether a single job has ended
LONGEST_SECS = 600.0


class Rest(AbstractContextManager["Rest"]):
    """A connection to the master, for one thread. Every method raises `RunFailed`."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def get(self, path: str) -> Any:
        """`data` of the response to a GET."""
        return self._ask("GET", path)

    def launch(self, script: str, arguments: dict[str, Any]) -> int:
        """Launch a job; its id."""
        data = self._ask("POST", f"/launch_job/{script}", json.dumps(arguments).encode())
        number: int = data["job_id"]
        return number

    def wait(self, number: int) -> dict[str, Any]:
        """Wait until a job has ended; the job."""
        until = time.monotonic() + LONGEST_SECS
        while time.monotonic() < until:
            job: dict[str, Any] = self._ask("GET", f"/admin/jobs/{number}")
            if job["status"] != "pending":
                return job
            time.sleep(ONE_SECS)
        raise RunFailed(f"job {number} has not ended after {LONGEST_SECS:g} s")

    def wait_for_all(self) -> None:
        """Wait until no job is pending or running."""
        until = time.monotonic() + LONGEST_SECS
        while self._ask("GET", "/admin/jobs?list=pendings&limit=1")["pendings"]:
            if time.monotonic() >= until:
                raise RunFailed(f"jobs have not ended after {LONGEST_SECS:g} s")
            time.sleep(LOOK_SECS)

    def wait_for_script(self, script: str, nodes: int) -> None:
        """Wait until the catalog has a script on that many nodes."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            for row in self._ask("GET", "/admin/job_catalog"):
                if row["path"] == script and len(row["nodes"]) >= nodes:
                    return
            time.sleep(LOOK_SECS)
        raise RunFailed(f"the catalog does not have {script} of {nodes} nodes after 30 s")

    def newest(self) -> int:
        """The highest id of a job; 0 without jobs."""
        rows = self._ask("GET", "/admin/all_jobs?limit=1")
        return int(rows[0]["job_id"]) if rows else 0

    def since(self, first: int) -> Iterator[dict[str, Any]]:
        """Every job with an id above `first`, newest first."""
        before = ""
        while rows := self._ask("GET", f"/admin/all_jobs?limit={PAGE}{before}"):
            for row in rows:
                if row["job_id"] <= first:
                    return
                yield row
            before = f"&before={rows[-1]['job_id']}"

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            text = response.read()
            if response.status == 200:
                return json.loads(text)["data"]
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            raise RunFailed(f"{method} {path}: {error!r}") from error
        raise RunFailed(f"{method} {path} was answered {response.status}: {text[:300].decode(errors='replace')}")
