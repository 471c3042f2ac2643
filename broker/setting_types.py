"""What a setting may be: functions that read a text. Each raises `ValueError` with what is needed."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from broker import integers

TB = 1 << 40


def text(raw: str) -> str:
    """A text; "None" is an empty one, as in the first Pulzar."""
    return "" if raw in ("None", "") else raw


def flag(raw: str) -> bool:
    """True or False."""
    value = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if raw.lower() not in value:
        raise ValueError("True or False is needed")
    return value[raw.lower()]


def integer(least: int, most: int) -> Callable[[str], int]:
    """An integer from `least` to `most`."""

    def parse(raw: str) -> int:
        try:
            return integers.parse(raw, least, most)
        except ValueError:
            raise ValueError(f"an integer from {least} to {most} is needed") from None

    return parse


def seconds(least: float, most: float) -> Callable[[str], float]:
    """A number from `least` to `most`, of seconds or days."""

    def parse(raw: str) -> float:
        try:
            number = float(raw)
        except ValueError:
            number = float("nan")
        if not least <= number <= most:
            raise ValueError(f"a number from {least:g} to {most:g} is needed")
        return number

    return parse


def size(least: int, most: int) -> Callable[[str], int]:
    """A number of bytes from `least` to `most`, like 4096, 64K or 1M."""
    units = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

    def parse(raw: str) -> int:
        digits = raw.lower().removesuffix("ib").rstrip("kmgt")
        unit = raw.lower().removesuffix("ib")[len(digits) :]
        try:
            number = integers.parse(digits) * units[unit]
        except (ValueError, KeyError):
            number = -1
        if not least <= number <= most:
            raise ValueError(f"a size from {least} to {most} bytes is needed, like 4096, 64K or 1M")
        return number

    return parse


def choice(*choices: str) -> Callable[[str], str]:
    """One of some words."""

    def parse(raw: str) -> str:
        if raw not in choices:
            raise ValueError(f"one of {', '.join(choices)} is needed")
        return raw

    return parse


def hosts(raw: str) -> str:
    """Hosts with or without a port, with commas between them, or `*`."""
    for one in filter(None, (part.strip() for part in text(raw).split(","))):
        try:
            parts = urlsplit(f"//{one}")
            usable = bool(parts.hostname) and parts.netloc == one and "@" not in one and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("hosts like pictures.example or 10.0.0.5:8080 with commas between them are needed, or *")
    return text(raw)


def names(raw: str) -> tuple[str, ...]:
    """Names of environment variables, with commas or blanks between them."""
    names = tuple(name for name in raw.replace(",", " ").split() if name)
    for name in names:
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) or name.startswith("PULZAR_"):
            raise ValueError(
                "names of environment variables are needed, like HTTPS_PROXY, OMP_NUM_THREADS; none of PULZAR_…"
            )
    return names


PORT = integer(0, 65535)
