"""What can't be put on a wire fails alone, where it was made, and before a link has it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from broker import keys
from broker.errors import Unsendable
from broker.link.publisher import Publication
from broker.messages.batches import CommandPacker, batch
from broker.messages.codec import encode
from broker.messages.store import Announce, Commands, Delete, Store
from master.channel import Cancel, ControllerCall, ControllerClient, ControllerServer, Restore
from tests.support import decode, wait_for

STORE = Store(7, keys.encode("a/key"), 1 << 50, 1, 0, "text/plain", b"\x01" * 32, 3, b"abc", "")
DELETE = Delete(8, keys.encode("other"), 5)


def test_commands_packed_one_by_one_make_the_same_message() -> None:
    staged = STORE._replace(value=None, staged="f0" * 16)
    commands = [STORE, DELETE, staged] * 40
    body = batch("origin", [CommandPacker().pack(command) for command in commands])
    assert body == encode(Commands("origin", commands))
    assert decode(body, Commands).items == commands


@pytest.mark.parametrize(
    "command",
    [
        STORE._replace(expires=1 << 64),
        STORE._replace(expires=1 << 63),
        STORE._replace(expires=-1),
        STORE._replace(expires=10**30),
        STORE._replace(version=1 << 63),
        STORE._replace(created=1.5),
        STORE._replace(size=4),
        STORE._replace(digest=b""),
        STORE._replace(key=b"\xff"),
        STORE._replace(value=object()),
        STORE._replace(content_type=b"x"),
        STORE._replace(staged="../x", value=None),
        DELETE._replace(version=1 << 64),
        DELETE._replace(version=-1),
        DELETE._replace(key="text"),
    ],
)
def test_a_command_that_no_node_could_read_is_refused(command: Any) -> None:
    with pytest.raises(Unsendable):
        CommandPacker().pack(command)


def test_a_text_that_is_none_is_shown_as_well_as_can_be() -> None:
    assert decode(encode(Announce("half \ud800")), Announce).reason == "half \\ud800"


@pytest.mark.parametrize(
    "changes",
    [
        {"routing_key": "k" * 256},
        {"exchange": "e" * 256},
        {"routing_key": "\ud800"},
        {"body": "text"},
        {"headers": {"reason": "\ud800"}},
        {"headers": {"number": 1 << 80}},
        {"headers": {"what": object()}},
    ],
)
def test_a_publication_that_pika_can_not_write_is_refused_by_the_caller(changes: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "exchange": "",
        "routing_key": "queue",
        "body": b"body",
        "durable": True,
        "ttl_ms": 5,
        "headers": None,
        "done": None,
    }
    assert Publication.make(**good).body == b"body"
    with pytest.raises(Unsendable):
        Publication.make(**good | changes)


def test_a_call_or_a_reply_that_can_not_be_packed_fails_alone(tmp_path: Path) -> None:
    # Given a web worker and a controller that sends back what it was given, or what can't be packed
    threads: list[str] = []

    def on_call(call: ControllerCall) -> None:
        threads.append(threading.current_thread().name)
        call.reply(10**30 if call.request == Cancel(2) else call.request)

    server = ControllerServer(tmp_path / "socket", on_call)
    worker = ControllerClient(tmp_path / "socket", "worker", lambda _answers: None)
    worker.start()
    wait_for(lambda: worker.connected)
    # When one of three calls can't be packed, and the reply to another can't
    first = worker.call(Cancel(1))
    with pytest.raises(Unsendable):
        worker.call(Cancel(10**30))
    much, last = worker.call(Cancel(2)), worker.call(Restore("half \ud800"))
    # Then that one is told so, and the others have their replies, on the same connection
    assert (first.result(30), last.result(30)) == ([1], ["half \\ud800"])
    error = much.exception(30)
    assert "can't say what came of it" in str(error)
    assert worker.connected
    assert len(threads) == 3
    server.close()
    assert not (tmp_path / "socket").exists()
