"""The verbs of `ops/manage.py`, their options and exit statuses.

0: done. 1: not done, or `verify` has found a fault. 2: wrong use. 130: broken off by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from broker import tls
from broker.errors import PulzarError
from ops.manager import backups, nodes
from ops.manager.errors import WrongUse
from ops.manager.master import Master
from ops.manager.place import Place
from ops.manager.reset import reset
from ops.manager.status import status
from ops.manager.undelete import Accident, read_time, undelete
from ops.manager.verify import verify

_ABOUT = """Manage a Pulzar cluster.

Needs nothing but Python. The addresses and directories come from the configuration file (`--config`) and the
environment (`PULZAR_…`). For a cluster that `ops/up` runs, they come from its data directory (`--data`). Where the
master asks for a token, one with the right admin comes from PULZAR_TOKEN.
"""
_TOKEN, _CERTIFICATES = "token", "certificates"  # verbs with a command line of their own


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="manage.py", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _common(parser, None)
    parser.add_argument(
        "--restore",
        nargs="?",
        const="",
        metavar="NODE",
        help="fill the index again from the log of one node (its URL or name), or of all nodes; "
        "entries with nothing behind them are removed",
    )
    parser.add_argument(
        "--reset", choices=["all"], help="remove all data of this machine's master and nodes; asks first"
    )
    parser.add_argument("--yes", action="store_true", help="with --reset, forget and undelete: do not ask")
    parser.add_argument("--keys", action="store_true", help=argparse.SUPPRESS)  # before `forget`, as it once was
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")

    def verb(name: str, help_: str, description: str = "") -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=help_, description=description or help_)
        _common(made, argparse.SUPPRESS)
        return made

    made = verb("status", "the cluster on one screen: warnings, nodes, jobs, backup")
    _json(made)
    made = verb(
        "verify",
        "read every value and compare node and index, both ways",
        "Reads every value and compares its digest. Compares nodes and index both ways, and audits the LMDB files. "
        "Ends with 1 when something is wrong.",
    )
    made.add_argument("--node", default="", metavar="N", help="this node alone (its URL or name)")
    made.add_argument(
        "--repair", action="store_true", help="have the index follow the logs of nodes that differ from it"
    )
    _json(made)
    made = verb(
        "backup",
        "back up all nodes and the ledger now, and follow it",
        "Has the cluster back up all nodes, one after the other, and the master's ledger, and follows it. Ctrl-C stops "
        "following; the same command goes on.",
    )
    made.add_argument("--node", default="", metavar="N", help="this node alone (its URL or name); master: the ledger")
    made.add_argument("--to", default="", metavar="TARGET", help="another target than [backup] type and address")
    _json(made)
    made = verb("backups", "list the backups at a target")
    made.add_argument("--to", default="", metavar="TARGET", help="another target than [backup] type and address")
    _json(made)
    made = verb(
        "restore-backup",
        "put a backup into a new directory, every digest compared",
        "Puts a backup into a new directory and compares every digest. A node that is started there is that node.",
    )
    made.add_argument("target", metavar="TARGET", help="a path like /mnt/backup, sftp://user@host/path, s3:https://…")
    made.add_argument("--node", required=True, metavar="N", help="the node's name; master: the ledger")
    made.add_argument("--into", required=True, type=Path, metavar="DIR", help="a new or empty directory")
    made.add_argument("--at", metavar="TIME", help="the newest one until then, in UTC, like 2026-11-29T02:30")
    _json(made)
    made = verb(
        "undelete",
        "bring back what was deleted below a prefix since a time; asks first",
        "Brings back the newest version of every key below a prefix that was deleted since a time. Keys that exist "
        "stay as they are, so after Ctrl-C the same command goes on. Times: 10m, 2h or 3d ago, or an ISO date.",
    )
    made.add_argument("--prefix", required=True, metavar="P", help="how the keys begin, like folder/; '': all keys")
    made.add_argument("--since", required=True, type=_time, metavar="T", help="deleted at this time or later")
    made.add_argument("--until", type=_time, metavar="T", help="deleted at this time or before; now by default")
    made.add_argument("--yes", action="store_true", default=argparse.SUPPRESS, help="do not ask")
    _json(made)
    verbs.add_parser(_TOKEN, help="make a token, or list them; see token --help", add_help=False)
    verbs.add_parser(_CERTIFICATES, help="make certificates for TLS, or show them", add_help=False)
    made = verb("forget", "wait no more for a node that is gone for good; asks first")
    made.add_argument("node", metavar="NODE", help="the node's name or URL")
    made.add_argument("--keys", action="store_true", default=argparse.SUPPRESS, help="its keys leave the index, too")
    made.add_argument("--yes", action="store_true", default=argparse.SUPPRESS, help="do not ask")
    made = verb(
        "drain",
        "move all values of a node away, and follow that",
        "Has all values of a node copied to other nodes; it takes no new ones. When it ends, the node may be stopped "
        "and forgotten. Ctrl-C stops following; the same command goes on.",
    )
    made.add_argument("node", metavar="NODE", help="the node's name or URL")
    made.add_argument("--stop", action="store_true", help="have the node take values again")
    return parser


def _common(parser: argparse.ArgumentParser, default: Any) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", default=default, help="configuration file, like ops/server.conf"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", default=default, help="data directory of a cluster that ops/up runs"
    )


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON document, and no bar")


def _time(text: str) -> float:
    try:
        return read_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _checked(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Ends the process with status 2 when the arguments are not one thing to do."""
    asked = [
        name
        for name, there in (
            ("--restore", given.restore is not None),
            ("--reset", given.reset is not None),
            (given.verb, given.verb is not None),
        )
        if there
    ]
    if len(asked) > 1:
        parser.error(f"{' and '.join(asked)} can't be done at once; give one of them")
    if not asked:
        parser.error("nothing to do; give a verb, --restore or --reset all, see --help")
    if given.keys and given.verb != "forget":
        parser.error("--keys goes with forget")
    if given.verb == "undelete" and given.as_json and not given.yes:
        parser.error("--json asks nothing; give --yes, too")
    if given.yes and given.verb not in ("forget", "undelete") and given.reset is None:
        parser.error("--yes goes with --reset, forget and undelete")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments ask for; returns the exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == [_TOKEN]:
        from ops import tokens  # the other verbs start sooner without it

        return tokens.main(words[1:])
    if words[:1] == [_CERTIFICATES]:
        from ops import certificates  # it needs a package, and the other verbs none

        return certificates.main(words[1:])
    parser = _parser()
    given = parser.parse_args(arguments)
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help()
        return 0
    if given.verb in (_TOKEN, _CERTIFICATES):
        parser.error(f"give {given.verb} first, like {given.verb} --help")
    _checked(parser, given)
    try:
        done, result = _do(given)
        if getattr(given, "as_json", False):
            print(json.dumps(result, indent=1))
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads the output, like `head`, has enough. Nor may Python's own end write to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except PulzarError as error:
        print(f"manage.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, WrongUse) else 1
    except KeyboardInterrupt:
        print("\nbroken off", file=sys.stderr)
        return 130
    return done


def _do(given: argparse.Namespace) -> tuple[int, Any]:
    """The exit status, and what `--json` prints. Raises `PulzarError`."""
    place = Place.find(given.config, given.data)
    master = Master(place.master, tls.trust(place.ca))
    if given.restore is not None:
        return nodes.restore(master, given.restore), None
    if given.reset is not None:
        return reset(place, sure=given.yes), None
    match given.verb:
        case "status":
            return status(master, as_json=given.as_json)
        case "verify":
            return verify(master, given.node, repair=given.repair, as_json=given.as_json)
        case "backup":
            return backups.backup(master, given.node, given.to, as_json=given.as_json)
        case "backups":
            return backups.listed(master, given.config, given.to, as_json=given.as_json)
        case "restore-backup":
            return backups.restore(given.config, given.target, given.node, given.into, given.at, as_json=given.as_json)
        case "undelete":
            accident = Accident(given.prefix, given.since, time.time() if given.until is None else given.until)
            return undelete(master, accident, sure=given.yes, as_json=given.as_json)
        case "drain":
            return nodes.drain(master, given.node, stop=given.stop), None
        case _:
            return nodes.forget(master, given.node, entries=given.keys, sure=given.yes), None
