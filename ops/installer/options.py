"""The options of `ops/install`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ops.installer.errors import InstallError

USAGE = """\
ops/install --master --node          all of it on this machine, RabbitMQ included
ops/install --master                 a master, and RabbitMQ unless --broker-url names one
ops/install --node --broker-url URL  a node of a master elsewhere; URL as in its /etc/pulzar/environment
ops/install --upgrade                what is installed here, from this checkout; restarts the services that run
ops/install --remove [--purge]       services and code; with --purge settings, keys, values and jobs too

  --without-extensions  on a master: without what the extensions need (OpenCV, Tesseract, drivers of databases)
  --broker-url URL      amqp://user:password@host:5672/vhost; - reads it from standard input, which no list of
                        processes shows

As root. May be repeated: it does what is missing. Code goes to /opt/pulzar, settings to /etc/pulzar, data to
/var/lib/pulzar.
"""

ROLES = {"--master": "master", "--node": "node"}
FLAGS = {
    "--without-extensions": "without_extensions",
    "--upgrade": "upgrade",
    "--remove": "remove",
    "--purge": "purge",
}

# None of the characters that the environment file would need to quote.
_URL = re.compile(r"amqps?://[^\s\"'\\$`]+")


@dataclass(frozen=True)
class Options:
    """What the arguments ask for."""

    roles: tuple[str, ...] = ()
    broker_url: str = ""
    without_extensions: bool = False
    upgrade: bool = False
    remove: bool = False
    purge: bool = False

    @property
    def actions(self) -> int:
        """How many of installation, upgrade and removal are asked for."""
        return [bool(self.roles), self.upgrade, self.remove].count(True)


def parse(arguments: Sequence[str]) -> Options | None:
    """The options; None when the usage is asked for. Raises `InstallError` when they make no sense."""
    roles: list[str] = []
    given: dict[str, bool] = {}
    broker_url = ""
    words = iter(arguments)
    for word in words:
        if word in ("--help", "-h"):
            return None
        if word in ROLES:
            roles.append(ROLES[word])
        elif word in FLAGS:
            given[FLAGS[word]] = True
        elif word == "--broker-url":
            broker_url = _broker_url(next(words, None))
        else:
            raise InstallError(f"{word} is no option; ops/install --help shows all")
    options = Options(tuple(dict.fromkeys(roles)), broker_url, **given)
    _check(options)
    return options


def _broker_url(given: str | None) -> str:
    if given is None:
        raise InstallError("--broker-url needs a URL, or - to read it from standard input")
    url = sys.stdin.readline().rstrip("\n") if given == "-" else given
    if not _URL.fullmatch(url):
        # Not shown: it may have a password.
        raise InstallError("--broker-url is no URL like amqp://user:password@host:5672/vhost; other characters as %XX")
    return url


def _check(options: Options) -> None:
    if options.actions > 1:
        raise InstallError("--master and --node, --upgrade, --remove: only one of these at a time")
    if options.actions and options.purge and not options.remove:
        raise InstallError("--purge goes with --remove")
    if options.broker_url and options.remove:
        raise InstallError("--broker-url does not go with --remove")
