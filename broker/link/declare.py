"""Declares exchanges, queues and bindings, one after the other: on a channel, or on one that is thrown away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pika import SelectConnection
from pika.channel import Channel
from pika.exceptions import ChannelClosedByClient

from broker.topology import Binding, Declaration, Exchange, Present, Queue


def declare(channel: Channel, rest: Iterator[Declaration], then: Callable[[], None]) -> None:
    """Declare all of `rest`, then call `then`. What exists with other arguments closes the channel, and ends this."""
    if not channel.is_open:
        return
    item = next(rest, None)

    def on(_frame: object) -> None:
        declare(channel, rest, then)

    if item is None:
        then()
    elif isinstance(item, Queue):
        arguments, exclusive = dict(item.arguments), item.exclusive
        channel.queue_declare(item.name, durable=not exclusive, exclusive=exclusive, arguments=arguments, callback=on)
    elif isinstance(item, Exchange):
        channel.exchange_declare(item.name, item.kind, durable=True, callback=on)
    elif isinstance(item, Present):
        channel.exchange_declare(item.exchange, passive=True, callback=on)
    else:
        assert isinstance(item, Binding)
        channel.queue_bind(item.queue, item.exchange, item.routing_key, callback=on)


def declare_aside(connection: SelectConnection, items: Sequence[Declaration], done: Callable[[str], None]) -> None:
    """Declare `items` on a channel of their own; then calls `done` with "", or with what went wrong."""

    def opened(channel: Channel) -> None:
        channel.add_on_close_callback(closed)
        declare(channel, iter(items), channel.close)

    def closed(_channel: Channel, reason: Exception) -> None:
        done("" if isinstance(reason, ChannelClosedByClient) else str(reason))

    connection.channel(on_open_callback=opened)
