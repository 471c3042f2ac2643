"""One owner of a connection to RabbitMQ: publish with confirms, consume, reconnect.

A `Link` has one I/O thread, and pika is used on that thread alone. Other threads hand their messages over with
`publish` and `ack`. Where an event loop runs already, its thread may be the I/O thread: `start` is given the loop then.
There are two channels to publish, one of them with asynchronous confirms, one to consume, and one to pull when that is
wanted.

After a lost connection everything is declared and consumed again. Durable messages without a confirm are sent again;
others are reported as not sent. Delivery tags of an older connection are never used.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import pika
import pika.exceptions
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel

from broker import logs
from broker.backoff import Backoff
from broker.errors import LinkDown
from broker.link import burials
from broker.link.burials import Burials
from broker.link.consumers import DEAF_SECS, PING, WATCH_SECS, Consumers, Delivery
from broker.link.declare import declare, declare_aside
from broker.link.depths import Depths, count
from broker.link.expiry import expire
from broker.link.guarded_loop import GuardedLoop
from broker.link.parameters import parameters
from broker.link.publisher import Publication, Publisher
from broker.link.puller import Puller
from broker.link.roles import Sender
from broker.link.transport import cut, quicken
from broker.link.window import Window
from broker.topology import DEAD, MASTER_USER, Declaration

log = logs.get(__name__)

_STEADY_SECS = 30.0  # a connection that lasted longer was a good one
_LOOK_SECS = 0.01
CLOSE_SECS = 5.0  # RabbitMQ may take so long to agree to the end of a connection
_TAKEN = "in exclusive use"  # RabbitMQ's words


class Link:
    """A connection to RabbitMQ that keeps itself alive.

    Append listeners to three lists before `start`. They are called on the I/O thread: `on_up` after each connection
    made, `on_down` after each connection lost, `on_wake` soon after `wake`.
    """

    def __init__(
        self,
        url: str,
        name: str,
        topology: Callable[[], Sequence[Declaration]],
        sender: Sender | None = None,
        *,
        ca: str = "",
    ) -> None:
        """RabbitMQ shows the connection as `name`. `topology` is called at every connection and says what to declare.

        `ca` is a file of certificates to trust, besides those of the system. Raises `SettingsError` for a bad `url`.
        """
        self._parameters = parameters(url, name, ca)
        self._address = f"{self._parameters.host}:{self._parameters.port}"  # for the log
        self.name = name
        self.on_up: list[Callable[[], None]] = []
        self.on_down: list[Callable[[], None]] = []
        self.on_wake: list[Callable[[], None]] = []
        self.up = False
        self.problem = "not connected yet"
        self._topology = topology
        self._sender = sender or Sender()
        self._publisher = Publisher()
        self._consumers = Consumers()
        self._burials = Burials(self._release)
        self._puller: Puller | None = None
        self._connection: pika.SelectConnection | None = None
        self._number = 0  # of the connection
        self._taken: float | None = None  # since when another process has an exclusive queue, by the monotonic clock
        self._blocked = False
        self._failed = False  # the connection is being closed
        self._awake = False  # a drain is on its way to the I/O thread
        self._guard = threading.Lock()  # of `_connection` against use from outside while it goes away
        self._stopping = threading.Event()
        self._was_up = threading.Event()
        self._backoff = Backoff(_STEADY_SECS)
        self._began = 0.0  # when the connection was begun, by the monotonic clock
        self._loop: asyncio.AbstractEventLoop | None = None  # one that is shared
        self._guarded: GuardedLoop | None = None  # the same, as the connection sees it
        self._io_thread = 0
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)

    # What other threads call.

    def consume(
        self,
        queue: str | Callable[[], str],
        handler: Callable[[Delivery], None],
        prefetch: int,
        exclusive: bool = False,
    ) -> None:
        """Consume a queue: `handler` gets every message, on the I/O thread. To be called before `start`.

        At most `prefetch` messages are handed over and not yet acknowledged. A `queue` that is a function is
        asked for the name at every connection.
        """
        self._consumers.add(queue if callable(queue) else lambda: queue, handler, prefetch, exclusive)

    def pull(self, queues: Sequence[str], handler: Callable[[Delivery], None]) -> Puller:
        """Pull messages of these queues as they are wanted, see `Puller`. To be called before `start`."""
        self._puller = Puller(queues, handler, declared=self._sender.declares_all)
        return self._puller

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Start the I/O thread, which connects as soon as it can. With a `loop`, its thread is the I/O thread."""
        if loop is None:
            self._thread.start()
        else:
            self._loop = loop
            loop.call_soon_threadsafe(self._connect)

    def wait(self, timeout: float) -> bool:
        """Wait for the first connection. False: it was not made within `timeout` seconds."""
        return self._was_up.wait(timeout)

    async def opened(self, timeout: float) -> bool:
        """As `wait`, on an event loop."""
        deadline = time.monotonic() + timeout
        while not self._was_up.is_set() and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK_SECS)
        return self._was_up.is_set()

    @property
    def ready(self) -> bool:
        """Whether a message published now would leave at once."""
        return self.up and not self._blocked and not self._failed

    @property
    def taken_secs(self) -> float:
        """For how many seconds RabbitMQ has refused a queue that another connection consumes alone; 0: it does not."""
        since = self._taken
        return 0.0 if since is None else time.monotonic() - since

    def publish(
        self,
        routing_key: str,
        body: bytes,
        *,
        exchange: str = "",
        durable: bool = False,
        ttl_ms: int | None = None,
        headers: Mapping[str, object] | None = None,
        content_type: str | None = None,
        done: Callable[[bool], None] | None = None,
    ) -> None:
        """Publish a message, from any thread.

        A durable one survives a restart of the broker, and is sent again until it is confirmed. Another one is sent
        once. It expires after `ttl_ms` milliseconds. `done` is called on the I/O thread: True, the broker has it;
        False, it was not sent or found no queue. Raises `LinkDown` for one that is not durable without a connection,
        `Unsendable` for what can't be written.
        """
        if not durable and not self.ready:
            raise LinkDown(f"no connection to RabbitMQ: {self.problem}")
        exchange, user = exchange or self._sender.exchange, self._sender.user
        self._publisher.put(
            Publication.make(
                *(exchange, routing_key, body),
                durable=durable,
                ttl_ms=ttl_ms,
                headers=headers,
                done=done,
                user=user,
                content_type=content_type,
            )
        )
        self.wake()

    def ack(self, delivery: Delivery) -> None:
        """Acknowledge a message that was handled: it is removed from its queue.

        That waits until what was buried before is in `pulzar.dead`.
        """
        if not self._burials.hold(delivery):
            self._release(delivery)

    def _release(self, delivery: Delivery) -> None:
        self._consumers.ack(delivery)
        self.wake()

    def bury(self, delivery: Delivery, reason: str, then: Callable[[], None] | None = None) -> None:
        """Send a message that can't be handled to `pulzar.dead`, with the reason. Acknowledge it afterwards.

        `then` is called on the I/O thread, once RabbitMQ has it there.
        """
        log.warning("message can't be handled", queue=delivery.queue, bytes=len(delivery.body), reason=reason)
        sender, done = self._sender, self._burials.begin(then)
        self._publisher.put(
            burials.publication(delivery, reason, self.name, exchange=sender.exchange, user=sender.user, done=done)
        )
        self.wake()

    def stop(self, timeout: float = 5.0) -> None:
        """Send what waits, close the connection and end the thread, within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        parts = (self._publisher, self._burials, self._consumers)
        while self.ready and not all(part.idle for part in parts) and time.monotonic() < deadline - 1:
            time.sleep(0.005)
        self._stopping.set()
        self._call(self._close)
        if self._thread.is_alive():
            self._thread.join(max(0.1, deadline - time.monotonic()))

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function after `seconds`; from the I/O thread only, and while the link is up."""
        self._io.ioloop.call_later(seconds, function)

    def count(self, queues: Sequence[str], done: Callable[[Depths], None]) -> None:
        """Call `done` on the I/O thread with the number of ready messages of each queue; never while it is down."""
        if self.ready:
            self._call_open(lambda connection: count(connection, queues, done))

    def declare(self, items: Sequence[Declaration], done: Callable[[str], None]) -> None:
        """Declare more than the topology: `done` gets "" or what went wrong, on the I/O thread.

        Any thread may call this. While the link is down it does nothing.
        """
        if self.up:
            self._call_open(lambda connection: declare_aside(connection, items, done))

    def expire_dead(self, before: float, most: int) -> None:
        """Drop messages that were buried before a time (seconds since the epoch), `most` of them; never while down."""
        if self.ready:
            user = self._sender.user
            self._call_open(lambda connection: expire(connection, DEAD, before, most, user=user, done=self._expired))

    def window(self, queue: str) -> Window:
        """A look into a queue, for a thread that is not the link's. Raises `LinkDown`."""
        if not self.ready:
            raise LinkDown(f"no connection to RabbitMQ: {self.problem}")
        return Window(queue, self._sender.user, lambda function: self._call(lambda: function(self._io)))

    def _expired(self, count: int) -> None:
        if count:
            log.info("old messages dropped", queue=DEAD, messages=count)

    def _call(self, function: Callable[[], None]) -> None:
        """Call a function on the I/O thread, if there is a connection."""
        guarded = self._guarded
        if guarded is not None:
            if threading.get_ident() == self._io_thread:
                guarded.call_soon(function)
            else:
                guarded.call_soon_threadsafe(function)
            return
        with self._guard:
            if self._connection is not None:
                self._connection.ioloop.add_callback_threadsafe(function)

    def _call_open(self, function: Callable[[pika.SelectConnection], None]) -> None:
        """Call a function with the connection on the I/O thread, if it is open then."""
        self._call(lambda: function(self._io) if self._io.is_open else None)

    def wake(self) -> None:
        """Call `on_wake` on the I/O thread and send what waits; several calls may be done as one."""
        if not self._awake and self.up:
            self._awake = True
            self._call(self._drain)

    # The I/O thread.

    def _callbacks(self) -> dict[str, Any]:
        return {
            "on_open_callback": self._opened,
            "on_open_error_callback": lambda _connection, error: self._lost(error),
            "on_close_callback": lambda _connection, reason: self._lost(reason),
        }

    def _pause(self) -> float:
        """Seconds until the next connection."""
        return self._backoff.pause(time.monotonic() - self._began) * random.uniform(0.7, 1.3)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._began = time.monotonic()
            connection = pika.SelectConnection(self._parameters, **self._callbacks())
            with self._guard:
                self._connection = connection
            try:
                connection.ioloop.start()
            except Exception as error:
                # Whatever went wrong, in pika or in a handler, a new connection is the way to a known state.
                log.exception("link failed", link=self.name, address=self._address)
                self._lost(error)
            with self._guard:
                self._connection = None
            self._discard(connection)
            self._stopping.wait(self._pause())

    # The same on a loop that is shared: each connection has its own view of it, and the next one follows by a timer.

    def _connect(self) -> None:
        assert self._loop is not None
        if self._stopping.is_set():
            return
        self._io_thread = threading.get_ident()
        self._began = time.monotonic()
        guarded = GuardedLoop(self._loop, self._broke)
        shared = cast("asyncio.AbstractEventLoop", guarded)
        connection = AsyncioConnection(self._parameters, custom_ioloop=shared, **self._callbacks())
        # What is used of it is the same.
        self._connection, self._guarded = cast("pika.SelectConnection", connection), guarded

    def _broke(self, error: Exception) -> None:
        log.error("link failed", link=self.name, address=self._address, error=error, exc_info=error)
        self._lost(error)

    def _end_io(self) -> None:
        """Have nothing more happen on the connection, and connect again."""
        if self._loop is None:
            self._io.ioloop.stop()
            return
        guarded, self._guarded, self._connection = self._guarded, None, None
        if guarded is None:
            return
        guarded.close()
        if not self._stopping.is_set():
            self._loop.call_later(self._pause(), self._connect)

    @property
    def _io(self) -> pika.SelectConnection:
        """The connection; on the I/O thread there is always one."""
        assert self._connection is not None
        return self._connection

    def _discard(self, connection: pika.SelectConnection) -> None:
        try:
            connection.ioloop.close()
        except (OSError, RuntimeError, pika.exceptions.AMQPError) as error:
            log.debug("loop of a lost connection did not close", link=self.name, error=error)

    # Making a connection: each step calls the next when the broker has answered.

    def _opened(self, connection: pika.SelectConnection) -> None:
        quicken(connection)
        connection.add_on_connection_blocked_callback(lambda *_: self._block(True))
        connection.add_on_connection_unblocked_callback(lambda *_: self._block(False))
        self._number += 1
        self._failed = False
        self._channel(self._publishing)

    def _channel(self, then: Callable[[Channel], None], pulls: bool = False) -> None:
        """Open a channel; what goes wrong on it later goes wrong with the connection.

        With `pulls` the puller is asked before whether it can go on. Without an open connection nothing happens.
        """
        if not self._io.is_open:
            return

        def closed(channel: Channel, reason: Exception) -> None:
            if not (pulls and self._puller and self._io.is_open and self._puller.passes_over(channel, str(reason))):
                self._fail(str(reason))

        def opened(channel: Channel) -> None:
            channel.add_on_close_callback(closed)
            channel.add_on_cancel_callback(
                lambda _frame: self._fail("RabbitMQ ended a consumer; was its queue deleted?")
            )
            then(channel)

        self._io.channel(on_open_callback=opened)

    def _publishing(self, channel: Channel) -> None:
        channel.add_on_return_callback(self._publisher.returned)
        channel.confirm_delivery(self._publisher.confirmed, callback=lambda _: self._declare(channel))

    def _declare(self, channel: Channel) -> None:
        declare(channel, iter(self._topology()), lambda: self._channel(lambda plain: self._attach(channel, plain)))

    def _attach(self, channel: Channel, plain: Channel) -> None:
        self._publisher.attach(channel, plain, self._number, self._io.ioloop.call_later)
        later = self._io.ioloop.call_later
        self._channel(lambda consuming: self._consumers.attach(consuming, self._number, later, self._pulling))

    def _pulling(self) -> None:
        if self._puller is None:
            self._now_up()
        else:
            self._channel(self._attach_puller, True)

    def _attach_puller(self, channel: Channel) -> None:
        if self._puller is not None:
            self._puller.attach(channel, self._io.ioloop.call_later, lambda: self._channel(self._attach_puller, True))
        if not self.up:
            self._now_up()

    def _now_up(self) -> None:
        self.up = True
        self.problem = ""
        self._taken = None
        self._was_up.set()
        log.info("link up", link=self.name, address=self._address, connection=self._number)
        self._io.ioloop.call_later(WATCH_SECS, self._watch)
        for listener in self.on_up:
            listener()
        self._drain()

    # While it is up.

    def _drain(self) -> None:
        self._awake = False
        if self.ready:
            for listener in self.on_wake:
                listener()
        if self.up and not self._failed:
            self._consumers.drain()
        if self.ready:
            self._publisher.drain()

    def _block(self, blocked: bool) -> None:
        self._blocked = blocked
        self.problem = "RabbitMQ takes no messages just now: an alarm for memory or disk" if blocked else ""
        log.warning("broker blocked" if blocked else "broker unblocked", link=self.name)
        self._drain()

    def _watch(self) -> None:
        """Notice a consumer that is connected but deaf: a message to itself must come back."""
        if not self.up:
            return
        for queue, seconds in [] if self._blocked else self._consumers.silent():
            if seconds > DEAF_SECS:
                self._fail(f"nothing was delivered from {queue} for {seconds:.0f} s, not even a ping")
                return
            ping = pika.BasicProperties(type=PING, expiration=str(int(WATCH_SECS * 1000)))
            self._publisher.put(Publication(self._sender.echo, queue, b"", ping, durable=False, done=None))
        self._drain()
        self._io.ioloop.call_later(WATCH_SECS, self._watch)

    # Losing the connection.

    def _fail(self, reason: str) -> None:
        """Close a connection that something is wrong with; another one follows."""
        if self._stopping.is_set() or not self._io.is_open:
            return
        if "PRECONDITION_FAILED" in reason and "inequivalent arg" in reason:
            log.error(
                "queue exists with other arguments",
                link=self.name,
                reason=reason,
                remedy="delete that queue in the RabbitMQ console; it is declared again as it should be",
            )
        elif "NOT_FOUND" in reason and not self.up and not self._sender.declares_all:
            log.warning(
                "waiting for the master, which makes this in RabbitMQ",
                link=self.name,
                reason=reason,
                remedy=f"start the master, as RabbitMQ's user {MASTER_USER}; this process tries again",
            )
        elif "ACCESS_REFUSED" in reason:
            log.error(
                "RabbitMQ refuses this",
                link=self.name,
                reason=reason,
                remedy="give the user the rights that python -m broker.rights prints",
            )
        else:
            log.warning("link failed", link=self.name, address=self._address, reason=reason)
        if _TAKEN in reason and self._taken is None:
            self._taken = time.monotonic()
        self.problem = reason
        self._close()

    def _close(self) -> None:
        if self._io.is_open:
            self._failed = True
            if self._puller is not None:
                self._puller.lost()  # it would go on using its channel
            self._io.close()
            # pika waits for each channel, and one that waits for a queue without a leader never agrees.
            self._io.ioloop.call_later(CLOSE_SECS, partial(cut, self._io))
        elif self._io.is_closed:
            self._end_io()

    def _lost(self, reason: BaseException) -> None:
        was_up, self.up = self.up, False
        self._blocked = False
        if not self._stopping.is_set():
            if not (isinstance(reason, pika.exceptions.ConnectionClosedByClient) and self.problem):
                self.problem = _words(reason)
            log.warning("link down", link=self.name, address=self._address, reason=self.problem)
            if _TAKEN not in self.problem:
                self._taken = None  # what is refused now, nobody knows
        self._consumers.lost()
        if self._puller is not None:
            self._puller.lost()
        self._publisher.lost()
        for listener in self.on_down if was_up else ():
            listener()
        self._end_io()


def _words(error: BaseException) -> str:
    """What is wrong, in words. pika wraps the error of a connection that failed into some of its own."""
    inner: BaseException | None = error
    while inner is not None:
        found = inner
        within = (*inner.args, *getattr(inner, "exceptions", ()), getattr(inner, "exception", None))
        inner = next((one for one in reversed(within) if isinstance(one, BaseException)), None)
    return str(found) or type(found).__name__
