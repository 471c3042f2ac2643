"""A client that a common generator makes from `/openapi.json` stores, reads, lists and launches; docs/clients.md."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ops.cluster import Cluster
from tests.support import clean_environment, unique

PROGRAM = """
import sys
from io import BytesIO
from pulzar_api import Client
from pulzar_api.api.jobs import launch_job
from pulzar_api.api.keys import add_key, delete_key, get_key, list_keys
from pulzar_api.models import Error, Launch, Options
from pulzar_api.types import File

url, key = sys.argv[1:]
with Client(base_url=url, follow_redirects=True) as client:
    stored = add_key.sync(key, client=client, body=File(BytesIO(b"a value")), ttl="7d")
    assert stored.msg == "key added" and "/get_key/" in stored.data.url, stored
    again = add_key.sync(key, client=client, body=File(BytesIO(b"another")))
    assert isinstance(again, Error) and "exists" in again.msg, again
    read = get_key.sync_detailed(key, client=client)
    assert (read.status_code, read.content) == (200, b"a value"), read
    (row,) = list_keys.sync(client=client, prefix=key).data.keys
    assert (row.key, row.size) == (key, 7), row
    arguments = Launch(pulzar_options=Options(attempts=1))
    arguments["number"] = 5
    launched = launch_job.sync("example", "factorial", client=client, body=arguments)
    assert launched.data.job_id > 0, launched
    assert delete_key.sync(key, client=client).msg == "key deleted"
    assert get_key.sync_detailed(key, client=client).status_code == 404
"""


@pytest.fixture(scope="module")
def package(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package of the generated client."""
    place = tmp_path_factory.mktemp("generated")
    # As docs/clients.md says.
    programs = Path(sys.executable).parent
    command = [
        *(str(programs / "openapi-python-client"), "generate", "--url", f"{cluster.master_url}/openapi.json"),
        *("--meta", "none", "--output-path", "pulzar_api"),
    ]
    environment = clean_environment() | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Endpoint will not be generated" not in done.stdout
    return place


@pytest.mark.timeout(300)
def test_it_stores_reads_lists_and_launches(cluster: Cluster, package: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, cluster.master_url, unique("generated/a b.txt")]
    done = subprocess.run(
        command,
        env=clean_environment() | {"PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
