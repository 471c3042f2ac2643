"""The parameters of a connection to RabbitMQ."""

from __future__ import annotations

from urllib.parse import urlsplit

import pika

from broker import tls
from broker.errors import SettingsError

HEARTBEAT_SECS = 30


def parameters(url: str, name: str, ca: str = "") -> pika.URLParameters:
    """Parameters for a connection that the RabbitMQ console shows as `name`.

    With amqps, RabbitMQ must have a certificate of the system's authorities or of those in the file `ca`. The URL may
    have `ssl_options` of its own instead, as pika takes them. Raises `SettingsError` for a bad URL or file.
    """
    try:
        made = pika.URLParameters(url)
    except (ValueError, TypeError, IndexError) as error:
        raise SettingsError("[broker] url is no URL like amqp://user:password@host:5672/%2F") from error
    if made.ssl_options is not None and "ssl_options=" not in urlsplit(url).query:
        made.ssl_options = pika.SSLOptions(tls.trust(ca), made.host)
    made.heartbeat = HEARTBEAT_SECS
    made.socket_timeout = 5
    made.stack_timeout = 10
    made.client_properties = {"connection_name": name}
    return made
