"""The options of `ops/install`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.installer.errors import InstallError

USAGE = """\
ops/install --master --node          all of it on this machine, RabbitMQ included
ops/install --master                 a master, and RabbitMQ unless --broker-url names one
ops/install --node --credentials F   a node of a master elsewhere; F as printed there by --add-node
ops/install --add-node NAME          on the machine of the master: prints the credentials of a node elsewhere
ops/install --add-publisher          prints the URL of a user who may launch jobs through RabbitMQ and nothing else
ops/install --roles                  users of their own in RabbitMQ, for services that share one since an older version
ops/install --upgrade                what is installed here, from this checkout; restarts the services that run
ops/install --remove [--purge]       services and code; with --purge settings, keys, values and jobs too

  --without-extensions  on a master: without what the extensions need (OpenCV, Tesseract, drivers of databases)
  --broker-url URL      amqp://user:password@host:5672/vhost; - reads it from standard input, which no list of
                        processes shows. One user for all, of a RabbitMQ of your own
  --credentials FILE    - reads them from standard input

As root. May be repeated: it does what is missing. Code goes to /opt/pulzar, settings to /etc/pulzar, data to
/var/lib/pulzar.
"""

ROLES = {"--master": "master", "--node": "node"}
FLAGS = {
    "--without-extensions": "without_extensions",
    "--upgrade": "upgrade",
    "--roles": "switch",
    "--add-publisher": "add_publisher",
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
    credentials: str = ""  # the text
    add_node: str = ""
    add_publisher: bool = False
    switch: bool = False
    without_extensions: bool = False
    upgrade: bool = False
    remove: bool = False
    purge: bool = False

    @property
    def actions(self) -> int:
        """How many of installation, upgrade, removal and so on are asked for."""
        asked = (self.roles, self.upgrade, self.remove, self.switch, self.add_node, self.add_publisher)
        return [bool(each) for each in asked].count(True)


def parse(arguments: Sequence[str]) -> Options | None:
    """The options; None when the usage is asked for. Raises `InstallError` when they make no sense."""
    roles: list[str] = []
    given: dict[str, bool] = {}
    broker_url = credentials = add_node = ""
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
        elif word == "--credentials":
            credentials = _credentials(next(words, None))
        elif word == "--add-node":
            add_node = next(words, "")
            if not add_node or add_node.startswith("-"):
                raise InstallError("--add-node needs the name of the node")
        else:
            raise InstallError(f"{word} is no option; ops/install --help shows all")
    options = Options(tuple(dict.fromkeys(roles)), broker_url, credentials, add_node, **given)
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


def _credentials(given: str | None) -> str:
    if given is None:
        raise InstallError("--credentials needs a file, or - to read standard input")
    try:
        text = sys.stdin.read() if given == "-" else Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InstallError(f"--credentials {given} can't be read: {error}") from error
    return text or "\n"  # nothing is refused as any other text is


def _check(options: Options) -> None:
    if options.actions > 1:
        raise InstallError(
            "--master and --node, --upgrade, --remove, --roles, --add-node, --add-publisher: "
            "only one of these at a time"
        )
    if options.credentials and (options.roles != ("node",) or options.broker_url):
        raise InstallError("--credentials goes with --node alone, and not with --broker-url")
    if options.actions and options.purge and not options.remove:
        raise InstallError("--purge goes with --remove")
    if options.broker_url and options.remove:
        raise InstallError("--broker-url does not go with --remove")
