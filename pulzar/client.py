"""A client of one cluster."""

from __future__ import annotations

import json
import os
from typing import Any

from pulzar.errors import ServerError
from pulzar.events import Events
from pulzar.jobs import Jobs
from pulzar.keys import Keys
from pulzar.models import Health, Node
from pulzar.wire import addresses
from pulzar.wire.exchange import Ask, Exchange
from pulzar.wire.trust import Trust

URL_VARIABLE = "PULZAR_URL"
TOKEN_VARIABLE = "PULZAR_TOKEN"
CA_VARIABLE = "PULZAR_SECURITY_CA"
DEFAULT_URL = f"http://localhost:{addresses.DEFAULT_PORT}"
TIMEOUT_SECS = 60.0
PATIENCE_SECS = 30.0


class Client(Keys, Jobs, Events):
    """A cluster: its keys, jobs and nodes, and what happens. Any thread may use it. Close it, or use it in a `with`."""

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        ca: str | None = None,
        timeout: float = TIMEOUT_SECS,
        patience: float = PATIENCE_SECS,
    ) -> None:
        """`url` of the master: `http://host:port`, `https://…` or `host:port`. Raises `BadRequest` for another one.

        `token` goes to the master alone, never to another server. `ca`: a PEM file of certificates to trust, besides
        those of the system. Without them the client takes PULZAR_URL, PULZAR_TOKEN and PULZAR_SECURITY_CA from the
        environment. `timeout`: seconds without a byte. `patience`: seconds for which a master or node that is away, or
        answers 503, is asked again.
        """
        environment = os.environ
        chosen = environment.get(URL_VARIABLE) or DEFAULT_URL if url is None else url
        secret = environment.get(TOKEN_VARIABLE, "") if token is None else token
        trust = Trust(environment.get(CA_VARIABLE, "") if ca is None else ca)
        self._exchange = Exchange(addresses.home(chosen), secret.strip(), trust, timeout, patience)

    @property
    def url(self) -> str:
        """The address of the master."""
        return str(self._exchange.home)

    def status(self) -> dict[str, Any]:
        """Statistics of the index and of the master: `keys`, `bytes`, `version`, `uptime` and more."""
        found: dict[str, Any] = self._exchange.data(Ask("GET", "/admin/status"))
        return found

    def nodes(self) -> list[Node]:
        """Every node."""
        return list(map(Node.of, self._exchange.data(Ask("GET", "/admin/network"))))

    def health(self) -> Health:
        """Whether a value would be stored now; raises `Unavailable` when the master does not answer."""
        with self._exchange.open(Ask("GET", "/health", accepted=(503,))) as response:
            content = response.read()
            healthy = response.status == 200
        found = _json(content)
        data = found.get("data") if isinstance(found.get("data"), dict) else {}
        raw = dict(data or {})
        return Health(healthy, str(found.get("msg", "")), tuple(map(str, raw.get("warnings", ()))), raw)

    def close(self) -> None:
        """Close the connections that are kept."""
        self._exchange.close()

    def abort(self) -> None:
        """Close all connections, also those that other threads use: their requests fail with `Unavailable`."""
        self._exchange.abort()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _json(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise ServerError(f"what responds there is no Pulzar: {content[:80]!r}") from error
    return found if isinstance(found, dict) else {}
