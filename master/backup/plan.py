"""What the controller remembers of backups, in `backup-plan.json` of the master's directory.

The controller alone writes it. Web workers read it. A lost one costs nothing: every member tells its state again.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from broker import logs
from broker.messages.backups import BUILD, BackupState, Work

log = logs.get(__name__)

FILE = "backup-plan.json"


class Task(NamedTuple):
    """What a member is to do."""

    member: str
    work: Work
    target: str = ""  # "": the one in the settings


class Current(NamedTuple):
    """The task that is being carried out."""

    task: Task
    order: str
    begun: int  # ms


class Member(NamedTuple):
    """What is known of one member. Times are ms since the epoch."""

    state: BackupState
    since: int  # when it was first heard of
    failures: int = 0  # in a row
    retry_at: int = 0  # 0: there is nothing to try again
    error: str = ""  # why it failed the last time, in words; "" after a good one
    error_at: int = 0
    verify_at: int = 0  # when to read back next; 0: when there is a good one
    fault: str = ""  # what the last verification found wrong; no backup clears it, only a good verification
    fault_at: int = 0

    @property
    def problem(self) -> str:
        """What is wrong, in words; "" for nothing."""
        return self.error or self.fault


@dataclass
class Plan:
    """What is to be done, and how every member is."""

    members: dict[str, Member] = field(default_factory=dict)
    waiting: list[Task] = field(default_factory=list)
    current: Current | None = None
    due: int = 0  # the last time of the timetable that was acted on, ms; 0: none

    def to_json(self) -> str:
        """The plan as a text."""
        return json.dumps(
            {
                "members": {
                    name: member._asdict() | {"state": member.state._asdict()} for name, member in self.members.items()
                },
                "waiting": [list(task) for task in self.waiting],
                "current": [list(self.current.task), self.current.order, self.current.begun] if self.current else None,
                "due": self.due,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan in a text; raises `ValueError`, `TypeError`, `KeyError` or `AttributeError` for anything else."""
        raw = json.loads(text)
        members = {}
        for name, row in raw["members"].items():
            state = BUILD[BackupState](*(row["state"][key] for key in BackupState._fields))
            assert isinstance(state, BackupState)
            members[str(name)] = Member(**row | {"state": state})
        waiting = [_task(*one) for one in raw["waiting"]]
        current = None
        if raw["current"]:
            task, order, begun = raw["current"]
            current = Current(_task(*task), str(order), int(begun))
        return cls(members, waiting, current, int(raw["due"]))


def _task(member: str, work: str, target: str) -> Task:
    return Task(member, Work(work), target)


def read(directory: Path) -> Plan:
    """The plan in the master's directory; an empty one when there is none, or it can't be read. Not to be changed."""
    path = directory / FILE
    try:
        status = path.stat()
        return _parsed(path, status.st_ino, status.st_mtime_ns, status.st_size)
    except FileNotFoundError:
        return Plan()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("the plan of backups can't be read; it begins anew", file=path, reason=error)
        return Plan()


@lru_cache(maxsize=1)
def _parsed(path: Path, _inode: int, _mtime: int, _size: int) -> Plan:
    return Plan.from_json(path.read_text(encoding="utf-8"))


def write(directory: Path, plan: Plan, *, durable: bool) -> None:
    """Write the plan into the master's directory. Raises `OSError`."""
    new = directory / f"{FILE}.new"
    with new.open("w", encoding="utf-8") as file:
        file.write(plan.to_json())
        file.flush()
        if durable:
            os.fsync(file.fileno())
    new.replace(directory / FILE)
