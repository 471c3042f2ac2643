"""Lines of the log: whatever is logged stays on its line, and says nothing to a terminal."""

from __future__ import annotations

import logging
import sys

import pytest

from broker.logs import _Line

# What moves a cursor, colours text, ends a line or hides it: of ASCII, of C1, and of Unicode.
CONTROLS = [chr(code) for code in (*range(0x20), 0x7F, *range(0x80, 0xA0), 0x2028, 0x2029, 0x202E, 0xFEFF)]


def line(event: str, exception: ValueError | None = None, **fields: object) -> str:
    """What is written for one event."""
    info = None
    if exception:
        try:
            raise exception
        except ValueError:
            info = sys.exc_info()
    record = logging.LogRecord("module", logging.INFO, __file__, 1, event, (), info)
    record.fields = fields
    return _Line("role").format(record)


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: f"{ord(control):04x}")
def test_a_control_character_is_escaped_wherever_it_comes_from(control: str) -> None:
    for written in (
        line("printed", text=f"a{control}b"),
        line("printed", text=f"a {control}b"),
        line(f"a{control}b, a message of a library"),
        line("failed", ValueError(f"a{control}b")),
    ):
        assert all(character.isprintable() for character in written), repr(written)
        assert "a" in written
        assert "b" in written


def test_an_escape_sequence_can_be_read_and_does_nothing() -> None:
    assert line("printed", text="\x1b[2Jgone").endswith(' text="\\u001b[2Jgone"')
    assert line("told \x1b]0;title\x07 and\nmore").endswith(" told \\u001b]0;title\\u0007 and\\nmore")


def test_what_can_be_read_stays_as_it_is() -> None:
    assert line("stored", key="docs/a.txt", size=12, rate=0.25).endswith(" stored key=docs/a.txt size=12 rate=0.25")
    assert line("stored", name="two words").endswith(' name="two words"')
