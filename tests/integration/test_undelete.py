"""`GET /keys?deleted=1` and `POST /undelete/{key}`: what was deleted or overwritten by accident comes back."""

from __future__ import annotations

import os
import signal
import time
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from ops.cluster import Cluster
from tests.faults.test_copies import put_on
from tests.faults.tools import settle, wait_silent
from tests.integration.wire import CACHED, INLINE, SMALL, Client, good, payload, refused
from tests.support import Answer, Clusters, delete, get, http_request, put, unique, wait_for

SIZES = [0, 100, CACHED + 1, SMALL + 1, 2 * INLINE]
WEEK_SECS = 7 * 86_400


def undelete(cluster: Cluster, key: str, **parameters: str) -> Answer:
    """`POST /undelete/{key}`."""
    query = f"?{urlencode(parameters)}" if parameters else ""
    return http_request("POST", f"{cluster.master_url}/undelete/{quote(key)}{query}")


def deleted(cluster: Cluster, prefix: str, **parameters: str) -> Any:
    """`data` of `GET /keys?deleted=1`."""
    query = urlencode({"deleted": "1", "prefix": prefix, **parameters})
    answer = http_request("GET", f"{cluster.master_url}/keys?{query}")
    assert answer.status == 200, answer
    return answer.data


def purge(cluster: Cluster, key: str) -> Answer:
    """`DELETE /delete_key/{key}?purge=1`."""
    return http_request("DELETE", f"{cluster.master_url}/delete_key/{quote(key)}?purge=1")


@pytest.mark.parametrize("size", SIZES)
def test_a_deleted_value_is_listed_and_comes_back_as_it_was(cluster: Cluster, size: int) -> None:
    key, value = unique("a b"), payload(size)
    headers = {"Content-Type": "text/x-test", "Content-Encoding": "gzip"}
    assert put(cluster, key, value, "ttl=1d", headers=headers).status == 201
    before = http_request("GET", f"{cluster.master_url}/keys?{urlencode({'prefix': key})}").data["keys"][0]
    assert delete(cluster, key).status == 200
    # Given that it is listed
    (row,) = deleted(cluster, key)["keys"]
    assert row.keys() == {
        *("key", "version", "size", "etag", "content_type", "content_encoding"),
        *("created", "expires", "deleted", "until", "node"),
    }
    same = ("key", "size", "etag", "content_type", "content_encoding", "created", "expires")
    assert {name: row[name] for name in same} == {name: before[name] for name in same}
    assert [row["node"]] == before["nodes"]
    assert isinstance(row["version"], str)
    assert abs(row["deleted"] - time.time()) < 60
    assert row["until"] == before["expires"]
    # When it is brought back
    answer = undelete(cluster, key)
    # Then all of it is as it was
    assert (answer.status, answer.msg) == (201, "key undeleted")
    assert answer.headers["ETag"] == before["etag"]
    assert answer.data["version"] == row["version"]
    assert (get(cluster, key).status, get(cluster, key).body) == (200, value)
    after = http_request("GET", f"{cluster.master_url}/keys?{urlencode({'prefix': key})}").data["keys"][0]
    for name in ("size", "etag", "content_type", "content_encoding", "expires", "nodes"):
        assert after[name] == before[name], name
    assert refused_with(undelete(cluster, key), 409, "?overwrite=1 replaces it")


def refused_with(answer: Answer, status: int, reason: str) -> bool:
    """Whether an answer is this refusal."""
    assert answer.status == status, answer
    assert reason in answer.msg, answer.msg
    return True


def test_the_newest_comes_back_unless_an_older_one_is_named(cluster: Cluster) -> None:
    key = unique()
    for number in range(4):
        assert put(cluster, key, b"%d" % number, "overwrite=1").status == 201
    rows = deleted(cluster, key)["keys"]
    versions = [row["version"] for row in rows]
    assert len(versions) == 3
    assert [int(version) for version in versions] == sorted(int(version) for version in versions)
    assert all(WEEK_SECS - 60 < row["until"] - time.time() <= WEEK_SECS for row in rows)
    assert undelete(cluster, key).status == 409
    assert undelete(cluster, key, overwrite="1").status == 201
    assert get(cluster, key).body == b"2"
    assert undelete(cluster, key, overwrite="1", version=versions[0]).status == 201
    assert get(cluster, key).body == b"0"
    # And what was replaced meanwhile is held as well
    assert {row["etag"] for row in deleted(cluster, key)["keys"]} >= {row["etag"] for row in rows}
    refused_with(undelete(cluster, key, overwrite="1", version="5"), 404, f"{versions[-1]}, ")


def test_a_page_goes_on_where_the_one_before_ended(cluster: Cluster) -> None:
    folder = unique("page/")
    names = [f"{number:02}" for number in range(23)]
    for name in names:
        put(cluster, folder + name, b"1")
        put(cluster, folder + name, b"2", "overwrite=1")
        delete(cluster, folder + name)
    seen: list[tuple[str, str]] = []
    after = ""
    while True:
        page = deleted(cluster, folder, limit="7", **({"after": after} if after else {}))
        assert page["missing"] == []
        assert len(page["keys"]) <= 7
        seen += [(row["key"].removeprefix(folder), row["etag"]) for row in page["keys"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert [name for name, _ in seen] == [name for name in names for _ in range(2)]
    assert len(set(seen)) == 46


@pytest.mark.parametrize(
    ("target", "status", "reason"),
    [
        ("GET /keys?deleted=x", 400, "deleted='x' is neither 1 nor 0"),
        ("GET /keys?deleted=1&limit=0", 400, "limit='0' is no integer from 1 to 1000"),
        ("GET /keys?deleted=1&limit=1001", 400, "limit='1001'"),
        ("GET /keys?deleted=1&after=a", 400, "after='a' is no KEY:VERSION; give next of the page before"),
        ("GET /keys?deleted=1&prefix=%C3%BC", 400, "printable ASCII"),
        ("GET /keys?deleted=1&delimiter=/", 400, "delimiter does not go with deleted=1"),
        ("POST /undelete/never/there", 404, "no node holds a deleted version of the key never/there"),
        ("POST /undelete/never/there?version=7", 404, "no node holds version 7 of the key never/there"),
        ("POST /undelete/a?version=x", 400, "version='x' is no integer from 1"),
        ("POST /undelete/a?version=9223372036854775808", 400, "is no integer from 1"),
        ("POST /undelete/a?overwrite=2", 400, "overwrite='2' is neither 1 nor 0"),
        ("POST /undelete/a//b", 400, "empty segment"),
        ("POST /undelete/jobs/1/log", 403, "which only its node writes"),
        ("DELETE /delete_key/a?purge=2", 400, "purge='2' is neither 1 nor 0"),
    ],
)
def test_what_can_not_be_done_is_refused_with_the_reason(master: Client, target: str, status: int, reason: str) -> None:
    method, _, path = target.partition(" ")
    assert reason in refused(master.request(method, path), status)


def test_the_list_of_keys_is_as_before_without_the_parameter(master: Client) -> None:
    key = unique()
    good(master.put(key, b"1"), 201)
    for query in ("", "&deleted=0"):
        (row,) = good(master.request("GET", f"/keys?prefix={key}{query}"))["keys"]
        assert row["nodes"]
    for query in ("", "&deleted=1"):
        answer = master.request("HEAD", f"/keys?prefix={key}{query}")
        assert (answer.status, answer.body) == (200, b"")


def test_conditions_guard_what_is_there(cluster: Cluster) -> None:
    key = unique()
    put(cluster, key, b"first")
    put(cluster, key, b"second", "overwrite=1")
    etag = get(cluster, key).headers["ETag"]
    url = f"{cluster.master_url}/undelete/{key}"
    assert http_request("POST", url, headers={"If-Match": '"other"'}).status == 412
    assert http_request("POST", url, headers={"If-None-Match": "*"}).status == 412
    assert http_request("POST", url, headers={"If-Match": etag}).status == 201
    assert get(cluster, key).body == b"first"


def test_a_purge_leaves_nothing_to_bring_back_of_any_version(cluster: Cluster) -> None:
    key, other = unique(), unique()
    for name in (key, other):
        put(cluster, name, b"first")
        put(cluster, name, payload(SMALL + 1), "overwrite=1")
    assert purge(cluster, key).status == 200
    assert get(cluster, key).status == 404
    assert deleted(cluster, key)["keys"] == []
    assert undelete(cluster, key).status == 404
    # And of a key that was deleted before
    assert delete(cluster, other).status == 200
    assert len(deleted(cluster, other)["keys"]) == 2
    assert purge(cluster, other).status == 200
    wait_for(lambda: deleted(cluster, other)["keys"] == [], what="the purge")
    assert delete(cluster, other).status == 404


def test_a_move_leaves_nothing_to_bring_back_under_the_old_key(cluster: Cluster) -> None:
    key, to = unique(), unique()
    put(cluster, key, b"value")
    assert http_request("POST", f"{cluster.master_url}/move/{key}?to={to}").status == 201
    assert deleted(cluster, key)["keys"] == []
    assert undelete(cluster, key).status == 404


def test_what_a_failed_put_left_is_not_held_and_what_was_deleted_before_is(make_cluster: Clusters) -> None:
    cluster = make_cluster(nodes=1, env={"PULZAR_SERVER_PUT_TIMEOUT": "1"})
    put(cluster, "a", b"first")
    assert delete(cluster, "a").status == 200
    pid = cluster.nodes[0].process.pid
    assert pid
    os.killpg(pid, signal.SIGSTOP)
    try:
        assert put(cluster, "a", b"second").status == 503
        assert put(cluster, "b", b"second").status == 503
    finally:
        os.killpg(pid, signal.SIGCONT)
    settle(cluster)
    wait_for(lambda: get(cluster, "b").status == 404, what="the end of what nobody was told of")
    first = next(row for row in deleted(cluster, "a")["keys"] if row["size"] == 5)
    assert undelete(cluster, "a", version=first["version"], overwrite="1").status == 201
    assert get(cluster, "a").body == b"first"
    assert deleted(cluster, "b")["keys"] == []


def test_a_silent_node_is_named_and_a_version_that_it_may_hold_is_503(make_cluster: Clusters) -> None:
    cluster = make_cluster()
    (first,) = put_on(cluster, 0, "first", 1)
    (second,) = put_on(cluster, 1, "second", 1)
    for key in (first, second):
        assert delete(cluster, key).status == 200
    cluster.kill_node(1)
    # Before the master knows it, and after
    for _ in range(2):
        page = deleted(cluster, "")
        assert page["missing"] == [cluster.nodes[1].id]
        assert first in [row["key"] for row in page["keys"]]
        refused_with(undelete(cluster, second), 503, f"{cluster.nodes[1].id} did not answer")
        wait_silent(cluster, cluster.nodes[1])
    # What another one holds comes back by its version alone: the silent one may hold a newer one
    (row,) = deleted(cluster, first)["keys"]
    refused_with(undelete(cluster, first), 503, f"?version={row['version']}")
    assert undelete(cluster, first, version=row["version"]).status == 201
    cluster.start_node(1)
    settle(cluster)
    assert undelete(cluster, second).status == 201


def test_a_value_that_went_to_another_node_comes_back_from_the_one_where_it_was(make_cluster: Clusters) -> None:
    cluster = make_cluster()
    ((key, value),) = put_on(cluster, 0, "moved", 1).items()
    # Given a value that is overwritten while its node is gone
    cluster.kill_node(0)
    wait_silent(cluster, cluster.nodes[0])
    assert put(cluster, key, b"elsewhere", "overwrite=1").status == 201
    cluster.start_node(0)
    settle(cluster)
    # When its node has been told, a minute later, that it is superseded
    rows = wait_for(lambda: deleted(cluster, key)["keys"], 90, "the old version to be held")
    assert [row["node"] for row in rows] == [cluster.nodes[0].id]
    # Then it comes back, and the other one can, too
    assert undelete(cluster, key, overwrite="1").status == 201
    assert get(cluster, key).body == value


def test_without_days_nothing_is_held(make_cluster: Clusters) -> None:
    cluster = make_cluster(nodes=1, env={"PULZAR_VOLUME_UNDELETE_DAYS": "0"})
    put(cluster, "a", b"1")
    delete(cluster, "a")
    assert deleted(cluster, "")["keys"] == []
    assert undelete(cluster, "a").status == 404
