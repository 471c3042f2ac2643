"""Quotas over HTTP: 507 at every way in, and what is never refused."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ops.cluster import Cluster
from tests.integration.wire import INLINE, Client, good, payload, refused
from tests.support import Clusters, unique

MIB = 1 << 20


@pytest.fixture(scope="module")
def limited(make_shared_cluster: Clusters) -> Cluster:
    quotas = "small/: 1000, large/: 3MiB, race/: 100KiB, moved/: 1000"
    return make_shared_cluster(env={"PULZAR_GENERAL_QUOTAS": quotas, "PULZAR_SERVER_WORKERS": "1"})


@pytest.fixture
def master(limited: Cluster) -> Iterator[Client]:
    with Client(limited.master_url) as client:
        yield client


def usage(master: Client, folder: str) -> dict[str, int]:
    found: dict[str, int] = good(master.request("GET", f"/stats/{folder}"), 200, "ok")
    return found


def test_a_small_value_beyond_the_quota_is_507_and_not_stored(master: Client) -> None:
    good(master.put("small/a", payload(600)), 201)
    message = refused(master.put("small/b", payload(401)), 507)
    assert message == "the folder small/ holds 600 bytes; its quota is 1,000, and a value has 401 bytes"
    assert usage(master, "small/") == {"keys": 1, "bytes": 600, "quota": 1000}
    assert master.request("GET", "/get_key/small/b").status == 404
    good(master.put("small/b/c", payload(400)), 201)
    refused(master.put("small/b/c", payload(401), "?overwrite=1"), 507)
    good(master.put("small/b/c", payload(1), "?overwrite=1"), 201)
    good(master.put("small-but-elsewhere", payload(5000)), 201)
    # Deletions are never refused, and make room
    good(master.request("DELETE", "/delete_key/small/a"), 200)
    good(master.put("small/d", payload(999)), 201)
    assert usage(master, "small/")["bytes"] == 1000


def test_a_large_value_is_refused_before_it_is_sent_and_when_it_is_committed(master: Client) -> None:
    size = 2 * MIB
    # Relayed, redirected, asked for, and of unknown length
    good(master.put("large/1", payload(size)), 201)
    before = usage(master, "large/")
    assert before["bytes"] == size
    refused(master.put("large/2", payload(size)), 507)
    answer = master.request("PUT", "/add_key/large/2", payload(size), {"Expect": "100-continue"})
    assert "its quota is 3,145,728" in refused(answer, 507)
    place = good(master.request("GET", "/get_node/large/2"), 200)["node"]  # nobody knows yet how large
    with Client(place) as node:
        answer = node.request("PUT", place[len("http://") + len(node.host) :], payload(size))
    assert "the folder large/ holds 2,097,152 bytes" in refused(answer, 507)
    pieces = (payload(MIB // 2) for _ in range(4))
    refused(master.request("PUT", "/add_key/large/2", pieces), 507)
    assert usage(master, "large/") == before
    assert master.request("GET", "/get_key/large/2").status == 404
    # When it is full, an address for an upload is refused, too
    good(master.put("large/3", payload(INLINE)), 201)
    assert "no room for more" in refused(master.request("GET", "/get_node/large/4"), 507)


def test_requests_in_flight_do_not_overshoot(limited: Cluster) -> None:
    def one(number: int) -> list[int]:
        with Client(limited.master_url) as client:
            return [client.put(f"race/{number}-{more}", payload(3000)).status for more in range(8)]

    with ThreadPoolExecutor(16) as pool:
        statuses = [status for each in pool.map(one, range(16)) for status in each]
    assert sorted(set(statuses)) == [201, 507]
    with Client(limited.master_url) as master:
        assert usage(master, "race/") == {"keys": 34, "bytes": 34 * 3000, "quota": 100 << 10}
    assert statuses.count(201) == 34


def test_a_replay_is_never_refused(limited: Cluster, master: Client) -> None:
    before = {folder: usage(master, folder) for folder in ("small/", "large/", "race/")}
    name = f"small/{unique('x')}"
    refused(master.put(name, payload(1001)), 507)
    limited.stop_master()
    limited.master_directory.rename(limited.master_directory.with_name("lost"))
    limited.start_master()
    limited.wait_healthy()
    with Client(limited.master_url) as again:
        assert {folder: usage(again, folder) for folder in before} == before


def test_a_move_within_a_full_folder_is_not_refused(master: Client) -> None:
    good(master.put("moved/full", payload(1000)), 201)
    before = usage(master, "moved/")
    good(master.request("POST", "/move/moved/full?to=moved/sub/full"), 201, "key moved")
    assert usage(master, "moved/") == before
    # But a copy is, and what comes from outside
    good(master.put("outside", b"1"), 201)
    assert "its quota is 1,000" in refused(master.request("POST", "/copy/moved/sub/full?to=moved/two"), 507)
    assert "its quota is 1,000" in refused(master.request("POST", "/move/outside?to=moved/three"), 507)
