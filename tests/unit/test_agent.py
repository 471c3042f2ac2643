"""The agent as a router: which part gets which message, and what is done with one that nobody expects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker import settings
from broker.messages.runs import AskCatalog, Named, Withdraw, Withdrawn
from broker.messages.store import Announce, Commands, Replay
from node import agent as agent_module
from node.agent import Agent
from node.errors import Broken
from tests.unit.node_link import NodeLink, delivery
from tests.unit.volume import Volume, store

COMMANDS = Commands("a", [store("k", 1)])
MESSAGES = [
    (Replay("r", 0), "replayer.ask"),
    (Named("ab" * 16, 5), "jobs.told"),
    (Withdrawn([(5, 1)]), "jobs.told"),
    (AskCatalog(""), "heartbeats.send_catalog"),
]
CONTROL = [
    (Announce("a test"), "heartbeats.send_soon"),
    (Withdraw(5, 1, "ab" * 16, "a test"), "jobs.told"),
]


class Routing:
    """An agent that is not running; its link is a list, and its parts only note what they are told."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(agent_module, "Link", NodeLink)
        volume = Volume(directory)
        environ = volume.environ | {"PULZAR_JOBS_DIR": str(directory / "jobs")}
        self.agent = Agent(settings.load(None, environ))
        self.link: NodeLink = self.agent._link  # type: ignore[assignment]
        self.own, self.control = self.link.handlers
        self.told: list[tuple[str, Any]] = []
        for part, method in (
            ("jobs", "told"),
            ("replayer", "ask"),
            ("heartbeats", "send_soon"),
            ("heartbeats", "send_catalog"),
        ):
            monkeypatch.setattr(getattr(self.agent, f"_{part}"), method, self._note(f"{part}.{method}"))

    def _note(self, name: str) -> Any:
        return lambda message=None: self.told.append((name, message))


@pytest.fixture
def routing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Routing]:
    routing = Routing(tmp_path / "data", monkeypatch)
    yield routing
    routing.agent._storage.close()


@pytest.mark.parametrize(("message", "part"), MESSAGES)
def test_a_message_of_the_nodes_own_queue_goes_to_its_part(routing: Routing, message: Any, part: str) -> None:
    routing.own(delivery(message))
    assert [name for name, _ in routing.told] == [part]
    assert routing.told[0][1] in (message, None)
    assert (len(routing.link.acked), routing.link.buried) == (1, [])


@pytest.mark.parametrize(("message", "part"), CONTROL)
def test_a_message_to_all_nodes_goes_to_its_part(routing: Routing, message: Any, part: str) -> None:
    routing.control(delivery(message))
    assert [name for name, _ in routing.told] == [part]
    assert (len(routing.link.acked), routing.link.buried) == (1, [])


def test_a_message_on_the_wrong_queue_is_buried(routing: Routing) -> None:
    for message, _ in CONTROL:
        routing.own(delivery(message))
    for message in [COMMANDS, *(message for message, _ in MESSAGES)]:
        routing.control(delivery(message))
    assert routing.told == []
    assert [reason for _, reason in routing.link.buried][:3] == [
        "a Announce message on pulzar.node.n1",
        "a Withdraw message on pulzar.node.n1",
        "a Commands message on pulzar.control",
    ]
    assert len(routing.link.buried) == len(routing.link.acked) == len(CONTROL) + 1 + len(MESSAGES)


def test_bytes_that_are_no_message_are_buried(routing: Routing, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons: list[str] = []
    monkeypatch.setattr(routing.link, "bury", lambda _delivery, reason: reasons.append(reason))
    routing.own(delivery(COMMANDS)._replace(body=b"\xc1 no message"))
    routing.control(delivery(COMMANDS)._replace(body=b"\xc1 no message"))
    assert len(routing.link.acked) == 2
    assert all(reason.startswith("not a msgpack message of 12 bytes") for reason in reasons)
    assert len(reasons) == 2


def test_commands_are_carried_out_when_the_link_wakes(routing: Routing) -> None:
    routing.own(delivery(COMMANDS))
    assert routing.link.acked == []
    routing.agent._work()
    assert [result.ticket for result in routing.link.results()[0].items] == [1]
    assert len(routing.link.acked) == 1


def test_commands_of_a_lost_connection_are_dropped(routing: Routing) -> None:
    routing.own(delivery(COMMANDS))
    for listener in routing.link.on_down:
        listener()
    routing.agent._work()
    assert (routing.link.sent, routing.link.acked) == ([], [])


def test_a_broken_storage_stops_the_agent_and_leaves_its_messages_on_the_queue(
    routing: Routing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise Broken("the disk is gone")

    monkeypatch.setattr(routing.agent._storage, "apply", fail)
    routing.own(delivery(COMMANDS))
    routing.agent._work()
    assert routing.agent._stopping.is_set()
    for message in [COMMANDS, *(message for message, _ in MESSAGES)]:
        routing.own(delivery(message))
    routing.agent._work()
    assert (routing.link.acked, routing.link.sent) == ([], [])
