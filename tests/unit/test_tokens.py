"""Tokens and their rights: what a line of the file says, and how soon a change counts."""

from __future__ import annotations

import datetime
import os
import re
import time
from pathlib import Path

import pytest

from master.security import tokens
from master.security.rights import KINDS, Right, Rights
from master.security.tokens import Token, TokenFile, TokensUnreadable
from tests.support import quickest, wait_for

DAY = datetime.date(2027, 2, 28)


def rights(*texts: str) -> Rights:
    return Rights(map(Right.parse, texts))


# Rights


@pytest.mark.parametrize(
    ("given", "asked", "allowed"),
    [
        ("read:reports/", "read:reports/a.txt", True),
        ("read:reports/", "read:reports/", True),
        ("read:reports/", "read:reports", False),
        ("read:reports/", "read:", False),
        ("read:reports/", "read:other", False),
        ("read:reports/", "write:reports/a", False),
        ("read:", "read:anything", True),
        ("read:", "read:", True),
        ("read:", "delete:", False),
        ("write:a", "write:ab", True),
        ("delete:a%20b%25", "delete:a b%c", True),
        ("launch:reports/daily", "launch:reports/daily", True),
        ("launch:reports/daily", "launch:reports/daily2", False),
        ("launch:reports/*", "launch:reports/daily", True),
        ("launch:reports/*", "launch:reports", False),
        ("launch:*", "launch:any/thing", True),
        ("launch:*/daily", "launch:x/daily", True),
        ("launch:a.b/c", "launch:aXb/c", False),
        ("extension:search", "extension:search", True),
        ("extension:search", "extension:ocr", False),
        ("extension:*", "extension:ocr", True),
        ("jobs", "jobs", True),
        ("jobs", "launch:a/b", False),
        ("metrics", "jobs", False),
        ("admin", "admin", True),
        ("admin", "jobs", True),
        ("admin", "metrics", True),
        ("admin", "read:a", False),
        ("metrics", "admin", False),
    ],
)
def test_a_right_allows_what_it_says(given: str, asked: str, allowed: bool) -> None:
    assert rights(given).allow(Right.parse(asked)) is allowed
    assert rights("metrics", given, "extension:x").allow(Right.parse(asked)) is (allowed or asked == "metrics")


def test_without_rights_nothing_is_allowed() -> None:
    for kind in KINDS:
        assert not rights().allow(Right(kind, ""))


@pytest.mark.parametrize("kind", ["read", "write", "delete", "launch", "extension"])
@pytest.mark.parametrize("name", ["a b", "100%", "a%20b", "tab~", "q?x=1#f", "ümlaut"])
def test_a_right_is_read_as_it_was_written(kind: str, name: str) -> None:
    if not name.isascii():
        with pytest.raises(ValueError, match="ASCII"):
            Right.make(kind, name)
        return
    written = str(Right.make(kind, name))
    assert " " not in written
    assert Right.parse(written) == Right(kind, name)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no right"),
        ("reed:a", "is no right; those are read, write"),
        ("read", "needs a colon"),
        ("jobs:all", "stands alone"),
        ("read:*", "needs no [*]"),
        ("write:a/*", "needs no [*]"),
        ("read:/a", "no leading slash"),
        ("launch:", "needs a script"),
        ("extension", "needs a colon"),
        ("read:a%0ab", "ASCII"),
        ("read:%ff", "utf-8"),
        ("READ:a", "is no right"),
    ],
)
def test_a_right_that_would_mean_something_else_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Right.parse(text)


# Lines


def test_a_token_has_192_random_bits_and_stands_in_no_line() -> None:
    texts = {tokens.make("ci", [Right("jobs")], None)[0] for _ in range(100)}
    assert len(texts) == 100
    for text in texts:
        assert re.fullmatch(r"pz_ci_[0-9a-f]{48}", text)
    text, token = tokens.make("ci_2.x-y", [Right("read", "a b"), Right("jobs")], DAY)
    line = token.line()
    assert line == f"ci_2.x-y {tokens.digest_of(text)} read:a%20b jobs until=2027-02-28"
    assert text.rpartition("_")[2] not in line
    parsed = Token.parse(line)
    assert (parsed.name, parsed.digest, parsed.rights.all, parsed.until) == (
        token.name,
        token.digest,
        token.rights.all,
        DAY,
    )


def test_a_token_is_good_until_the_end_of_its_day() -> None:
    token = tokens.make("ci", [Right("jobs")], DAY)[1]
    assert token.ends == datetime.datetime(2027, 3, 1, tzinfo=datetime.UTC).timestamp()
    assert tokens.make("ci", [Right("jobs")], None)[1].ends == float("inf")


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "é", "x" * 64, "a\nb"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        tokens.make(name, [Right("jobs")], None)


GOOD = f"ci {'a' * 64} read:"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ci", "second word"),
        (f"ci {'A' * 64} read:", "second word"),
        (f"ci {'a' * 63} read:", "second word"),
        (f"ci {'a' * 64}", "no right"),
        (f"ci {'a' * 64} until=2027-01-01", "no right"),
        (f"{GOOD} until=tomorrow", "isoformat"),
        (f"{GOOD} until=2027-01-01 until=2027-01-02", "twice"),
        (f"{GOOD} rights", "is no right"),
        (f"-x {'a' * 64} read:", "no name"),
    ],
)
def test_a_line_that_is_none_counts_for_nothing_and_is_said(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"# tokens\n\n{line}\nother {'b' * 64} jobs\n")
    path.chmod(0o600)
    found, wrong = tokens.read(path)
    assert [token.name for token in found] == ["other"]
    assert len(wrong) == 1
    assert wrong[0].startswith("line 3: ")
    assert re.search(reason, wrong[0])
    assert "a" * 60 not in wrong[0]


def test_of_two_lines_with_one_name_the_first_counts(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"{GOOD}\nci {'b' * 64} admin\n")
    path.chmod(0o600)
    found, wrong = tokens.read(path)
    assert ([token.digest for token in found], len(wrong)) == (["a" * 64], 1)


# The file


class File:
    """A file of tokens and its reader."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text, self.token = tokens.make("ci", [Right("read", "")], None)
        self.write(self.token.line())
        self.reader = TokenFile(path)
        self.reader.look()

    def write(self, *lines: str) -> None:
        self.path.write_text("\n".join([*lines, ""]))
        self.path.chmod(0o600)

    def known(self) -> bool:
        self.reader.look()
        return self.reader.find(self.text) is not None


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "tokens")


def test_a_token_is_found_by_its_text_and_name(file: File) -> None:
    found = file.reader.find(file.text)
    assert found == file.reader.named("ci")
    assert found is not None
    assert found.digest == file.token.digest
    for other in ("", "pz_ci_", file.text[:-1], file.text + "0", file.text.upper(), file.token.digest, f" {file.text}"):
        assert file.reader.find(other) is None


def test_who_removes_a_line_revokes_its_token_within_2_s(file: File) -> None:
    def took() -> float:
        assert file.known()
        began = time.monotonic()
        file.write("")
        wait_for(lambda: not file.known(), what="the token to be revoked")
        seconds = time.monotonic() - began
        file.write(file.token.line())
        wait_for(file.known, what="the token to be known again")
        return seconds

    assert quickest(took, 2) < 2


def test_a_change_in_the_same_moment_with_the_same_length_is_seen(file: File) -> None:
    other = Token("ci", "b" * 64, file.token.rights, None)
    for line in (file.token.line(), other.line()):
        file.write(line)
        file.reader.next_look = 0.0
        file.reader.look()
    found = file.reader.named("ci")
    wait_for(lambda: not file.known(), what="the other token")
    assert found is not None


@pytest.mark.parametrize("how", ["gone", "readable by others", "no text", "a folder"])
def test_without_a_file_that_can_be_used_nobody_is_known(file: File, how: str) -> None:
    match how:
        case "gone":
            file.path.unlink()
        case "readable by others":
            file.path.chmod(0o640)
        case "no text":
            file.path.write_bytes(b"\xff")
        case _:
            file.path.unlink()
            file.path.mkdir(0o700)

    def refused() -> bool:
        try:
            file.reader.look()
        except TokensUnreadable:
            return True
        return False

    wait_for(refused, what="the tokens to be refused")
    assert file.reader.find(file.text) is None
    assert file.reader.named("ci") is None
    if file.path.is_dir():
        file.path.rmdir()
    file.write(file.token.line())
    wait_for(lambda: not refused() and file.known(), what="the tokens again")


def test_a_file_is_looked_at_once_a_second(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    real = os.stat

    def counted(path: object, **options: object) -> os.stat_result:
        if path == file.path:
            looks.append(path)
        return real(path, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "stat", counted)
    file.reader.next_look = 0.0
    for _ in range(1_000):
        file.reader.look()
    assert len(looks) <= 2
