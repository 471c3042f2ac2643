"""Runs the load generators and reads their figures: load (load.c), wrk and curl."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ops.benchmarks.errors import RunFailed

LONGEST_SECS = 900

# Random keys, figures as JSON. Lua's random gives the same order in every run.
_WRK_SCRIPT = """\
local last = %d
local path = "%s"
request = function()
    return wrk.format("GET", path .. math.random(0, last))
end
done = function(summary, latency)
    local e = summary.errors
    io.write(string.format(
        '{"operations": %%d, "seconds": %%.4f, "p50_ms": %%.3f, "p99_ms": %%.3f, "max_ms": %%.3f, '
        .. '"status": %%d, "lost": %%d}\\n',
        summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
        latency.max / 1e3, e.status, e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True)
class Figures:
    """The result of one run. Times are in milliseconds; `rate` is operations per second without errors."""

    rate: float
    p50_ms: float
    p99_ms: float
    errors: dict[str, int]
    command: str
    details: dict[str, Any] = field(default_factory=dict)


class Client:
    """The load client, compiled into `directory`, beside wrk and curl."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.program = directory / "load"
        source = Path(__file__).with_name("load.c")
        self._text(["cc", "-O2", "-Wall", "-o", str(self.program), str(source)])

    def load(
        self,
        operation: str,
        url: str,
        connections: int,
        *,
        count: int = 0,
        seconds: float = 0,
        size: int = -1,
        first: int = 0,
        keys: int = 0,
        random: bool = False,
        fsync: Path | None = None,
        body: str = "",
        token: str = "",
    ) -> Figures:
        """Run load.c once.

        `operation` is put, get, follow or delete, with the number of a key appended to `url`; or launch.
        `count` operations are done, or as many as `seconds` allow. Raises `RunFailed`.
        """
        options = [operation, url, "--connections", str(connections)]
        options += ["--count", str(count)] if count else ["--seconds", f"{seconds:g}"]
        options += ["--size", str(size)] if size >= 0 else []
        options += ["--first", str(first)] if first else []
        options += ["--range", str(keys)] if keys else []
        options += ["--random"] if random else []
        options += ["--fsync", str(fsync)] if fsync else []
        options += ["--body", body] if body else []
        sent = ["--token", token] if token else []
        found = self._json([str(self.program), *options, *sent])
        return Figures(
            found["rate"], found["p50_ms"], found["p99_ms"], found["errors"], shlex.join(["load", *options]), found
        )

    def wrk(self, url: str, connections: int, seconds: float, keys: int) -> Figures:
        """Run wrk once: GETs of random keys `url`0 … `url`(keys - 1). Raises `RunFailed`."""
        origin, path = re.fullmatch(r"(http://[^/]+)(/.*)", url).groups()  # type: ignore[union-attr]
        script = self.directory / "random.lua"
        script.write_text(_WRK_SCRIPT % (keys - 1, path))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script), origin]
        found = self._json(command)
        errors = {name: found[name] for name in ("status", "lost") if found[name]}
        rate = (found["operations"] - found["status"]) / found["seconds"]
        shown = " ".join([*command[:4], "-s", "random.lua", origin, f" # {path}<random 0…{keys - 1}>"])
        return Figures(rate, found["p50_ms"], found["p99_ms"], errors, shown, found)

    def curl(self, *options: str, expected: int) -> tuple[float, str]:
        """Run curl once; its seconds and its command. Raises `RunFailed` unless the status is `expected`."""
        command = ["curl", "-sS", "-L", *options]
        began = time.monotonic()
        text = self._text([*command, "-w", "\\n%{http_code}"])
        took = time.monotonic() - began
        *body, status = text.rsplit("\n", 1)
        if status != str(expected):
            raise RunFailed(f"{shlex.join(command)} was answered {status}, expected {expected}: {''.join(body)[:300]}")
        return took, shlex.join(command)

    def _json(self, command: list[str]) -> dict[str, Any]:
        text = self._text(command)
        try:
            found: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
        except (ValueError, IndexError) as error:
            raise RunFailed(f"{shlex.join(command)} printed no figures: {text[-300:]}") from error
        return found

    def _text(self, command: list[str]) -> str:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LONGEST_SECS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise RunFailed(f"{shlex.join(command)} did not end within {LONGEST_SECS} s") from error
        if done.returncode:
            said = (done.stderr.strip() + " " + done.stdout.strip()).strip()
            raise RunFailed(f"{shlex.join(command)} ended with status {done.returncode}: {said[-500:]}")
        return done.stdout
