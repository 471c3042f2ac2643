"""`POST /copy/{key}?to=`, `POST /move/{key}?to=`, and the same of whole folders."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from ops.cluster import Cluster
from tests.integration.wire import CACHED, INLINE, SMALL, Client, good, payload, refused
from tests.support import Answer, Clusters, get, http_request, put, unique, wait_for

SIZES = [0, 100, CACHED + 1, SMALL + 1, 2 * INLINE]


def transfer(
    cluster: Cluster, verb: str, key: str, to: str, headers: dict[str, str] | None = None, **more: str
) -> Answer:
    """`POST /copy/…` or `POST /move/…`."""
    url = f"{cluster.master_url}/{verb}/{quote(key)}?{urlencode({'to': to, **more})}"
    return http_request("POST", url, headers=headers)


def entry(cluster: Cluster, key: str) -> dict[str, Any]:
    """A row of `/keys`."""
    rows = http_request("GET", f"{cluster.master_url}/keys?{urlencode({'prefix': key})}").data["keys"]
    return next(row for row in rows if row["key"] == key)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("verb", ["copy", "move"])
def test_a_value_of_any_size_is_under_the_other_key(cluster: Cluster, verb: str, size: int) -> None:
    key, to = unique("a b+c"), unique("to/d&e+f")
    value = payload(size)
    headers = {"Content-Type": "text/x-test", "Content-Encoding": "gzip"}
    assert put(cluster, key, value, headers=headers).status == 201
    before = entry(cluster, key)
    since = time.time()
    answer = transfer(cluster, verb, key, to)
    assert answer.status == 201
    assert answer.msg == {"copy": "key copied", "move": "key moved"}[verb]
    assert answer.headers["ETag"] == before["etag"]
    found = get(cluster, to)
    assert (found.status, found.body) == (200, value)
    assert found.url.split("?")[0] == answer.data["url"] or size <= CACHED
    after = entry(cluster, to)
    same = ("size", "etag", "nodes", "expires", "content_type", "content_encoding")
    assert [after[name] for name in same] == [before[name] for name in same]
    assert after["content_encoding"] == "gzip"
    assert since - 1 < after["created"] < time.time() + 1
    source = get(cluster, key)
    assert (source.status, source.body) == (200, value) if verb == "copy" else source.status == 404


def test_a_large_value_is_not_copied_on_its_node(make_cluster: Clusters) -> None:
    cluster = make_cluster(nodes=1)
    value = payload(2 * INLINE)
    assert put(cluster, "a", value).status == 201
    assert transfer(cluster, "copy", "a", "b").status == 201
    files = [path for path in (cluster.nodes[0].directory / "values").rglob("*") if path.is_file()]
    assert len(files) == 2
    assert len({path.stat().st_ino for path in files}) == 1
    # And the copy lives on when the other one is deleted, or gets another value
    assert put(cluster, "a", b"another", "overwrite=1").status == 201
    assert get(cluster, "b").body == value
    assert transfer(cluster, "move", "b", "c").status == 201
    assert get(cluster, "c").body == value


def test_a_lifetime_goes_along_unless_another_is_given(cluster: Cluster) -> None:
    key = unique()
    assert put(cluster, key, b"1", "ttl=1h").status == 201
    ends = entry(cluster, key)["expires"]
    assert transfer(cluster, "copy", key, f"{key}.same").status == 201
    assert entry(cluster, f"{key}.same")["expires"] == ends
    assert transfer(cluster, "copy", key, f"{key}.day", temporal="1").status == 201
    assert abs(entry(cluster, f"{key}.day")["expires"] - time.time() - 86_400) < 60
    assert transfer(cluster, "move", key, f"{key}.short", ttl="1s").status == 201
    wait_for(lambda: get(cluster, f"{key}.short").status == 404, what="the end of its lifetime")
    refused_answer = transfer(cluster, "copy", f"{key}.short", unique())
    assert refused_answer.status == 404


def test_a_target_that_exists_is_kept_unless_it_may_be_overwritten(cluster: Cluster) -> None:
    key, to = unique(), unique()
    put(cluster, key, b"new")
    put(cluster, to, b"old")
    for verb in ("copy", "move"):
        answer = transfer(cluster, verb, key, to)
        assert (answer.status, "overwrite=1" in answer.msg) == (409, True)
        assert get(cluster, to).body == b"old"
    assert transfer(cluster, "move", key, to, overwrite="1").status == 201
    assert get(cluster, to).body == b"new"
    assert get(cluster, key).status == 404


def test_conditions_are_those_of_the_source(cluster: Cluster) -> None:
    key, to = unique(), unique()
    put(cluster, key, b"value")
    etag = entry(cluster, key)["etag"]
    for verb in ("copy", "move"):
        assert transfer(cluster, verb, key, to, {"If-Match": '"other"'}).status == 412
    assert get(cluster, to).status == 404
    assert transfer(cluster, "move", key, to, {"If-Match": etag}).status == 201


@pytest.mark.parametrize("verb", ["copy", "move"])
@pytest.mark.parametrize(
    ("target", "status", "reason"),
    [
        ("a", 400, "to is missing; give the key"),
        ("a?to=", 400, "to is missing"),
        ("a?to=a", 400, "to='a' is the key itself"),
        ("a?to=/a", 400, "to='a' is the key itself"),
        ("a?to=b//c", 400, "to='b//c': the key 'b//c' has an empty segment"),
        ("a?to=../c", 400, "segment . or .."),
        ("a?to=%C3%BC", 400, "only ASCII"),
        ("a?to=" + "b" * 384, 400, "383 is the limit"),
        ("a//b?to=c", 400, "empty segment"),
        ("a?to=b&ttl=x", 400, "ttl='x' is no lifetime"),
        ("a?to=b&overwrite=2", 400, "overwrite='2' is neither 1 nor 0"),
        ("none?to=b", 404, "the key none is unknown"),
        ("a?to=jobs/1/log", 403, "which only its node writes"),
        ("none/?to=b/", 404, "no key begins with 'none/'"),
        ("a/?to=b", 400, "to='b' is no folder"),
        ("a/?to=a/", 400, "is in the folder 'a/' itself"),
        ("a/?to=a/b/", 400, "is in the folder 'a/' itself"),
        ("a/?to=b//", 400, "empty segment"),
        ("?to=b/", 400, "the folder is missing"),
    ],
)
def test_what_can_not_be_done_is_refused_with_the_reason(
    master: Client, verb: str, target: str, status: int, reason: str
) -> None:
    assert reason in refused(master.request("POST", f"/{verb}/{target}"), status)


def test_a_condition_for_a_folder_is_refused(master: Client) -> None:
    answer = master.request("POST", "/copy/a/?to=b/", headers={"If-Match": "*"})
    assert "If-Match is for single keys" in refused(answer, 400)


def test_two_clients_that_move_one_key_at_once_do_not_both_do_it(cluster: Cluster) -> None:
    for count in range(20):
        key, targets = unique(), [unique() for _ in range(2)]
        put(cluster, key, b"%d" % count)
        with ThreadPoolExecutor(4) as pool:
            moves = [pool.submit(transfer, cluster, "move", key, to) for to in targets]
            # And two that exchange keys do not wait for each other for ever
            other = [pool.submit(transfer, cluster, "copy", *pair, overwrite="1") for pair in (targets, targets[::-1])]
        assert sorted(move.result().status for move in moves) == [201, 404]
        assert {copy.result().status for copy in other} <= {201, 404}


def fill(cluster: Cluster, folder: str, count: int) -> dict[str, bytes]:
    """Values below a folder, by the rest of their keys."""
    values = {f"{number % 3}/{number:03}": payload(SIZES[number % 4], number) for number in range(count)}
    with ThreadPoolExecutor(4) as pool:
        assert {answer.status for answer in pool.map(lambda key: put(cluster, folder + key, values[key]), values)} == {
            201
        }
    return values


def job(cluster: Cluster, answer: Answer, *, told: bool = True) -> dict[str, Any]:
    """The end of the job that a request has launched; `told`: its message says where to look."""
    assert answer.status in (200, 202), answer
    url = f"{cluster.master_url}/admin/jobs/{answer.data['job_id']}"
    assert not told or f"GET /admin/jobs/{answer.data['job_id']}" in answer.msg
    wait_for(lambda: http_request("GET", url).data["status"] != "pending", 60, "the end of the job")
    found: dict[str, Any] = http_request("GET", url).data
    return found


@pytest.fixture(scope="module")
def _scripts(cluster: Cluster) -> None:
    wait_for(lambda: http_request("GET", f"{cluster.master_url}/admin/job_catalog").data, what="the catalog")


@pytest.mark.usefixtures("_scripts")
@pytest.mark.parametrize("verb", ["copy", "move"])
def test_a_folder_is_done_by_a_job(cluster: Cluster, verb: str) -> None:
    folder, to = unique("from/"), unique("to/")
    values = fill(cluster, folder, 60)
    done = job(cluster, transfer(cluster, verb, folder, to, ttl="1h"))
    assert done["status"] == "completed", done
    assert done["output"] == {"keys": 60, "done": 60, "already": 0, "gone": 0, "failures": 0, "failed": []}
    assert {key: get(cluster, to + key).body for key in values} == values
    assert abs(entry(cluster, to + "0/000")["expires"] - time.time() - 3600) < 120
    assert {get(cluster, folder + key).status for key in values} == ({200} if verb == "copy" else {404})


@pytest.mark.usefixtures("_scripts")
def test_a_folder_comes_into_the_one_around_it_unless_keys_would_be_moved_twice(cluster: Cluster) -> None:
    around = unique("up/")
    put(cluster, around + "b/z", b"1")
    assert job(cluster, transfer(cluster, "move", around + "b/", around))["output"]["done"] == 1
    assert get(cluster, around + "z").body == b"1"
    # b/b/z would become b/z, which is in the folder itself, and then z
    put(cluster, around + "b/b/z", b"2")
    answer = transfer(cluster, "move", around + "b/", around)
    assert (answer.status, f"the keys below '{around}b/b/' would come into the folder" in answer.msg) == (400, True)
    # And so says a job that is launched by itself
    url = f"{cluster.master_url}/launch_job/keys/transfer"
    arguments = json.dumps({"prefix": around + "b/", "to": around, "move": True})
    done = job(cluster, http_request("POST", url, body=arguments.encode()), told=False)
    assert (done["status"], f"the keys below '{around}b/b/' would come" in done["log"]) == ("failed", True), done
    assert get(cluster, around + "b/b/z").body == b"2"


@pytest.mark.usefixtures("_scripts")
def test_keys_that_stay_for_what_is_in_their_place_are_named(cluster: Cluster) -> None:
    folder, to = unique("from/"), unique("to/")
    put(cluster, to + "older", b"same")
    put(cluster, folder + "older", b"same")
    put(cluster, folder + "type", b"same", headers={"Content-Type": "text/x-new"})
    put(cluster, to + "type", b"same", headers={"Content-Type": "text/x-old"})
    for verb, names in (("copy", ["type"]), ("move", ["older", "type"])):
        done = job(cluster, transfer(cluster, verb, folder, to))
        assert done["status"] == "failed", done
        assert sorted(failed["key"] for failed in done["output"]["failed"]) == [folder + name for name in names]
    assert {get(cluster, folder + name).status for name in ("older", "type")} == {200}


@pytest.mark.usefixtures("_scripts")
def test_the_job_goes_on_where_it_was_and_names_what_it_could_not_do(cluster: Cluster) -> None:
    folder, to = unique("from/"), unique("to/")
    values = fill(cluster, folder, 12)
    # Given that one was copied already, and another is there with other bytes
    put(cluster, to + "0/000", values["0/000"])
    put(cluster, to + "1/001", b"other")
    done = job(cluster, transfer(cluster, "copy", folder, to))
    assert done["status"] == "failed"
    assert "1 keys could not be copied; the output names them" in done["log"]
    (failed,) = done["output"]["failed"]
    assert failed["key"] == folder + "1/001"
    assert "409" in failed["reason"]
    assert (done["output"]["done"], done["output"]["already"]) == (10, 1)
    assert get(cluster, to + "1/001").body == b"other"
    assert all(get(cluster, to + key).body == value for key, value in values.items() if key != "1/001")
    # When it may overwrite, it does all
    done = job(cluster, transfer(cluster, "move", folder, to, overwrite="1"))
    assert done["output"]["done"] == 12
    assert {key: get(cluster, to + key).body for key in values} == values


def test_a_folder_without_the_script_on_any_node_is_404(make_cluster: Clusters, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "one.py").write_text("print(1)\n")
    cluster = make_cluster(nodes=1, env={"PULZAR_JOBS_DIR": str(tmp_path)})
    wait_for(lambda: http_request("GET", f"{cluster.master_url}/admin/job_catalog").data, what="the catalog")
    put(cluster, "a/b", b"1")
    with Client(cluster.master_url) as client:
        told = refused(client.request("POST", "/copy/a/?to=b/"), 404)
        assert "a folder is copied by the script keys/transfer, which comes with Pulzar" in told
        assert "no node has the script keys/transfer" in told
        # And single keys need none
        good(client.request("POST", "/copy/a/b?to=b/b"), 201)


def test_a_copy_or_undelete_beyond_a_quota_is_507_with_what_is_used(make_cluster: Clusters) -> None:
    cluster = make_cluster(nodes=1, env={"PULZAR_GENERAL_QUOTAS": "small/: 1000"})
    assert put(cluster, "a", payload(600)).status == 201
    assert transfer(cluster, "copy", "a", "small/a").status == 201
    for verb in ("copy", "move"):
        answer = transfer(cluster, verb, "a", "small/b")
        assert (answer.status, "holds 600 bytes" in answer.msg) == (507, True), answer.msg
    assert get(cluster, "a").status == 200
    # And so it is for what comes back
    assert http_request("DELETE", f"{cluster.master_url}/delete_key/small/a").status == 200
    assert transfer(cluster, "move", "a", "small/b").status == 201
    answer = http_request("POST", f"{cluster.master_url}/undelete/small/a")
    assert (answer.status, "holds 600 bytes" in answer.msg) == (507, True), answer.msg


@pytest.mark.parametrize("size", [100, 2 * INLINE])
def test_a_value_gets_another_lifetime_and_stays_as_it_is(cluster: Cluster, size: int) -> None:
    key, value = unique("life/a b"), payload(size)
    assert put(cluster, key, value, headers={"Content-Type": "text/x-test"}).status == 201
    before = entry(cluster, key)

    def renew(query: str, headers: dict[str, str] | None = None) -> Answer:
        return http_request("POST", f"{cluster.master_url}/lifetime/{quote(key)}?{query}", headers=headers)

    answer = renew("ttl=2d", {"If-Match": before["etag"]})
    assert (answer.status, answer.msg) == (200, "lifetime set")
    after = entry(cluster, key)
    assert after["expires"] == answer.data["expires"]
    assert abs(after["expires"] - time.time() - 2 * 86_400) < 60
    same = ("size", "etag", "nodes", "content_type")
    assert [after[name] for name in same] == [before[name] for name in same]
    assert get(cluster, key).body == value
    assert renew("ttl=never").data == {"expires": None}
    assert entry(cluster, key)["expires"] is None
    for query, status in (("", 400), ("ttl=2", 400), ("ttl=never&temporal=1", 400)):
        assert renew(query).status == status
    assert renew("ttl=1d", {"If-Match": '"other"'}).status == 412
    assert renew("ttl=1s").status == 200
    wait_for(lambda: get(cluster, key).status == 404, what="the end of its lifetime")
    assert renew("ttl=1d").status == 404
