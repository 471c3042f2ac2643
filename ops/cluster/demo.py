"""The demonstration: what Pulzar is for, on real input, by plain HTTP."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shlex
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from ops.cluster.errors import DemonstrationFailed
from ops.cluster.processes import ROOT

LARGE_BYTES = 32 << 20
LARGE_KEY = "demo/large.bin"
JOB = "example/factorial"
JOB_ARGUMENTS = b'{"number": 5}'
JOB_OUTPUT = 120

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECS = 60
_PATIENCE_SECS = 10.0
_PAUSE_SECS = 0.1
_JOB_SECS = 30.0
_MOST_REDIRECTS = 5

# Whichever is there first; all are text.
_REAL_FILES = ("README.md", "DESIGN.md", "requirements.txt")


class _Answer(NamedTuple):
    url: str
    status: int
    head: bytes  # the beginning of the body
    digest: str  # SHA-256 of the whole body


def run(master_url: str, step: Callable[[str], AbstractContextManager[None]], jobs: Path) -> None:
    """Store two files, read them back, delete one, run a job when it is in the folder `jobs`.

    Raises `DemonstrationFailed` where it goes wrong.
    """
    try:
        _run(master_url, step, has_job(jobs))
    except (ValueError, LookupError, TypeError) as error:  # of an answer that is not as it should be
        raise DemonstrationFailed(f"an answer can't be understood: {type(error).__name__}: {error}") from error


def has_job(jobs: Path) -> bool:
    """Whether a folder of job scripts has the one that is shown; a folder of one's own need not."""
    return (jobs / f"{JOB}.py").is_file()


def _run(master_url: str, step: Callable[[str], AbstractContextManager[None]], job: bool) -> None:
    name, small = real_file()
    small_key = f"demo/{name}"
    large = os.urandom(LARGE_BYTES)

    with step(f"storing {name}, {len(small):,} bytes"):
        _expect(201, _request("PUT", f"{master_url}/add_key/{quote(small_key)}?overwrite=1", small))
    with step(f"storing {LARGE_KEY}, {LARGE_BYTES >> 20} MiB, straight on a node"):
        asked = _request("GET", f"{master_url}/get_node/{LARGE_KEY}?overwrite=1")
        _expect(200, asked)
        _expect(201, _request("PUT", json.loads(asked.head)["data"]["node"], large))
    with step("reading both back and comparing"):
        for key, value in ((small_key, small), (LARGE_KEY, large)):
            answer = _request("GET", f"{master_url}/get_key/{quote(key)}")
            _expect(200, answer)
            if answer.digest != hashlib.sha256(value).hexdigest():
                raise DemonstrationFailed(f"GET {answer.url}: these are not the bytes that were stored")
    with step(f"deleting {LARGE_KEY}"):
        _expect(200, _request("DELETE", f"{master_url}/delete_key/{LARGE_KEY}"))
        _expect(404, _request("GET", f"{master_url}/get_key/{LARGE_KEY}"))
    if job:
        with step(f"running the job {JOB} with {JOB_ARGUMENTS.decode()}"):
            _run_job(master_url)


def _run_job(master_url: str) -> None:
    deadline = time.monotonic() + _JOB_SECS
    # Nodes tell which scripts they have in their first moments.
    while (launched := _request("POST", f"{master_url}/launch_job/{JOB}", JOB_ARGUMENTS)).status == 404:
        if time.monotonic() > deadline:
            break
        time.sleep(_PAUSE_SECS)
    _expect(200, launched)
    url = f"{master_url}/admin/jobs/{json.loads(launched.head)['data']['job_id']}"
    while (job := _job(url))["status"] == "pending" and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECS)
    if job["output"] != JOB_OUTPUT:
        raise DemonstrationFailed(f"GET {url}: {job['state']} ({job['reason']}), its output is {job['output']}")


def _job(url: str) -> dict[str, Any]:
    answer = _request("GET", url)
    _expect(200, answer)
    job: dict[str, Any] = json.loads(answer.head)["data"]
    return job


def commands(master_url: str, directory: Path, jobs: Path) -> list[str]:
    """Lines to try it, for a shell in `directory`, with the job scripts in the folder `jobs`."""
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
    """A file of the repository: its name and what is in it."""
    name = next(name for name in _REAL_FILES if (ROOT / name).is_file())
    return name, (ROOT / name).read_bytes()


def _request(method: str, url: str, body: bytes | None = None) -> _Answer:
    """Ask as a client should: once more when it was not possible just then, as in the first moments of a cluster."""
    deadline = time.monotonic() + _PATIENCE_SECS
    while (answer := _follow(method, url, body)).status == 503 and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECS)
    return answer


def _follow(method: str, url: str, body: bytes | None) -> _Answer:
    for _ in range(_MOST_REDIRECTS):
        try:
            answer, location = _exchange(method, url, body)
        except (OSError, http.client.HTTPException) as error:
            raise DemonstrationFailed(f"{method} {url}: {error}") from error
        if location is None:
            return answer
        url = urljoin(url, location)
    raise DemonstrationFailed(f"{method} {url}: more than {_MOST_REDIRECTS} redirects")


def _exchange(method: str, url: str, body: bytes | None) -> tuple[_Answer, str | None]:
    parts = urlsplit(url)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    with closing(http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT_SECS)) as connection:
        connection.request(method, target, body)
        response = connection.getresponse()
        digest = hashlib.sha256()
        head = b""
        while chunk := response.read(_CHUNK_BYTES):
            head = head or chunk
            digest.update(chunk)
        location = response.headers["Location"] if response.status in (301, 302, 303, 307, 308) else None
        return _Answer(f"{method} {url}", response.status, head, digest.hexdigest()), location


def _expect(status: int, answer: _Answer) -> None:
    if answer.status != status:
        said = answer.head[:500].decode(errors="replace")
        raise DemonstrationFailed(f"{answer.url} was answered {answer.status} instead of {status}: {said}")
