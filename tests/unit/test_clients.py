"""The table of clients: its words, its data and its page."""

from __future__ import annotations

import json
import re

import pytest

from tests.clients import programs, table
from tests.clients.outcomes import Seen, of_again, of_get, of_head, of_put
from tests.clients.rows import COLUMNS, NONE, ROWS
from tests.support import ROOT

SENT, OLD = b"what was sent", b"what was there"
FOLDER = ROOT / "tests" / "clients"
CREATED = Seen(201, "key added")


@pytest.mark.parametrize(
    ("seen", "before", "stored", "word"),
    [
        (CREATED, None, SENT, "ok"),
        (CREATED, None, b"", "empty"),
        (CREATED, None, b"sent", "tail"),
        (CREATED, None, SENT[:-1], "wrong"),
        (CREATED, None, SENT + SENT[:3], "wrong"),
        (CREATED, None, None, "lost"),
        (CREATED, OLD, OLD, "lost"),
        (Seen(307, "put it there"), None, None, "307"),
        (Seen(409, "exists"), OLD, OLD, "409"),
        (Seen(409, "exists"), OLD, b"other", "wrong"),
        (Seen(409, "exists"), None, SENT, "409"),
        (Seen(None, "write EPIPE"), None, None, "EPIPE"),
        (Seen(None, "The socket has been shut down."), None, None, "EPIPE"),
        (Seen(None, "Error writing to server"), None, SENT, "EPIPE"),
        (Seen(None, "TypeError: Failed to fetch"), None, None, "EPIPE"),
        (Seen(None, "necessary data rewind wasn't possible"), None, None, "error"),
        (Seen(None, "no end", hangs=True), None, None, "hangs"),
        (Seen(None, "no end", hangs=True), None, SENT, "hangs"),
        (Seen(None, "no end", hangs=True), None, b"", "empty"),
    ],
)
def test_a_put_has_one_word(seen: Seen, before: bytes | None, stored: bytes | None, word: str) -> None:
    assert of_put(seen, SENT, before, stored) == word


@pytest.mark.parametrize(
    ("seen", "read", "word"),
    [
        (Seen(200, ""), SENT, "ok"),
        (Seen(206, "", done=True), None, "ok"),
        (Seen(200, ""), b"", "empty"),
        (Seen(200, ""), b"sent", "tail"),
        (Seen(200, ""), SENT[:3], "wrong"),
        (Seen(307, ""), b"", "307"),
        (Seen(None, "Failed to fetch"), None, "EPIPE"),
        (Seen(None, "unknown option"), None, "error"),
        (Seen(None, "no end", hangs=True), None, "hangs"),
    ],
)
def test_a_get_has_one_word(seen: Seen, read: bytes | None, word: str) -> None:
    assert of_get(seen, SENT, read) == word


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        (Seen(200, "Content-Length: 2097152"), "ok"),
        (Seen(200, "Content-Length: 12097152"), "empty"),
        (Seen(200, ""), "empty"),
        (Seen(307, "2097152"), "307"),
    ],
)
def test_a_head_has_one_word(seen: Seen, word: str) -> None:
    assert of_head(seen, 2 << 20) == word


@pytest.mark.parametrize(
    ("seen", "read", "stored", "word"),
    [
        (Seen(200, "409"), OLD, OLD, "ok"),
        (Seen(200, "409"), SENT, OLD, "wrong"),
        (Seen(200, "201"), OLD, OLD, "wrong"),
        (Seen(200, "409"), OLD, SENT, "wrong"),
        (Seen(503, "409"), SENT, OLD, "503"),
        (Seen(None, "ECONNRESET"), SENT, OLD, "EPIPE"),
    ],
)
def test_a_get_after_a_refused_put_has_one_word(seen: Seen, read: bytes, stored: bytes, word: str) -> None:
    assert of_again(seen, OLD, read, stored) == word


def test_the_page_has_the_table_of_the_data() -> None:
    _, shown, _ = table.parts(table.PAGE.read_text())
    assert shown == table.generated(), "python -m tests.clients.table writes it"


def test_every_row_can_be_tried_by_its_driver() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    words = re.compile(r"ok|error|hangs|\d{3}")
    for row in ROWS:
        assert row.driver in programs.COMMANDS, row.name
        assert len(row.words.split()) == len(COLUMNS), row.name
        for word in row.words.replace("|", " ").split():
            assert word == NONE or words.fullmatch(word), f"{row.name}: {word}"


def test_no_row_is_wanted_to_lose_a_value() -> None:
    bad = {"wrong", "empty", "tail", "lost", "EPIPE"}
    assert not [row.name for row in ROWS if bad & set(row.words.replace("|", " ").split())]


def test_titles_name_the_versions_that_are_pinned() -> None:
    pins: dict[str, str] = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    pins |= dict(line.split("==") for line in (FOLDER / "requirements.txt").read_text().splitlines() if "==" in line)
    development = (ROOT / "requirements-dev.txt").read_text()
    pins = {name.replace("_", "-"): version for name, version in pins.items()}
    pins["requests"] = re.findall(r"^requests==(\S+)$", development, re.MULTILINE)[0]
    named = [
        found
        for row in ROWS
        for found in re.findall(r"\b([a-z0-9-]+) (\d+\.\d+)\b", row.title.lower().replace("_", "-"))
    ]
    compared = {name for name, version in named if name in pins and pins[name].startswith(f"{version}.")}
    # Not named by a version of its own: the .NET Core runtime, and what only drives Chromium
    assert compared == set(pins) - {"dotnetcore2", "playwright-core"}
