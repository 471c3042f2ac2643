"""A connection to RabbitMQ that keeps itself alive. The only package that imports pika.

`link` is the connection and its thread, `publisher` what leaves through it, `consumers` what arrives.
"""

from broker.link.consumers import Delivery
from broker.link.link import Link
from broker.link.window import Copy, Held, Window

__all__ = ["Copy", "Delivery", "Held", "Link", "Window"]
