"""Which events a listener gets: those that it asked for, and of these the ones that its token may know of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from broker.contract.kinds import Beginning, OrEmpty, Text
from broker.contract.parameters import Parameter, header
from master.index.events import ID, OF_BACKUPS, OF_JOBS, OF_KEYS, OF_NODES, RESET, TYPES, Event
from master.security.rights import Right, Rights

GROUPS: Mapping[str, tuple[str, ...]] = {"key": OF_KEYS, "job": OF_JOBS, "node": OF_NODES, "backup": OF_BACKUPS}
_NAMES = [*GROUPS, *TYPES]
_ONE = f" *(?:{'|'.join(map(re.escape, _NAMES))}) *"
PREFIX = Parameter(
    "prefix", Beginning(), "The beginning of the keys. With a prefix and no types, only events of keys come.", ""
)
OF_TYPES = Parameter(
    "types",
    Text(
        pattern=f"{_ONE}(?:,{_ONE})*",
        what=f"list of types of events; give some of {', '.join(_NAMES)}, with commas between them",
    ),
    "Types with commas between them: key, job, node and backup stand for all of these.",
    "",
)
_ID = OrEmpty(Text(pattern=ID), "")
AFTER = Parameter("after", _ID, "As Last-Event-ID, for clients that can't send a header.", "")
LAST_ID = header("Last-Event-ID", _ID, "The last id that came.")
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
    prefix, wanted = PREFIX.read(given), OF_TYPES.read(given)
    if not wanted:
        return Audience(prefix, frozenset(OF_KEYS if prefix else TYPES))
    types: set[str] = set()
    for name in map(str.strip, wanted.split(",")):
        types.update(GROUPS.get(name, (name,)))
    return Audience(prefix, frozenset(types))
