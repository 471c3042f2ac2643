"""The file of tokens: `name sha256 right… [until=DAY]`, one a line. A token itself stands nowhere.

A token is `pz_<name>_<48 hexadecimal digits>`. `until` is its last day, in UTC. Who removes a line revokes its token.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from broker import logs
from broker.clock import DAY_SECS
from broker.errors import PulzarError, SettingsError
from master.security.rights import ADMIN, PARTS, Right, Rights

log = logs.get(__name__)

CHECK_SECS = 1.0  # between two looks whether the file has changed
_SETTLED_NS = 100_000_000  # a file written later than this before a look may be written again unseen
_MOST_BYTES = 16 << 20
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_NAME = re.compile(NAME, re.ASCII)
_TOKEN = re.compile(r"pz_[A-Za-z0-9][A-Za-z0-9._-]{0,62}_[0-9a-f]{48}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SECRET_BYTES = 24


# In place of a token's name: jobs that were published to RabbitMQ by hand, when `[security] queue` has rights.
QUEUE = "(queue)"


class TokensUnreadable(PulzarError):
    """Raised when the file of tokens can't be used. Nobody has a right meanwhile."""


class Token(NamedTuple):
    """What the file says of a token."""

    name: str
    digest: str  # SHA-256 of the token, hexadecimal
    rights: Rights
    until: datetime.date | None  # the last day; None: for ever

    @property
    def ends(self) -> float:
        """When it is not good any more, in seconds since the epoch."""
        if self.until is None:
            return float("inf")
        return datetime.datetime.combine(self.until, datetime.time(), datetime.UTC).timestamp() + DAY_SECS

    def line(self) -> str:
        """Its line in the file."""
        words = [self.name, self.digest, *map(str, self.rights.all)]
        return " ".join(words if self.until is None else [*words, f"until={self.until}"])

    @classmethod
    def parse(cls, line: str) -> Token:
        """The token of a line; raises `ValueError` with the reason, which does not show the digest."""
        words = line.split()
        name, digest = words[0], words[1] if len(words) > 1 else ""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name[:64]!r} is no name: letters, digits, . _ and -, up to 63")
        if not _DIGEST.fullmatch(digest):
            raise ValueError("its second word is no SHA-256 of 64 hexadecimal digits")
        until = None
        rights = []
        for word in words[2:]:
            if not word.startswith("until="):
                rights.append(Right.parse(word))
            elif until is not None:
                raise ValueError("until= is there twice")
            else:
                until = datetime.date.fromisoformat(word.removeprefix("until="))
        if not rights:
            raise ValueError("it has no right")
        return cls(name, digest, Rights(rights), until)


def of_queue(text: str) -> Token:
    """For whom jobs act that were published by hand: `[security] queue` as a token. Raises `SettingsError`.

    It has rights of its own and the name `QUEUE`, or the name of a token and no rights.
    """
    words = text.split()
    if len(words) == 1 and ":" not in text and text not in (*PARTS, ADMIN):
        if not _NAME.fullmatch(text):
            raise SettingsError(f"[security] queue = {text[:64]!r} is neither a token's name nor a right")
        return Token(text, "", Rights(()), None)
    try:
        return Token(QUEUE, "", Rights(map(Right.parse, words)), None)
    except ValueError as error:
        raise SettingsError(f"[security] queue = {text[:200]!r}: {error}") from error


def make(name: str, rights: Iterable[Right], until: datetime.date | None) -> tuple[str, Token]:
    """A new token and what the file says of it; raises `ValueError` for a name that can't be one."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:64]!r} is no name for a token: letters, digits, . _ and -, up to 63")
    text = f"pz_{name}_{secrets.token_hex(_SECRET_BYTES)}"
    return text, Token(name, digest_of(text), Rights(rights), until)


def digest_of(token: str) -> str:
    """The SHA-256 of a token, as the file has it."""
    return hashlib.sha256(token.encode()).hexdigest()


def read(path: Path) -> tuple[list[Token], list[str]]:
    """The tokens of a file, and what is wrong with each line that is none; raises `TokensUnreadable`.

    A file that others than its owner may read or write is not used.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode) or mode & 0o077:
                raise TokensUnreadable(f"{path} must be a file that its owner alone may use; chmod 600 it")
            text = file.read(_MOST_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise TokensUnreadable(f"{path} can't be read: {error}") from error
    if len(text) > _MOST_BYTES:
        raise TokensUnreadable(f"{path} has more than {_MOST_BYTES} bytes")
    return _parse(text)


def _parse(text: str) -> tuple[list[Token], list[str]]:
    found: dict[str, Token] = {}
    wrong = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            token = Token.parse(line)
            if token.name in found:
                raise ValueError(f"the name {token.name} is there twice")
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
        else:
            found[token.name] = token
    return list(found.values()), wrong


class TokenFile:
    """The tokens of a file that may change at any time. Used on one thread."""

    def __init__(self, path: Path, queue: str = "") -> None:
        """`queue` is `[security] queue`. Raises `SettingsError` when it has a mistake."""
        self._path = path
        self._queue = of_queue(queue)
        self._stamp: tuple[int, ...] = ()
        self._problem = ""
        self._by_digest: dict[str, Token] = {}
        self._by_name: dict[str, Token] = {}
        self.next_look = 0.0  # by the monotonic clock
        self.changes = 0  # grows when the tokens may be others than before

    def look(self) -> None:
        """Read the file again if it may have changed, at most every `CHECK_SECS`. Raises `TokensUnreadable`."""
        now = time.monotonic()
        if now >= self.next_look:
            self.next_look = now + CHECK_SECS
            try:
                self._read()
            except TokensUnreadable as error:
                self._forget(str(error))
        if self._problem:
            raise TokensUnreadable(self._problem)

    def find(self, text: str) -> Token | None:
        """The token with this text, expired or not; None when there is none."""
        return self._by_digest.get(digest_of(text)) if _TOKEN.fullmatch(text) else None

    def named(self, name: str) -> Token | None:
        """The token of this name, expired or not; None when there is none."""
        if name == QUEUE and self._queue.name == QUEUE:
            return self._queue
        return self._by_name.get(name)

    def _read(self) -> None:
        try:
            found = os.stat(self._path)
        except OSError as error:
            raise TokensUnreadable(f"{self._path} can't be read: {error}") from error
        stamp = (found.st_ino, found.st_size, found.st_mode, found.st_mtime_ns, found.st_ctime_ns)
        if stamp == self._stamp:
            return
        settled = time.time_ns() - found.st_ctime_ns > _SETTLED_NS
        tokens, wrong = read(self._path)
        self._stamp = stamp if settled else ()
        self._problem = ""
        by_digest = {token.digest: token for token in tokens}
        if {digest: token.line() for digest, token in by_digest.items()} != {
            digest: token.line() for digest, token in self._by_digest.items()
        } or not self.changes:
            log.info("tokens read", file=self._path, tokens=len(tokens))
            for what in wrong:
                log.error("a line of the file of tokens counts for nothing", file=self._path, reason=what)
        self._by_digest = by_digest
        self._by_name = {token.name: token for token in tokens}
        self.changes += 1

    def _forget(self, problem: str) -> None:
        """Nobody has a right until the file can be read again."""
        if problem != self._problem:
            log.error("tokens can't be read; every request that needs one is refused", reason=problem)
        self._problem = problem
        self._stamp = ()
        self._by_digest = {}
        self._by_name = {}
        self.changes += 1
