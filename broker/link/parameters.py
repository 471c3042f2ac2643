"""The parameters of a connection to RabbitMQ."""

from __future__ import annotations

import pika

from broker.errors import SettingsError

HEARTBEAT_SECS = 30


def parameters(url: str, name: str) -> pika.URLParameters:
    """Parameters for a connection that the RabbitMQ console shows as `name`; raises `SettingsError` for a bad URL."""
    try:
        made = pika.URLParameters(url)
    except (ValueError, TypeError, IndexError) as error:
        raise SettingsError("[broker] url is no URL like amqp://user:password@host:5672/%2F") from error
    made.heartbeat = HEARTBEAT_SECS
    made.socket_timeout = 5
    made.stack_timeout = 10
    made.client_properties = {"connection_name": name}
    return made
