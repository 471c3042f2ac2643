"""What a node's settings give its jobs, through the whole of a cluster: variables, secrets, words for `sys.argv`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.cluster import Rabbit
from tests.integration.jobs_tools import Desk, make
from tests.support import Clusters, http_request

ROOT = Path(__file__).parents[2]
SECRET = 'hunter2-"quoted"'
SCRIPTS = {
    "reports/show": """
        import os, sys
        from datetime import date
        from jobs import run
        print("secret", run.secret("DB"), len(run.secret("DB")), os.environ["PULZAR_TEST"[7:]], sys.argv[1:])
        run.output({"secret": run.secret("DB"), "when": date(2026, 1, 2)})
        """,
}


@pytest.fixture(scope="module")
def desk(rabbit: Rabbit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    clusters = Clusters(tmp_path_factory.mktemp("jobs-settings"), lambda: rabbit)
    secrets = tmp_path_factory.mktemp("secrets") / "secrets"
    secrets.write_text(f"[reports]\nDB = {SECRET}\n")
    secrets.chmod(0o600)
    env = {"PULZAR_JOBS_SECRETS": str(secrets), "PULZAR_JOBS_ENVIRONMENT": "TEST, NOT_SET", "TEST": "passed on"}
    try:
        yield make(clusters, tmp_path_factory.mktemp("jobs-scripts"), (1,), env, {0: SCRIPTS})
    finally:
        clusters.close()


def test_a_secret_is_seen_nowhere_in_a_cluster(desk: Desk) -> None:
    desk.wait_for_catalog(SCRIPTS, (0,))
    number = desk.launch("reports/show", {"password": f"x{SECRET}"}, argv=["--with", SECRET])
    job = desk.done(number)
    assert job["state"] == "completed", job
    assert job["log"] == f"secret *** {len(SECRET)} passed on ['--with', '***']\n"
    assert job["output"] == {"secret": "***", "when": "2026-01-02"}
    assert json.loads(job["parameters"]) == {"password": "x***"}
    assert job["options"]["argv"] == ["--with", "***"]
    shown = [desk.ask("GET", path).body for path in (f"/admin/jobs/{number}", "/admin/jobs", "/admin/all_jobs")]
    stored = [http_request("GET", job[name]).body for name in ("log_url", "output_url")]
    assert not [body for body in shown + stored if b"hunter2" in body]


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [("[a]\nDB = hidden\n", 0o644, "chmod 600 it"), ("hidden", 0o600, "a section like [reports] must come first")],
)
def test_a_node_does_not_start_with_a_file_of_secrets_that_is_no_good(
    tmp_path: Path, text: str, mode: int, reason: str
) -> None:
    file = tmp_path / "secrets"
    file.write_text(text)
    file.chmod(mode)
    settings = {
        "PULZAR_JOBS_SECRETS": str(file),
        "PULZAR_VOLUME_DIR": str(tmp_path / "data"),
        "PULZAR_VOLUME_RESERVE": "0",
    }
    environment = os.environ | settings | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "node.agent"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert f"pulzar node: [jobs] secrets: {file}" in done.stderr
    assert reason in done.stderr
    assert "hidden" not in done.stderr + done.stdout
