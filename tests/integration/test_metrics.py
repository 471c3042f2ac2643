"""`GET /metrics` of a master and of its nodes: what was done is counted, whichever process did it."""

from __future__ import annotations

import json

from ops.cluster import Cluster
from tests.integration.wire import Client, good
from tests.support import http_request, metric_rows, unique, wait_for

GET = 'pulzar_http_requests_total{method="GET",route="/get_key/{key}",status="200"}'
PUT = 'pulzar_http_requests_total{method="PUT",route="/add_key/{key}",status="201"}'
MISSING = 'pulzar_http_requests_total{method="GET",route="/get_key/{key}",status="404"}'
COMPLETED = 'pulzar_jobs_ended_total{state="completed"}'


def rows_of(url: str) -> dict[str, float]:
    answer = http_request("GET", url)
    assert answer.status == 200, answer
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return metric_rows(answer.body)


def test_the_master_counts_requests_steps_and_jobs(cluster: Cluster, master: Client) -> None:
    # Given what was counted so far
    url = f"{cluster.master_url}/metrics"
    before = rows_of(url)
    # When values are stored and read, and a job has run
    key = unique()
    good(master.put(key, b"value"), 201)
    for _ in range(3):
        assert master.request("GET", f"/get_key/{key}").status == 200
    assert master.request("GET", f"/get_key/{unique()}").status == 404
    wait_for(lambda: master.request("GET", "/admin/job_catalog").json["data"], what="the catalog")
    answer = master.request("POST", "/launch_job/example/factorial", json.dumps({"number": 3}).encode())
    job = good(answer)["job_id"]
    wait_for(lambda: good(master.request("GET", f"/admin/jobs/{job}"))["status"] == "completed", what="the job's end")

    # Then each is counted, by web workers and by the controller
    def risen(name: str) -> float:
        return rows_of(url)[name] - before.get(name, 0)

    wait_for(lambda: risen(GET) >= 3 and risen(PUT) >= 1 and risen(MISSING) >= 1, what="counted requests")
    wait_for(lambda: risen(COMPLETED) >= 1, what="the counted job")
    now = rows_of(url)
    for step in ("lock", "queue", "node", "commit"):
        assert now[f'pulzar_put_step_seconds_count{{step="{step}"}}'] > 0, step
    for step in ("wait", "run", "report"):
        assert now[f'pulzar_job_step_seconds_count{{step="{step}"}}'] > 0, step
    assert now['pulzar_store_outcomes_total{outcome="done"}'] > 0
    assert now["pulzar_ready"] == 1
    assert now["pulzar_keys"] >= 1
    processes = {name for name in now if name.startswith("pulzar_process_resident_bytes")}
    assert 'pulzar_process_resident_bytes{process="controller-0"}' in processes
    assert 'pulzar_process_resident_bytes{process="web-0"}' in processes
    # And no label has a key
    assert not [name for name in now if key in name]
    for node in cluster.nodes:
        assert now[f'pulzar_node_up{{node="{node.id}"}}'] == 1


def test_a_node_tells_of_itself_also_through_the_master(cluster: Cluster, master: Client) -> None:
    good(master.put(unique(), b"value"), 201)
    of_nodes = []
    for node in cluster.nodes:
        rows = rows_of(f"{node.url}/metrics")
        through = rows_of(f"{cluster.master_url}/metrics/{node.id}")
        assert through.keys() >= {"pulzar_node_keys", "pulzar_node_log_bytes", "pulzar_node_disk_free_bytes"}
        assert rows['pulzar_broker_up{process="agent-0"}'] == 1
        assert 'pulzar_process_resident_bytes{process="data-0"}' in rows
        of_nodes.append(rows["pulzar_node_apply_seconds_count"])
    wait_for(lambda: sum(rows_of(f"{node.url}/metrics")["pulzar_node_apply_seconds_count"] for node in cluster.nodes))
    unknown = master.request("GET", "/metrics/nobody")
    assert unknown.status == 404
    assert "GET /admin/network lists them" in unknown.json["msg"]
    assert http_request("POST", f"{cluster.nodes[0].url}/metrics").status == 405
