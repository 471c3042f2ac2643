"""`ops/manage.py backup` beside what the cluster does by itself."""

from __future__ import annotations

from typing import Any

import pytest

from broker import tls
from ops.manager import backups
from ops.manager.errors import Conflicting
from ops.manager.master import Master

ROW = {"member": "master", "running": None, "failed": None, "error": None, "snapshot": "20261129T023000Z", "files": 1}
SINCE = 1_000.0  # when the backup that was asked for began
ROW |= {"sent": 1, "size": 1, "seconds": 1.0}


class VerifyingMaster(Master):
    """Reads a share of a backup back, as it does once a week, until it was asked for a backup often enough."""

    def __init__(self, refusals: int, failed: float = 0) -> None:
        """Just before it agrees, a backup of another order has ended; `failed`: when, if it failed."""
        super().__init__("http://localhost:1", tls.trust(""))
        self.refusals = refusals
        self.failed = failed
        self.agreed = False

    def ask(self, method: str, path: str, body: Any = None, *, secs: float = 0) -> Any:
        if method == "POST":
            if self.refusals:
                self.refusals -= 1
                raise Conflicting(409, "a backup is on its way, of node-1 just now; GET /admin/backup tells")
            self.agreed = True
            return {"members": ["master"], "since": SINCE}
        busy = {"work": "verify", "target": None, "done": 0, "total": 1, "phase": "verify"}
        node = ROW | {"member": "node-1", "running": busy if self.refusals else None}
        waiting = [{"member": "node-2", "work": "verify", "target": None}] if self.refusals else []
        return {"running": "node-1" if self.refusals else None, "waiting": waiting, "members": [node, self.row()]}

    def row(self) -> dict[str, Any]:
        failed = self.failed if self.agreed else 0
        return ROW | {"failed": failed or None, "error": "no such target" if failed else None}


def test_the_end_of_a_verification_is_waited_for_with_pauses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(backups.time, "sleep", pauses.append)
    status, result = backups.backup(VerifyingMaster(5), "master", "", as_json=False)
    assert (status, result["good"]) == (0, True)
    assert len(pauses) == 5
    assert min(pauses) > 0.1
    assert capsys.readouterr().out.count("waiting for its end") == 1


@pytest.mark.parametrize(("failed", "good"), [(SINCE - 0.01, True), (SINCE, False), (SINCE + 1, False)])
def test_a_failure_of_the_backup_before_is_none_of_this_one(failed: float, good: bool) -> None:
    status, result = backups.backup(VerifyingMaster(0, failed), "master", "", as_json=True)
    assert (status == 0, result["good"]) == (good, good)
