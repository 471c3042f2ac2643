"""`pulzar`: runs a command, and turns errors into a message and an exit status."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable

import pulzar
from pulzar.client import PATIENCE_SECS, Client
from pulzar.command import cluster, completion, jobs, listing, parser, settings, syncing, values, watching
from pulzar.command.screen import Screen, printable
from pulzar.command.task import (
    CONFLICT,
    DAMAGED,
    FAILED,
    FORBIDDEN,
    INTERRUPTED,
    NOT_FOUND,
    OK,
    UNAVAILABLE,
    USAGE,
    Task,
)
from pulzar.errors import BadRequest, Conflict, Damaged, Forbidden, NotFound, PulzarError, Unavailable

_COMPLETION_PATIENCE_SECS = 1.0

COMMANDS: dict[str, Callable[[Task], int]] = {
    "put": values.put,
    "get": values.get,
    "cat": values.cat,
    "watch": watching.watch,
    "events": watching.events,
    "ls": listing.ls,
    "stat": listing.stat,
    "rm": listing.rm,
    "cp": listing.cp,
    "mv": listing.mv,
    "sync": syncing.sync,
    "run": jobs.run,
    "logs": jobs.logs,
    "jobs": jobs.jobs,
    "cancel": jobs.cancel,
    "schedule": jobs.schedule,
    "status": cluster.status,
    "nodes": cluster.nodes,
    "health": cluster.health,
}
_STATUSES: tuple[tuple[type[PulzarError], int], ...] = (
    (NotFound, NOT_FOUND),
    (Conflict, CONFLICT),
    (Forbidden, FORBIDDEN),
    (Damaged, DAMAGED),
    (Unavailable, UNAVAILABLE),
    (BadRequest, USAGE),
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the arguments name; its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if (told := completion.answer(given, _keys_below)) is not None:
        print("\n".join(told))
        return OK
    options = parser.make().parse_args(given)
    if options.version:
        print(f"pulzar {pulzar.VERSION}")
        return OK
    if options.command is None:
        parser.make().print_help()
        return USAGE
    if options.command == "completion":
        print(completion.script(options.shell), end="")
        return OK
    # Whoever ends it by SIGTERM gets the same as by Ctrl-C: parts of files are removed.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        status = _run(options)
        sys.stdout.flush()
        return status
    except PulzarError as error:
        return _fail(error, getattr(options, "json", False))
    except BrokenPipeError:
        # Who read the output has ended, as head does. Python would say so once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        print("pulzar: interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(options: argparse.Namespace) -> int:
    with _client(options, PATIENCE_SECS) as client:
        return COMMANDS[options.command](Task(options, client, Screen(getattr(options, "json", False))))


def _client(options: argparse.Namespace, patience: float) -> Client:
    given = [getattr(options, name, None) for name in ("url", "cluster", "config")]
    place = settings.choose(given[0] or "", given[1] or "", given[2], os.environ)
    return Client(place.url, token=place.token, ca=place.ca, patience=getattr(options, "patience", patience))


def _fail(error: PulzarError, as_json: bool) -> int:
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), FAILED)
    if as_json:
        told = {"error": str(error), "kind": type(error).__name__, "status": error.status}
        print(json.dumps(told, ensure_ascii=False), file=sys.stderr)
    else:
        print(f"pulzar: {printable(str(error))}", file=sys.stderr)
    return status


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _keys_below(words: list[str], prefix: str) -> list[str]:
    """Keys and folders for a completion; none when the cluster can't be asked."""
    options, _ = parser._common().parse_known_args(words)
    try:
        with _client(options, _COMPLETION_PATIENCE_SECS) as client:
            page = client.page(prefix, folders=True, limit=200)
    except PulzarError:  # nobody reads a message here
        return []
    return sorted([*(entry.key for entry in page.keys), *(folder.prefix for folder in page.folders)])


if __name__ == "__main__":
    sys.exit(main())
