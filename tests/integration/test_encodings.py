"""Content-Encoding stays with its value, whichever way that came and wherever it is; what is no value is refused."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

import pytest
import requests

from ops.cluster import Cluster
from tests.integration.wire import INLINE, Answer, Client, curl, follow_to, good, payload, refused
from tests.support import Clusters, unique, wait_for

Put = Callable[[Client, str, bytes, Mapping[str, str]], Answer]


def straight(master: Client, key: str, value: bytes, headers: Mapping[str, str]) -> Answer:
    return master.put(key, value, headers=headers)


def in_chunks(master: Client, key: str, value: bytes, headers: Mapping[str, str]) -> Answer:
    return master.put(key, (value[at : at + 65536] for at in range(0, len(value), 65536)), headers=headers)


def by_its_node(master: Client, key: str, value: bytes, headers: Mapping[str, str]) -> Answer:
    return master.request("PUT", f"/get_node/{quote(key)}", value, headers, follow=True)


def at_its_node(master: Client, key: str, value: bytes, headers: Mapping[str, str]) -> Answer:
    url = good(master.request("GET", f"/get_node/{quote(key)}"))["node"]
    return follow_to(url, "PUT", value, headers)


WAYS: dict[str, tuple[Put, int]] = {
    "kept by the master": (straight, 2_000),
    "in the log": (straight, 20_000),
    "in a file": (straight, 300_000),
    "redirected": (straight, INLINE + 1),
    "small chunks": (in_chunks, 2_000),
    "passed on": (in_chunks, 2 * INLINE),
    "by its node": (by_its_node, 5_000),
    "at its node": (at_its_node, 5_000),
}


def told(master: Client, key: str) -> None:
    """Everything that tells of the value tells its encoding."""
    for answer in (master.get(key), master.head(key), master.get(key, {"Range": "bytes=1-2"})):
        assert answer.headers["content-encoding"] == "gzip, x-mine"
        assert answer.headers["content-type"] == "text/x-log"
    row = good(master.request("GET", f"/keys?prefix={key}"))["keys"][0]
    assert (row["content_encoding"], row["content_type"]) == ("gzip, x-mine", "text/x-log")


@pytest.mark.parametrize("way", WAYS)
def test_an_encoding_stays_with_its_value(master: Client, way: str) -> None:
    put, size = WAYS[way]
    key, value = unique("a.bin"), payload(size)
    headers = {"Content-Type": "text/x-log", "Content-Encoding": "gzip,x-mine"}
    good(put(master, key, value, headers), 201, "key added")
    told(master, key)
    assert master.get(key).body == value


def test_without_an_encoding_none_is_told(master: Client) -> None:
    for given in ({}, {"Content-Encoding": "identity"}, {"Content-Encoding": ""}):
        for size in (100, 20_000, INLINE + 1):
            key = unique()
            good(master.put(key, payload(size), headers=given), 201)
            assert "content-encoding" not in master.get(key).headers
            assert good(master.request("GET", f"/keys?prefix={key}"))["keys"][0]["content_encoding"] is None


@pytest.mark.parametrize("size", [1_000, 20_000, INLINE + 1])
def test_a_client_that_knows_the_encoding_gets_what_was_encoded(cluster: Cluster, size: int) -> None:
    key, text = unique("a.json.gz"), payload(size)
    url = f"{cluster.master_url}/add_key/{key}"
    put = requests.put(url, data=gzip.compress(text), headers={"Content-Encoding": "gzip"}, timeout=30)
    assert put.status_code == 201
    got = requests.get(url.replace("add_key", "get_key"), timeout=30)
    assert (got.content, got.headers["Content-Type"]) == (text, "application/json")


def test_an_encoding_comes_back_with_a_replay(make_cluster: Clusters) -> None:
    cluster = make_cluster(nodes=1)
    keys: list[str] = []
    with Client(cluster.master_url) as master:
        for size in (2_000, 20_000, INLINE + 1):
            keys.append(unique("a.bin"))
            headers = {"Content-Type": "text/x-log", "Content-Encoding": "gzip, x-mine"}
            good(master.put(keys[-1], payload(size), headers=headers), 201)
    cluster.stop_master()
    shutil.rmtree(cluster.master_directory / "index")
    cluster.start_master()
    cluster.wait_healthy()
    with Client(cluster.master_url) as master:
        for key in keys:
            wait_for(lambda key=key: master.head(key).status == 200, what="the index filled again")  # type: ignore[misc]
            told(master, key)


# What is no value


def refused_everywhere(master: Client, headers: Mapping[str, str], what: str, body: bytes = b"value") -> None:
    """The master says so before a redirect, and a node whose client asked first."""
    for target in ("add_key", "get_node"):
        key = unique()
        with Client(f"http://{master.host}") as client:
            assert what in refused(client.request("PUT", f"/{target}/{key}", body, headers), 400)
        with Client(f"http://{master.host}") as client:
            large = {**headers, "Expect": "100-continue"}
            assert what in refused(client.request("PUT", f"/{target}/{key}", payload(INLINE + 1), large), 400)
        with Client(f"http://{master.host}") as client:
            assert what in refused(client.request("PUT", f"/{target}/{key}", iter([body]), headers), 400)
        refused(master.get(key), 404)
    key = unique()
    assert what in refused(at_its_node(master, key, body, headers), 400)
    refused(master.get(key), 404)


@pytest.mark.parametrize("encoding", ["aws-chunked", "aws-chunked,gzip", "no token", "x" * 200])
def test_an_encoding_that_can_not_be_kept_is_refused(master: Client, encoding: str) -> None:
    refused_everywhere(master, {"Content-Encoding": encoding}, "Content-Encoding")


def test_a_form_is_refused(cluster: Cluster, master: Client, tmp_path: Path) -> None:
    refused_everywhere(master, {"Content-Type": "multipart/form-data; boundary=x"}, "curl -T FILE")
    file, key = tmp_path / "file", unique()
    file.write_bytes(payload(INLINE + 1))
    assert curl("-L", "-X", "PUT", "-F", f"file=@{file}", f"{cluster.master_url}/add_key/{key}").status == 400
    refused(master.get(key), 404)
