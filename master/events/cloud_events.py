"""Events as users read them: CloudEvents 1.0 as JSON, and the lines of server-sent events around that."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quoted

from broker import keys
from broker.http import values
from master.index.events import OF_JOBS, RESET, Event, KeyFacts, Position

CONTENT_TYPE = "application/cloudevents+json"
_ROUTING_BYTES = 255  # AMQP's limit


class CloudEvents:
    """Writes events as JSON. `source` is the master's URL: with it, the ids are those of this cluster alone."""

    def __init__(self, source: str) -> None:
        self._source = quoted(source)

    def write(self, position: Position, event: Event) -> str:
        """One event as JSON, in one line."""
        subject = event.subject
        if isinstance(subject, bytes):
            name = quoted(keys.decode(subject))
            data = _of_key(name, event.data)
        else:
            name, data = quoted(subject), json.dumps(event.data, separators=(",", ":"))
        about = f',"subject":{name}' if subject else ""
        return (
            f'{{"specversion":"1.0","id":"{position}","source":{self._source},"type":"{event.type}",'
            f'"time":"{_time(event.time)}"{about},"datacontenttype":"application/json","data":{data}}}'
        )

    def lines(self, position: Position, event: Event) -> bytes:
        """One event as a server-sent event."""
        text = f"id: {position}\nevent: {event.type}\ndata: {self.write(position, event)}\n\n"
        return text.encode("ascii")


def reset(now: int, reason: str) -> Event:
    """The event that others may have been missed; `now` is in ms since the epoch."""
    return Event(RESET, now, "", {"reason": reason})


def routing_key(event: Event) -> str:
    """The type of an event, then the folders of its key, its script, or the name of its node or member."""
    subject = event.subject
    if isinstance(subject, bytes):
        parts = keys.decode(subject).split("/")[:-1]
    elif event.type in OF_JOBS:
        parts = str(event.data["job_path"]).split("/")
    else:
        parts = [subject] if subject else []
    return ".".join([event.type, *(part.replace(".", "_") for part in parts)])[:_ROUTING_BYTES]


def _of_key(name: str, facts: KeyFacts) -> str:
    expires = facts.expires / 1000 if facts.expires else "null"
    return (
        f'{{"key":{name},"version":{facts.version},"size":{facts.size},"etag":{quoted(values.etag(facts.digest))},'
        f'"expires":{expires}}}'
    )


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
