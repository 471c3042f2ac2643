"""Reads integers from requests and messages, within bounds.

Python reads more than is meant: digits of other alphabets, `1_000`, thousands of digits. An integer of more than 64
bits can't be put into a message. So nothing else turns digits into a number.
"""

from __future__ import annotations

MAX = (1 << 63) - 1  # largest integer in a field of a message
_DIGITS = len(str(MAX))


def parse(text: str, least: int = 0, most: int = MAX) -> int:
    """The integer from `least` to `most` in ASCII digits; raises `ValueError` with what was received.

    It has at most 19 digits, with leading zeros; `least` is never below 0.
    """
    if not text.isascii() or not text.isdecimal() or len(text) > _DIGITS or not least <= int(text) <= most:
        raise ValueError(f"{text[:40]!r} is no integer from {least} to {most}")
    return int(text)


def bounded(value: object, least: int = 0, most: int = MAX) -> int:
    """An integer of JSON or msgpack, from `least` to `most`; raises `ValueError` with what was received."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{short(value)} is no integer from {least} to {most}")
    return value


def short(value: object) -> str:
    """A value that was received, as text short enough for a message."""
    if type(value) is int and abs(value) > MAX:
        return f"an integer of {value.bit_length()} bits"  # Python refuses to write one of thousands of digits
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
