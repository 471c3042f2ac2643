"""RabbitMQ's console: its address, and what it alone knows: how many messages are unacknowledged.

AMQP tells the ready ones only. The console is asked when `[broker] console` names it, when somebody looks and the last
answer is old. No page waits long for it.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from broker import logs, tls
from broker.settings import Settings

log = logs.get(__name__)

FRESH_SECS = 4.0
ANSWER_SECS = 1.0  # a page waits so long when nothing is known, or what was long ago
OLD_SECS = 15.0  # longer than an open page takes to ask again
_TIMEOUT_SECS = 5.0
_MOST_BYTES = 4 << 20
_PORT = 15672


class Numbers(NamedTuple):
    """What the console says."""

    unacknowledged: Mapping[str, int]  # by queue
    problem: str  # why there is nothing; "" when there is, or nothing was asked


class Console:
    """The console of one cluster. Any thread may use it."""

    def __init__(self, config: Settings) -> None:
        self._address = config.broker.console
        self._broker = config.broker.url
        self._ca = config.security.ca
        self._guard = threading.Lock()
        self._numbers = Numbers({}, "")
        self._asked = float("-inf")
        self._answered = threading.Event()

    @property
    def link(self) -> str:
        """The address of its list of queues, for people: the setting, or the usual port of the broker's host."""
        parts = urlsplit(self._address)
        host = parts.hostname or urlsplit(self._broker).hostname or "localhost"
        shown = f"[{host}]" if ":" in host else host
        port = (f":{parts.port}" if parts.port else "") if self._address else f":{_PORT}"
        return f"{parts.scheme or 'http'}://{shown}{port}{parts.path.rstrip('/')}/#/queues"

    def numbers(self) -> Numbers:
        """What it says; what it said before when it does not answer soon."""
        if not self._address:
            return Numbers({}, "only RabbitMQ's console knows it; name it in [broker] console")
        with self._guard:
            now = time.monotonic()
            if now - self._asked > FRESH_SECS:
                if now - self._asked > OLD_SECS:
                    self._answered.clear()  # what it said then is no news
                self._asked = now
                threading.Thread(target=self._ask, name="console", daemon=True).start()
        self._answered.wait(ANSWER_SECS)
        return self._numbers

    def _ask(self) -> None:
        try:
            found = Numbers(self._fetch(), "")
        except (OSError, ValueError) as error:
            found = Numbers({}, f"RabbitMQ's console does not tell: {error}")
        if found.problem and found.problem != self._numbers.problem:
            log.warning("the console can't be asked", reason=found.problem)
        self._numbers = found
        self._answered.set()

    def _fetch(self) -> dict[str, int]:
        """Raises `OSError` and `ValueError`."""
        parts, broker = urlsplit(self._address), urlsplit(self._broker)
        owner = parts if parts.username else broker
        user, password = unquote(owner.username or "guest"), unquote(owner.password or "guest")
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        virtual = quote(unquote(broker.path[1:]) or "/", safe="")
        columns = "name,messages_unacknowledged"
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        target = f"{parts.path.rstrip('/')}/api/queues/{virtual}?columns={columns}"
        status, body = tls.get(
            address, target, _TIMEOUT_SECS, tls.trust(self._ca), login=f"Basic {login}", most=_MOST_BYTES
        )
        if status in (401, 403):
            raise ValueError(
                f"it refuses the user {user}; give that user the tag monitoring, or put another one's "
                "name and password into [broker] console"
            )
        if status != 200:
            raise ValueError(f"it answered {status}")
        rows = json.loads(body)
        if not isinstance(rows, list):
            raise ValueError("its answer is no list of queues")
        return {
            str(row["name"]): int(row["messages_unacknowledged"])
            for row in rows
            if isinstance(row, dict) and isinstance(row.get("messages_unacknowledged"), int) and "name" in row
        }
