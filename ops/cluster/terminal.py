"""What a person sees: steps with their time, and news."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


def say(text: str = "") -> None:
    """One line; lost when nobody is there to read it."""
    with contextlib.suppress(BrokenPipeError):
        print(text, flush=True)


def news(text: str) -> None:
    """Something that happened just now."""
    say(f"{time.strftime('%H:%M:%S')} {text}")


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Something that takes a while: says what, and then how long it took."""
    started = time.monotonic()
    print(f"  {what} …", end="", flush=True)
    try:
        yield
    except BaseException:
        say(" failed")
        raise
    say(f" {time.monotonic() - started:.1f} s")
