"""Declares exchanges, queues and bindings on a channel, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pika.channel import Channel

from broker.topology import Binding, Declaration, Exchange, Queue


def declare(channel: Channel, rest: Iterator[Declaration], then: Callable[[], None]) -> None:
    """Declare all of `rest`, then call `then`. What exists with other arguments closes the channel."""
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
    else:
        assert isinstance(item, Binding)
        channel.queue_bind(item.queue, item.exchange, item.routing_key, callback=on)
