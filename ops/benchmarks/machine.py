"""The machine that was measured on, and the versions of the programs."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from statistics import quantiles

import psutil

_PROBES = 500


def describe(directory: Path) -> dict[str, str]:
    """Cores, memory, kernel, and the file system of `directory` with the time of an fsync there."""
    memory = psutil.virtual_memory().total / (1 << 30)
    p50, p99 = fsync_ms(directory)
    return {
        "cores": f"{os.cpu_count()} ({_processor()})",
        "memory": f"{memory:.1f} GiB",
        "load average at the start": f"{os.getloadavg()[0]:.1f}",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": f"{_filesystem(directory)}; 1 KiB appended and fdatasynced: p50 {p50:.2f} ms, p99 {p99:.2f} ms",
    }


def versions() -> dict[str, str]:
    """The versions of Python, of the libraries in the hot path and of the servers."""
    found = {"Python": platform.python_version()}
    for package in ("pika", "granian", "lmdb", "flask"):
        found[package] = metadata.version(package)
    found["RabbitMQ"] = _rabbitmq()
    found["nginx"] = _said(["nginx", "-v"], r"nginx/(\S+)")
    found["wrk"] = _said(["wrk", "-v"], r"wrk \S*?/?(\d\S*)")
    found["curl"] = _said(["curl", "--version"], r"curl (\S+)")
    return found


def fsync_ms(directory: Path) -> tuple[float, float]:
    """p50 and p99 of appending 1 KiB to a file in `directory` and syncing it, in milliseconds."""
    path = directory / "fsync-probe"
    block = os.urandom(1024)
    took = []
    with path.open("wb", buffering=0) as file:
        for _ in range(_PROBES):
            file.write(block)
            began = time.perf_counter()
            _sync(file.fileno())
            took.append((time.perf_counter() - began) * 1e3)
    path.unlink()
    cuts = quantiles(took, n=100)
    return cuts[49], cuts[98]


def _sync(descriptor: int) -> None:
    # macOS has no fdatasync.
    (os.fdatasync if hasattr(os, "fdatasync") else os.fsync)(descriptor)


def _said(command: list[str], pattern: str) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError:
        return "none"
    found = re.search(pattern, done.stdout + done.stderr)
    return found.group(1) if found else "unknown"


def _rabbitmq() -> str:
    # The folder of the server has its version; its own commands take seconds to say it.
    folders = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
    return folders[-1].name.removeprefix("rabbitmq_server-") if folders else "of PULZAR_BROKER_URL"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or sys.platform
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found.group(1).strip() if found else platform.machine()


def _filesystem(directory: Path) -> str:
    mounts = [
        mount for mount in psutil.disk_partitions(all=True) if directory.resolve().is_relative_to(mount.mountpoint)
    ]
    if not mounts:
        return "unknown"
    return str(max(mounts, key=lambda mount: len(mount.mountpoint)).fstype)
