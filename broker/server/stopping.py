"""Lets a web worker end what waits without an end, before the web server waits for its requests.

Assumed of Granian 2.8, and held by tests/unit/test_granian.py: a worker that is to stop gets SIGTERM, has handlers for
SIGTERM and SIGINT on its event loop, and does the same for both.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable


def before(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Call a function when this worker is told to stop. For the thread of the event loop, while that runs."""

    def stop() -> None:
        try:
            function()
        finally:
            os.kill(os.getpid(), signal.SIGINT)  # which the web server's own handler takes

    loop.add_signal_handler(signal.SIGTERM, stop)
