"""How many messages wait in queues, asked on a channel that is thrown away.

A passive declaration is the one way AMQP has to ask; on a channel that lives long it leaks in some versions of
RabbitMQ, and of a queue that is missing the channel ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Depths = dict[str, int]


def count(connection: Any, queues: Sequence[str], done: Callable[[Depths], None]) -> None:
    """Call `done` with how many messages wait in each queue, not counting those that are handed over: 0 without it."""
    depths: Depths = {}
    rest = list(queues)

    def ask() -> None:
        if rest:
            connection.channel(on_open_callback=opened)
        else:
            done(depths)

    def opened(channel: Any) -> None:
        channel.add_on_close_callback(closed)
        channel.queue_declare(rest[0], passive=True, callback=lambda frame: counted(channel, frame))

    def counted(channel: Any, frame: Any) -> None:
        depths[rest.pop(0)] = frame.method.message_count
        if rest:
            channel.queue_declare(rest[0], passive=True, callback=lambda later: counted(channel, later))
        else:
            channel.close()

    def closed(_channel: Any, _reason: Exception) -> None:
        if not connection.is_open:
            return
        if rest:  # there is no such queue
            depths[rest.pop(0)] = 0
        ask()

    ask()
