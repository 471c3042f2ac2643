"""What every command gets, and the exit statuses."""

from __future__ import annotations

import argparse
from typing import NamedTuple

from pulzar import names
from pulzar.client import Client
from pulzar.command.screen import Screen
from pulzar.errors import BadRequest, NotFound
from pulzar.models import Entry

OK, FAILED, USAGE = 0, 1, 2
NOT_FOUND, UNAVAILABLE, CONFLICT, DAMAGED, FORBIDDEN = 66, 69, 73, 74, 77  # those of sysexits.h
INTERRUPTED = 130


class Task(NamedTuple):
    """A command under way: its options, its cluster, and where it prints."""

    options: argparse.Namespace
    client: Client
    screen: Screen


def key_of(text: str) -> str:
    """A key as it was typed: without a leading slash or colon, and in ASCII."""
    return names.ascii_key(text.removeprefix(":").removeprefix("/"))


def found(task: Task, text: str) -> list[Entry]:
    """The keys that a text means: one, or those of a pattern. Raises `NotFound` when there is none."""
    key = key_of(text)
    if task.options.literal or not names.is_pattern(key):
        return [task.client.stat(key)]
    beginning, fits = names.pattern(key)
    entries = [entry for entry in task.client.list(beginning) if fits(entry.key)]
    if not entries:
        raise NotFound(f"no key fits {text}")
    return entries


def last_part(key: str) -> str:
    """The name of a file for a key: its last part. Raises `BadRequest` for a prefix."""
    name = names.name_of(key).rpartition("/")[2]
    if not name or "\0" in name or name in (".", ".."):
        raise BadRequest(f"{key!r} is no key of a value; a folder is fetched by sync")
    return name
