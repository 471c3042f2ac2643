"""Counts the messages in queues, on a channel that is thrown away.

AMQP can only count with a passive declaration. On a channel that lives long this leaks in some versions of RabbitMQ,
and it ends the channel when the queue does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pika import SelectConnection
from pika.channel import Channel
from pika.frame import Method
from pika.spec import Queue

Depths = dict[str, int]


def count(connection: SelectConnection, queues: Sequence[str], done: Callable[[Depths], None]) -> None:
    """Calls `done` with the number of ready messages of each queue; 0 when the queue does not exist."""
    depths: Depths = {}
    rest = list(queues)

    def ask() -> None:
        if rest:
            connection.channel(on_open_callback=opened)
        else:
            done(depths)

    def opened(channel: Channel) -> None:
        channel.add_on_close_callback(closed)
        channel.queue_declare(rest[0], passive=True, callback=lambda frame: counted(channel, frame))

    def counted(channel: Channel, frame: Method[Queue.DeclareOk]) -> None:
        if not channel.is_open:
            return
        depths[rest.pop(0)] = frame.method.message_count
        if rest:
            channel.queue_declare(rest[0], passive=True, callback=lambda later: counted(channel, later))
        else:
            channel.close()

    def closed(_channel: Channel, _reason: Exception) -> None:
        if not connection.is_open:
            return
        if rest:  # there is no such queue
            depths[rest.pop(0)] = 0
        ask()

    ask()
