"""A dead letter that is sent again is neither lost nor doubled, wherever its sender is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker import topology
from broker.link import Delivery, Link
from broker.phases import FILE_VARIABLE, STOP_VARIABLE
from master.dead_letters.desk import DeadLetters
from ops.cluster import Rabbit
from tests.support import ROOT, wait_for

VHOST = "fallen"
SENDER = """
import sys
from pathlib import Path
from broker.link import Link
from master.dead_letters.desk import DeadLetters
link = Link(sys.argv[1], "sender", list)
link.start()
link.wait(30)
DeadLetters(link, Path(sys.argv[2]), apart=False).send(sys.argv[3:])
"""


@pytest.fixture(scope="module")
def vhost(rabbit: Rabbit) -> Iterator[Rabbit]:
    rabbit.create_vhost(VHOST)
    yield rabbit
    rabbit.delete_vhost(VHOST)


@pytest.fixture
def link(vhost: Rabbit) -> Iterator[Link]:
    made = Link(vhost.url(VHOST), "test", topology.master)
    made.start()
    assert made.wait(30)
    yield made
    made.stop()
    for name in (topology.DEAD, topology.JOBS):
        vhost.api("DELETE", f"queues/{VHOST}/{name}/contents")


def bodies(rabbit: Rabbit, name: str) -> list[str]:
    asked = {"count": 100, "ackmode": "ack_requeue_true", "encoding": "auto"}
    rows: list[dict[str, Any]] = rabbit.api("POST", f"queues/{VHOST}/{name}/get", asked)
    return [row["payload"] for row in rows]


@pytest.mark.parametrize(
    ("phase", "sent", "unsure"),
    [
        ("dead.noted", [], True),
        ("dead.published", ["one", "two"], True),
        ("dead.confirmed", ["one", "two"], False),
        ("dead.acknowledged", ["one", "two"], False),
    ],
)
def test_a_sender_that_is_killed_loses_and_doubles_nothing(
    vhost: Rabbit, link: Link, tmp_path: Path, *, phase: str, sent: list[str], unsure: bool
) -> None:
    # Given three dead letters, and a process that is killed while it sends two of them again
    for body in (b"one", b"two", b"three"):
        link.bury(Delivery(body, topology.JOBS, tag=0, connection=0, headers={}, redelivered=False), "a test")
    desk = DeadLetters(link, tmp_path, apart=False)
    wait_for(lambda: len(desk.page(10).letters) == 3, what="the letters")
    names = [each.id for each in desk.page(10).letters]
    environment = os.environ | {FILE_VARIABLE: str(tmp_path / "phases"), STOP_VARIABLE: phase}
    command = [sys.executable, "-c", SENDER, vhost.url(VHOST), str(tmp_path), *names[:2]]
    assert subprocess.run(command, cwd=ROOT, env=environment, timeout=60, check=False).returncode == -9
    wait_for(lambda: bodies(vhost, topology.JOBS) == sent, what="what was sent")
    # Then what was certainly sent is gone, and what may have been is there and says so
    wait_for(lambda: desk.page(10).total == (3 if unsure else 1), what="what is left")
    left = desk.page(10).letters
    assert [(each.body, each.unsure) for each in left] == [
        *([(b"one", True), (b"two", True)] if unsure else []),
        (b"three", False),
    ]
    # And the same request again doubles nothing that is known to be sent
    again = desk.send(names)
    assert again.done == (names if unsure else names[2:])
    expected = ["one", "two", "three"] if not sent or not unsure else ["one", "two", "one", "two", "three"]
    wait_for(lambda: bodies(vhost, topology.JOBS) == expected, what="each where it belongs")
    assert bodies(vhost, topology.DEAD) == []
