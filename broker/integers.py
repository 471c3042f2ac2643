"""Integers that come from outside, in a request or a message: read once, here, and bounded.

Nothing else turns digits into a number, so that what passed the check is what is worked with. Python reads more than
is meant (other alphabets' digits, `1_000`, thousands of digits), and what is above 64 bits can't be put into a message.
"""

from __future__ import annotations

MAX = (1 << 63) - 1  # most that a field of a message can be
_DIGITS = len(str(MAX))


def parse(text: str, least: int = 0, most: int = MAX) -> int:
    """The integer from `least` to `most` in ASCII digits; raises `ValueError` with what was received.

    At most 19 digits, leading zeros among them; `least` is never below 0.
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
    """What was received, short enough for a message."""
    if type(value) is int and abs(value) > MAX:
        return f"an integer of {value.bit_length()} bits"  # Python refuses to write one of thousands of digits
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
