"""A cluster whose master and nodes listen on IPv6 alone."""

from __future__ import annotations

import json
import os
import socket

import pytest

from ops.cluster import Cluster
from tests.support import Clusters, get, http_request, put, unique, wait_for


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="needs IPv6 on the loopback interface")
def test_values_and_jobs_reach_every_process_at_its_ipv6_address(make_cluster: Clusters) -> None:
    # Given master and nodes at ::1
    cluster = make_cluster(env={"PULZAR_SERVER_HOST": "::1", "PULZAR_VOLUME_HOST": "::1"})
    assert cluster.master_url.startswith("http://[::1]:")
    # When a value that the master sends to a node is stored, and read
    key, value = unique("large.bin"), os.urandom(3 << 20)
    assert put(cluster, key, value).status == 201
    read = get(cluster, key)
    # Then the addresses on the way are whole, and the bytes are the same
    assert (read.status, read.body == value) == (200, True)
    assert read.url.startswith("http://[::1]:")
    assert not read.url.startswith(cluster.master_url)
    # And a job has its data, wherever it runs
    text = unique("words.txt")
    assert put(cluster, text, b"one two three\n" * 10000).status == 201
    for node in cluster.nodes:
        job = launch(cluster, {"pulzar_data": text, "pulzar_options": {"node": node.id}})
        wait_for(lambda job=job: state(cluster, job) != "pending", 30, "its end")  # type: ignore[misc]
        assert state(cluster, job) == "completed"


def launch(cluster: Cluster, arguments: dict[str, object]) -> int:
    """Launch text/words as soon as the catalog has it; the job's number."""
    url = f"{cluster.master_url}/launch_job/text/words"

    def launched() -> int:
        answer = http_request("POST", url, json.dumps(arguments).encode())
        return int(answer.data["job_id"]) if answer.status == 200 else 0

    return wait_for(launched, 30, "the launch")


def state(cluster: Cluster, job: int) -> str:
    return str(http_request("GET", f"{cluster.master_url}/admin/jobs/{job}").data["status"])
