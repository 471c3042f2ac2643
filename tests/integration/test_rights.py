"""Master and nodes with the least rights in RabbitMQ, and what they may not do with them."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pika
import pika.exceptions
import pytest

from broker import topology
from broker.rights import rights
from ops.cluster import Cluster, Rabbit
from ops.cluster.network import free_base
from tests.support import clean_environment, delete, get, http_request, process_logs, put, unique, wait_for

VHOST = "least-rights"
FOREIGN = "orders"  # a queue that is somebody else's


@pytest.fixture(scope="module")
def url(rabbit: Rabbit) -> Iterator[str]:
    """AMQP address of a user who has these rights and no others, in a virtual host with a foreign queue."""
    user, password = "least", secrets.token_hex(16)
    rabbit.create_vhost(VHOST)
    rabbit.api("PUT", f"users/{user}", {"password": password, "tags": ""})
    rabbit.api("PUT", f"permissions/{VHOST}/{user}", rights()._asdict())
    rabbit.api("PUT", f"queues/{VHOST}/{FOREIGN}", {"durable": True})
    yield rabbit.url(VHOST).replace(f"{rabbit.user}:{rabbit.password}", f"{user}:{password}")
    rabbit.api("DELETE", f"users/{user}")
    rabbit.delete_vhost(VHOST)


@pytest.fixture(scope="module")
def cluster(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings = {"PULZAR_GENERAL_HEARTBEAT": "0.5", "PULZAR_GENERAL_EVENTS": "1", "PULZAR_JOBS_DATA_WAIT": "1"}
    directory = tmp_path_factory.mktemp("least-rights")
    cluster = Cluster(directory, free_base(), 2, url, environment=clean_environment() | settings)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def run(cluster: Cluster, script: str, **arguments: Any) -> Any:
    """Launch a job; what `/admin/jobs` says of it at its end."""
    answer = http_request("POST", f"{cluster.master_url}/launch_job/{script}", json.dumps(arguments).encode())
    assert answer.status == 200, answer.msg
    job = f"{cluster.master_url}/admin/jobs/{answer.data['job_id']}"
    return wait_for(
        lambda: row if (row := http_request("GET", job).data)["status"] != "pending" else None, 60, "the job's end"
    )


def test_master_and_nodes_work_with_them(cluster: Cluster) -> None:
    # Given keys of our own
    key, large = unique("small.txt"), unique("large.bin")
    # When keys are stored, read and deleted, small and large, and jobs are run from every kind of queue
    assert put(cluster, key, b"a value").status == 201
    node = http_request("GET", f"{cluster.master_url}/get_node/{large}").data["node"]
    assert http_request("PUT", node, b"x" * (3 << 20)).status == 201
    assert get(cluster, large).body == b"x" * (3 << 20)
    ran = [run(cluster, "example/factorial", number=5, pulzar_options={"priority": p}) for p in ("high", "low")]
    ran.append(run(cluster, "example/factorial", number=5, pulzar_options={"node": "node-2"}))
    ran.append(run(cluster, "text/words", pulzar_data=key))
    assert delete(cluster, key).status == 200
    # Then all of it works
    assert get(cluster, key).status == 404
    assert [row["status"] for row in ran] == ["completed"] * 4, ran
    # And nobody was refused anything, nor was a connection lost
    for name, log in process_logs([cluster], lines=10_000):
        assert not re.search("ACCESS_REFUSED|link down|link failed", log), name


def test_a_queue_that_is_somebody_elses_is_refused(url: str, cluster: Cluster) -> None:
    # Given connections of that user, and the queues of a running cluster beside a foreign one
    def refused(attempt: Callable[[Any], object]) -> bool:
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            try:
                attempt(connection.channel())
            except pika.exceptions.ChannelClosedByBroker as error:
                return bool(error.reply_code == 403)
            return False

    def publish_elsewhere(channel: Any) -> None:
        channel.confirm_delivery()
        channel.basic_publish("amq.topic", "anything", b"")

    # Then it may not read from, delete, purge or bind a foreign queue, nor declare one of a name that is not Pulzar's
    assert refused(lambda channel: channel.basic_get(FOREIGN))
    assert refused(lambda channel: channel.basic_consume(FOREIGN, lambda *_: None))
    assert refused(lambda channel: channel.queue_delete(FOREIGN))
    assert refused(lambda channel: channel.queue_purge(FOREIGN))
    assert refused(lambda channel: channel.queue_bind(FOREIGN, topology.CONTROL))
    for name in ("", f"{topology.JOBS}.mine", f"my-{topology.JOBS}", f"{topology.RESULTS}2", "pulzarXjobs"):
        assert refused(lambda channel, name=name: channel.queue_declare(name, durable=True)), name  # type: ignore[misc]
    assert refused(lambda channel: channel.exchange_declare("mine", "fanout"))
    assert refused(publish_elsewhere)
    # And what is Pulzar's is not refused
    assert not refused(lambda channel: channel.queue_declare(topology.JOBS, passive=True))


def test_another_virtual_host_and_the_console_are_refused(url: str, rabbit: Rabbit) -> None:
    with pytest.raises(pika.exceptions.ProbableAccessDeniedError):
        pika.BlockingConnection(pika.URLParameters(url.replace(f"/{VHOST}", f"/{quote('/', safe='')}")))
    assert http_request("GET", f"{rabbit.console_url}api/queues").status == 401
