"""What a process is in RabbitMQ: a user of its own, by role, or one user for all.

The name of the user in `[broker] url` decides: `pulzar.master`, `pulzar.node.<name>`. With any other name all processes
share one user, and may do everything in the virtual host that `broker/rights.py` prints for it.

A process with a role signs each message with its user (`user_id`), which RabbitMQ compares with that of the connection.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from broker import topology
from broker.errors import SettingsError
from broker.settings import Settings


class Sender(NamedTuple):
    """How a process publishes. Without a role, all of it is empty."""

    user: str = ""  # signs each message
    exchange: str = ""  # takes the messages that name no exchange
    echo: str = ""  # takes the messages to itself

    @property
    def declares_all(self) -> bool:
        """Whether it makes every queue that it takes messages from."""
        return not self.exchange


def user(url: str) -> str:
    """The name of RabbitMQ's user in a URL; "" when it can't be read."""
    try:
        return unquote(urlsplit(url).username or "")
    except ValueError:  # connecting will say so
        return ""


def of_master(config: Settings) -> Sender:
    """How the master publishes. Raises `SettingsError` when the user is a node's, or a secret is missing."""
    name = user(config.broker.url)
    if node := topology.node_of(name):
        raise SettingsError(f"[broker] url has the user of the node {node}; a master needs {topology.MASTER_USER}")
    if name != topology.MASTER_USER:
        return Sender()
    _require_secret(config)
    return Sender(name)


def of_node(config: Settings, node: str) -> Sender:
    """How the node of that name publishes.

    Raises `SettingsError` when the user is another node's or the master's, or a secret is missing.
    """
    name = user(config.broker.url)
    if name == topology.MASTER_USER:
        raise SettingsError(f"[broker] url has the master's user; this node needs {topology.node_user(node)}")
    owner = topology.node_of(name)
    if not owner:
        return Sender()
    if owner != node:
        raise SettingsError(f"[broker] url has the user of the node {owner}, but this is the node {node}")
    if objection := topology.objection_to(node):
        raise SettingsError(f"[broker] url: {objection}")
    _require_secret(config)
    return Sender(name, topology.UP, topology.node_queue(node))


def _require_secret(config: Settings) -> None:
    if not config.general.secret:
        raise SettingsError(
            "[general] secret (PULZAR_GENERAL_SECRET) is needed, the same for master and nodes, "
            "since each is a user of its own in RabbitMQ"
        )
