"""The target of a run, with errors that are this package's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from backup.errors import BadAddress
from broker.backups import address
from broker.backups.address import S3, SFTP, Target, Url
from broker.settings import Backup

__all__ = ["S3", "SFTP", "Target", "Url", "check", "chosen", "url"]


def chosen(settings: Backup, to: str | None) -> Target:
    """See `broker.backups.address.chosen`. Raises `BadAddress`."""
    with _told():
        return address.chosen(settings, to)


def check(target: Target) -> None:
    """See `broker.backups.address.check`. Raises `BadAddress`."""
    with _told():
        address.check(target)


def url(target: Target, schemes: tuple[str, ...], options: tuple[str, ...], example: str) -> Url:
    """See `broker.backups.address.url`. Raises `BadAddress`."""
    with _told():
        return address.url(target, schemes, options, example)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except address.BadTarget as error:
        raise BadAddress(str(error)) from error
