"""What the client gives back: keys, pages, jobs. Times are seconds since the epoch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FINAL = ("completed", "failed", "cancelled")  # states in which a job stays


@dataclass(frozen=True, slots=True)
class Entry:
    """A key and what is known of its value. `digest` is the SHA-256 in hex, `size` is in bytes."""

    key: str
    size: int
    digest: str
    nodes: tuple[str, ...] = ()
    created: float = 0.0
    expires: float | None = None
    content_type: str = ""
    content_encoding: str | None = None

    @classmethod
    def of(cls, row: dict[str, Any]) -> Entry:
        """From an entry of `GET /keys`."""
        return cls(
            row["key"],
            row["size"],
            row["etag"].strip('"'),
            tuple(row.get("nodes", ())),
            row.get("created") or 0.0,
            row.get("expires"),
            row.get("content_type") or "",
            row.get("content_encoding"),
        )


@dataclass(frozen=True, slots=True)
class Folder:
    """What lies beneath a prefix that ends with a slash: the number of keys, and their bytes together."""

    prefix: str
    keys: int
    size: int


@dataclass(frozen=True, slots=True)
class Page:
    """A page of keys, and of folders when deeper keys are folded. `next` is where the next page begins, or None."""

    keys: tuple[Entry, ...]
    folders: tuple[Folder, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Stored:
    """What a PUT has stored."""

    key: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Launched:
    """A job or a schedule that was launched, and what is odd about its arguments."""

    job_id: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """A job. `state` is pending, running, completed, failed or cancelled; `seconds` is how long it ran.

    `log` has the end of the log, `output` the output when it is known. `raw` has all that the master says.
    """

    job_id: int
    script: str
    state: str
    reason: str = ""
    node: str = ""
    created: float = 0.0
    seconds: float = 0.0
    output: Any = None
    log: str = ""
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ended(self) -> bool:
        """Whether the job is in a state in which it stays."""
        return self.state in FINAL

    @classmethod
    def of(cls, row: dict[str, Any]) -> Job:
        """From a row of a list, or from `GET /admin/jobs/{number}`."""
        began, ended = row.get("started"), row.get("ended")
        return cls(
            row["job_id"],
            row.get("job_path", ""),
            row.get("state", ""),
            row.get("reason") or "",
            row.get("node") or "",
            row.get("creation_time") or 0.0,
            row.get("time") or (ended - began if began and ended else 0.0),
            row.get("output"),
            row.get("log") or "",
            row,
        )


@dataclass(frozen=True, slots=True)
class Node:
    """A node. `disk_percent` of its disk is used; `raw` has all that the master says."""

    name: str
    alive: bool
    disk_percent: float
    url: str = ""
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, row: dict[str, Any]) -> Node:
        """From `GET /admin/network`."""
        return cls(row["node"], bool(row["synch"]), row.get("percent") or 0.0, row.get("url") or "", row)


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a value would be stored now, why not, and what needs attention."""

    healthy: bool
    message: str
    warnings: tuple[str, ...] = ()
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
