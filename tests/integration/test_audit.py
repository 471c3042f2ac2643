"""The audit log of a real master."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.tokens_tools import Keys
from tests.integration.wire import follow_to, good, payload, refused
from tests.support import Clusters, unique


@pytest.fixture(scope="module")
def keys(make_shared_cluster: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("audit") / "tokens")
    made.start(make_shared_cluster)
    made.settle()
    return made


def noted(keys: Keys, about: str) -> list[tuple[Any, ...]]:
    text = (keys.cluster.master_directory / "audit.log").read_text()
    assert "pz_" not in text
    rows = [json.loads(line) for line in text.splitlines()]
    return [(row["name"], row["method"], row["route"], row["status"]) for row in rows if row["about"].startswith(about)]


def test_every_change_and_refusal_has_a_line(keys: Keys) -> None:
    key = unique()
    reader = keys.make("reader", ["read:"])
    keys.settle()
    keys.put(key)
    keys.ask("GET", f"/get_key/{key}", reader)
    refused(keys.ask("DELETE", f"/delete_key/{key}", reader), 403)
    refused(keys.ask("GET", f"/get_key/{key}"), 401)
    refused(keys.ask("DELETE", f"/delete_key/{key}", keys.all, headers={"Origin": "https://evil.example"}), 403)
    good(keys.ask("POST", "/sign", keys.all, json.dumps({"key": key}).encode()))
    good(keys.ask("DELETE", f"/delete_key/{key}", keys.all))
    assert noted(keys, key) == [
        ("all", "PUT", "/add_key", 201),
        ("reader", "DELETE", "/delete_key", 403),
        (None, "GET", "/get_key", 401),
        (None, "DELETE", "/delete_key", 403),
        ("all", "POST", "/sign", 200),
        ("all", "DELETE", "/delete_key", 200),
    ]


def test_a_copy_says_where_to(keys: Keys) -> None:
    key = unique()
    keys.put(key)
    good(keys.ask("POST", f"/copy/{key}?to={key}.new", keys.all), 201)
    assert ("all", "POST", "/copy", 201) in noted(keys, f"{key} -> {key}.new")


def test_an_upload_at_a_node_has_the_name_of_the_token_it_was_permitted_to(keys: Keys) -> None:
    key = unique()
    node = good(keys.ask("GET", f"/get_node/{key}", keys.all))["node"]
    good(follow_to(node, "PUT", payload(2_000_000)), 201)
    assert noted(keys, key) == [("all", "POST", "/internal/commit", 201)]


def test_launch_and_cancel_have_lines(keys: Keys) -> None:
    later = {"scheduled": {"interval": "weeks", "time_unit": 9, "repeat": 1}}
    job = keys.launch(keys.all, **later)
    good(keys.ask("POST", f"/cancel_job/{job}", keys.all))
    assert ("all", "POST", "/launch_job", 200) in noted(keys, "example/factorial")
    assert ("all", "POST", "/cancel_job", 200) in noted(keys, str(job))


def test_reads_are_there_if_asked_and_nothing_if_not(make_cluster: Clusters, tmp_path: Path) -> None:
    for setting, number in (("all", 1), ("none", 0)):
        keys = Keys(tmp_path / f"tokens-{setting}")
        keys.start(make_cluster, PULZAR_SECURITY_AUDIT=setting)
        keys.ask("GET", f"/get_key/{setting}/x")
        file = keys.cluster.master_directory / "audit.log"
        assert file.exists() == bool(number)
        if number:
            assert noted(keys, f"{setting}/x") == [(None, "GET", "/get_key", 401)]
            refused(keys.ask("GET", f"/get_key/{setting}/y", keys.all), 404)
            assert noted(keys, f"{setting}/y") == [("all", "GET", "/get_key", 404)]
