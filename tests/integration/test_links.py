"""Links by `POST /sign`: no wider and no longer than their token, and dead with it. Secrets that change without a break."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.faults.tools import settle
from tests.integration.tokens_tools import Keys, today
from tests.integration.wire import Answer, Client, follow_to, good, payload, refused, target_of
from tests.support import Clusters, unique, wait_for

VALUE = b"a value"
LARGE = 2_000_000


@pytest.fixture(scope="module")
def keys(make_shared_cluster: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("links") / "tokens")
    made.start(make_shared_cluster)
    made.settle()
    return made


def asked(keys: Keys, token: str | None, **order: Any) -> Answer:
    return keys.ask("POST", "/sign", token, json.dumps(order).encode())


def link(keys: Keys, token: str | None, **order: Any) -> str:
    url: str = good(asked(keys, token, **order))["url"]
    assert url.startswith(keys.cluster.master_url)
    return url


def use(url: str, method: str = "GET", body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
    with Client(url) as client:
        return client.request(method, target_of(url), body, headers, follow=True)


def test_a_link_reads_one_key_without_a_token(keys: Keys) -> None:
    small, large = unique("a b%.txt"), unique()
    keys.put(quote(small), VALUE)
    keys.put(large, payload(LARGE))
    for key, value in ((small, VALUE), (large, payload(LARGE))):
        url = link(keys, keys.all, key=key, **{"for": "10m"})
        answer = use(url)
        assert (answer.status, answer.body) == (200, value)
        assert use(url, "HEAD").status == 200
        # And nothing else
        other = url.replace(urlsplit(url).path, f"/get_key/{unique()}")
        assert use(other).status == 403
        assert use(url + "&x=1").status == 403
        assert use(url.replace("by=all", "by=boss")).status == 403
        assert use(url.replace("/get_key/", "/delete_key/"), "DELETE").status == 401
        assert use(url.replace("/get_key/", "/add_key/"), "PUT", b"evil").status == 403
        assert use(url, "PUT", b"evil").status == 401
    # The address at the node says for whom it was made
    with Client(url) as client:
        assert "by=all" in client.request("GET", target_of(url)).headers["location"]


def test_a_link_of_a_master_is_none_of_a_node(keys: Keys) -> None:
    key = unique()
    keys.put(key, payload(LARGE))
    url = link(keys, keys.all, key=key)
    node = keys.ask("GET", f"/get_key/{key}", keys.all).headers["location"]
    there = node.partition("?")[0] + "?" + url.partition("?")[2]
    refused(follow_to(there), 403)


def test_a_link_for_put_permits_what_it_says(keys: Keys) -> None:
    key = unique()
    url = link(keys, keys.all, key=key, method="PUT", ttl="1h", max_bytes=10)
    refused(use(url, "PUT", b"x" * 11), 413)
    with Client(url) as client:
        refused(client.request("PUT", target_of(url), iter([b"abc"])), 411)
    refused(use(url + "&overwrite=1", "PUT", b"x"), 403)
    refused(use(url.replace("ttl=3600s", "ttl=7200s"), "PUT", b"x"), 403)
    refused(keys.ask("GET", f"/get_key/{key}", keys.all), 404)
    good(use(url, "PUT", VALUE), 201)
    (row,) = good(keys.ask("GET", f"/keys?prefix={key}", keys.all))["keys"]
    assert 3500 < row["expires"] - row["created"] <= 3600
    refused(use(url, "PUT", b"again"), 409)
    assert "If-Match" in refused(use(url, "PUT", b"again", {"If-Match": "*"}), 403)
    assert keys.ask("GET", f"/get_key/{key}", keys.all).body == VALUE
    refused(use(url), 401)
    over = link(keys, keys.all, key=key, method="PUT", overwrite=True)
    good(use(over, "PUT", b"other"), 201)
    # A large value by way of a node, passed on and redirected
    for headers in ({}, {"Expect": "100-continue"}):
        good(use(over, "PUT", payload(LARGE), headers), 201)
        assert use(link(keys, keys.all, key=key)).body == payload(LARGE)


def test_a_link_is_no_wider_and_no_longer_than_its_token(keys: Keys) -> None:
    key = unique()
    keys.put(key, VALUE)
    last = today() + datetime.timedelta(1)  # also when midnight passes meanwhile
    reader = keys.make("reader", [f"read:{key}"], last)
    keys.settle()
    made = good(asked(keys, reader, key=key, **{"for": "30d"}))
    end = datetime.datetime.combine(last + datetime.timedelta(1), datetime.time(), datetime.UTC).timestamp()
    assert made["until"] < end
    assert use(made["url"]).body == VALUE
    assert "lacks the right write:" in refused(asked(keys, reader, key=key, method="PUT"), 403)
    assert "lacks the right read:other" in refused(asked(keys, reader, key="other"), 403)
    refused(asked(keys, None, key=key), 401)
    refused(asked(keys, keys.all, key="jobs/1/1/log", method="PUT"), 403)


@pytest.mark.parametrize("how", ["revoked", "without the right", "expired"])
def test_a_link_is_dead_when_its_token_is(keys: Keys, how: str) -> None:
    key, name = unique(), f"short-{how.partition(' ')[0]}"
    keys.put(key, VALUE)
    token = keys.make(name, [f"read:{key}"])
    keys.settle()
    url = link(keys, token, key=key)
    assert use(url).body == VALUE
    line = keys.lines.pop(name)
    if how == "without the right":
        keys.lines[name] = line.replace("read:", "write:")
    elif how == "expired":
        keys.lines[name] = f"{line} until={today() - datetime.timedelta(1)}"
    keys.settle()
    assert "no such right" in refused(use(url), 403)


def test_an_expired_link_is_403(keys: Keys) -> None:
    key = unique()
    keys.put(key, VALUE)
    url = link(keys, keys.all, key=key, **{"for": "1s"})
    wait_for(lambda: use(url).status == 403, timeout=5, what="the end of the link")
    assert "expired" in refused(use(url), 403)


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ({}, "key is missing"),
        ({"key": 5}, "key = 5 is no text"),
        ({"key": "a//b"}, "empty segment"),
        ({"key": "a", "method": "DELETE"}, "neither GET nor PUT"),
        ({"key": "a", "for": "ever"}, "no lifetime"),
        ({"key": "a", "for": 5}, "no text"),
        ({"key": "a", "for": "9999d"}, "366d"),
        ({"key": "a", "ttl": "1h"}, "for PUT alone"),
        ({"key": "a", "method": "PUT", "overwrite": 1}, "neither true nor false"),
        ({"key": "a", "method": "PUT", "max_bytes": -1}, "no integer"),
        ({"key": "a", "method": "PUT", "ttl": "x"}, "no lifetime"),
        ({"key": "a", "colour": "blue"}, "there is no field 'colour'"),
    ],
)
def test_an_order_that_makes_no_link_is_400(keys: Keys, order: dict[str, Any], reason: str) -> None:
    assert reason in refused(asked(keys, keys.all, **order), 400)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 9_000, b" " * 20_000])
def test_a_body_that_is_no_order_is_400(keys: Keys, body: bytes) -> None:
    refused(keys.ask("POST", "/sign", keys.all, body), 400)


def test_a_secret_changes_without_a_break(make_cluster: Clusters, tmp_path: Path) -> None:
    # Given a cluster that signs with one secret, and an address that it has signed
    file = tmp_path / "secret"

    def agree(text: str) -> None:
        file.write_text(text)
        file.chmod(0o600)
        for child in [cluster.master, *(node.process for node in cluster.nodes)]:
            child.environment["PULZAR_GENERAL_SECRET"] = f"file:{file}"

    file.write_text("old\n")
    file.chmod(0o600)
    cluster = make_cluster(nodes=1, env={"PULZAR_GENERAL_SECRET": f"file:{file}"})
    with Client(cluster.master_url) as master:
        key = unique()
        good(master.put(key, payload(LARGE)), 201)
        read, write = (
            master.get(key, follow=False).headers["location"],
            good(master.request("GET", f"/get_node/{key}.2"))["node"],
        )
    # When the new one is known, and then signs
    agree("new\nold\n")
    cluster.stop_master()
    cluster.stop_node(0)
    cluster.start_master()
    cluster.start_node(0)
    settle(cluster)
    # Then old addresses are as good as new ones, also that of an upload, which node and master verify
    assert follow_to(read).body == payload(LARGE)
    good(follow_to(write, "PUT", payload(LARGE)), 201)
    with Client(cluster.master_url) as master:
        assert master.get(key).body == payload(LARGE)
    # And without the old one they are not
    agree("new\n")
    cluster.stop_node(0)
    cluster.start_node(0)
    settle(cluster)
    refused(follow_to(read), 403)
    with Client(cluster.master_url) as master:
        assert master.get(key).body == payload(LARGE)


def test_a_link_packs_what_is_below_one_prefix_and_nothing_else(keys: Keys) -> None:
    folder = unique("packed")
    keys.put(f"{folder}/a.txt")
    keys.put(f"{folder}-2/b.txt")
    token = keys.make("packer", [f"read:{folder}/"])
    keys.settle()
    url = link(keys, token, prefix=f"{folder}/", format="zip", **{"for": "10m"})
    answer = use(url)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/zip")
    assert b"a.txt" in answer.body
    assert b"b.txt" not in answer.body
    assert use(url, "HEAD").status == 200
    for other in (url.replace(f"{folder}/", folder), url.replace("zip", "tar"), url.replace("/archive/", "/get_key/")):
        assert use(other).status in (400, 403)
    # A link to a key is none to an archive that is called like it.
    of_key = link(keys, token, key=f"{folder}/a.txt")
    assert use(of_key.replace("/get_key/", "/archive/")).status == 403
    assert asked(keys, token, prefix=folder).status == 403
    for wrong in (
        {"prefix": folder, "key": "a"},
        {"prefix": 1},
        {"prefix": "\u00fc"},
        {"prefix": "a", "format": "rar"},
    ):
        assert asked(keys, keys.all, **wrong).status == 400
