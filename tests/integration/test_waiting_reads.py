"""`GET /get_key/{key}?wait=`: answered when the value is another one, woken by its own key alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from urllib.parse import quote

import psutil
import pytest

from ops.cluster import Cluster
from tests.event_stream import controller_of
from tests.integration.tokens_tools import Keys
from tests.integration.wire import INLINE, Answer, Client, good, refused
from tests.support import Clusters, unique, wait_for

LONG = 120  # seconds that nobody has to wait


class Waiters:
    """Requests that wait, each on a connection and a thread of its own."""

    def __init__(self, cluster: Cluster, most: int = 40) -> None:
        self.url = cluster.master_url
        self.pool = ThreadPoolExecutor(most)

    def __enter__(self) -> Waiters:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()

    def begin(
        self, key: str, etag: str = "", secs: float = LONG, method: str = "GET", token: str = "", follow: bool = True
    ) -> Future[Answer]:
        headers = {"If-None-Match": etag} if etag else {}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}

        def ask() -> Answer:
            with Client(self.url, timeout=LONG * 2) as client:
                return client.request(method, f"/get_key/{quote(key)}?wait={secs:g}", headers=headers, follow=follow)

        return self.pool.submit(ask)

    def number(self) -> int:
        """How many wait, as the master's figures say; these are up to a second old."""
        with Client(self.url) as client:
            body = client.request("GET", "/metrics").body.decode()
        lines = [line for line in body.splitlines() if line.startswith("pulzar_key_waiters")]
        return int(sum(float(line.rpartition(" ")[2]) for line in lines))

    def settle(self, number: int) -> None:
        """Returns when so many wait."""
        wait_for(lambda: self.number() == number, 60, f"{number} that wait", pause=0.2)


@pytest.fixture
def waiters(cluster: Cluster) -> Iterator[Waiters]:
    with Waiters(cluster) as waiters:
        yield waiters


def etag_of(answer: Answer) -> str:
    return answer.headers["etag"]


def test_who_waits_gets_the_next_value_and_others_go_on_waiting(master: Client, waiters: Waiters) -> None:
    # Given two keys, and clients that know their values
    key, other = unique(), unique()
    for name in (key, other):
        good(master.put(name, b"one"), 201)
    known = etag_of(master.get(key))
    wakes = [waiters.begin(key, known) for _ in range(5)]
    sleeps = [waiters.begin(other, known) for _ in range(5)]
    waiters.settle(10)
    # When one of them gets another value
    good(master.put(key, b"two", "?overwrite=1"), 201)
    # Then those who wait for it have it, and the others wait
    for answer in wakes:
        assert (answer.result(60).status, answer.result().body) == (200, b"two")
        assert etag_of(answer.result()) != known
    waiters.settle(5)
    assert not any(answer.done() for answer in sleeps)
    # And when the other one is deleted, it is unknown to them
    good(master.request("DELETE", f"/delete_key/{other}"))
    assert [refused(answer.result(60), 404) for answer in sleeps]
    waiters.settle(0)


def test_what_differs_already_is_answered_at_once(master: Client, waiters: Waiters) -> None:
    key = unique()
    good(master.put(key, b"one"), 201)
    assert waiters.begin(key, '"another"').result(60).body == b"one"
    assert waiters.begin(key).result(60).body == b"one"
    assert waiters.begin(key, '"another"', method="HEAD").result(60).headers["content-length"] == "3"
    refused(waiters.begin(unique(), '"another"').result(60), 404)


def test_at_the_end_of_the_time_it_is_what_a_plain_read_is(master: Client, waiters: Waiters) -> None:
    key = unique()
    good(master.put(key, b"one"), 201)
    known = etag_of(master.get(key))
    began = time.monotonic()
    answers = waiters.begin(key, known, 1), waiters.begin(unique(), secs=1), waiters.begin(key, known, 0.5, "HEAD")
    assert (answers[0].result(60).status, etag_of(answers[0].result())) == (304, known)
    refused(answers[1].result(60), 404)
    assert answers[2].result(60).status == 304
    assert time.monotonic() - began >= 1


def test_a_key_that_is_not_there_is_waited_for(master: Client, waiters: Waiters) -> None:
    key = unique()
    answers = [waiters.begin(key) for _ in range(3)]
    waiters.settle(3)
    good(master.put(unique(), b"of another key"), 201)
    good(master.put(key, b"there"), 201)
    assert [answer.result(60).body for answer in answers] == [b"there"] * 3


def test_the_same_value_again_is_no_change(master: Client, waiters: Waiters) -> None:
    key = unique()
    good(master.put(key, b"one"), 201)
    answer = waiters.begin(key, etag_of(master.get(key)))
    waiters.settle(1)
    good(master.put(key, b"one", "?overwrite=1"), 201)
    good(master.put(key, b"two", "?overwrite=1"), 201)
    assert answer.result(60).body == b"two"


def test_a_large_value_is_redirected_to_as_always(master: Client, waiters: Waiters) -> None:
    key = unique()
    good(master.put(key, b"one"), 201)
    known = etag_of(master.get(key))
    redirected, followed = waiters.begin(key, known, follow=False), waiters.begin(key, known)
    waiters.settle(2)
    good(master.put(key, b"x" * (INLINE + 1), "?overwrite=1"), 201)
    assert redirected.result(60).status == 307
    assert followed.result(60).body == b"x" * (INLINE + 1)


def test_the_end_of_a_lifetime_is_a_change(master: Client, waiters: Waiters) -> None:
    key = unique()
    good(master.put(key, b"one", "?ttl=3s"), 201)
    refused(waiters.begin(key, etag_of(master.get(key))).result(60), 404)


@pytest.mark.parametrize("wait", ["0", "0.0", "301", "-1", "x", "", "1e3", "٣", "30s", "9999999999"])
def test_times_that_are_none_are_refused_in_words(master: Client, wait: str) -> None:
    key = unique()
    good(master.put(key, b"one"), 201)
    answer = master.request("GET", f"/get_key/{key}?wait={quote(wait)}")
    assert "give seconds, more than 0 and up to 300" in refused(answer, 400)


def test_clients_that_go_wait_no_more(master: Client, waiters: Waiters) -> None:
    key = unique()
    clients = [Client(waiters.url) for _ in range(5)]
    for client in clients:
        client.send(f"GET /get_key/{key}?wait=300 HTTP/1.1\r\nHost: {client.host}\r\n\r\n".encode())
    waiters.settle(5)
    for client in clients:
        client.close()
    waiters.settle(0)


def test_five_hundred_wait_and_no_thread_is_theirs(make_cluster: Clusters) -> None:
    # Given 500 requests for as many keys, over two web workers
    cluster = make_cluster(env={"PULZAR_SERVER_WORKERS": "2"})
    keys = [unique(str(number)) for number in range(500)]
    with Waiters(cluster) as waiters, Client(cluster.master_url) as master:
        threads = threads_of_web(cluster)
        clients = [Client(cluster.master_url, timeout=LONG) for _ in keys]
        try:
            for client, key in zip(clients, keys, strict=True):
                client.send(f"GET /get_key/{key}?wait=300 HTTP/1.1\r\nHost: {client.host}\r\n\r\n".encode())
            waiters.settle(500)
            assert threads_of_web(cluster) <= threads + 8
            # When all get values, in another order
            for key in reversed(keys):
                good(master.put(key, key.encode()), 201)
            # Then each has the value of its own key
            for client, key in zip(clients, keys, strict=True):
                assert client.receive("GET").body == key.encode()
            waiters.settle(0)
        finally:
            for client in clients:
                client.close()


def threads_of_web(cluster: Cluster) -> int:
    """Threads of all processes of the master."""
    [master] = [child for child in cluster.processes if child.name == "master"]
    processes = psutil.Process(master.pid).children(recursive=True)
    return sum(process.num_threads() for process in processes)


def test_more_than_the_limit_are_refused(make_cluster: Clusters) -> None:
    cluster = make_cluster(env={"PULZAR_SERVER_WAITERS": "2", "PULZAR_SERVER_WORKERS": "1"})
    key = unique()
    with Waiters(cluster) as waiters, Client(cluster.master_url) as master:
        answers = [waiters.begin(key) for _ in range(2)]
        waiters.settle(2)
        answer = master.request("GET", f"/get_key/{key}?wait=1")
        assert "2 is the limit ([server] waiters)" in refused(answer, 503)
        assert answer.headers["retry-after"] == "10"
        good(master.put(key, b"x"), 201)
        assert [answer.result(60).status for answer in answers] == [200, 200]


def test_the_master_stops_soon_and_who_waits_is_told_to_ask_again(make_cluster: Clusters) -> None:
    cluster = make_cluster()
    with Waiters(cluster) as waiters:
        answers = [waiters.begin(unique()) for _ in range(5)]
        waiters.settle(5)
        cluster.stop_master()
        for answer in answers:
            assert "ask again" in refused(answer.result(60), 503)
            assert answer.result().headers["retry-after"] == "1"


def test_who_waits_is_woken_after_the_controller_was_killed(make_cluster: Clusters) -> None:
    cluster = make_cluster()
    key = unique()
    with Waiters(cluster) as waiters, Client(cluster.master_url) as master:
        answers = [waiters.begin(key) for _ in range(5)]
        waiters.settle(5)
        controller_of(cluster).kill()
        wait_for(lambda: master.put(key, b"x").status in (201, 409), 60)
        assert [answer.result(60).body for answer in answers] == [b"x"] * 5


def test_rights_count_again_when_it_is_answered(
    make_cluster: Clusters, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = Keys(tmp_path_factory.mktemp("tokens") / "tokens")
    keys.start(make_cluster)
    mine, stays = keys.make("mine", ["read:"]), keys.make("stays", ["read:"])
    keys.settle()
    with Waiters(keys.cluster) as waiters, Client(keys.cluster.master_url) as master:
        answers = {token: waiters.begin("a/key", token=token) for token in (mine, stays)}
        wait_for(lambda: b"pulzar_key_waiters" in metrics(master, keys) and counted(master, keys) == 2, 60)
        del keys.lines["mine"]
        keys.write()
        keys.settle()
        good(master.put("a/key", b"x", headers={"Authorization": f"Bearer {keys.all}"}), 201)
        assert answers[stays].result(60).body == b"x"
        refused(answers[mine].result(60), 401)


def metrics(master: Client, keys: Keys) -> bytes:
    return master.request("GET", "/metrics", headers={"Authorization": f"Bearer {keys.all}"}).body


def counted(master: Client, keys: Keys) -> int:
    lines = [line for line in metrics(master, keys).decode().splitlines() if line.startswith("pulzar_key_waiters")]
    return int(sum(float(line.rpartition(" ")[2]) for line in lines))
