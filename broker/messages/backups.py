"""Messages about backups; for their codec see `broker.messages.codec`.

| message       | from → to             | queue              | carries                                    |
| ------------- | --------------------- | ------------------ | ------------------------------------------ |
| `MakeBackup`  | controller → one node | `pulzar.node.<id>` | "back yourself up", or verify your backup  |
| `BackupState` | node → controller     | `pulzar.results`   | how far that is, and the last good backup  |

A member is a node, or the master for its ledger. Times are milliseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from broker.messages import checks

MASTER = "master"  # the member that is the ledger


class Work(StrEnum):
    """What a member is to do."""

    SEND = "send"  # make a snapshot and send it
    VERIFY = "verify"  # read a share of the newest backup back


class Outcome(StrEnum):
    """What came of an order."""

    NONE = ""  # it is being carried out, or there was none
    GOOD = "good"
    FAILED = "failed"


class MakeBackup(NamedTuple):
    """An order to one member."""

    order: str  # random
    work: Work
    target: str  # "": the one in the settings


class BackupState(NamedTuple):
    """The state of a member's backups. Sizes are bytes."""

    member: str
    order: str = ""  # the newest one
    work: Work = Work.SEND  # what it was to do
    target: str = ""
    outcome: Outcome = Outcome.NONE
    reason: str = ""  # why it failed, in words
    began: int = 0
    ended: int = 0
    phase: str = ""  # of what is being done, with how much of how much
    done: int = 0
    total: int = 0
    # The last good backup at the target in the settings.
    snapshot: str = ""  # its name, "": there is none
    good_at: int = 0  # the moment of its snapshot
    size: int = 0
    files: int = 0
    sent: int = 0  # bytes that the target did not have yet
    took_ms: int = 0
    verified_at: int = 0  # when a share of it was last read back and found good

    @property
    def busy(self) -> bool:
        """Whether an order is being carried out."""
        return bool(self.order) and self.outcome is Outcome.NONE


BackupMessage = MakeBackup | BackupState


def _make(order: object, work: object, target: object) -> MakeBackup:
    return MakeBackup(_order(order), Work(checks.text(work)), checks.text(target))


def _state(*values: object) -> BackupState:
    text, number = checks.text, checks.number
    member, order, work, target, outcome, reason, began, ended, phase, done, total, snapshot, *figures = values
    return BackupState(
        checks.node(member),
        _order(order) if order else "",
        Work(text(work)),
        text(target),
        Outcome(text(outcome)),
        text(reason),
        number(began),
        number(ended),
        text(phase),
        number(done),
        number(total),
        text(snapshot),
        *map(number, figures),
    )


def _order(value: object) -> str:
    text = checks.text(value)
    checks.token(text)
    return text


# How each message is made of its fields, checked.
BUILD: dict[type[BackupMessage], Callable[..., BackupMessage]] = {MakeBackup: _make, BackupState: _state}
