"""The socket between controller and web workers: calls, replies, outcomes, and an end that is gone."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from multiprocessing.connection import Listener
from pathlib import Path

import msgpack
import pytest

from broker.messages.store import Outcome, Status
from broker.refusals import BadRequest, Conflict, NotFound, Unavailable
from master import channel
from master.channel import Cancel, ControllerCall, ControllerClient, ControllerServer, Forget, Launch, Request, Restore
from tests.support import wait_for

REQUESTS: list[Request] = [
    Launch(b"order", None),
    Launch(b"order", ("hours", 2, True)),
    Cancel(5),
    Restore("n1"),
    Restore(None),
    Forget("n1", True),
]


class Worker(ControllerClient):
    """A web worker that keeps the outcomes it is told."""

    def __init__(self, path: Path, origin: str) -> None:
        self.outcomes: list[Outcome] = []
        super().__init__(path, origin, lambda rows: self.outcomes.extend(tuple(row) for row in rows))


class Ends:
    """A controller's end, and web workers."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "socket"
        self.calls: queue.SimpleQueue[ControllerCall] = queue.SimpleQueue()
        self.server = ControllerServer(self.path, self.calls.put)

    def worker(self, origin: str = "w1") -> Worker:
        worker = Worker(self.path, origin)
        wait_for(lambda: worker.connected)
        return worker


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    ends = Ends(tmp_path)
    yield ends
    ends.server.close()


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_is_read_as_it_was_written(request_: Request) -> None:
    kind, number, name, fields = msgpack.unpackb(channel.encode(3, request_))
    assert (kind, number) == ("call", 3)
    read = channel.decode(name, fields)
    assert type(read) is type(request_)
    assert msgpack.packb(read) == msgpack.packb(request_)


@pytest.mark.parametrize(("name", "fields"), [("explode", []), ("cancel", []), ("cancel", [1, 2])])
def test_a_request_that_is_none_is_refused(name: str, fields: list[object]) -> None:
    with pytest.raises(BadRequest, match=f"the controller knows no {name} with {len(fields)} fields"):
        channel.decode(name, fields)


def test_calls_get_their_own_replies_in_any_order(ends: Ends) -> None:
    worker, other = ends.worker(), ends.worker("w2")
    futures = [worker.call(Cancel(1)), worker.call(Cancel(2)), other.call(Cancel(3))]
    calls = [ends.calls.get(timeout=10) for _ in futures]
    for call in reversed(calls):
        assert isinstance(call.request, Cancel)
        call.reply(f"cancelled {call.request.job}")
    assert [future.result(10) for future in futures] == ["cancelled 1", "cancelled 2", "cancelled 3"]


@pytest.mark.parametrize("error", [NotFound("there is no job 1"), Conflict("it has ended"), Unavailable("later")])
def test_a_refusal_arrives_as_what_it_is(ends: Ends, error: Exception) -> None:
    future = ends.worker().call(Cancel(1))
    ends.calls.get(timeout=10).refuse(error)  # type: ignore[arg-type]
    told = future.exception(10)
    assert type(told) is type(error)
    assert str(told) == str(error)


def test_outcomes_go_to_the_worker_whose_commands_they_are_about(ends: Ends) -> None:
    first, second = ends.worker(), ends.worker("w2")
    first.call(Cancel(1))  # a call on the connection: the controller has read who is on it
    second.call(Cancel(1))
    assert {ends.calls.get(timeout=10).origin for _ in range(2)} == {"w1", "w2"}
    ends.server.send({"w1": [(1, Status.DONE, "")], "": [(2, Status.DONE, "")], "gone": [(3, Status.DONE, "")]})
    ends.server.send({"w2": [(4, Status.FULL, "no room")]})
    wait_for(lambda: first.outcomes and second.outcomes)
    assert (first.outcomes, second.outcomes) == ([(1, Status.DONE, "")], [(4, Status.FULL, "no room")])


def test_a_call_that_is_open_when_the_controller_ends_fails_and_the_next_one_reaches_the_new_one(
    tmp_path: Path,
) -> None:
    # Given a controller that ends when it has read a call
    listener = Listener(str(tmp_path / "socket"), "AF_UNIX")
    worker = Worker(tmp_path / "socket", "w1")
    connection = listener.accept()
    assert msgpack.unpackb(connection.recv_bytes()) == ["hello", "w1"]
    wait_for(lambda: worker.connected)
    future = worker.call(Cancel(1))
    assert msgpack.unpackb(connection.recv_bytes()) == ["call", 1, "cancel", [1]]
    listener.close()
    connection.close()
    # Then its worker is told so, and connects to the next one
    told = future.exception(10)
    assert isinstance(told, Unavailable)
    assert "look whether it was done" in str(told)
    ends = Ends(tmp_path)
    wait_for(lambda: worker.connected)
    again = worker.call(Cancel(2))
    ends.calls.get(timeout=10).reply("done")
    assert again.result(10) == "done"
    ends.server.close()


def test_a_call_without_a_controller_fails_at_once(tmp_path: Path) -> None:
    future = Worker(tmp_path / "nobody", "w1").call(Cancel(1))
    assert "not there just now" in str(future.exception(0))
