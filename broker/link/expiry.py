"""Drops old messages of a queue that nobody consumes: `pulzar.dead`.

RabbitMQ's own lifetimes end at 49 days, and can't be given to a queue that exists. So the oldest messages are taken out
one by one, on a channel that is thrown away. The first one that is not old goes back to its place.

One that does not say when it came is published again with the time. It is acknowledged when RabbitMQ has the copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from pika import BasicProperties, SelectConnection
from pika.channel import Channel
from pika.frame import Method
from pika.spec import Basic

from broker.link.burials import AT

_DEATHS = "x-death"  # header of messages that RabbitMQ itself has moved there
_PERSISTENT = 2


def expire(
    connection: SelectConnection, queue: str, before: float, most: int, *, user: str, done: Callable[[int], None]
) -> None:
    """Drop up to `most` messages that came before a time; calls `done` with their number.

    `user` signs what is published again, "" when nothing is signed.
    """
    dropped = looked = copied = 0  # `copied`: the tag of the message whose copy is on its way

    def opened(channel: Channel) -> None:
        def end(*_: object) -> None:
            if channel.is_open:
                channel.close()

        channel.add_callback(end, [Basic.GetEmpty], one_shot=False)
        channel.add_on_close_callback(lambda _channel, _reason: done(dropped))
        channel.add_on_return_callback(end)
        channel.confirm_delivery(
            lambda frame: confirmed(channel, frame),
            callback=lambda _frame: look(channel),
        )

    def look(channel: Channel) -> None:
        nonlocal looked
        if not channel.is_open:
            return
        looked += 1
        if looked > most:
            channel.close()
        else:
            channel.basic_get(queue, got)

    def got(channel: Channel, method: Basic.GetOk, properties: BasicProperties, body: bytes) -> None:
        nonlocal dropped, copied
        if not channel.is_open:
            return
        at = time_of(properties)
        if at is None:
            properties.headers = {**(properties.headers or {}), AT: int(time.time())}
            properties.user_id = user or None
            properties.delivery_mode = _PERSISTENT
            copied = method.delivery_tag
            channel.basic_publish("", queue, body, properties, mandatory=True)
        elif at >= before:
            channel.basic_nack(method.delivery_tag, requeue=True)
            channel.close()
        else:
            dropped += 1
            channel.basic_ack(method.delivery_tag)
            look(channel)

    def confirmed(channel: Channel, frame: Method[Basic.Ack | Basic.Nack]) -> None:
        if not channel.is_open:
            return
        if not isinstance(frame.method, Basic.Ack):
            channel.close()  # the message goes back to its place
            return
        channel.basic_ack(copied)
        look(channel)

    connection.channel(on_open_callback=opened)


def time_of(properties: BasicProperties) -> float | None:
    """When a message came, in seconds since the epoch; None when it does not say."""
    headers = properties.headers or {}
    at = headers.get(AT)
    if isinstance(at, int):
        return float(min(at, time.time()))
    deaths = headers.get(_DEATHS)
    times = [death.get("time") for death in deaths if isinstance(death, dict)] if isinstance(deaths, list) else []
    known = [moment.replace(tzinfo=UTC).timestamp() for moment in times if isinstance(moment, datetime)]
    return max(known, default=None)
