"""Tokens added to their file, and revoked in it."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from master.security import audit, token_changes, tokens
from master.security.rights import Right, parse
from master.security.token_changes import FileProtected, RightsMissing, TokenError, TokenExists, TokenMissing


def add(path: Path, name: str, *rights: str) -> str:
    return token_changes.add(path, name, token_changes.parse_rights(rights or ["jobs"]), None, path.parent)


def names(path: Path) -> list[str]:
    return [token.name for token in tokens.read(path)[0]]


def test_a_revoked_token_is_a_comment_and_nothing_else_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    add(path, "a")
    add(path, "b", "read:x y/")
    add(path, "c")
    path.write_bytes(b"# mine\n" + path.read_bytes() + b"  b broken line\nd no digest")
    before, inode = path.read_bytes(), path.stat().st_ino
    token_changes.revoke(path, "b")
    after = path.read_bytes()
    assert names(path) == ["a", "c"]
    assert (len(after), path.stat().st_ino, stat.S_IMODE(path.stat().st_mode)) == (len(before), inode, 0o600)
    assert [place for place in range(len(before)) if before[place] != after[place]] == [
        before.index(b"\nb ") + 1,
        before.index(b"  b broken") + 2,
    ]
    # The name is free again, also behind a last line without an end.
    add(path, "b")
    assert names(path) == ["a", "c", "b"]


def test_a_second_line_of_a_name_does_not_count_once_the_first_is_revoked(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    add(path, "a", "admin")
    path.write_bytes(path.read_bytes() + tokens.make("a", [Right("admin")], None)[1].line().encode() + b"\n")
    token_changes.revoke(path, "a")
    assert names(path) == []


def test_what_can_not_be_done_is_said(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    add(path, "a")
    with pytest.raises(TokenExists, match="has a token a already"):
        add(path, "a")
    with pytest.raises(TokenMissing, match="has no token 'b'"):
        token_changes.revoke(path, "b")
    with pytest.raises(FileProtected, match="can't be written: No such file"):
        token_changes.revoke(tmp_path / "none", "a")
    with pytest.raises(TokenError, match="is no name"):
        add(path, "a b")
    for bad in ("", "0d", "90", "soon", "99999d"):
        with pytest.raises(TokenError, match="like 90d"):
            token_changes.until(bad)


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    for number in range(20):
        add(path, f"old{number}")
    with ThreadPoolExecutor(8) as pool:
        made = [pool.submit(add, path, f"new{number}") for number in range(20)]
        gone = [pool.submit(token_changes.revoke, path, f"old{number}") for number in range(20)]
    assert not [task.exception() for task in made + gone if task.exception()]
    assert sorted(names(path)) == sorted(f"new{number}" for number in range(20))


@pytest.mark.parametrize(
    ("own", "asked", "given"),
    [
        ("read:a/", "read:a/b/", True),
        ("read:a/b/", "read:a/", False),
        ("read:a/", "write:a/", False),
        ("launch:tests/*", "launch:tests/x", True),
        ("launch:tests/*", "launch:tests/*", True),
        ("launch:tests/*", "launch:*", False),
        ("launch:tests/x", "launch:tests/*", False),
        ("admin", "jobs metrics backup admin", True),
        ("metrics", "admin", False),
        ("admin", "read:", False),
        ("admin", "extension:*", False),
    ],
)
def test_a_token_gets_no_right_that_its_maker_has_not(own: str, asked: str, given: bool) -> None:
    rights = token_changes.parse_rights(asked.split())
    if given:
        token_changes.require_within(rights, parse(own))
    else:
        with pytest.raises(RightsMissing, match="you lack the right"):
            token_changes.require_within(rights, parse(own))


def test_the_last_lines_of_the_audit_log_come_first_also_from_the_file_before(tmp_path: Path) -> None:
    assert audit.newest(tmp_path, 5) == []
    (tmp_path / "audit.log.1").write_text('{"n": 1}\n{"n": 2}\n')
    (tmp_path / "audit.log").write_text('{"n": 3}\n{"n": cut\n{"n": 4}\n{"n": not whole')
    assert [row["n"] for row in audit.newest(tmp_path, 5)] == [4, 3, 2, 1]
    assert [row["n"] for row in audit.newest(tmp_path, 2)] == [4, 3]


def test_of_a_long_audit_log_only_the_end_is_read(tmp_path: Path) -> None:
    (tmp_path / "audit.log").write_text(
        "".join(f'{{"n": {number}, "about": "{"x" * 400}"}}\n' for number in range(5000))
    )
    found = audit.newest(tmp_path, 10_000)
    assert 2000 < len(found) < 3000
    assert found[0]["n"] == 4999
