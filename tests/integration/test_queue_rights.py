"""Jobs that were published to RabbitMQ by hand have the rights of `[security] queue`, and none without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pika
import pytest

from broker import topology
from tests.integration.tokens_tools import Keys
from tests.integration.wire import good, refused
from tests.support import Clusters, unique, wait_for

WRITES = """
import os
from jobs import Job
class Writes(Job):
    def execute(self):
        self.store(b'by a run', self.arguments['key'])
        return os.environ['PULZAR_TOKEN']
"""
READS = """
from jobs import Job
class Reads(Job):
    def execute(self):
        return open(self.pulzar_path).read() if getattr(self, 'pulzar_path', None) else str(self.arguments)
"""


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    folder = tmp_path / "scripts" / "test"
    folder.mkdir(parents=True)
    (folder / "writes.py").write_text(WRITES)
    (folder / "reads.py").write_text(READS)
    return folder.parent


def start(tmp_path: Path, clusters: Clusters, scripts: Path, queue: str) -> Keys:
    keys = Keys(tmp_path / "tokens")
    keys.make("robot", ["write:out/", "read:in/"])
    keys.start(clusters, PULZAR_JOBS_DIR=str(scripts), PULZAR_SECURITY_QUEUE=queue)
    keys.settle()
    wait_for(lambda: keys.ask("GET", "/admin/job_catalog", keys.all).json["data"], what="the catalog")
    return keys


def publish(keys: Keys, script: str, **arguments: object) -> dict[str, Any]:
    """Publish a job by hand; its row when it has ended."""
    name = unique()
    body = {"job": script, "arguments": {"name": name, **arguments}, "options": {"attempts": 1}}
    connection = pika.BlockingConnection(pika.URLParameters(keys.cluster.broker_url))
    connection.channel().basic_publish("", topology.JOBS, json.dumps(body).encode())
    connection.close()

    def ended() -> dict[str, Any] | None:
        for row in good(keys.ask("GET", "/admin/all_jobs", keys.all)):
            if json.loads(row["parameters"]).get("name") == name and row["state"] in ("completed", "failed"):
                found: dict[str, Any] = good(keys.ask("GET", f"/admin/jobs/{row['job_id']}", keys.all))
                return found
        return None

    row = wait_for(ended, what="the run")
    assert row
    return row


@pytest.mark.parametrize("queue", ["robot", "write:out/ read:in/"])
def test_a_job_by_hand_has_the_rights_of_the_queue(
    make_cluster: Clusters, tmp_path: Path, scripts: Path, queue: str
) -> None:
    keys = start(tmp_path, make_cluster, scripts, queue)
    for key in ("in/data", "secret/data"):
        keys.put(key)
    # It may do what the queue may
    done = publish(keys, "test/writes", key="out/a")
    assert done["state"] == "completed", done
    assert keys.ask("GET", "/get_key/out/a", keys.all).body == b"by a run"
    # And nothing else, and nothing has changed then
    failed = publish(keys, "test/writes", key="other/a")
    assert "lacks the right write:other/a" in failed["reason"] + failed["log"]
    refused(keys.ask("GET", "/get_key/other/a", keys.all), 404)
    # Nor does it get a value to work on that the queue may not read
    assert publish(keys, "test/reads", pulzar_data="in/data")["state"] == "completed"
    kept = publish(keys, "test/reads", pulzar_data="secret/data")
    assert (kept["state"], "lacks the right read:secret/data" in kept["reason"]) == ("failed", True), kept
    # And its token dies with it
    refused(keys.ask("PUT", "/add_key/out/b", done["output"], b"x"), 401)
    refused(keys.ask("GET", "/get_key/out/b", keys.all), 404)


def test_without_the_setting_a_job_by_hand_has_no_right(make_cluster: Clusters, tmp_path: Path, scripts: Path) -> None:
    keys = start(tmp_path, make_cluster, scripts, "")
    keys.put("in/data")
    assert publish(keys, "test/reads")["state"] == "completed"
    assert publish(keys, "test/reads", pulzar_data="in/data")["state"] == "failed"
    failed = publish(keys, "test/writes", key="out/a")
    assert "lacks the right write:out/a" in failed["reason"] + failed["log"]
    refused(keys.ask("GET", "/get_key/out/a", keys.all), 404)


def test_a_queue_with_a_mistake_stops_the_master_at_its_start(make_cluster: Clusters) -> None:
    cluster = make_cluster(nodes=1, env={"PULZAR_SECURITY_QUEUE": "read:in/ rite:out/"}, start=False)
    with pytest.raises(Exception, match=r"master"):
        cluster.start()
    assert "[security] queue = 'read:in/ rite:out/': 'rite' is no right" in cluster.master.tail(20)
