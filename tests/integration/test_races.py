"""Clients that write one key at the same moment: exactly one of them wins, and what is read is the winner's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ops.cluster import Cluster
from tests.integration.wire import Answer, Client, good, payload, refused, target_of
from tests.support import Clusters, unique, wait_for

ROUNDS = 200


def at_once(clients: int, act: Callable[[int, threading.Barrier], None]) -> None:
    """Run `act` in as many threads, which share a barrier; fails as soon as one of them fails."""
    barrier = threading.Barrier(clients, timeout=60)

    def run(number: int) -> None:
        try:
            act(number, barrier)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(clients) as pool:
        errors = [future.exception() for future in [pool.submit(run, number) for number in range(clients)]]
    for error in errors:
        if error and not isinstance(error, threading.BrokenBarrierError):
            raise error


def race(cluster: Cluster, clients: int, rounds: int) -> None:
    """Clients PUT one key at once, round after round: each time exactly one adds it, and its value is read."""
    folder = unique()
    answers: list[list[Answer]] = [[] for _ in range(clients)]

    def put(number: int, barrier: threading.Barrier) -> None:
        with Client(cluster.master_url) as client:
            for turn in range(rounds):
                barrier.wait()
                answers[number].append(client.put(f"{folder}/{turn}", f"{number} {turn}".encode()))

    at_once(clients, put)

    with Client(cluster.master_url) as client:
        for turn, group in enumerate(zip(*answers, strict=True)):
            assert sorted(answer.status for answer in group) == [201] + [409] * (clients - 1), turn
            winner = next(number for number, answer in enumerate(group) if answer.status == 201)
            for number, answer in enumerate(group):
                if number == winner:
                    good(answer, 201)
                else:
                    refused(answer, 409)
            got = client.get(f"{folder}/{turn}")
            assert got.body == f"{winner} {turn}".encode()
            assert got.headers["etag"] == group[winner].headers["etag"]


def test_two_clients_put_one_key_at_once_and_exactly_one_adds_it(cluster: Cluster) -> None:
    race(cluster, 2, ROUNDS)


def test_exactly_one_client_adds_a_key_also_when_the_master_has_several_workers(make_cluster: Clusters) -> None:
    cluster = make_cluster(env={"PULZAR_SERVER_WORKERS": "3"})

    def stores() -> bool:
        with Client(cluster.master_url) as client:
            return client.put(unique(), b"value").status == 201

    wait_for(lambda: all(stores() for _ in range(20)), what="every worker is connected")
    race(cluster, 6, 60)


def test_a_small_put_and_a_large_upload_of_one_key_at_once_and_exactly_one_adds_it(cluster: Cluster) -> None:
    folder = unique()
    large = payload(70_000)
    rounds = ROUNDS // 2
    answers: list[list[Answer]] = [[], []]
    with Client(cluster.master_url) as client:
        places = [good(client.request("GET", f"/get_node/{folder}/{turn}"))["node"] for turn in range(rounds)]

    def put(number: int, barrier: threading.Barrier) -> None:
        nodes = {node.url: Client(node.url) for node in cluster.nodes}
        with Client(cluster.master_url) as client:
            for turn, place in enumerate(places):
                barrier.wait()
                if number == 0:
                    answer = client.put(f"{folder}/{turn}", b"small")
                else:
                    node = next(client for url, client in nodes.items() if place.startswith(url))
                    answer = node.request("PUT", target_of(place), large)
                answers[number].append(answer)
        for client in nodes.values():
            client.close()

    at_once(2, put)

    wins = [0, 0]
    with Client(cluster.master_url) as client:
        for turn, pair in enumerate(zip(*answers, strict=True)):
            assert sorted(answer.status for answer in pair) == [201, 409], (turn, [answer.body for answer in pair])
            winner = next(number for number, answer in enumerate(pair) if answer.status == 201)
            wins[winner] += 1
            assert client.get(f"{folder}/{turn}").body == (b"small", large)[winner]
    staging = [node.directory / "staging" for node in cluster.nodes]
    wait_for(lambda: not [file for folder in staging for file in folder.iterdir()], what="the losers' uploads removed")


def test_of_twenty_clients_with_the_same_if_match_exactly_one_replaces_the_value(cluster: Cluster) -> None:
    key = unique()
    clients, rounds = 20, 10
    with Client(cluster.master_url) as client:
        etag = client.put(key, b"first").headers["etag"]
    for turn in range(rounds):
        answers: dict[int, Answer] = {}

        def replace(
            number: int,
            barrier: threading.Barrier,
            turn: int = turn,
            etag: str = etag,
            answers: dict[int, Answer] = answers,
        ) -> None:
            with Client(cluster.master_url) as client:
                client.head(key)
                barrier.wait()
                answers[number] = client.put(key, f"{turn} {number}".encode(), headers={"If-Match": etag})

        at_once(clients, replace)
        assert sorted(answer.status for answer in answers.values()) == [201] + [412] * (clients - 1)
        winner = next(number for number, answer in answers.items() if answer.status == 201)
        with Client(cluster.master_url) as client:
            assert client.get(key).body == f"{turn} {winner}".encode()
            etag = client.head(key).headers["etag"]
            assert etag == answers[winner].headers["etag"]


def test_a_counter_raised_by_many_clients_with_if_match_loses_no_step(cluster: Cluster) -> None:
    key, clients, steps = unique(), 8, 12
    with Client(cluster.master_url) as client:
        good(client.put(key, b"0"), 201)

    def count(number: int, barrier: threading.Barrier) -> None:
        with Client(cluster.master_url) as client:
            barrier.wait()
            done = 0
            while done < steps:
                seen = client.get(key)
                answer = client.put(key, b"%d" % (int(seen.body) + 1), headers={"If-Match": seen.headers["etag"]})
                assert answer.status in (201, 412), answer
                done += answer.status == 201

    at_once(clients, count)
    with Client(cluster.master_url) as client:
        assert int(client.get(key).body) == clients * steps


def test_a_key_added_and_deleted_by_many_clients_at_once_is_never_half_there(cluster: Cluster) -> None:
    key, clients, turns = unique(), 6, 30
    added, deleted = [0] * clients, [0] * clients

    def act(number: int, barrier: threading.Barrier) -> None:
        with Client(cluster.master_url) as client:
            barrier.wait()
            for turn in range(turns):
                if (number + turn) % 2:
                    answer = client.put(key, payload(6_000, number))
                    assert answer.status in (201, 409), answer
                    added[number] += answer.status == 201
                else:
                    answer = client.delete(key)
                    assert answer.status in (200, 404), answer
                    deleted[number] += answer.status == 200
                seen = client.get(key)
                assert seen.status == 404 or seen.body in [payload(6_000, n) for n in range(clients)]

    at_once(clients, act)
    with Client(cluster.master_url) as client:
        there = client.get(key).status == 200
        assert sum(added) - sum(deleted) == there


def test_readers_of_a_key_that_is_being_replaced_see_one_whole_value_or_another(cluster: Cluster) -> None:
    key = unique()
    values = {payload(size, seed) for seed, size in enumerate([3_000, 30_000, 300_000, 1_200_000])}
    ordered = sorted(values, key=len)
    stop = threading.Event()
    with Client(cluster.master_url) as client:
        good(client.put(key, ordered[0]), 201)

    def act(number: int, barrier: threading.Barrier) -> None:
        with Client(cluster.master_url) as client:
            barrier.wait()
            if number == 0:
                for turn in range(24):
                    good(client.put(key, ordered[turn % len(ordered)], "?overwrite=1"), 201)
                stop.set()
                return
            while not stop.is_set():
                answer = client.get(key)
                assert answer.status == 200, answer
                assert answer.body in values

    try:
        at_once(4, act)
    finally:
        stop.set()
