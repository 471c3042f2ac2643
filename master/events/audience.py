"""Which events a listener gets: those that it asked for, and of these the ones that its token may know of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from broker import keys
from broker.refusals import BadRequest
from master.index.events import OF_BACKUPS, OF_JOBS, OF_KEYS, OF_NODES, RESET, TYPES, Event
from master.security.rights import Right, Rights

GROUPS: Mapping[str, tuple[str, ...]] = {"key": OF_KEYS, "job": OF_JOBS, "node": OF_NODES, "backup": OF_BACKUPS}
# What a token needs to know of what is not about a key. Of jobs that it has launched, it may know without.
_NEEDED = (
    dict.fromkeys(OF_JOBS, Right("jobs"))
    | dict.fromkeys(OF_NODES, Right("metrics"))
    | dict.fromkeys(OF_BACKUPS, Right("backup"))
)


class Audience(NamedTuple):
    """Listeners that get the same events."""

    prefix: str  # of the keys; events of others are not about keys
    types: frozenset[str]
    token: str = ""  # its name
    rights: Rights | None = None  # None: all of them

    def takes(self, event: Event, key: str) -> bool:
        """Whether these listeners get an event; `key` is that of an event about one."""
        if event.type not in self.types:
            return event.type == RESET
        if isinstance(event.subject, bytes):
            return key.startswith(self.prefix) and (self.rights is None or self.rights.on_key("read", key))
        if self.rights is None or self.rights.allow(_NEEDED[event.type]):
            return True
        return event.owner != "" and event.owner == self.token


def asked(given: Mapping[str, str]) -> Audience:
    """The audience that the parameters of a request ask for. Raises `BadRequest`.

    With a prefix and no types, only events of keys come.
    """
    prefix = keys.beginning(given.get("prefix", ""))
    if not prefix.isascii() or not prefix.isprintable():
        raise BadRequest(f"prefix={prefix[:80]!r} is no beginning of a key; only printable ASCII can be in it")
    if "types" not in given:
        return Audience(prefix, frozenset(OF_KEYS if prefix else TYPES))
    types: set[str] = set()
    for name in given["types"].split(","):
        name = name.strip()
        if name not in GROUPS and name not in TYPES:
            raise BadRequest(
                f"types={given['types'][:80]!r}: {name[:40]!r} is no type of events;"
                f" give some of {', '.join([*GROUPS, *TYPES])}, with commas between them"
            )
        types.update(GROUPS.get(name, (name,)))
    return Audience(prefix, frozenset(types))
