"""`GET /events` and the exchange `pulzar.events`: each type, who hears what, and going on after a break."""

from __future__ import annotations

import json
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest

from broker import topology
from broker.link import Delivery, Link
from ops.cluster import Cluster
from tests.event_stream import Stream, controller_of
from tests.integration.tokens_tools import Keys
from tests.integration.wire import Client, good, refused
from tests.support import Clusters, delete, get, http_request, put, unique, wait_for


def launch(cluster: Cluster, script: str, **arguments: Any) -> int:
    """Id of a new job."""
    body = json.dumps(arguments).encode()
    answer = http_request("POST", f"{cluster.master_url}/launch_job/{script}", body)
    assert answer.status == 200, answer.msg
    return int(answer.data["job_id"])


# Types.


def test_keys_are_added_overwritten_deleted_and_expired(cluster: Cluster) -> None:
    key, other, short = unique(), unique(), unique("short")
    with Stream(cluster.master_url) as stream:
        assert put(cluster, key, b"one").status == 201
        assert put(cluster, key, b"two", "overwrite=1").status == 201
        assert put(cluster, key, b"three").status == 409  # which is no change
        assert put(cluster, short, b"x", "ttl=1s").status == 201
        moved = http_request("POST", f"{cluster.master_url}/move/{quote(key)}?to={quote(other)}")
        assert moved.status == 201
        assert delete(cluster, other).status == 200
        stream.wait(lambda event: event.type == "key.expired" and event.key == short)
        assert stream.of(key) == ["key.added", "key.overwritten", "key.deleted"]
        assert stream.of(other) == ["key.added", "key.deleted"]
        assert stream.of(short) == ["key.added", "key.expired"]
        # And ids rise by one
        numbers = [event.number for event in stream.events]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_what_an_event_tells_of_can_be_read(cluster: Cluster) -> None:
    with Stream(cluster.master_url, {"types": "key"}) as stream:
        for number in range(20):
            key = unique(str(number))
            assert put(cluster, key, f"value {number}".encode()).status == 201
            told = stream.wait(lambda event, key=key: event.data.get("key") == key)  # type: ignore[misc]
            answer = get(cluster, key)
            assert (answer.status, answer.headers["ETag"]) == (200, told.data["etag"])
            assert delete(cluster, key).status == 200
            stream.wait(lambda event, key=key: event.type == "key.deleted" and event.key == key)  # type: ignore[misc]
            assert get(cluster, key).status == 404


def test_each_state_of_a_job_is_told_and_nothing_else_with_that_type(cluster: Cluster) -> None:
    with Stream(cluster.master_url, {"types": "job"}) as stream:
        done = launch(cluster, "example/factorial", number=5)
        wrong = launch(cluster, "example/factorial", number="no number")
        for job, end in ((done, "job.completed"), (wrong, "job.failed")):
            told = stream.wait(lambda event, job=job, end=end: (event.type, event.data["job_id"]) == (end, job))  # type: ignore[misc]
            assert told.data["job_path"] == "example/factorial"
            assert told.data["node"] in [node.id for node in cluster.nodes]
            state = http_request("GET", f"{cluster.master_url}/admin/jobs/{job}").data["state"]
            assert f"job.{state}" == end
            types = [event.type for event in stream.events if event.data["job_id"] == job]
            assert types in (["job.pending", "job.running", end], ["job.pending", end])
        assert {event.type.partition(".")[0] for event in stream.events} == {"job"}


def test_a_filter_lets_through_what_was_asked_for(cluster: Cluster) -> None:
    folder = unique("folder/")
    with (
        Stream(cluster.master_url, {"prefix": folder}) as below,
        Stream(cluster.master_url, {"prefix": f"/{folder}", "types": "key.deleted"}) as gone,
    ):
        for name in (f"{folder}a", unique("elsewhere"), f"{folder}b/c"):
            assert put(cluster, name, b"x").status == 201
            assert delete(cluster, name).status == 200
        below.wait(lambda event: event.type == "key.deleted" and event.key == f"{folder}b/c")
        gone.wait(lambda event: event.key == f"{folder}b/c")
        assert [event.key for event in below.events] == [f"{folder}a"] * 2 + [f"{folder}b/c"] * 2
        assert [event.key for event in gone.events] == [f"{folder}a", f"{folder}b/c"]


def test_bad_requests_are_refused_in_words(cluster: Cluster, master: Client) -> None:
    assert "no list of types of events" in refused(master.request("GET", "/events?types=keys"), 400)
    assert "no printable ASCII text" in refused(master.request("GET", "/events?prefix=%C3%BC"), 400)
    assert "no id of an event" in refused(master.request("GET", "/events", headers={"Last-Event-ID": "x"}), 400)
    assert "no id of an event" in refused(master.request("GET", "/events?after=1;2"), 400)
    assert "GET, OPTIONS is" in refused(master.request("POST", "/events", b"x"), 405)


def test_its_headers_keep_proxies_and_caches_from_keeping_it(cluster: Cluster) -> None:
    with Stream(cluster.master_url) as stream:
        headers = stream.response.headers
        assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Accel-Buffering"] == "no"
        assert headers["Content-Length"] is None


def test_curl_listens(cluster: Cluster) -> None:
    folder = unique("")
    command = ["curl", "-sSN", f"{cluster.master_url}/events?prefix={quote(folder)}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
        assert curl.stdout
        try:
            lines = iter(curl.stdout.readline, b"")
            assert next(lines).startswith(b"retry: ")
            assert next(line for line in lines if line.startswith(b"id: "))
            assert put(cluster, f"{folder}a", b"x").status == 201
            data = next(line for line in lines if line.startswith(b"data: "))
            assert json.loads(data.partition(b": ")[2])["data"]["key"] == f"{folder}a"
        finally:
            curl.terminate()


# Going on.


def test_a_client_goes_on_where_it_was(cluster: Cluster) -> None:
    folder = unique("")
    with Stream(cluster.master_url, {"prefix": folder}) as stream:
        assert put(cluster, f"{folder}0", b"x").status == 201
        stream.wait(lambda event: event.key == f"{folder}0")
        last = stream.events[-1].id
    for number in range(1, 6):
        assert put(cluster, f"{folder}{number}", b"x").status == 201
    for options in ({"after": last}, {"parameters": {"after": last}}):
        parameters = {"prefix": folder} | dict(options.pop("parameters", {}))  # type: ignore[call-overload]
        with Stream(cluster.master_url, parameters, **options) as stream:  # type: ignore[arg-type]
            stream.wait(lambda event: event.key == f"{folder}5")
            assert put(cluster, f"{folder}live-{len(options)}", b"x").status == 201
            stream.wait(lambda event, options=options: event.key == f"{folder}live-{len(options)}")  # type: ignore[misc]
            assert [event.key for event in stream.events][:5] == [f"{folder}{number}" for number in range(1, 6)]


@pytest.mark.parametrize("known", ["1-1", "{stream}-999999999", "9999999999999-1"])
def test_a_client_whose_id_is_not_known_is_told_so(cluster: Cluster, known: str) -> None:
    with Stream(cluster.master_url) as stream:
        id_of_stream = stream.last_id.partition("-")[0]
    with Stream(cluster.master_url, after=known.format(stream=id_of_stream)) as stream:
        told = stream.wait(lambda event: event.type == "reset")
        assert "missed" in told.data["reason"]
        assert stream.events[0] == told
        # And goes on from there
        key = unique()
        assert put(cluster, key, b"x").status == 201
        stream.wait(lambda event: event.data.get("key") == key)


def test_events_go_on_after_the_controller_or_the_master_was_killed(make_cluster: Clusters) -> None:
    cluster = make_cluster(env={"PULZAR_SERVER_WORKERS": "2"})
    keys = [unique(str(number)) for number in range(12)]
    streams = [Stream(cluster.master_url, {"types": "key"}) for _ in range(4)]  # on both workers, most likely
    for key in keys[:4]:
        assert put(cluster, key, b"x").status == 201
    # When the controller is killed, the streams stay, and go on
    controller_of(cluster).kill()
    for key in keys[4:8]:
        wait_for(lambda key=key: put(cluster, key, b"x").status in (201, 409), 60)  # type: ignore[misc]
    for stream in streams:
        stream.wait(lambda event: event.key == keys[7])
        assert [event.key for event in stream.events if event.type == "key.added"] == keys[:8]
    # When the whole master is killed, they end
    cluster.kill_master()
    for stream in streams:
        wait_for(lambda stream=stream: stream.ended)  # type: ignore[misc]
        stream.close()
    cluster.start_master()
    cluster.wait_healthy()
    for key in keys[8:]:
        wait_for(lambda key=key: put(cluster, key, b"x").status in (201, 409), 60)  # type: ignore[misc]
    # And whoever comes again gets what has come meanwhile, without a gap
    with Stream(cluster.master_url, {"types": "key"}, after=streams[0].events[1].id) as again:
        again.wait(lambda event: event.data.get("key") == keys[11])
        assert [event.type for event in again.events if event.type == "reset"] == []
        assert [event.key for event in again.events if event.type == "key.added"] == keys[2:]


def test_the_master_stops_soon_with_listeners_and_ends_them_in_order(make_cluster: Clusters) -> None:
    cluster = make_cluster()
    streams = [Stream(cluster.master_url) for _ in range(3)]
    key = unique()
    assert put(cluster, key, b"x").status == 201
    for stream in streams:
        stream.wait(lambda event: event.data.get("key") == key)
    cluster.stop_master()
    for stream in streams:
        wait_for(lambda stream=stream: stream.ended)  # type: ignore[misc]
        assert stream.error == ""  # the last chunk has come
        stream.close()


# Nodes and RabbitMQ.


def test_nodes_that_go_and_come_back_are_told_of_and_all_is_published(make_cluster: Clusters) -> None:
    # Given a cluster that publishes events, and a queue for them
    cluster = make_cluster(env={"PULZAR_GENERAL_EVENTS": "True"})
    heard: list[dict[str, Any]] = []
    declarations = [
        topology.Exchange(topology.EVENTS, "topic"),
        topology.Queue("test.events", {"x-queue-type": "classic"}, exclusive=True),
        topology.Binding(topology.EVENTS, "test.events", "#"),
    ]
    link = Link(cluster.broker_url, "test of events", lambda: declarations)

    def hear(delivery: Delivery) -> None:
        heard.append(json.loads(delivery.body))
        link.ack(delivery)

    link.consume("test.events", hear, 1000)
    link.start()
    assert link.wait(30)
    node = cluster.nodes[1].id
    with Stream(cluster.master_url) as stream:
        key = unique("folder/key")
        assert put(cluster, key, b"x").status == 201
        # When a node goes and comes back
        cluster.kill_node(1)
        away = stream.wait(lambda event: event.type == "node.away" and event.data["node"] == node)
        assert http_request("GET", f"{cluster.master_url}/admin/network/{node}").data["synch"] is False
        cluster.start_node(1)
        # It came into synch before, too, when the cluster was new
        stream.wait(
            lambda event: event.number > away.number and event.type == "node.back" and event.data["node"] == node
        )
        assert http_request("GET", f"{cluster.master_url}/admin/network/{node}").data["synch"] is True
        # Then RabbitMQ has the same events in the same order
        last = stream.events[-1].id
        wait_for(lambda: any(told["id"] == last for told in heard), 60, "the last event")
        told = list(heard)
        first = next(number for number, event in enumerate(told) if event["id"] == stream.events[0].id)
        assert [event["id"] for event in told[first:]][: len(stream.events)] == [event.id for event in stream.events]
        [event] = [row for row in told if row["data"].get("key") == key]
        assert (event["specversion"], event["type"], event["subject"]) == ("1.0", "key.added", key)
    link.stop()


def test_nothing_is_published_unless_it_is_asked_for(cluster: Cluster) -> None:
    heard: list[Delivery] = []
    declarations = [
        topology.Exchange(topology.EVENTS, "topic"),
        topology.Queue("test.none", {"x-queue-type": "classic"}, exclusive=True),
        topology.Binding(topology.EVENTS, "test.none", "#"),
    ]
    link = Link(cluster.broker_url, "test of no events", lambda: declarations)
    link.consume("test.none", heard.append, 1000)
    link.start()
    assert link.wait(30)
    with Stream(cluster.master_url, {"types": "key"}) as stream:
        keys = [unique() for _ in range(5)]
        for key in keys:
            assert put(cluster, key, b"x").status == 201
        stream.wait(lambda event: event.key == keys[-1])
    link.stop()
    assert not heard


# Limits.


def test_a_slow_client_is_cut_off_and_goes_on_later(make_cluster: Clusters) -> None:
    cluster = make_cluster(env={"PULZAR_SERVER_CLIENT_TIMEOUT": "3", "PULZAR_GENERAL_HEARTBEAT": "2"})
    folder = unique("")
    # Given 3 MB of events that are past, and a client that asks for all of them and reads nothing
    with Stream(cluster.master_url, {"types": "key"}) as stream:
        before = stream.last_id
    name = f"{folder}{'x' * 200}"
    workers = 8

    def store(part: int) -> None:
        with Client(cluster.master_url) as client:
            for number in range(400):
                key = f"{name}/{part}-{number}"
                wait_for(lambda key=key: client.put(key, b"x").status in (201, 409), 60)  # type: ignore[misc]

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(store, range(workers)))
    parts = cluster.master_url.removeprefix("http://").split(":")
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((parts[0], int(parts[1])))
        head = f"GET /events?types=key HTTP/1.1\r\nHost: {parts[0]}:{parts[1]}\r\nLast-Event-ID: {before}\r\n\r\n"
        slow.sendall(head.encode())
        # Then the master cuts it off
        with Client(cluster.master_url) as client:
            cut = "pulzar_event_listeners_cut_off_total 1"
            wait_for(lambda: cut in client.request("GET", "/metrics").body.decode(), 90, "the cut", pause=0.5)
    # And another one gets all of them
    with Stream(cluster.master_url, {"prefix": folder}, after=before) as stream:
        wait_for(lambda: len(stream.events) >= workers * 400, 120)
        assert len({event.key for event in stream.events}) == workers * 400


def test_more_listeners_than_the_limit_are_refused(make_cluster: Clusters) -> None:
    cluster = make_cluster(env={"PULZAR_SERVER_LISTENERS": "2", "PULZAR_SERVER_WORKERS": "1"})
    with Client(cluster.master_url) as client:
        with Stream(cluster.master_url), Stream(cluster.master_url):
            answer = client.request("GET", "/events")
            assert "2 is the limit ([server] listeners)" in refused(answer, 503)
            assert answer.headers["retry-after"] == "10"
            assert "pulzar_event_listeners" in client.request("GET", "/metrics").body.decode()

        def free() -> bool:
            try:
                Stream(cluster.master_url).close()
            except AssertionError:
                return False
            return True

        wait_for(free, what="a place for another one")


# Rights.


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory, make_shared_cluster: Clusters) -> Keys:
    keys = Keys(tmp_path_factory.mktemp("tokens") / "tokens")
    keys.start(make_shared_cluster)
    return keys


def test_a_token_hears_nothing_of_what_it_may_not_read(keys: Keys) -> None:
    mine = keys.make("mine", ["read:mine/", "launch:example/*"])
    keys.settle()
    url = keys.cluster.master_url
    everything = {"Authorization": f"Bearer {keys.all}"}
    with (
        Stream(url, headers={"Authorization": f"Bearer {mine}"}) as stream,
        Stream(url, headers=everything) as all_of_them,
        Client(url) as client,
    ):
        for key in ("mine/a", "theirs/b", "mine/c"):
            good(client.put(key, b"x", headers=everything), 201)
        body = b'{"number": 5}'
        jobs = [
            good(client.request("POST", "/launch_job/example/factorial", body, {"Authorization": f"Bearer {token}"}))
            for token in (keys.all, mine)
        ]
        for job in jobs:
            number = job["job_id"]
            all_of_them.wait(lambda event, n=number: event.data.get("job_id") == n and event.type == "job.completed")  # type: ignore[misc]
        stream.wait(lambda event: event.type == "job.completed")
        stream.wait(lambda event: event.data.get("key") == "mine/c")
        assert {event.data["key"] for event in stream.events if "key" in event.data} <= {"mine/a", "mine/c"}
        own = {event.data["job_id"] for event in stream.events if event.type.startswith("job.")}
        assert own == {jobs[1]["job_id"]}
        assert "theirs/b" in [event.data.get("key") for event in all_of_them.events]


def test_a_prefix_needs_the_right_to_read_it_and_no_token_hears_nothing(keys: Keys) -> None:
    mine = keys.make("prefix", ["read:mine/"])
    keys.settle()
    with Client(keys.cluster.master_url) as client:
        refused(client.request("GET", "/events"), 401)
        own = {"Authorization": f"Bearer {mine}"}
        assert "lacks the right read:theirs/" in refused(
            client.request("GET", "/events?prefix=theirs/", headers=own), 403
        )
        with Stream(keys.cluster.master_url, {"prefix": "mine/sub/"}, headers=own):
            pass


def test_a_stream_ends_when_its_token_is_revoked(keys: Keys) -> None:
    mine = keys.make("gone-soon", ["read:mine/"])
    keys.settle()
    with Stream(keys.cluster.master_url, headers={"Authorization": f"Bearer {mine}"}) as stream:
        del keys.lines["gone-soon"]
        keys.write()
        wait_for(lambda: stream.ended, 60)
        assert stream.error == ""


def test_a_page_of_another_origin_hears_nothing(cluster: Cluster) -> None:
    with Stream(cluster.master_url, headers={"Origin": "http://elsewhere.example"}) as stream:
        assert stream.response.headers["Access-Control-Allow-Origin"] is None  # so browsers keep it from the page
