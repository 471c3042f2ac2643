"""The audit log: its lines, its files, and several workers that write it at once."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from master.security import audit
from master.security.audit import AuditLog
from master.security.gate import NAME
from tests.support import ROOT


def environ(method: str = "PUT", path: str = "/add_key/a/b", name: str = "", **more: str) -> dict[str, str]:
    own = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": "x=secret", "REMOTE_ADDR": "[::1]:5"}
    return own | ({NAME: name} if name else {}) | more


def lines(directory: Path) -> list[dict[str, Any]]:
    files = sorted(directory.glob("audit.log*"), key=lambda path: -int(path.suffix[1:]) if path.suffix != ".log" else 1)
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("method", "path", "status", "noted", "noted_with_reads"),
    [
        ("PUT", "/add_key/a", 201, True, True),
        ("PUT", "/add_key/a", 409, True, True),
        ("DELETE", "/delete_key/a", 200, True, True),
        ("POST", "/launch_job/a/b", 200, True, True),
        ("BREW", "/a", 405, True, True),
        ("GET", "/get_key/a", 200, False, True),
        ("HEAD", "/get_key/a", 404, False, True),
        ("GET", "/get_key/a", 401, True, True),
        ("GET", "/get_key/a", 403, True, True),
        ("OPTIONS", "/keys", 421, True, True),
        ("GET", "/health", 200, False, False),
        ("GET", "/health", 421, True, True),
        ("POST", "/ui/jobs/launch/lines", 200, False, False),
        ("POST", "/ui/jobs/launch/lines", 403, True, True),
        ("POST", "/ui/jobs/launch", 303, True, True),
    ],
)
def test_changes_and_refusals_are_noted_and_reads_if_asked(
    tmp_path: Path, method: str, path: str, status: int, noted: bool, noted_with_reads: bool
) -> None:
    for reads, expected in ((False, noted), (True, noted_with_reads)):
        directory = tmp_path / str(reads)
        directory.mkdir()
        log = AuditLog(directory, reads)
        log.note(environ(method, path), status)
        log.close()
        assert len(lines(directory)) == expected


def test_a_line_says_who_did_what_and_no_secret(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, False)
    key = 'a"b\\ \xff'
    log.note(environ(path=f"/add_key/{key}", name="ci", HTTP_AUTHORIZATION="Bearer pz_ci_x"), 201)
    log.note(environ("POST", "/sign", **{audit.ABOUT: "k"}), 200)
    log.close()
    first, second = lines(tmp_path)
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "name": "ci",
        "address": "[::1]",
        "method": "PUT",
        "route": "/add_key",
        "about": key,
        "status": 201,
    }
    assert (second["name"], second["route"], second["about"]) == (None, "/sign", "k")
    text = (tmp_path / audit.FILE).read_text()
    assert "pz_" not in text
    assert "secret" not in text
    assert stat.S_IMODE((tmp_path / audit.FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("path", "route", "about"),
    [
        ("/get_key/a/b", "/get_key", "a/b"),
        ("/admin/network/node-1", "/admin/network", "node-1"),
        ("/admin/scheduled_jobs/ok/5", "/admin/scheduled_jobs", "ok/5"),
        ("/internal/commit/a/b", "/internal/commit", "a/b"),
        ("/keys", "/keys", ""),
        ("/", "/", ""),
        ("*", "/", ""),
    ],
)
def test_a_path_is_a_route_and_what_it_is_about(path: str, route: str, about: str) -> None:
    assert audit.split(path) == (route, about)


def write(directory: str, worker: int, number: int) -> None:
    log = AuditLog(Path(directory), False, most=2_000)
    for line in range(number):
        log._next = 0.0
        log.note(environ(path=f"/add_key/{worker}/{line}"), 201)
    log.close()


def test_files_are_renamed_while_several_workers_write_and_lines_are_whole(tmp_path: Path) -> None:
    command = "import sys; from tests.unit.test_audit import write; write(sys.argv[1], int(sys.argv[2]), 30)"
    workers = [
        subprocess.Popen([sys.executable, "-c", command, str(tmp_path), str(worker)], cwd=ROOT) for worker in range(3)
    ]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    found = [line["about"] for line in lines(tmp_path)]
    assert len(found) == len(set(found))
    files = list(tmp_path.glob("audit.log*"))
    assert 2 < len(files) <= audit.KEPT + 1
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
    # What is left is the newest
    for worker in range(3):
        own = [int(about.partition("/")[2]) for about in found if about.startswith(f"{worker}/")]
        assert own == sorted(own)


def test_old_files_go(tmp_path: Path) -> None:
    write(str(tmp_path), 0, 400)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["audit.log", *(f"audit.log.{number}" for number in range(1, audit.KEPT + 1))]
    )
    assert lines(tmp_path)[-1]["about"] == "0/399"


def test_a_log_that_can_not_be_written_stops_no_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = AuditLog(tmp_path / "gone", False)
    for _ in range(3):
        log.note(environ(), 201)
    assert caplog.text.count("audit log can't be written") == 1
    os.mkdir(tmp_path / "gone")
    log.note(environ(), 201)
    log.close()
    assert len(lines(tmp_path / "gone")) == 1
