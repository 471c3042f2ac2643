"""The least rights that master and nodes need in RabbitMQ, made from the topology.

`python -m broker.rights` prints them in the order of `rabbitmqctl set_permissions`: patterns of what the user may
configure, write and read. Publishing on the default exchange is one right for all queues. So the virtual host should be
Pulzar's alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from broker import topology

_DEFAULT_EXCHANGE = "amq.default"  # what RabbitMQ calls it where rights are looked at
# They stand for a node's name, and for the random part of `topology.control_queue`.
_NODE, _MADE_UP = "NODE", "MADEUP"
_STANDING_FOR = {_NODE: "[A-Za-z0-9._-]+", _MADE_UP: "[0-9a-f]+"}


class Rights(NamedTuple):
    """Regular expressions of whole names of queues and exchanges."""

    configure: str
    write: str
    read: str


def rights() -> Rights:
    """The rights of a user for a master and for nodes of any name."""
    control = topology.control_queue(_NODE).rpartition(".")[0] + f".{_MADE_UP}"
    declared = topology.node(_NODE, control)
    queues = [item.name for item in declared if isinstance(item, topology.Queue)]
    exchanges = [item.name for item in declared if isinstance(item, topology.Exchange)]
    bindings = [item for item in declared if isinstance(item, topology.Binding)]
    return Rights(
        configure=_pattern([*queues, *exchanges]),
        # A binding writes to the queue and reads from the exchange; a queue with dead letters is read from.
        write=_pattern([_DEFAULT_EXCHANGE, *exchanges, *(item.queue for item in bindings)]),
        read=_pattern([*queues, *(item.exchange for item in bindings)]),
    )


def _pattern(names: Iterable[str]) -> str:
    patterns = sorted({re.escape(name) for name in names})
    for word, pattern in _STANDING_FOR.items():
        patterns = [each.replace(word, pattern) for each in patterns]
    return f"^({'|'.join(patterns)})$"


if __name__ == "__main__":
    print(*rights(), sep="\n")
