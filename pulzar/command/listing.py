"""`ls`, `stat`, `rm`, `cp`, `mv`: keys, without their values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from pulzar import names
from pulzar.command.jobs import state_of_job
from pulzar.command.screen import size_text, time_text
from pulzar.command.task import FAILED, OK, Task, found, key_of
from pulzar.errors import BadRequest
from pulzar.models import Entry, Folder
from pulzar.workers import each

_DELETING_THREADS = 16


def ls(task: Task) -> int:
    """List keys and folders."""
    for text in task.options.prefixes or [""]:
        key = key_of(text)
        if names.is_pattern(key) and not task.options.literal:
            rows: Iterator[Entry | Folder] = iter(found(task, text))
        elif task.options.recursive:
            rows = iter(task.client.list(key))
        else:
            rows = _folded(task, key)
        for row in rows:
            _list_one(task, row)
    return OK


def _folded(task: Task, prefix: str) -> Iterator[Entry | Folder]:
    after: str | None = ""
    while after is not None:
        page = task.client.page(prefix, after=after, folders=True)
        rows: list[Entry | Folder] = [*page.keys, *page.folders]
        yield from sorted(rows, key=lambda row: row.key if isinstance(row, Entry) else row.prefix)
        after = page.next


def _list_one(task: Task, row: Entry | Folder) -> None:
    if isinstance(row, Folder):
        text, created = row.prefix, f"{row.keys:,} keys"
    else:
        text, created = row.key, time_text(row.created)
    if task.options.long:
        text = f"{size_text(row.size):>10}  {created:>19}  {text}"
    task.screen.line(text, asdict(row))


def stat(task: Task) -> int:
    """Show what is known of keys."""
    for text in task.options.keys:
        for entry in found(task, text):
            told = {
                "key": entry.key,
                "size": f"{entry.size:,} bytes",
                "sha256": entry.digest,
                "nodes": ", ".join(entry.nodes),
                "created": time_text(entry.created),
                "expires": time_text(entry.expires) or "never",
                "type": entry.content_type + (f", {entry.content_encoding}" if entry.content_encoding else ""),
            }
            task.screen.line("\n".join(f"{name + ':':9} {value}" for name, value in told.items()), asdict(entry))
    return OK


def rm(task: Task) -> int:
    """Delete keys."""
    options = task.options
    failed = 0
    for text in options.keys:
        key = key_of(text)
        if key.endswith("/") or not key:
            if not options.recursive:
                raise BadRequest(f"{text!r} is a folder; with -r all keys below it are deleted")
            entries = list(task.client.list(key))
        else:
            entries = found(task, text)
        if options.dry_run:
            for entry in entries:
                task.screen.line(f"would delete {entry.key}", {"key": entry.key, "deleted": False})
        else:
            failed += _delete(task, entries)
    return FAILED if failed else OK


def _delete(task: Task, entries: list[Entry]) -> int:
    """Delete keys with the values that they had when they were listed; how many could not be."""

    def delete(entry: Entry) -> None:
        task.client.delete(entry.key, match=entry.digest, purge=task.options.purge)
        task.screen.line(f"deleted {entry.key}", {"key": entry.key, "deleted": True})

    if len(entries) == 1:
        delete(entries[0])
        return 0
    failures = each(entries, delete, min(_DELETING_THREADS, len(entries) or 1), task.client.abort)
    for failure in failures:
        task.screen.say(f"pulzar: {failure.item.key}: {failure.error}")
    return len(failures)


def cp(task: Task) -> int:
    """Copy a key or a folder."""
    return _transfer(task, move=False)


def mv(task: Task) -> int:
    """Give a key or a folder another name."""
    return _transfer(task, move=True)


def _transfer(task: Task, move: bool) -> int:
    options = task.options
    key, to = key_of(options.key), key_of(options.to)
    if to.endswith("/") and not key.endswith("/"):
        to += key.rpartition("/")[2]
    act = task.client.move if move else task.client.copy
    job = act(key, to, overwrite=options.overwrite, ttl=options.ttl)
    if job and not options.detach:
        return state_of_job(task, job, follow=True)
    task.screen.line(f"job {job}" if job else to, {"key": to, "job_id": job or None})
    return OK
