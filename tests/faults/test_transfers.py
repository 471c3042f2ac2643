"""The master is killed between the steps of copies and moves; then the request is repeated."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from broker import phases
from ops.cluster import Cluster
from tests.faults.load import FILE_BYTES, SMALL_BYTES, Client, listing
from tests.faults.tools import settle, tracebacks, wipe_index
from tests.integration.wire import payload
from tests.support import Clusters, wait_for

SIZES = {"in the log": SMALL_BYTES, "a file": FILE_BYTES}


def interrupted(make_cluster: Clusters, phase: str, file: Path) -> Cluster:
    """A cluster whose master is killed, once, when it reaches the phase."""
    environment = {phases.FILE_VARIABLE: str(file), phases.STOP_VARIABLE: phase, "PULZAR_SERVER_WORKERS": "1"}
    return make_cluster(env=environment)


def found(cluster: Cluster) -> dict[str, bytes]:
    """Every key and its value."""
    with closing(Client(cluster.master_url)) as client:
        keys = [row["key"] for row in listing(client, "")]
        values = {}
        for key in keys:
            answer = client.get(key)
            assert answer.status == 200, (key, answer)
            values[key] = answer.body
    return values


def deleted(client: Client, key: str) -> list[dict[str, Any]]:
    """What is held of a key. A node that has an older value than another one is told so a minute later."""
    rows: list[dict[str, Any]] = client.json(f"/keys?deleted=1&prefix={key}")["keys"]
    return rows


def refill(cluster: Cluster) -> None:
    """A master that has lost its index, and fills another one."""
    cluster.stop_master()
    wipe_index(cluster)
    cluster.start_master()
    settle(cluster)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("phase", ["copy.stored", "move.copied", "move.deleted"])
def test_a_transfer_that_is_interrupted_loses_nothing_and_is_completed(
    make_cluster: Clusters, tmp_path: Path, phase: str, name: str
) -> None:
    reached = tmp_path / "phases"
    cluster = interrupted(make_cluster, phase, reached)
    value = payload(SIZES[name])
    verb = phase.partition(".")[0]
    with closing(Client(cluster.master_url)) as client:
        # Given some values
        for key in ("a", "other"):
            assert client.put(key, value if key == "a" else b"other").status == 201
        # When the master is killed in the middle of a transfer
        answer = client.request("POST", f"/{verb}/a?to=b")
        assert not answer.status, answer
    assert reached.read_text().split()[-1] == phase
    settle(cluster)
    # Then every value is there byte for byte, under the one key, the other or both
    both = {"a": value, "b": value}
    left = {"copy.stored": both, "move.copied": both, "move.deleted": {"b": value}}[phase]
    assert found(cluster) == left | {"other": b"other"}
    # And the same request completes what was begun
    with closing(Client(cluster.master_url)) as client:
        expected = {"copy.stored": 409, "move.copied": 201, "move.deleted": 404}[phase]
        assert client.request("POST", f"/{verb}/a?to=b").status == expected
    done = (both if verb == "copy" else {"b": value}) | {"other": b"other"}
    assert found(cluster) == done
    # And it stays so when everything starts anew with an empty index
    for number in range(2):
        cluster.stop_node(number)
        cluster.start_node(number)
    refill(cluster)
    assert found(cluster) == done
    assert not tracebacks(cluster)


@pytest.mark.parametrize("name", SIZES)
def test_a_node_that_is_killed_during_copies_keeps_every_one_that_was_acknowledged(
    make_cluster: Clusters, name: str
) -> None:
    cluster = make_cluster(nodes=1, env={"PULZAR_SERVER_PUT_TIMEOUT": "3"})
    value = payload(SIZES[name])
    stored = {"a": value}
    with closing(Client(cluster.master_url)) as client:
        assert client.put("a", value).status == 201
        maybe = set()
        for number in range(60):
            if number == 30:
                cluster.kill_node(0)
            status = client.request("POST", f"/copy/a?to=copies/{number:02}").status
            if status == 201:
                stored[f"copies/{number:02}"] = value
            else:
                maybe.add(f"copies/{number:02}")
                if len(maybe) == 1:
                    cluster.start_node(0)
                    settle(cluster)
    assert len(stored) > 40
    now = found(cluster)
    assert stored.items() <= now.items()
    assert now.keys() - stored.keys() <= maybe
    refill(cluster)
    now = found(cluster)
    assert stored.items() <= now.items()
    assert set(now.values()) == {value}


@pytest.mark.parametrize("name", SIZES)
def test_an_undelete_that_is_interrupted_loses_nothing(make_cluster: Clusters, tmp_path: Path, name: str) -> None:
    reached = tmp_path / "phases"
    cluster = interrupted(make_cluster, "undelete.stored", reached)
    first, second = payload(SIZES[name], seed=1), payload(SIZES[name], seed=2)
    with closing(Client(cluster.master_url)) as client:
        # Given a key that was overwritten and deleted, and one that was overwritten
        for key in ("deleted", "there"):
            assert client.put(key, first).status == 201
            assert client.put(key, second, "overwrite=1").status == 201
        assert client.delete("deleted").status == 200
        # When the master is killed in the middle of an undelete
        answer = client.request("POST", "/undelete/deleted")
        assert not answer.status, answer
    assert reached.read_text().split() == ["undelete.stored"]
    settle(cluster)
    # Then the value is there, and the same request finds it so
    assert found(cluster) == {"deleted": second, "there": second}
    with closing(Client(cluster.master_url)) as client:
        assert client.request("POST", "/undelete/deleted").status == 409
        # And older ones are still held: after a restart of everything, too
        for number in range(2):
            cluster.kill_node(number)
            cluster.start_node(number)
        refill(cluster)
        assert found(cluster) == {"deleted": second, "there": second}
        for key in ("deleted", "there"):
            rows = wait_for(partial(deleted, client, key), 90, "the older version to be held")
            assert rows[0]["size"] == len(first)
            assert client.request("POST", f"/undelete/{key}?overwrite=1&version={rows[0]['version']}").status == 201
    assert found(cluster) == {"deleted": first, "there": first}
    assert not tracebacks(cluster)
