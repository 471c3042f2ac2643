"""The least rights that master and nodes need in RabbitMQ, made from the topology.

`python -m broker.rights master`, `node NAME` and `publisher` print those of a role: patterns of what its user may
configure, write and read, in the order of `rabbitmqctl set_permissions`. Without an argument they are those of one user
whom master and nodes share.

Publishing on the default exchange is one right for all queues. Of the roles only the master has it. There is no topic
exchange that nodes or publishers may use, so they need no topic permissions.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from broker import topology
from broker.messages import checks
from broker.topology import Declaration

_USAGE = "python -m broker.rights [master | node NAME | publisher]"
_DEFAULT_EXCHANGE = "amq.default"  # what RabbitMQ calls it where rights are looked at
# They stand for the random part of `topology.control_queue`, and for a node's name. The name comes last, since it may
# be such a word.
_MADE_UP, _NODE = "MADEUP", "NODE"
_STANDING_FOR = {_MADE_UP: "[0-9a-f]+", _NODE: "[A-Za-z0-9._-]+"}


class Rights(NamedTuple):
    """Regular expressions of whole names of queues and exchanges."""

    configure: str
    write: str
    read: str


def rights() -> Rights:
    """The rights of a user for a master and for nodes of any name."""
    declared = topology.node(_NODE, _CONTROL)
    queues = [item.name for item in declared if isinstance(item, topology.Queue)]
    exchanges = [item.name for item in declared if isinstance(item, topology.Exchange)]
    bindings = [item for item in declared if isinstance(item, topology.Binding)]
    return Rights(
        configure=_pattern([*queues, *exchanges]),
        # A binding writes to the queue and reads from the exchange; a queue with dead letters is read from.
        write=_pattern([_DEFAULT_EXCHANGE, *exchanges, *(item.queue for item in bindings)]),
        read=_pattern([*queues, *(item.exchange for item in bindings)]),
    )


def of_master() -> Rights:
    """The rights of a master that is a user of its own."""
    declared = [*topology.master_role(), *topology.node_jobs(_NODE)]
    queues = [item.name for item in declared if isinstance(item, topology.Queue)]
    return _of_role(declared, writes=[_DEFAULT_EXCHANGE, topology.CONTROL, topology.EVENTS], reads=queues)


def of_node(name: str) -> Rights:
    """The rights of one node that is a user of its own. Raises `ValueError` for a name that can't have them."""
    if not checks.is_node_name(name):
        raise ValueError(f"{name!r:.120} is no name of a node: letters, digits, '.', '_', '-', at most 100")
    if objection := topology.objection_to(name):
        raise ValueError(objection)
    own = topology.node_queue(_NODE)
    reads = [own, _CONTROL, *topology.job_queues(_NODE)]
    declared = topology.node_role(_NODE, _CONTROL)
    return _of_role(declared, writes=[topology.UP, own], reads=reads, words=_STANDING_FOR | {_NODE: re.escape(name)})


def of_publisher() -> Rights:
    """The rights of who may launch jobs through RabbitMQ, and nothing else."""
    return _of_role((), writes=[topology.LAUNCH], reads=())


def of_user(name: str) -> Rights:
    """The rights of a user by its name; those that master and nodes share for a name that is no role's.

    Raises `ValueError` for the user of a node whose name can't have them.
    """
    if name == topology.MASTER_USER:
        return of_master()
    if name == topology.PUBLISHER_USER:
        return of_publisher()
    node = topology.node_of(name)
    return of_node(node) if node else rights()


def password(key: str, user: str) -> str:
    """The password of a user by a secret key. Nobody can make it, or the key, of the password of another user."""
    return hmac.new(key.encode(), user.encode(), hashlib.sha256).hexdigest()


def definitions(vhost: str, passwords: Mapping[str, str], salt: bytes) -> dict[str, Any]:
    """What RabbitMQ imports to have these users: their rights in the virtual host, and hashes of their passwords.

    It gets what the roles share, too, so that a node with a user of its own need not wait for such a master.
    `salt` has 4 random bytes. Raises `ValueError` like `of_user`.
    """
    users = [
        {
            "name": user,
            "password_hash": base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode(),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": [],
        }
        for user, password in passwords.items()
    ]
    permissions = [{"user": user, "vhost": vhost, **of_user(user)._asdict()} for user in passwords]
    made: dict[str, Any] = {"users": users, "vhosts": [{"name": vhost}], "permissions": permissions}
    place = {"vhost": vhost, "arguments": {}}
    kept = {"durable": True, "auto_delete": False}
    for item in topology.master_role() if topology.MASTER_USER in passwords or _has_nodes(passwords) else ():
        match item:
            case topology.Queue(name, arguments):
                made.setdefault("queues", []).append({**place, **kept, "name": name, "arguments": dict(arguments)})
            case topology.Exchange(name, kind):
                made.setdefault("exchanges", []).append(
                    {**place, **kept, "name": name, "type": kind, "internal": False}
                )
            case topology.Binding(exchange, queue, key):
                ends = {"source": exchange, "destination": queue, "destination_type": "queue", "routing_key": key}
                made.setdefault("bindings", []).append({**place, **ends})
    return made


def _has_nodes(users: Iterable[str]) -> bool:
    return any(map(topology.node_of, users))


_CONTROL = topology.control_queue(_NODE).rpartition(".")[0] + f".{_MADE_UP}"


def _of_role(
    declared: Sequence[Declaration],
    *,
    writes: Iterable[str],
    reads: Iterable[str],
    words: Mapping[str, str] = _STANDING_FOR,
) -> Rights:
    """What a role needs to make `declared`, to publish on the exchanges `writes`, to consume the queues `reads`."""
    made = [item.name for item in declared if isinstance(item, topology.Queue | topology.Exchange)]
    bindings = [item for item in declared if isinstance(item, topology.Binding)]
    return Rights(
        configure=_pattern(made, words),
        write=_pattern([*writes, *(item.queue for item in bindings)], words),
        read=_pattern([*reads, *(item.exchange for item in bindings)], words),
    )


def _pattern(names: Iterable[str], words: Mapping[str, str] = _STANDING_FOR) -> str:
    patterns = sorted({re.escape(name) for name in names})
    for word, pattern in words.items():
        patterns = [each.replace(word, pattern) for each in patterns]
    return f"^({'|'.join(patterns)})$" if patterns else "^$"


def main(arguments: Sequence[str]) -> int:
    """Print the rights that the arguments ask for; the exit status."""
    try:
        match arguments:
            case []:
                found = rights()
            case ["master"]:
                found = of_master()
            case ["node", name]:
                found = of_node(name)
            case ["publisher"]:
                found = of_publisher()
            case _:
                print(f"usage: {_USAGE}", file=sys.stderr)
                return 2
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(*found, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
