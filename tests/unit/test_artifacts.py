"""Logs and outputs of runs on their way to becoming keys."""

from __future__ import annotations

from pathlib import Path

from broker import keys, settings
from broker.messages.runs import RunEnd, RunState
from broker.messages.store import Kind, Result, Status
from node.jobs.artifacts import ArtifactStore, build_report
from node.jobs.claims import Artifact, Claim, RunResult

RUN = "ab" * 16


def claimed(job: int = 5) -> Claim:
    return Claim(RUN, job, 2, 1_000)


def ended(log: Artifact, output: Artifact, reason: str = "") -> RunResult:
    return RunResult(RunEnd(RunState.COMPLETED, reason, 1_000, 2_000), log, output)


def test_what_a_run_left_becomes_keys_with_a_lifetime(tmp_path: Path) -> None:
    artifacts = ArtifactStore("node-1", settings.load(environ={"PULZAR_VOLUME_DIR": str(tmp_path)}))
    large = b"x" * 100_000
    assert artifacts.is_large(large)
    log, output = artifacts.stage(large), artifacts.stage(b"1")
    stores = artifacts.stores(claimed(), ended(log, output))
    assert [keys.decode(store.key) for store in stores] == ["jobs/5/2/log.txt", "jobs/5/2/output.json"]
    assert stores[0].value is None
    assert (tmp_path / "staging" / stores[0].staged).exists()
    assert stores[1].value == b"1"
    assert stores[0].version < stores[1].version
    assert {store.expires - store.created for store in stores} == {90 * 86_400_000}
    assert artifacts.stores(claimed(), ended(artifacts.stage(b""), artifacts.stage(b""))) == []


def result(name: str, status: Status, reason: str = "") -> Result:
    key = keys.encode(f"jobs/5/2/{name}")
    return Result(0, status, reason, 1, Kind.PUT, key, 1, 0, 0, "", b"", 0, None)


def test_a_report_says_what_could_not_be_kept() -> None:
    results = [result("log.txt", Status.FULL, "no room"), result("output.json", Status.DONE)]
    report = build_report(claimed(), ended(Artifact.of(b"1"), Artifact.of(b"2"), "exit status 3"), results)
    assert report.end.reason == "exit status 3; its log.txt could not be kept: no room"
    assert (report.log_key, report.output_key) == ("", "jobs/5/2/output.json")
