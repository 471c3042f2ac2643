"""What a person sees in the terminal: steps with their time, and news."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


def say(text: str = "") -> None:
    """Print a line; nothing when the terminal is gone."""
    with contextlib.suppress(BrokenPipeError):  # the terminal is gone
        print(text, flush=True)


def news(text: str) -> None:
    """Print a line with the time of day."""
    say(f"{time.strftime('%H:%M:%S')} {text}")


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Print what is done, and then how many seconds it took."""
    started = time.monotonic()
    print(f"  {what} …", end="", flush=True)
    try:
        yield
    except BaseException:
        say(" failed")
        raise
    say(f" {time.monotonic() - started:.1f} s")
