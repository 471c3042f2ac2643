"""The demonstration: Pulzar at work on real files, by plain HTTP."""

from __future__ import annotations

import http.client
import os
import shlex
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote

from ops import http_client
from ops.cluster.errors import DemonstrationFailed
from ops.cluster.processes import ROOT
from ops.http_client import Reply

LARGE_BYTES = 32 << 20
LARGE_KEY = "demo/large.bin"
JOB = "example/factorial"
JOB_ARGUMENTS = b'{"number": 5}'
JOB_OUTPUT = 120

_PATIENCE_SECS = 10.0
_PAUSE_SECS = 0.1
_JOB_SECS = 30.0
_MOST_REDIRECTS = 5

# The first of these text files that is there is stored.
_REAL_FILES = ("README.md", "DESIGN.md", "requirements.txt")


def run(master_url: str, step: Callable[[str], AbstractContextManager[None]], jobs: Path) -> None:
    """Store two files, read them back, delete one, and run a job if the folder `jobs` has its script.

    `step` shows each of these. Raises `DemonstrationFailed`.
    """
    try:
        _run(master_url, step, has_job(jobs))
    except (ValueError, LookupError, TypeError) as error:  # a response that is not as it should be
        raise DemonstrationFailed(f"an answer can't be understood: {type(error).__name__}: {error}") from error


def has_job(jobs: Path) -> bool:
    """Whether a folder of job scripts has the one of the demonstration."""
    return (jobs / f"{JOB}.py").is_file()


def _run(master_url: str, step: Callable[[str], AbstractContextManager[None]], job: bool) -> None:
    name, small = real_file()
    small_key = f"demo/{name}"
    large = os.urandom(LARGE_BYTES)

    with step(f"storing {name}, {len(small):,} bytes"):
        _ask(201, "PUT", f"{master_url}/add_key/{quote(small_key)}?overwrite=1", small)
    with step(f"storing {LARGE_KEY}, {LARGE_BYTES >> 20} MiB, straight on a node"):
        asked = _ask(200, "GET", f"{master_url}/get_node/{LARGE_KEY}?overwrite=1")
        _ask(201, "PUT", asked.data["node"], large)
    with step("reading both back and comparing"):
        for key, value in ((small_key, small), (LARGE_KEY, large)):
            url = f"{master_url}/get_key/{quote(key)}"
            if _ask(200, "GET", url).body != value:
                raise DemonstrationFailed(f"GET {url}: these are not the bytes that were stored")
    with step(f"deleting {LARGE_KEY}"):
        _ask(200, "DELETE", f"{master_url}/delete_key/{LARGE_KEY}")
        _ask(404, "GET", f"{master_url}/get_key/{LARGE_KEY}")
    if job:
        with step(f"running the job {JOB} with {JOB_ARGUMENTS.decode()}"):
            _run_job(master_url)


def _run_job(master_url: str) -> None:
    deadline = time.monotonic() + _JOB_SECS
    launch = f"{master_url}/launch_job/{JOB}"
    # The master learns from the nodes which scripts they have, in their first moments.
    while (launched := _request("POST", launch, JOB_ARGUMENTS)).status == 404 and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECS)
    _expect(200, launched, "POST", launch)
    url = f"{master_url}/admin/jobs/{launched.data['job_id']}"
    while (job := _ask(200, "GET", url).data)["status"] == "pending" and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECS)
    if job["output"] != JOB_OUTPUT:
        raise DemonstrationFailed(f"GET {url}: {job['state']} ({job['reason']}), its output is {job['output']}")


def commands(master_url: str, directory: Path, jobs: Path) -> list[str]:
    """Commands to try, for a shell in `directory`; the folder `jobs` has the job scripts."""
    name, _ = real_file()
    file = shlex.quote(name if directory == ROOT else str(ROOT / name))
    return [
        f"curl -L {master_url}/get_key/{quote(f'demo/{name}')}",
        f"curl -X PUT -L -T {file} {master_url}/add_key/my/first.txt",
        f"curl -L {master_url}/get_key/my/first.txt",
        f"curl -X DELETE {master_url}/delete_key/my/first.txt",
        f"curl -X POST {master_url}/launch_job/{JOB} -d '{JOB_ARGUMENTS.decode()}'"
        if has_job(jobs)
        else f"curl {master_url}/admin/job_catalog",
        f"curl {master_url}/admin/jobs",
        f"curl {master_url}/admin/network",
    ]


def real_file() -> tuple[str, bytes]:
    """The name and the content of a file of the repository."""
    name = next(name for name in _REAL_FILES if (ROOT / name).is_file())
    return name, (ROOT / name).read_bytes()


def _request(method: str, url: str, body: bytes | None = None) -> Reply:
    """Ask as a client should: again after a 503, as in the first moments of a cluster."""
    deadline = time.monotonic() + _PATIENCE_SECS
    while True:
        try:
            reply = http_client.ask(method, url, body, redirects=_MOST_REDIRECTS)
        except (OSError, http.client.HTTPException) as error:
            raise DemonstrationFailed(f"{method} {url}: {error or type(error).__name__}") from error
        if reply.status != 503 or time.monotonic() > deadline:
            return reply
        time.sleep(_PAUSE_SECS)


def _ask(expected: int, method: str, url: str, body: bytes | None = None) -> Reply:
    reply = _request(method, url, body)
    _expect(expected, reply, method, url)
    return reply


def _expect(expected: int, reply: Reply, method: str, url: str) -> None:
    if reply.status != expected:
        raise DemonstrationFailed(f"{method} {url} was answered {reply.status} instead of {expected}: {reply.text}")
