"""What rclone, restic, OpenSSH and S3 servers say when something is wrong, and what it means."""

from __future__ import annotations

from backup.address import Target
from backup.errors import (
    BackupError,
    BadAddress,
    Busy,
    HostKeyRefused,
    LoginRefused,
    NoBackup,
    TargetError,
    TargetFull,
    TargetGone,
    TargetReadOnly,
)

_SHOWN = 300  # characters of what was said

# In lower case, the clearer ones first.
_MEANINGS: tuple[tuple[type[BackupError], str, tuple[str, ...]], ...] = (
    (
        HostKeyRefused,
        "has another host key than the known one, or of a type that is not among the known ones",
        ("knownhosts: key mismatch", "remote host identification has changed"),
    ),
    (
        HostKeyRefused,
        "has a host key that is not known",
        ("knownhosts: key is unknown", "known_hosts_file", "host key verification failed"),
    ),
    (
        LoginRefused,
        "does not accept the user and the password or key",
        (
            "unable to authenticate",
            "password incorrect",
            "wrong password",
            "passphrase protected",
            "private key file",
            "invalidaccesskeyid",
            "signaturedoesnotmatch",
            "unauthorized",
            "authentication failed",
        ),
    ),
    (BadAddress, "is none of rclone's remotes", ("didn't find section in config file",)),
    (NoBackup, "has no repository", ("is there a repository at the following location",)),
    (Busy, "is locked by another run", ("already locked",)),
    (TargetFull, "is full", ("no space left", "quota", "storagefull", "storage full", "insufficient storage")),
    (TargetReadOnly, "can't be written by this user", ("read-only file system", "permission denied", "accessdenied")),
    (TargetReadOnly, "refuses to be written: it is read-only or a quota is reached", ("ssh_fx_failure",)),
    (TargetError, "has no such bucket", ("nosuchbucket",)),
    (
        TargetGone,
        "can't be reached",
        (
            "connection refused",
            "no such host",
            "timeout",
            "timed out",
            "connection reset",
            "broken pipe",
            "network is unreachable",
            "no route to host",
            "connection lost",
            ": eof",  # an unexpected one is a file that is cut off
        ),
    ),
)


def error(target: Target, messages: list[str]) -> BackupError:
    """The error for what a program has said before it failed."""
    text = "\n".join(messages).lower()
    for kind, words, marks in _MEANINGS:
        if mark := next((mark for mark in marks if mark in text), None):
            said = next((message for message in messages if mark in message.lower()), text)
            return kind(f"the target {target} {words}: {_short(said)}")
    return TargetError(f"the target {target} can't be used: {_short(messages[-1] if messages else 'no word of why')}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"…{line[-_SHOWN:]}"
