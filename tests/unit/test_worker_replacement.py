"""A web worker is replaced only by one that listens."""

from __future__ import annotations

from typing import Any

import pytest

from broker.server import web_server
from broker.server.web_server import ReplacingServer


class Worker:
    """A process of a web worker."""

    def __init__(self) -> None:
        self.alive, self.ended = True, ""

    def start(self) -> None:
        pass

    def is_alive(self) -> bool:
        return self.alive

    def terminate(self) -> None:
        self.ended = "terminated"

    def kill(self) -> None:
        self.alive, self.ended = False, "killed"

    def join(self, timeout: float | None = None) -> None:
        self.alive = self.alive and not self.ended


@pytest.mark.parametrize("listens", [True, False])
def test_an_old_worker_stays_when_the_new_one_does_not_listen(listens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "_HANDSHAKE_SECS", 0.0)
    server: Any = ReplacingServer.__new__(ReplacingServer)
    old, new = Worker(), Worker()
    server.wrks, server._old = [old], []
    monkeypatch.setattr(server, "_spawn_worker", lambda **_: new, raising=False)
    monkeypatch.setattr(server, "_wait_listening", lambda _worker: listens)
    server._respawn_workers([0], None, None)
    assert server.wrks == [new if listens else old]
    assert (old.ended[:4], new.ended) == (("term", "") if listens else ("", "killed"))
