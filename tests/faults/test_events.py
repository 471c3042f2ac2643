"""The stream of events while the controller and the whole master are killed again and again, and values are put.

Each acknowledged PUT has its event, in the order of the PUTs of its key, and whoever goes on misses nothing.
"""

from __future__ import annotations

import hashlib
import http.client
import time
from collections import defaultdict
from functools import partial
from typing import Self

import pytest

from ops.cluster import Cluster
from tests.event_stream import Stream, Told
from tests.faults.load import Client, Threads
from tests.faults.tools import COMPANION, WORKER, kill_part
from tests.support import Clusters, unique, wait_for

WRITERS = 6
KILLS = (COMPANION, WORKER, COMPANION, "master", COMPANION)
BETWEEN_SECS = 1.0  # kills, so that values are put meanwhile


@pytest.fixture
def cluster(make_cluster: Clusters) -> Cluster:
    return make_cluster(env={"PULZAR_SERVER_WORKERS": "2", "PULZAR_SERVER_PUT_TIMEOUT": "4"})


class Writers(Threads):
    """Threads that put values, each under a key of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.acknowledged: dict[str, list[str]] = {unique(str(number)): [] for number in range(WRITERS)}  # digests
        self.others: dict[str, set[str]] = defaultdict(set)  # of which nobody knows whether they were stored
        super().__init__(*(partial(self._run, key) for key in self.acknowledged))

    def number(self) -> int:
        """Values that were stored so far."""
        return sum(map(len, self.acknowledged.values()))

    def _run(self, key: str) -> None:
        client = Client(self._url)
        number = 0
        while not self._stopping.is_set():
            number += 1
            value = f"{key} {number}".encode()
            digest = hashlib.sha256(value).hexdigest()
            answer = client.put(key, value, "overwrite=1")
            if answer.status == 201:
                self.acknowledged[key].append(digest)
            else:
                self.others[key].add(digest)
                time.sleep(0.05)
        client.close()


class Follower(Threads):
    """A client that goes on with its last id whenever a stream ends."""

    def __init__(self, url: str) -> None:
        self.events: list[Told] = []
        self.streams = 0
        self._url = url
        super().__init__(self._run)

    def __enter__(self) -> Self:
        super().__enter__()
        wait_for(lambda: self.streams, what="the first stream")
        return self

    def _run(self) -> None:
        last = ""
        while not self._stopping.is_set():
            try:
                stream = Stream(self._url, after=last)
            except (OSError, http.client.HTTPException, AssertionError):  # the master is being started
                time.sleep(0.1)
                continue
            self.streams += 1
            taken = 0
            while not self._stopping.is_set() or taken < len(stream.events):
                ended = stream.ended
                new = stream.events[taken:]
                self.events += new
                taken += len(new)
                if ended and taken == len(stream.events):
                    break
                time.sleep(0.02)
            last = stream.last_id
            stream.close()


def test_each_acknowledged_put_has_its_event_in_order_and_nothing_is_missed(cluster: Cluster) -> None:
    master = next(child for child in cluster.processes if child.name == "master")
    with Follower(cluster.master_url) as follower:
        with Writers(cluster.master_url) as writers:
            for what in KILLS:
                before = writers.number()
                wait_for(lambda before=before: writers.number() > before + 20, 120, "values")  # type: ignore[misc]
                time.sleep(BETWEEN_SECS)
                if what == "master":
                    cluster.kill_master()
                    cluster.start_master()
                else:
                    kill_part(master, what)
                cluster.wait_healthy()
            before = writers.number()
            wait_for(lambda: writers.number() > before + 20, 120, "values")
        last = [digests[-1] for digests in writers.acknowledged.values()]

        def told() -> set[str]:
            return {event.data["etag"].strip('"') for event in list(follower.events) if "etag" in event.data}

        wait_for(lambda: told().issuperset(last), 60, "the last events")
        assert follower.streams > 1
    # Every event came once, and no number is missing
    numbers = [event.number for event in follower.events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert "reset" not in {event.type for event in follower.events}
    # And those of each key are what was acknowledged, in that order, with what nobody knows in between
    for key, acknowledged in writers.acknowledged.items():
        of_key = [
            event.data["etag"].strip('"')
            for event in follower.events
            if event.type in ("key.added", "key.overwritten") and event.data["key"] == key
        ]
        assert [digest for digest in of_key if digest not in writers.others[key]] == acknowledged
        assert len(of_key) == len(set(of_key))
        assert set(of_key) <= {*acknowledged, *writers.others[key]}
