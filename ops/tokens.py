"""`manage.py token`: makes tokens, and lists them. A token is shown once; the file has its SHA-256."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

from broker import settings
from broker.errors import PulzarError
from master.security import token_changes, tokens
from master.security.token_changes import TokenError
from master.security.tokens import Token

_EXAMPLES = """\
rights: read:PREFIX write:PREFIX delete:PREFIX launch:FOLDER/SCRIPT extension:NAME jobs metrics backup admin
  manage.py token ci write:builds/ read:builds/ 'launch:tests/*' --for 90d
  manage.py token boss read: write: delete: 'launch:*' 'extension:*' admin
Remove a line of the file to revoke its token."""


def main(arguments: Sequence[str]) -> int:
    """Make a token or list those there are; exit status 0 when it was done, 1 when not."""
    parser = argparse.ArgumentParser(
        prog="manage.py token",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="whose it is, for logs: letters, digits, . _ -")
    parser.add_argument("rights", nargs="*", metavar="RIGHT", help="what it allows")
    parser.add_argument("--for", dest="days", metavar="90d", help="how long it is good (days); without it for ever")
    parser.add_argument("--list", action="store_true", help="show names, rights and last days")
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration file, like ops/server.conf")
    given = parser.parse_intermixed_args(arguments)
    if given.list == bool(given.name):
        parser.error("give a name and rights, or --list")
    try:
        loaded = settings.load(given.config)
        if not loaded.security.tokens:
            raise TokenError(
                "[security] tokens names no file; set it in the configuration (--config), or as PULZAR_SECURITY_TOKENS"
            )
        path = Path(loaded.security.tokens)
        if given.list:
            show(path)
        else:
            rights, last = token_changes.parse_rights(given.rights), token_changes.until(given.days)
            if path.exists():
                _read(path)
            print(token_changes.add(path, given.name, rights, last, Path(loaded.server.dir)))
            print("It is shown this once. The master knows it within 2 s.", file=sys.stderr)
    except PulzarError as error:
        print(f"manage.py: {error}", file=sys.stderr)
        return 1
    return 0


def show(path: Path) -> None:
    """Print the tokens of a file. Raises `TokensUnreadable`."""
    found = _read(path)
    today = datetime.datetime.now(datetime.UTC).date()
    width = max((len(token.name) for token in found), default=0)
    for token in found:
        last = "for ever" if token.until is None else f"until {token.until}"
        over = " (over)" if token.until is not None and token.until < today else ""
        print(f"{token.name:<{width}}  {last + over:<23}  {' '.join(map(str, token.rights.all))}")


def _read(path: Path) -> list[Token]:
    """The tokens of a file; says what is wrong with its other lines. Raises `TokensUnreadable`."""
    found, wrong = tokens.read(path)
    for what in wrong:
        print(f"manage.py: {path}, {what}; the line counts for nothing", file=sys.stderr)
    return found
