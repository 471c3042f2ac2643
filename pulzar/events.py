"""What happens in a cluster, as it happens: `GET /events`, connected again after each break."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pulzar.errors import ServerError
from pulzar.wire import addresses
from pulzar.wire.connection import CHUNK_BYTES, Broken, Response
from pulzar.wire.exchange import Ask, Exchange

_AGAIN_SECS = 0.5  # after a stream has ended
_MOST_BYTES = 1 << 20  # of one event


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `type` is key.added, job.failed, reset and the like; `time` is UTC, as in ISO 8601.

    `subject` is a key, the id of a job, a node or a member of a backup. `reset`: others may have been missed.
    """

    id: str
    type: str
    time: str
    subject: str
    data: dict[str, Any]


class Events:
    """Part of a client: what happens."""

    _exchange: Exchange

    def events(self, prefix: str = "", *, types: str = "", after: str = "") -> Iterator[Event]:
        """What happens from now on, or behind the event with the id `after`; it never ends by itself.

        `prefix`: only keys that begin so. `types`: only these, with commas between them. A stream that breaks is asked
        for again, and goes on where it was. Raises `PulzarError` when the cluster is away for longer than the patience.
        """
        target = addresses.target("events", prefix=prefix or None, types=types or None)
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
            with self._exchange.open(Ask("GET", target, headers)) as response:
                try:
                    for fields in _read(response):
                        after = fields.get("id", after)
                        if "data" in fields:
                            yield _event(fields["data"])
                except Broken:  # it goes on behind the last id
                    pass
            time.sleep(_AGAIN_SECS)


def _read(response: Response) -> Iterator[dict[str, str]]:
    """The fields of each server-sent event; raises `Broken`."""
    rest = b""
    fields: dict[str, str] = {}
    while piece := response.read(CHUNK_BYTES):
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _MOST_BYTES:
            raise ServerError("what responds to /events sends no events")
        for line in lines:
            if not line:
                yield fields
                fields = {}
            elif not line.startswith(b":"):
                name, _, value = line.decode("utf-8", "replace").partition(":")
                fields[name] = value.removeprefix(" ")


def _event(text: str) -> Event:
    try:
        told = json.loads(text)
        return Event(told["id"], told["type"], told["time"], told.get("subject", ""), dict(told["data"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ServerError(f"an event can't be read: {text[:80]!r}") from error
