"""A client of `GET /events`, which reads on a thread of its own, and the process that events come from."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

import psutil

from ops.cluster import Cluster
from tests.support import wait_for


class Told(NamedTuple):
    """One event."""

    id: str
    type: str
    data: Any  # `data` of the CloudEvent

    @property
    def number(self) -> int:
        """Its place in the stream."""
        return int(self.id.partition("-")[2])

    @property
    def key(self) -> str:
        """The key that it is about."""
        return str(self.data["key"])


class Stream:
    """What a master tells, from the moment that this is made. `events` grows meanwhile."""

    def __init__(
        self,
        master: str,
        parameters: Mapping[str, str] | None = None,
        after: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Returns when the stream has begun. `after`: the id of the last event that is known already."""
        self.events: list[Told] = []
        self.last_id = after  # the last one that came
        self.error = ""
        parts = urlsplit(master)
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=120)
        query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
        sent = {"Last-Event-ID": after} if after else {}
        self._connection.request("GET", f"/events{query}", headers=sent | dict(headers or {}))
        self.response = self._connection.getresponse()
        assert self.response.status == 200, self.response.read()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        wait_for(lambda: self.last_id or self.events, what="the beginning of the stream")

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection.sock is not None:
            self._connection.sock.shutdown(2)
        self._thread.join(30)
        self._connection.close()

    @property
    def ended(self) -> bool:
        """Whether the master has ended it."""
        return not self._thread.is_alive()

    def wait(self, matches: Callable[[Told], bool], secs: float = 60.0) -> Told:
        """The first event that is meant."""
        return wait_for(lambda: next((event for event in self.events if matches(event)), None), secs, "the event")

    def of(self, key: str) -> list[str]:
        """The types of the events of one key."""
        return [event.type for event in list(self.events) if event.data.get("key") == key]

    def _read(self) -> None:
        fields: dict[str, str] = {}
        try:
            for raw in self.response:
                line = raw.decode("ascii").rstrip("\n")
                if not line:
                    self._dispatch(fields)
                    fields = {}
                elif not line.startswith(":"):
                    name, _, value = line.partition(": ")
                    assert name in ("id", "event", "data", "retry"), line
                    fields[name] = value
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:  # it was closed
            self.error = repr(error)

    def _dispatch(self, fields: Mapping[str, str]) -> None:
        if "data" in fields:
            told = json.loads(fields["data"])
            assert (told["id"], told["type"]) == (fields["id"], fields["event"])
            self.events.append(Told(told["id"], told["type"], told["data"]))
        if "id" in fields:
            self.last_id = fields["id"]


def controller_of(cluster: Cluster) -> psutil.Process:
    """The process of the master's controller."""

    def found() -> psutil.Process | None:
        return next(
            (
                process
                for process in psutil.process_iter(["cmdline", "environ"])
                if "master.controller" in (process.info["cmdline"] or ())
                and (process.info["environ"] or {}).get("PULZAR_SERVER_DIR") == str(cluster.master_directory)
            ),
            None,
        )

    return wait_for(found, what="the controller")
