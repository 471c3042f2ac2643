"""The file of secrets, `[jobs] secrets`: which folders of scripts may have which secret.

    # Scripts of these folders may ask for it: run.secret("DB").
    [reports, billing]
    DB = postgres://reader:…@db/prod

    # Scripts of this folder find it among their environment variables, too.
    [variables reports]
    PGPASSWORD = …

    # Scripts of every folder.
    [*]
    TOKEN = …

A value ends with its line; lines that follow and are indented belong to it. Nobody but the owner may read the file.
"""

from __future__ import annotations

import configparser
import os
import re
import stat
from collections.abc import Iterator, Mapping
from io import StringIO
from typing import NamedTuple

from jobs.errors import BadSecrets

LEAST_CHARACTERS = 4  # of a secret: a shorter one can't be kept out of a log
_MOST_BYTES = 1 << 20
_VARIABLES = "variables "  # begins a section whose secrets are variables as well
_EVERY = "*"
_FOLDER = re.compile(r"\*|[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class Secrets(NamedTuple):
    """What the scripts of one folder may have, by name."""

    known: Mapping[str, str] = {}
    variables: tuple[str, ...] = ()  # names of those that are in the environment as well


class SecretFile:
    """The file, read again when it has changed. If that fails, the last good content stays."""

    def __init__(self, path: str) -> None:
        """`path`: "" for no secrets. Raises `BadSecrets` for a file that cannot be used."""
        self.problem = ""  # why the file as it is now can't be used
        self._path = path
        self._stamp: tuple[int, ...] = ()
        self._folders: dict[str, Secrets] = {}
        if path:
            self._stamp = self._look()
            self._folders = _read(path)

    def of(self, folder: str) -> Secrets:
        """The secrets for scripts of a folder."""
        if not self._path:
            return _NONE
        self._refresh()
        return self._folders.get(folder) or self._folders.get(_EVERY) or _NONE

    def values(self) -> frozenset[str]:
        """The values of all secrets."""
        if self._path:
            self._refresh()
        return frozenset(value for secrets in self._folders.values() for value in secrets.known.values())

    def _refresh(self) -> None:
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._folders, self.problem = _read(self._path), ""
            except BadSecrets as error:
                self.problem = str(error)

    def _look(self) -> tuple[int, ...]:
        try:
            status = os.stat(self._path)
        except OSError:  # reading it tells why
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode, status.st_uid


_NONE = Secrets()


def _read(path: str) -> dict[str, Secrets]:
    """The secrets by folder. Messages never show the text of a line."""
    parser = configparser.ConfigParser(
        interpolation=None,
        default_section="\0",
        delimiters=("=",),
        comment_prefixes=("#", ";"),
        empty_lines_in_values=False,
    )
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read_file(StringIO(_text(path)))
    except configparser.MissingSectionHeaderError as error:
        raise BadSecrets(f"{path}, line {error.lineno}: a section like [reports] must come first") from None
    except configparser.ParsingError as error:
        raise BadSecrets(f"{path}, line {error.errors[0][0]}: neither [folder, folder] nor NAME = value") from None
    except (configparser.DuplicateSectionError, configparser.DuplicateOptionError) as error:
        raise BadSecrets(f"{path}, line {error.lineno}: what is there stands above already") from None
    given: dict[str, dict[str, str]] = {_EVERY: {}}
    variables: dict[str, list[str]] = {_EVERY: []}
    for section in parser.sections():
        for folder in _folders_of(section, path):
            for name, value in parser.items(section):
                _check(name, value, folder, path)
                if name in given.setdefault(folder, {}):
                    raise BadSecrets(f"{path}: {name} is given twice for the folder {folder}")
                given[folder][name] = value
                if section.startswith(_VARIABLES):
                    variables.setdefault(folder, []).append(name)
    found = {}
    for folder, secrets in given.items():
        names = {
            *variables.get(folder, ()),
            *(name for name in variables[_EVERY] if name not in secrets or folder == _EVERY),
        }
        found[folder] = Secrets(given[_EVERY] | secrets, tuple(sorted(names)))
    return found


def _text(path: str) -> str:
    try:
        # Without O_NONBLOCK, opening a pipe would wait.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadSecrets(f"{path} is no file")
            if status.st_mode & 0o077:
                raise BadSecrets(
                    f"{path} can be read or written by others than its owner"
                    f" (its mode is {status.st_mode & 0o777:o}); chmod 600 it"
                )
            if status.st_size > _MOST_BYTES:
                raise BadSecrets(f"{path} has {status.st_size} bytes, and {_MOST_BYTES} are allowed")
            return file.read().decode()
    except OSError as error:
        raise BadSecrets(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadSecrets(f"{path} is not in UTF-8") from None


def _folders_of(section: str, path: str) -> Iterator[str]:
    for folder in section.removeprefix(_VARIABLES).split(","):
        if not _FOLDER.fullmatch(folder.strip()):
            raise BadSecrets(
                f"{path}: [{section}] names no folders of scripts; give [reports, billing], [variables reports] or [*]"
            )
        yield folder.strip()


def _check(name: str, value: str, folder: str, path: str) -> None:
    if not _NAME.fullmatch(name) or name.startswith("PULZAR_"):
        raise BadSecrets(
            f"{path}: {name[:40]!r} is no name of a secret; give letters, digits and _, not beginning with PULZAR_"
        )
    if len(value) < LEAST_CHARACTERS or "\0" in value:
        raise BadSecrets(
            f"{path}: {name} for {folder} has fewer than {LEAST_CHARACTERS} characters;"
            " it could not be kept out of logs"
        )
