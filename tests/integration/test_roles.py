"""Each role is a user of its own in RabbitMQ: what it may not do is refused, and the cluster works with it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from operator import methodcaller
from typing import Any

import pika
import pika.exceptions
import pytest

from broker import keys, topology
from broker.clock import now_ms
from broker.messages.backups import BackupState
from broker.messages.codec import encode
from broker.messages.runs import Finished, NodeCatalog, Progress, Reports, RunEnd, RunState
from broker.messages.store import Heartbeat, Kind, Result, Results, Status
from ops.cluster import Cluster
from tests.faults.tools import settle
from tests.integration.jobs_tools import SCRIPTS, write_scripts
from tests.support import (
    ROOT,
    Clusters,
    clean_environment,
    delete,
    get,
    http_request,
    process_logs,
    put,
    unique,
    wait_for,
)

OTHER = topology.node_user("node-2")
OWN = topology.node_user("node-1")


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    scripts = write_scripts(tmp_path_factory.mktemp("jobs"), SCRIPTS)
    return make_shared_cluster(own_broker=True, env={"PULZAR_JOBS_DATA_WAIT": "1", "PULZAR_JOBS_DIR": str(scripts)})


@pytest.fixture(scope="module")
def scheduled(cluster: Cluster) -> int:
    """A job that was scheduled early, since a minute is the shortest time."""
    once = {"scheduled": {"interval": "minutes", "time_unit": 1, "repeat": 0}}
    answer = http_request("POST", f"{cluster.master_url}/launch_job/test/echo", json.dumps(once).encode())
    assert answer.status == 200, answer.msg
    return int(answer.data["job_id"])


def refusal(url: str, attempt: Callable[[Any], object]) -> int:
    """The code with which RabbitMQ refuses this to that user; 0 when it does not."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        try:
            attempt(channel)
        except pika.exceptions.ChannelClosedByBroker as error:
            return int(error.reply_code)
        return 0


def publish(exchange: str, key: str, body: bytes = b"", user: str | None = None) -> Callable[[Any], object]:
    properties = pika.BasicProperties(user_id=user, delivery_mode=2)
    return lambda channel: channel.basic_publish(exchange, key, body, properties, mandatory=True)


def run(cluster: Cluster, script: str, **arguments: Any) -> Any:
    """Launch a job; what `/admin/jobs` says of it at its end."""
    answer = http_request("POST", f"{cluster.master_url}/launch_job/{script}", json.dumps(arguments).encode())
    assert answer.status in (200, 202), answer.msg  # 202: its queue is not there yet
    return ended(cluster, answer.data["job_id"])


def ended(cluster: Cluster, job: int) -> Any:
    url = f"{cluster.master_url}/admin/jobs/{job}"
    return wait_for(
        lambda: row if (row := http_request("GET", url).data)["status"] not in ("pending", "scheduled") else None,
        60,
        "the job's end",
    )


def dead(cluster: Cluster) -> list[tuple[bytes, dict[str, Any]]]:
    """Body and headers of all in `pulzar.dead`, which is empty afterwards."""
    found = []
    with pika.BlockingConnection(pika.URLParameters(cluster.broker_url)) as connection:
        channel = connection.channel()
        while True:
            method, properties, body = channel.basic_get(topology.DEAD, auto_ack=True)
            if method is None:
                return found
            found.append((body, properties.headers))


def test_each_process_is_the_user_of_its_role(cluster: Cluster, scheduled: int) -> None:
    assert cluster.rabbit
    api, names = cluster.rabbit.api, [topology.MASTER_USER, OWN, OTHER]
    # RabbitMQ's statistics are some seconds late.
    wait_for(lambda: sorted({each.get("user") for each in api("GET", "connections")}) == names, 30, "its connections")
    # And none of them may ask the console
    assert not any(each["tags"] for each in api("GET", "users") if each["name"] in names)


def test_keys_jobs_schedules_and_cancel_work_and_nothing_is_refused(cluster: Cluster) -> None:
    # When keys are stored, read and deleted, small and large
    key, large = unique("small.txt"), unique("large.bin")
    assert put(cluster, key, b"a value").status == 201
    node = http_request("GET", f"{cluster.master_url}/get_node/{large}").data["node"]
    assert http_request("PUT", node, b"x" * (3 << 20)).status == 201
    assert get(cluster, large).body == b"x" * (3 << 20)
    # And jobs of every queue are run
    ran = [run(cluster, "test/echo", number=5, pulzar_options={"priority": p}) for p in topology.PRIORITIES]
    ran.append(run(cluster, "test/echo", number=5, pulzar_options={"node": "node-2"}))
    ran.append(run(cluster, "test/data", pulzar_data=key))
    assert [row["status"] for row in ran] == ["completed"] * 5, ran
    # And one that runs is cancelled
    gate = json.dumps({"gate": "/nowhere/at/all"}).encode()
    job = http_request("POST", f"{cluster.master_url}/launch_job/test/gate", gate).data["job_id"]
    state = f"{cluster.master_url}/admin/jobs/{job}"
    wait_for(lambda: http_request("GET", state).data["state"] == "running", 60, "its start")
    assert http_request("POST", f"{cluster.master_url}/cancel_job/{job}").status == 200
    assert ended(cluster, job)["state"] == "cancelled"
    assert delete(cluster, key).status == 200
    assert get(cluster, key).status == 404
    # Then nobody was refused anything, nor was a connection lost
    for name, log in process_logs([cluster], lines=10_000):
        assert not re.search("ACCESS_REFUSED|link failed|PRECONDITION", log, re.IGNORECASE), (name, log)
    assert dead(cluster) == []


SHARED = (topology.RESULTS, topology.HEARTBEATS, topology.PROGRESS, topology.DEAD)


@pytest.mark.parametrize("queue", [*topology.job_queues("node-2")[:2], topology.node_queue("node-2"), *SHARED])
def test_a_node_can_neither_read_nor_empty_nor_remove_nor_bind_a_queue_of_others(cluster: Cluster, queue: str) -> None:
    for attempt in (
        methodcaller("basic_get", queue),
        methodcaller("basic_consume", queue, print),
        methodcaller("queue_purge", queue),
        methodcaller("queue_delete", queue),
        methodcaller("queue_declare", queue, durable=True),
        *(
            methodcaller("queue_bind", queue, of)
            for of in (topology.CONTROL, topology.UP, topology.node_queue("node-1"))
        ),
    ):
        assert refusal(cluster.role_urls[OWN], attempt) == 403, attempt


def test_a_node_writes_upwards_only(cluster: Cluster) -> None:
    url, own, node = cluster.role_urls[OWN], topology.node_queue("node-1"), topology.node_queue("node-2")
    # Then the default exchange, and those of the master, of publishers and of other nodes are refused
    for exchange in ("", topology.CONTROL, topology.EVENTS, topology.LAUNCH, node, "amq.topic", "amq.direct"):
        for key in (node, topology.JOBS, topology.RESULTS):
            assert refusal(url, publish(exchange, key, user=OWN)) == 403, (exchange, key)
    # And what it may write to leads neither to jobs nor to other nodes
    for exchange in (topology.UP, own):
        for key in (*topology.job_queues("node-2"), node):
            with pytest.raises(pika.exceptions.UnroutableError):
                refusal(url, publish(exchange, key, user=OWN))
    # And it can't lead other messages to itself, nor its own elsewhere
    for exchange in (topology.UP, topology.LAUNCH, topology.EVENTS, node):
        for method in ("queue_bind", "exchange_bind"):
            assert refusal(url, methodcaller(method, own, exchange, topology.RESULTS)) == 403, (method, exchange)
    new = topology.control_queue("node-1")
    for exchange in ("", topology.LAUNCH, topology.CONTROL, node):
        dead, astray = {"x-dead-letter-exchange": exchange}, {"alternate-exchange": exchange}
        assert refusal(url, methodcaller("queue_declare", new, exclusive=True, arguments=dead)) == 403, exchange
        assert refusal(url, methodcaller("exchange_declare", new, "fanout", arguments=astray)) == 403, exchange


def test_a_publisher_launches_jobs_and_can_do_nothing_else(cluster: Cluster) -> None:
    url = cluster.role_urls[topology.PUBLISHER_USER]
    # When it publishes with each routing key
    routes = [*topology.PRIORITIES, *map(topology.jobs_queue, topology.PRIORITIES)]
    body = json.dumps({"job": "test/echo", "arguments": {"number": 4}}).encode()

    def completed() -> int:
        return len(http_request("GET", f"{cluster.master_url}/admin/jobs?limit=1000").data["ready"])

    before = completed()
    for key in routes:
        assert refusal(url, publish(topology.LAUNCH, key, body)) == 0
    # Then each is a job that runs
    wait_for(lambda: completed() == before + len(routes), 60, "the end of all these jobs")
    # And a wrong routing key is told, not swallowed
    with pytest.raises(pika.exceptions.UnroutableError):
        refusal(url, publish(topology.LAUNCH, "urgent", body))
    # And everything else is refused
    for exchange in ("", topology.UP, topology.CONTROL, topology.node_queue("node-1"), "amq.topic"):
        assert refusal(url, publish(exchange, topology.JOBS, body)) == 403, exchange
    for queue in (topology.JOBS, topology.DEAD, topology.RESULTS, topology.node_queue("node-1")):
        for method in ("basic_get", "queue_delete", "queue_purge"):
            assert refusal(url, methodcaller(method, queue)) == 403, (method, queue)
    assert refusal(url, methodcaller("queue_declare", "mine")) == 403


def claims(node: str) -> list[tuple[str, Any]]:
    """Queue and message of every kind that a node sends, in the name of this one."""
    beat = Heartbeat(node, "http://127.0.0.1:9", now_ms(), "9", "f" * 32, 1, 9, 9, 9, False, 0.0, 0.0, 9, 9, [], "")
    gone = Result(0, Status.DONE, "", 10**6, Kind.DELETE, keys.encode("kept"), now_ms() << 20, 0, 0, "", b"", 0, None)
    end = RunEnd(RunState.COMPLETED, "", 1, 2)
    return [
        (topology.HEARTBEATS, beat),
        (topology.HEARTBEATS, NodeCatalog(node, "0" * 64, [{"path": "forged/script"}])),
        (topology.RESULTS, Results(node, "", "", 0, 10**6, 10**6, False, [gone])),
        (topology.RESULTS, Reports(node, [Finished("0" * 32, 10**6, 1, end)])),
        (topology.RESULTS, BackupState(node, reason="forged")),
        (topology.PROGRESS, Progress(node, "0" * 32, 1, 1, 1.0, 1.0, "forged", b"", 0)),
    ]


@pytest.mark.parametrize("node", ["node-2", "stranger", "master"])
@pytest.mark.parametrize("signed", [True, False])
def test_a_node_that_claims_to_be_another_is_not_believed(cluster: Cluster, node: str, signed: bool) -> None:
    # Given a key, the nodes as they are, and nothing buried
    assert put(cluster, "kept", b"value", "overwrite=1").status == 201
    dead(cluster)
    # When node-1's user sends every kind of message in the name of another, with and without its own
    sent = claims(node)
    for queue, message in sent:
        assert (
            refusal(cluster.role_urls[OWN], publish(topology.UP, queue, encode(message), OWN if signed else None)) == 0
        )
    # Then all are buried, with a reason that names both
    found: list[tuple[bytes, dict[str, Any]]] = []
    wait_for(lambda: found.extend(dead(cluster)) or len(found) >= len(sent), what="messages in pulzar.dead")
    assert sorted(body for body, _ in found) == sorted(encode(message) for _, message in sent)
    for _, headers in found:
        assert f"of node {node} from {f'the user {OWN}' if signed else 'a user without a name'}" in headers["reason"]
    # And nothing has changed
    rows = {row["node"]: row for row in http_request("GET", f"{cluster.master_url}/admin/network").data}
    assert sorted(rows) == ["node-1", "node-2"]
    assert "http://127.0.0.1:9" not in [row["url"] for row in rows.values()]
    assert get(cluster, "kept").body == b"value"
    assert not [
        row for row in http_request("GET", f"{cluster.master_url}/admin/job_catalog").data if "forged" in str(row)
    ]


def test_nobody_can_sign_with_the_name_of_another(cluster: Cluster) -> None:
    (queue, message), *_ = claims("node-2")
    assert refusal(cluster.role_urls[OWN], publish(topology.UP, queue, encode(message), OTHER)) == 406


def test_queues_deleted_by_hand_are_made_again_by_the_master(cluster: Cluster) -> None:
    # When the queues of jobs, which nodes may not make, and a node's own are deleted
    with pika.BlockingConnection(pika.URLParameters(cluster.broker_url)) as connection:
        for queue in (*topology.job_queues("node-2"), topology.node_queue("node-2")):
            connection.channel().queue_delete(queue)
    # Then they come back, and jobs run from each
    ran = [run(cluster, "test/echo", number=5, pulzar_options={"priority": p}) for p in topology.PRIORITIES]
    ran.append(run(cluster, "test/echo", number=5, pulzar_options={"node": "node-2"}))
    assert [row["status"] for row in ran] == ["completed"] * 4, ran


def test_a_schedule_is_carried_out(cluster: Cluster, scheduled: int) -> None:
    executions = f"{cluster.master_url}/admin/scheduled_jobs/ok/{scheduled}"
    wait_for(lambda: http_request("GET", executions).data, 100, "an execution of the schedule")
    # And by now every consumer that got nothing has sent itself a ping, which came back
    for name, log in process_logs([cluster], lines=10_000):
        assert "not even a ping" not in log, name


def test_restore_node_restart_and_a_restart_of_rabbitmq(cluster: Cluster) -> None:
    # Given keys on both nodes
    assert cluster.rabbit
    stored = [unique() for _ in range(20)]
    for key in stored:
        assert put(cluster, key, key.encode()).status == 201
    # When a node is killed and comes back
    cluster.kill_node(0)
    cluster.start_node(0)
    settle(cluster)
    # Then a restore of its log works
    done = subprocess.run(
        [sys.executable, "ops/manage.py", "--data", str(cluster.directory), "--restore"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # And when RabbitMQ is killed and comes back
    cluster.rabbit.kill()
    cluster.rabbit.process.start()
    cluster.rabbit.wait_ready()
    cluster.wait_healthy()
    # Then keys and jobs work as before
    assert [get(cluster, key).body for key in stored] == [key.encode() for key in stored]
    wait_for(lambda: put(cluster, unique(), b"x").status == 201, what="a PUT")
    assert run(cluster, "test/echo", number=5, pulzar_options={"node": "node-1"})["status"] == "completed"
    assert run(cluster, "test/echo", number=5, pulzar_options={"node": "node-2"})["status"] == "completed"


def test_a_node_waits_for_a_master_that_was_not_there_yet_and_says_so(make_cluster: Clusters) -> None:
    # Given a broker that no master has ever connected to
    cluster = make_cluster(nodes=1, own_broker=True, start=False)
    assert cluster.rabbit
    cluster.rabbit.start()
    cluster.broker_url = cluster.rabbit.url()
    cluster.role_urls, cluster.secret = cluster.rabbit.make_roles(["node-1"]), "the same for all"
    with pika.BlockingConnection(pika.URLParameters(cluster.broker_url)) as connection:
        connection.channel().exchange_delete(topology.UP)
    # When a node is started
    cluster.start_node(0)
    # Then it says what it waits for
    node = cluster.nodes[0].process
    wait_for(lambda: "waiting for the master" in node.tail(100), what="a word in the node's log")
    assert "start the master" in node.tail(100)
    # And works as soon as the master is there
    cluster.start_master()
    cluster.wait_healthy()
    assert run(cluster, "example/factorial", number=5, pulzar_options={"node": "node-1"})["status"] == "completed"


def test_a_user_of_another_role_is_refused_at_the_start(cluster: Cluster) -> None:
    for module, user, said in (
        ("node", topology.MASTER_USER, "has the master's user; this node needs pulzar.node."),
        ("master", OWN, "has the user of the node node-1; a master needs pulzar.master"),
        ("node", topology.node_user("a.jobs"), "choose another one"),
        ("node", topology.node_user("a b"), "can't be a node's name"),
        ("node", topology.node_user("a"), "[general] secret (PULZAR_GENERAL_SECRET) is needed"),
        ("master", topology.MASTER_USER, "[general] secret (PULZAR_GENERAL_SECRET) is needed"),
    ):
        where = cluster.directory / f"{module}-{user}"
        settings = {
            "PULZAR_BROKER_URL": f"amqp://{user}:x@127.0.0.1:1/".replace(" ", "%20"),
            "PULZAR_SERVER_DIR": str(where),
            "PULZAR_VOLUME_DIR": str(where),
        }
        command = [sys.executable, "-m", module]
        done = subprocess.run(
            command, env=clean_environment() | settings, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
