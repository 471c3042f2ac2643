"""Checks fields of messages. Each raises `ValueError`, `TypeError` or `InvalidKey` with what was received."""

from __future__ import annotations

import math
import re

from broker import keys
from broker.integers import MAX, bounded

_MAX_TEXT = 2_000
NODE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_NODE = re.compile(NODE)
_TOKEN = re.compile(r"[0-9a-f]{32}")


def is_node_name(text: str) -> bool:
    """Whether a node can have this name: letters, digits, `.`, `_`, `-`, at most 100, a letter or digit first."""
    return _NODE.fullmatch(text) is not None


def node(value: object) -> str:
    """The name of a node."""
    if not isinstance(value, str) or not is_node_name(value):
        raise ValueError(f"{value!r:.60} is no name of a node")
    return value


def text(value: object) -> str:
    """Text that is not too long."""
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise TypeError(f"expected text, received {value!r:.60}")
    return value


def number(value: object) -> int:
    """An integer from 0 to 2^63."""
    return bounded(value)


def numbers(*values: int) -> None:
    """Integers, each from 0 to 2^63."""
    if min(values) < 0 or max(values) > MAX:  # called thousands of times a second, with integers
        for value in values:
            bounded(value)


def flag(value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, received {value!r:.60}")
    return value


def share(value: object) -> float:
    """A number from 0 on; 1 counts as 1.0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"expected a number from 0 on, received {value!r:.60}")
    return float(value)


def items(value: object) -> list[object]:
    """An array."""
    if not isinstance(value, list):
        raise TypeError(f"expected an array, received {value!r:.60}")
    return value


def key(encoded: bytes) -> None:
    """An encoded key, which must follow the rules."""
    keys.check_encoded(encoded)


def token(value: str) -> None:
    """The name of a staged upload or of a run, which becomes part of a path."""
    if _TOKEN.fullmatch(value) is None:
        raise ValueError(f"{value!r:.60} is no name of an upload")


def chain(value: object) -> None:
    """The epochs of a log: pairs of seq and id."""
    for pair in items(value):
        seq, epoch = items(pair)
        number(seq)
        text(epoch)
