"""Changes of the file of tokens: one is added, or revoked. Whoever changes it holds a lock on the file.

A token is revoked by one byte: its line becomes a comment. So nothing else of the file can be lost, and the file may
lie in a directory that the master can't write.
"""

from __future__ import annotations

import datetime
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from broker.contract.kinds import Text, digits_up_to
from broker.errors import PulzarError
from master.security import tokens
from master.security.rights import Right, Rights

MAX_DAYS = 36_500
_DAYS = re.compile(r"([0-9]{1,5})d", re.ASCII)
DAYS = Text(
    len("36500d"),
    f"0*{digits_up_to(MAX_DAYS)}d",
    f"time that a token is good for; give days from 1d to {MAX_DAYS}d, like 90d: text",
)


class TokenError(PulzarError):
    """Raised when a token can't be made or revoked; the message is for a person."""


class TokenExists(TokenError):
    """Raised when there is a token of this name already."""


class TokenMissing(TokenError):
    """Raised when there is no token of this name."""


class FileProtected(TokenError):
    """Raised when the file can't be written."""


class RightsMissing(TokenError):
    """Raised when a token would allow more than who makes it may do."""


def until(given: str | None, today: datetime.date | None = None) -> datetime.date | None:
    """The last day of a token that is good for so long, like 90d; None: for ever. Raises `TokenError`."""
    if given is None:
        return None
    match = _DAYS.fullmatch(given)
    if not match or not 0 < int(match[1]) <= MAX_DAYS:
        raise TokenError(
            f"{given[:40]!r} is no time that a token is good for; give days from 1d to {MAX_DAYS}d, like 90d"
        )
    return (today or datetime.datetime.now(datetime.UTC).date()) + datetime.timedelta(int(match[1]))


def parse_rights(given: Sequence[str]) -> list[Right]:
    """Rights as people write them; blanks and % in a prefix need no encoding. Raises `TokenError`."""
    try:
        asked = [Right.make(kind, rest if colon else None) for kind, colon, rest in (r.partition(":") for r in given)]
    except ValueError as error:
        raise TokenError(str(error)) from error
    if not asked:
        raise TokenError("give it at least one right, like read:reports/")
    return asked


def require_within(asked: Sequence[Right], own: Rights) -> None:
    """Raises `RightsMissing` when one of these rights is none of one's own."""
    if missing := [str(right) for right in asked if not own.allow(right)]:
        raise RightsMissing(f"you lack the right {', '.join(missing)} yourself; a token gets no more than you have")


def add(path: Path, name: str, rights: Sequence[Right], last: datetime.date | None, beside: Path) -> str:
    """Make a token and add its line to the file; returns the token. Raises `TokenError` or `TokensUnreadable`.

    A new file belongs to the owner of `beside`, the master's directory: the master must be able to read it.
    """
    try:
        text, made = tokens.make(name, rights, last)
    except ValueError as error:
        raise TokenError(str(error)) from error
    new = not path.exists()
    with _locked(path, os.O_RDWR | os.O_APPEND | os.O_CREAT) as descriptor:
        if new and os.geteuid() == 0 and beside.exists():
            owner = beside.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        if name in {token.name for token in tokens.read(path)[0]}:
            raise TokenExists(f"{path} has a token {name} already; revoke it first, or take another name")
        before = os.pread(descriptor, 1, max(0, os.fstat(descriptor).st_size - 1))
        line = f"{made.line()}\n".encode()
        os.write(descriptor, line if before in (b"", b"\n") else b"\n" + line)
        os.fsync(descriptor)
    return text


def revoke(path: Path, name: str) -> None:
    """Make comments of the lines of a token. Raises `TokenError`."""
    with _locked(path, os.O_RDWR) as descriptor:
        found, offset = [], 0
        content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        for line in content.splitlines(keepends=True):
            # A second line of the name, which counts for nothing, would count from then on.
            if line.split()[:1] == [name.encode()]:
                found.append(offset + len(line) - len(line.lstrip()))
            offset += len(line)
        if not found:
            raise TokenMissing(f"{path} has no token {name[:64]!r}")
        for place in found:
            os.pwrite(descriptor, b"#", place)
        os.fsync(descriptor)


@contextmanager
def _locked(path: Path, flags: int) -> Iterator[int]:
    """The file, open, and nobody else's meanwhile. Raises `FileProtected`."""
    try:
        while True:
            descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                # An editor may have put another file in its place while we waited.
                if os.fstat(descriptor).st_ino == path.stat().st_ino:
                    yield descriptor
                    return
            finally:
                os.close(descriptor)
    except OSError as error:
        raise FileProtected(f"{path} can't be written: {error.strerror or error}") from error
