"""Takes messages from several queues, as many as are wanted: how jobs reach free slots.

A consumer with a prefetch would get more jobs than its node has slots for, and keep them from an idle node. So a busy
node asks its queues in turn (`basic.get`), the first one first. When all are empty it subscribes to all of them, and
ends that as soon as no slot is free. A message that arrives just then is held for a moment, and given back when it
still isn't wanted.

Each `basic.get` and each acknowledgement is a write to the log of a quorum queue. So while messages are wanted ahead of
free slots, there is a window: a queue that has one, and those before it, are subscribed to, with as many messages at a
time as are wanted ahead. Acknowledgements, sent together, bring the next ones. The window is closed when nothing comes
any more. This takes 0.08 ms of RabbitMQ's time a message instead of 0.4.

A quorum queue whose members have no leader answers nothing, and holds back the whole channel. That channel is left
alone, a new one takes its place, and the queue is passed over for a while.

Everything here happens on the link's thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from pika import BasicProperties
from pika.channel import Channel
from pika.spec import Basic

from broker import logs
from broker.link.consumers import Delivery
from broker.link.publisher import Later

log = logs.get(__name__)

HOLD_SECS = 0.1  # a message that nobody wants any more is held this long
EMPTY_SECS = 0.05  # an empty queue is passed over this long, while others are not empty
LEAST_WINDOW = 2  # messages ahead; for fewer, single requests cost less than a subscription
DRY_SECS = 0.1  # a window through which nothing came for this time is closed
ACK_SECS = 0.02  # acknowledgements that can wait are sent after this time, or when they are half of a window
ANSWER_SECS = 2.5  # a queue answers within two of these; in one, this process may have stood still itself
SILENT_SECS = 60.0  # a queue that did not answer is passed over this long
MISSING_SECS = 1.0  # a queue that does not exist is passed over this long: the master makes it


class Puller:
    """Takes messages from several queues of a link."""

    def __init__(self, queues: Sequence[str], handler: Callable[[Delivery], None], declared: bool = True) -> None:
        """`handler` gets each message, and acknowledges it with `ack` or gives it back.

        With `declared` this link has declared the queues. Else one that does not exist is passed over for a while.
        """
        self._queues = queues
        self._declared = declared
        self._handler = handler
        self._wanted = 0
        self._free = 0  # how many of the wanted ones can be begun at once
        self._channel: Channel | None = None
        self._connection = 0  # how often messages were taken through a new channel
        self._later: Later
        self._reopen: Callable[[], None]
        self._asking = ""  # the queue that was asked and has not answered
        self._asked = 0  # how often a queue was asked
        self._silent: dict[str, float] = {}  # queue that did not answer → when it is asked again
        self._rest: deque[str] = deque()  # queues still to be asked in this round
        self._empty: dict[str, float] = {}  # queue → when it was found empty
        self._tags: dict[str, str] = {}  # queue → its subscription
        self._window = 0  # how many messages at a time are wanted through a window; 0: there should be none
        self._open_window = 0  # the same, of the one that is open
        self._window_tags: list[str] = []  # its subscriptions
        self._arrived_at = 0.0  # the last message
        self._held: deque[Delivery] = deque()  # arrived and not wanted yet
        self._unacknowledged: dict[int, None] = {}  # tags of what has arrived, in that order
        self._acks: set[int] = set()  # those of them that are to be acknowledged soon

    def want(self, free: int, ahead: int = 0, window: int = 0) -> None:
        """Set how many messages are wanted, not counting those that were handed over.

        `free` of them can be begun at once, and are waited for. `ahead` more are taken when they are there, of `window`
        that are wanted ahead in all.
        """
        self._free = free
        self._wanted = free + ahead
        self._window = window if window >= LEAST_WINDOW else 0
        self._work()

    def attach(self, channel: Channel, later: Later, reopen: Callable[[], None]) -> None:
        """Take messages through this channel from now on. `reopen` asks for another channel when this one is stuck."""
        self.lost()
        self._channel = channel
        self._connection += 1
        self._later = later
        self._reopen = reopen
        channel.add_callback(lambda _frame: self._found_empty(channel), [Basic.GetEmpty], one_shot=False)
        for queue, until in self._silent.items():
            later(max(0.0, until - time.monotonic()), partial(self._ask_again, queue))
        self._watch(channel, 0)
        self._work()

    def lost(self) -> None:
        """Forget the channel: its connection is gone, and what was not acknowledged comes again."""
        self._channel = None
        self._asking = ""
        self._rest.clear()
        self._empty.clear()
        self._tags.clear()
        self._open_window = 0
        self._window_tags = []
        self._held.clear()
        self._unacknowledged.clear()
        self._acks.clear()

    def ack(self, delivery: Delivery, soon: bool = False) -> bool:
        """Take the message for good. False: its connection is gone, and the message comes again, here or elsewhere.

        With `soon` the broker is told a little later, together with others.
        """
        if self._channel is None or delivery.connection != self._connection:
            return False
        if soon and not self._tags:
            self._acks.add(delivery.tag)
            if self._open_window and len(self._acks) >= max(1, self._open_window // 2):
                self._acknowledge()
            elif len(self._acks) == 1:
                self._later(ACK_SECS, self._acknowledge)
        else:
            self._unacknowledged.pop(delivery.tag, None)
            self._channel.basic_ack(delivery.tag)
        return True

    def give_back(self, delivery: Delivery) -> None:
        """Put the message back into its queue, for another node."""
        if self._channel is not None and delivery.connection == self._connection:
            self._close_window()  # or it would come back through that
            self._unacknowledged.pop(delivery.tag, None)
            # Not `basic_reject`, which counts as an attempt in every version of RabbitMQ. `basic_nack` does up to 4.2.
            self._channel.basic_nack(delivery.tag, requeue=True)

    def _acknowledge(self) -> None:
        """Acknowledge what was to be acknowledged soon: all up to some message with one command."""
        if self._channel is None:
            return
        upto = 0
        for tag in self._unacknowledged:
            if tag not in self._acks:
                break
            upto = tag
        if upto:
            self._channel.basic_ack(upto, multiple=True)
        for tag in self._acks:
            self._unacknowledged.pop(tag, None)
            if tag > upto:
                self._channel.basic_ack(tag)
        self._acks.clear()

    def _work(self) -> None:
        while self._held and self._wanted > 0:
            self._hand_over(self._held.popleft())
        if self._channel is None:
            return
        if self._free <= 0:
            self._unsubscribe()
        if not self._window or not self._open_window / 2 < self._window < self._open_window * 2:
            self._close_window()
        if self._wanted > 0 and not self._tags and not self._window_tags and not self._asking:
            self._begin_round()

    # Asking one queue after the other.

    def _begin_round(self) -> None:
        now = time.monotonic()
        heard = self._heard()
        fresh = [queue for queue in heard if now - self._empty.get(queue, 0.0) > EMPTY_SECS]
        if not fresh and self._free <= 0:
            return  # nothing is there to be taken ahead
        self._rest = deque(fresh or heard)
        if self._rest:
            self._ask()

    def _heard(self) -> list[str]:
        """The queues that are not passed over."""
        return [queue for queue in self._queues if queue not in self._silent]

    def _ask(self) -> None:
        if self._wanted <= 0:
            return
        if not self._rest:
            self._round_ended()
            return
        assert self._channel is not None
        self._asking = self._rest.popleft()
        self._channel.basic_get(self._asking, self._got)
        self._asked += 1

    def _watch(self, channel: Channel, before: int) -> None:
        """Notice a queue that does not answer. What its channel has not acknowledged comes again."""
        if self._channel is not channel:
            return
        if self._asking and self._asked == before:
            log.error("queue does not answer; passed over", queue=self._asking, secs=SILENT_SECS)
            self._silent[self._asking] = time.monotonic() + SILENT_SECS
            self.lost()
            self._reopen()
            return
        asked = self._asked if self._asking else 0
        self._later(ANSWER_SECS, lambda: self._watch(channel, asked))

    def passes_over(self, channel: Channel, reason: str) -> bool:
        """Go on without a queue that somebody else has yet to make; whether that is why the channel was closed."""
        if self._declared or "NOT_FOUND" not in reason:
            return False
        missing = next((queue for queue in self._queues if f"queue '{queue}'" in reason), "")
        if missing and channel is self._channel:
            log.warning("queue of jobs is missing; the master makes it", queue=missing, again_in=MISSING_SECS)
            self._silent[missing] = time.monotonic() + MISSING_SECS
            self.lost()
            self._reopen()
        return bool(missing)

    def _ask_again(self, queue: str) -> None:
        if self._silent.get(queue, time.monotonic() + 1) <= time.monotonic():
            del self._silent[queue]
            self._unsubscribe()
            self._work()

    def _got(self, channel: Channel, method: Basic.GetOk, properties: BasicProperties, body: bytes) -> None:
        if channel is not self._channel:
            if channel.is_open:  # a queue that was silent has answered at last
                channel.basic_nack(method.delivery_tag, requeue=True)
            return
        queue, self._asking = self._asking, ""
        self._empty.pop(queue, None)
        self._arrived(queue, method, properties, body)
        if self._asking or self._channel is None:
            return
        if self._wanted > 0 and self._window:
            self._begin_window(queue)
        elif self._wanted > 0:
            self._begin_round()  # a queue before this one may have got something meanwhile

    def _found_empty(self, channel: Channel) -> None:
        if channel is not self._channel:
            return
        self._empty[self._asking] = time.monotonic()
        self._asking = ""
        self._ask()

    def _round_ended(self) -> None:
        now = time.monotonic()
        if self._free <= 0:
            return
        heard = self._heard()
        if all(now - self._empty.get(queue, 0.0) <= EMPTY_SECS for queue in heard):
            for queue in heard:
                self._subscribe(queue)
        else:
            self._begin_round()

    # Subscribed through a window, or, when all are empty, to all.

    def _begin_window(self, queue: str) -> None:
        def begun(_frame: object) -> None:
            self._arrived_at = time.monotonic()
            self._look_whether_dry(tags)

        self._open_window = self._window
        # One of a higher priority may get something meanwhile.
        queues = [each for each in self._heard() if self._queues.index(each) <= self._queues.index(queue)]
        # Up to RabbitMQ 4.2, what is on its way when a subscription ends counts as one more attempt: so not too soon.
        self._window_tags = tags = [
            self._consume(each, self._open_window, begun if each == queue else None) for each in queues
        ]

    def _look_whether_dry(self, tags: list[str]) -> None:
        if tags is not self._window_tags or not tags:
            return
        # When as many are here as may be, or nothing was wanted, nothing could come.
        full = len(self._unacknowledged) - len(self._acks) >= self._open_window
        left = DRY_SECS if full or self._wanted <= 0 else self._arrived_at + DRY_SECS - time.monotonic()
        if left > 0:
            self._later(left, lambda: self._look_whether_dry(tags))
        else:
            self._close_window()
            self._work()

    def _close_window(self) -> None:
        if self._window_tags:
            for tag in self._window_tags:
                self._cancel(tag)
            for delivery in self._held:
                self._later(HOLD_SECS, partial(self._let_go, delivery))
        self._open_window, self._window_tags = 0, []

    def _subscribe(self, queue: str) -> None:
        self._acknowledge()
        self._tags[queue] = self._consume(queue, 1)

    def _consume(self, queue: str, most: int, begun: Callable[[object], None] | None = None) -> str:
        """Subscribe to a queue, for at most `most` messages at a time that are not acknowledged; returns the tag."""

        def deliver(channel: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
            if channel is self._channel:  # else it comes again
                self._arrived(queue, method, properties, body)

        assert self._channel is not None
        self._channel.basic_qos(prefetch_count=most)  # for each subscription that follows
        return self._channel.basic_consume(queue, deliver, callback=begun)

    def _unsubscribe(self) -> None:
        for tag in self._tags.values():
            # Sent before the acknowledgement of what took the last slot, so that no message follows it.
            self._cancel(tag)
        self._tags.clear()

    def _cancel(self, tag: str) -> None:
        if self._channel is not None and self._channel.is_open:  # else the link is about to say that it is lost
            self._channel.basic_cancel(tag, lambda _frame: None)

    def _arrived(
        self, queue: str, method: Basic.Deliver | Basic.GetOk, properties: BasicProperties, body: bytes
    ) -> None:
        headers = properties.headers or {}
        delivery = Delivery(
            *(body, queue, method.delivery_tag, self._connection),
            headers,
            method.redelivered,
            properties.user_id or "",
        )
        self._unacknowledged[delivery.tag] = None
        self._arrived_at = time.monotonic()
        if self._wanted > 0:
            self._hand_over(delivery)
        else:
            self._held.append(delivery)
            if not self._window_tags:  # else it will be wanted soon
                self._later(HOLD_SECS, lambda: self._let_go(delivery))

    def _hand_over(self, delivery: Delivery) -> None:
        self._wanted -= 1
        self._free -= 1
        if self._free <= 0:
            self._unsubscribe()
        self._handler(delivery)

    def _let_go(self, delivery: Delivery) -> None:
        if delivery in self._held:
            self._held.remove(delivery)
            self.give_back(delivery)
