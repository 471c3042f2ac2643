"""A cluster that asks for tokens, and the tokens."""

from __future__ import annotations

import datetime
import http.client
import json
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from master.security import tokens
from master.security.rights import Right
from master.security.tokens import CHECK_SECS
from ops.cluster import Cluster
from tests.integration.wire import Answer, Client, good
from tests.support import Clusters, wait_for

ALL = ("read:", "write:", "delete:", "launch:*", "extension:*", "admin")


def today() -> datetime.date:
    """The day in UTC: tokens end with it."""
    return datetime.datetime.now(datetime.UTC).date()


class Keys:
    """The file of tokens of a cluster, and the cluster."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[str, str] = {}
        self.tokens: dict[str, str] = {}  # by a name, for tests that share some
        self.write()
        self.all = self.make("all", ALL)
        self._cluster: Cluster | None = None

    def start(self, clusters: Clusters, **settings: str) -> None:
        """Start a cluster that has this file."""
        self._cluster = clusters(env={"PULZAR_SECURITY_TOKENS": str(self.path), **settings})

    @property
    def cluster(self) -> Cluster:
        assert self._cluster
        return self._cluster

    def write(self) -> None:
        """Write the file anew."""
        new = self.path.with_suffix(".new")
        new.touch(0o600)
        new.write_text("".join(f"{line}\n" for line in self.lines.values()))
        new.rename(self.path)

    def make(self, name: str, rights: Iterable[str], until: datetime.date | None = None) -> str:
        """A new token; `settle` waits until the master has read it."""
        text, made = tokens.make(name, map(Right.parse, rights), until)
        self.lines[name] = made.line()
        self.write()
        return text

    def settle(self) -> None:
        """Wait until every web worker has to read the file at its next request; one of them has."""
        text = self.make(f"settled-{time.time_ns()}", ["metrics"])
        written = time.monotonic()
        wait_for(lambda: self.ask("GET", "/admin/status", text).status == 200, what="the file to be read")
        wait_for(lambda: time.monotonic() > written + CHECK_SECS, what="a look that is due in every worker")

    def ask(
        self, method: str, path: str, token: str | None = None, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        """The answer to one request with a token."""
        sent = {"Authorization": f"Bearer {token}"} if token else {}
        with Client(self.cluster.master_url) as client:
            return client.request(method, path, body, sent | (headers or {}))

    def begin(self, path: str, token: str | None) -> Answer:
        """The answer to a GET whose body has no end, unless it is an error: without that body."""
        sent = {"Authorization": f"Bearer {token}"} if token else {}
        connection = http.client.HTTPConnection(urlsplit(self.cluster.master_url).netloc, timeout=30)
        with closing(connection):
            connection.request("GET", path, headers=sent)
            answer = connection.getresponse()
            body = answer.read() if answer.status >= 400 else b""
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)

    def put(self, key: str, value: bytes = b"a value") -> None:
        """Store a value."""
        good(self.ask("PUT", f"/add_key/{key}", self.all, value), 201)

    def launch(self, token: str, script: str = "example/factorial", **body: object) -> int:
        """Launch a job; its id."""
        wait_for(lambda: self.ask("GET", "/admin/job_catalog", self.all).json["data"], what="the catalog")
        told = good(self.ask("POST", f"/launch_job/{script}", token, json.dumps({"number": 3} | body).encode()))
        return int(told["job_id"])
