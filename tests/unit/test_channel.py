"""The socket between controller and web workers: calls, replies, outcomes, and an end that is gone."""

from __future__ import annotations

import asyncio
import os
import queue
import select
import socket
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection, Listener
from pathlib import Path

import msgpack
import pytest
import uvloop

from broker.messages.store import Outcome, Status
from broker.refusals import BadRequest, Conflict, NotFound, Unavailable
from master import channel
from master.channel import (
    Cancel,
    ControllerCall,
    ControllerClient,
    ControllerServer,
    Drain,
    Forget,
    Frames,
    Launch,
    LaunchMany,
    Listen,
    PauseSchedule,
    Request,
    Restore,
    RunSchedule,
)
from tests.support import wait_for

WELCOME = msgpack.packb(["welcome"])
REQUESTS: list[Request] = [
    Launch(b"order", None),
    Launch(b"order", ("hours", 2, True)),
    Launch(b"order", ("cron", 0, True, "0 9 * * 1", "Europe/Vienna")),
    PauseSchedule(5, True),
    RunSchedule(5, "once"),
    LaunchMany([[b"order", None], [b"another", ["hours", 2, True]]], "somebody"),  # type: ignore[list-item]
    Cancel(5),
    Restore("n1"),
    Restore(None),
    Forget("n1", True),
    Drain("n1", False),
    Listen(7),
]


class Worker(ControllerClient):
    """A web worker that keeps the outcomes it is told."""

    def __init__(self, path: Path, origin: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.outcomes: list[Outcome] = []
        super().__init__(path, origin, lambda rows: self.outcomes.extend(tuple(row) for row in rows))
        self.start(loop)


class Ends:
    """A controller's end, and web workers."""

    def __init__(self, directory: Path, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.path = directory / "socket"
        self.loop = loop  # that workers are on; None: they have threads of their own
        self.calls: queue.SimpleQueue[ControllerCall] = queue.SimpleQueue()
        self.server = ControllerServer(self.path, self.calls.put)

    def worker(self, origin: str = "w1") -> Worker:
        worker = Worker(self.path, origin, self.loop)
        wait_for(lambda: worker.connected)
        return worker


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture(params=["thread", "loop"])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ends]:
    ends = Ends(tmp_path, request.getfixturevalue("loop") if request.param == "loop" else None)
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


def test_on_a_loop_a_reply_a_refusal_and_the_end_of_the_controller_reach_who_asked(
    tmp_path: Path, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = Ends(tmp_path, loop)
    try:
        worker = ends.worker()
        done, refused, open_ = (asyncio.run_coroutine_threadsafe(worker.ask(Cancel(n)), loop) for n in range(3))
        by_job = {call.request.job: call for call in (ends.calls.get(timeout=10) for _ in range(3))}  # type: ignore[union-attr]
        by_job[0].reply("done")
        by_job[1].refuse(NotFound("there is no job 1"))
        assert done.result(10) == "done"
        with pytest.raises(NotFound, match="there is no job 1"):
            refused.result(10)
        # And nobody is waited for longer than the controller may take
        with monkeypatch.context() as patch:
            patch.setattr(channel, "CALL_SECS", 0.05)
            with pytest.raises(Unavailable, match="did not answer in time"):
                asyncio.run_coroutine_threadsafe(worker.ask(Cancel(4)), loop).result(10)
        ends.calls.get(timeout=10).reply("too late")
        # And when the controller ends, who still waits is told
        with socket.socket(fileno=os.dup(by_job[2].connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)
        with pytest.raises(Unavailable, match="ended meanwhile"):
            open_.result(10)
    finally:
        ends.server.close()


def test_outcomes_go_to_the_worker_whose_commands_they_are_about(ends: Ends) -> None:
    first, second = ends.worker(), ends.worker("w2")
    first.call(Cancel(1))  # a call on the connection: the controller has read who is on it
    second.call(Cancel(1))
    assert {ends.calls.get(timeout=10).origin for _ in range(2)} == {"w1", "w2"}
    ends.server.send({"w1": [(1, Status.DONE, "")], "": [(2, Status.DONE, "")], "gone": [(3, Status.DONE, "")]})
    ends.server.send({"w2": [(4, Status.FULL, "no room")]})
    wait_for(lambda: first.outcomes and second.outcomes)
    assert (first.outcomes, second.outcomes) == ([(1, Status.DONE, "")], [(4, Status.FULL, "no room")])


@pytest.mark.parametrize("on_loop", [False, True])
def test_a_call_that_is_open_when_the_controller_ends_fails_and_the_next_one_reaches_the_new_one(
    on_loop: bool, tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    # Given a controller that ends when it has read a call
    listener = Listener(str(tmp_path / "socket"), "AF_UNIX")
    worker = Worker(tmp_path / "socket", "w1", loop if on_loop else None)
    connection = listener.accept()
    assert msgpack.unpackb(connection.recv_bytes()) == ["hello", "w1"]
    connection.send_bytes(WELCOME)
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


def test_a_worker_sends_no_command_before_the_controller_knows_where_its_outcome_goes(tmp_path: Path) -> None:
    # Given a controller that is slow to read the hello of a worker
    with Listener(str(tmp_path / "socket"), "AF_UNIX") as listener:
        worker = Worker(tmp_path / "socket", "w1")
        connection = listener.accept()
        connection.recv_bytes()
        # Then the worker is not connected, and calls are refused
        assert not worker.connected
        assert "not there just now" in str(worker.call(Cancel(1)).exception(0))
        # Until it is welcome
        connection.send_bytes(WELCOME)
        wait_for(lambda: worker.connected)
        connection.close()


def test_a_worker_whose_controller_ends_before_the_welcome_connects_again(tmp_path: Path) -> None:
    with Listener(str(tmp_path / "socket"), "AF_UNIX") as listener:
        worker = Worker(tmp_path / "socket", "w1")
        first = listener.accept()
        first.recv_bytes()
        first.close()
        second = listener.accept()
        second.recv_bytes()
        second.send_bytes(WELCOME)
        wait_for(lambda: worker.connected)
        second.close()


def test_a_call_without_a_controller_fails_at_once(tmp_path: Path) -> None:
    future = Worker(tmp_path / "nobody", "w1").call(Cancel(1))
    assert "not there just now" in str(future.exception(0))


def test_frames_are_read_in_whatever_pieces_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given frames of all lengths, each as `multiprocessing.connection` writes it
    frames = [b"", b"x", b"y" * 20_000, b"z" * 3_000_000, b"last"]
    ours, theirs = socket.socketpair()
    reader = Frames(ours.fileno())
    monkeypatch.setattr(channel, "_READ_BYTES", 4_093)

    def write() -> None:
        connection = Connection(theirs.detach())
        for frame in frames:
            connection.send_bytes(frame)
        theirs_long = (-1).to_bytes(4, "big", signed=True) + (5).to_bytes(8, "big") + b"longs"
        os.write(connection.fileno(), theirs_long)
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    # When they are read as they come
    found: list[bytes] = []
    with pytest.raises(EOFError):
        _read_all(reader, found)
    # Then they are the same, up to the end
    assert found == [*frames, b"longs"]
    writer.join()
    reader.close()
    ours.close()


def _read_all(reader: Frames, found: list[bytes]) -> None:
    while True:
        select.select([reader.fd], [], [], 10)
        found += reader.read()


def test_calls_that_are_longer_than_the_socket_holds_arrive_whole_and_one_after_the_other(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    # Given a controller that does not read for a moment, and a worker on an event loop
    with Listener(str(tmp_path / "socket"), "AF_UNIX") as listener:
        worker = Worker(tmp_path / "socket", "w1", loop)
        connection = listener.accept()
        assert msgpack.unpackb(connection.recv_bytes())[0] == "hello"
        connection.send_bytes(WELCOME)
        wait_for(lambda: worker.connected)
        # When several threads call it with more than a socket holds
        orders = [os.urandom(1 << 20) for _ in range(4)]
        threads = [threading.Thread(target=worker.call, args=(Launch(order, None),)) for order in orders]
        for thread in threads:
            thread.start()
        wait_for(lambda: select.select([connection], [], [], 0)[0], what="the beginning of a frame")
        # Then each call arrives as it was sent, once it reads
        arrived = [msgpack.unpackb(connection.recv_bytes())[3][0] for _ in orders]
        assert sorted(arrived) == sorted(orders)
        for thread in threads:
            thread.join(30)
        connection.close()
