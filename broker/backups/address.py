"""Which target: from the settings, or from the text after `--to`."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from broker.errors import PulzarError
from broker.settings import Backup

# Behind `user:` up to the last @, since some write passwords as they are. A number before a slash is a port.
_PASSWORD = re.compile(r"//([^/@:\[\s]*):(?!\d+(?:[/?]|$))\S*@")
_OPTION = re.compile(r"((?:pass|secret|token|key)\w*)=(?:\"[^\"]*\"|'[^']*'|[^,:]*)")  # of a remote of rclone
TYPES = ("directory", "sftp", "s3", "restic", "rclone")
PATTERN = rf"/[ -~]*|(?:{'|'.join(TYPES)}):[ -~]*"  # of a text that names one


# What addresses with a host are like: schemes, options, an example.
SFTP = ("sftp",), ("key", "known_hosts"), "sftp://user@host:22/path"
S3 = ("https", "http"), ("region",), "https://host:9000/bucket/prefix"


class BadTarget(PulzarError):
    """Raised when a text names no target, or an address can't be one of its type."""


class Target(NamedTuple):
    """A target as it was named."""

    type: str  # one of TYPES
    address: str
    user: str = ""
    psw: str = ""

    def __str__(self) -> str:
        """As people see it: without the password, and without a type that the address tells."""
        address = without_password(self.address)
        return address if self.type in ("directory", "sftp") else f"{self.type}:{address}"


def without_password(address: str) -> str:
    """An address for people: some write user and password into it, also behind `rest:` of restic."""
    shown = _PASSWORD.sub(r"//\1:***@", address)
    return _OPTION.sub(r"\1=***", shown) if shown.startswith(":") else shown


def chosen(settings: Backup, to: str | None) -> Target:
    """The target named by `--to`, else the one of the settings. User and password are those of the settings.

    Raises `BadTarget`.
    """
    if to is None:
        if not settings.type or not settings.address:
            raise BadTarget("no target is set: set [backup] type and address, or name one with --to")
        kind, address = settings.type, settings.address
    else:
        kind, address = _split(to)
    if kind not in TYPES:
        raise BadTarget(f"[backup] type = {kind!r}: one of {', '.join(TYPES)} is needed")
    if not address:
        raise BadTarget(f"{to!r} has no address behind its type")
    return Target(kind, address, settings.user, settings.psw)


def _split(to: str) -> tuple[str, str]:
    """Type and address of a text like /mnt/backup, sftp://host/path or s3:https://host/bucket."""
    if to.startswith("/"):
        return "directory", to
    kind, colon, address = to.partition(":")
    if not colon or kind not in TYPES:
        raise BadTarget(
            f"{to!r} is no target: a path like /mnt/backup is needed, or sftp://user@host:22/path, "
            "s3:https://host:9000/bucket/prefix, rclone:remote:path, restic:repository"
        )
    return kind, to if kind == "sftp" and address.startswith("//") else address


def check(target: Target) -> None:
    """Raise `BadTarget` for what is wrong with a target whoever sends to it."""
    match target.type:
        case "directory" if not target.address.startswith("/"):
            raise BadTarget(
                f"{target.address!r} is no address of a directory: an absolute path like /mnt/backup is needed"
            )
        case "rclone" if ":" not in target.address:
            raise BadTarget(f"{target.address!r} is no remote of rclone: one like remote:path is needed")
        case "sftp":
            url(target, *SFTP)
        case "s3":
            where = url(target, *S3)
            if not where.path.strip("/") or where.user:
                raise BadTarget(
                    f"{target}: an address like {S3[-1]} is needed; [backup] user and psw are access key and secret key"
                )


class Url(NamedTuple):
    """The parts of an address with a host."""

    scheme: str
    user: str
    host: str
    port: int | None
    path: str
    options: dict[str, str]


def url(target: Target, schemes: tuple[str, ...], options: tuple[str, ...], example: str) -> Url:
    """The parts of a target's address. Raises `BadTarget`, without showing a password."""
    try:
        parts = urlsplit(target.address)
        port = parts.port
        given = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise BadTarget(f"the address of the target can't be read: {error}; one like {example} is needed") from error
    if parts.password is not None:
        raise BadTarget("the address has a password, which others would see: put it into [backup] psw instead")
    if parts.scheme not in schemes or not parts.hostname or parts.fragment:
        raise BadTarget(f"{target.address!r} is no address of type {target.type}: one like {example} is needed")
    if unknown := sorted(given.keys() - set(options)):
        raise BadTarget(f"{target.address!r}: {unknown[0]} is no option; there are: {', '.join(options)}")
    return Url(
        parts.scheme,
        unquote(parts.username or ""),
        parts.hostname,
        port,
        unquote(parts.path),
        {name: values[-1] for name, values in given.items()},
    )
