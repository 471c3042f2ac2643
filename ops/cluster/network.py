"""Ports on this machine: which are free, and who answers."""

from __future__ import annotations

import random
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from ops.cluster.errors import PortTaken

MASTER, AMQP, CONSOLE, DISTRIBUTION, EPMD = 0, 50, 51, 52, 53  # above the base; the nodes are at 1 to MOST_NODES
MOST_NODES = 40
LAST_BASE = 65535 - EPMD
MIGRATION = Path("/proc/sys/net/ipv4/tcp_migrate_req")

# Below the ports that the kernel gives to clients.
_RANDOM_BASES = range(10000, 32700, 60)
_CHANCE = random.SystemRandom()  # two test workers may have the same seed
_KEPT = 32
_reservations: deque[socket.socket] = deque()


def is_free(port: int) -> bool:
    """Whether a server on this machine could listen on the port."""
    with socket.socket() as probe:
        # As servers do: connections that linger after a stop don't count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def answers(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def require(ports: Mapping[str, int], patience: float = 0.0) -> None:
    """Raises `PortTaken` unless all are free; waits `patience` seconds for those that are not."""
    if not wait_until(lambda: all(map(is_free, ports.values())), patience):
        taken = ", ".join(f"port {port} ({name})" for name, port in ports.items() if not is_free(port))
        base = ports["master"]
        other = next((b for b in range(base + 100, LAST_BASE, 100) if _all_free(b, ports, base)), None)
        advice = f", for example --ports {other}" if other else ""
        raise PortTaken(f"another program uses {taken}; choose other ports with --ports BASE{advice}")


def free_base() -> int:
    """A random base port whose ports are all free now. Raises `PortTaken`.

    No other process gets it until this one ends, or has asked for many more.
    """
    for base in _CHANCE.sample(_RANDOM_BASES, len(_RANDOM_BASES)):
        reservation = _reserve(base)
        if reservation and all(is_free(base + offset) for offset in range(EPMD + 1)):
            _reservations.append(reservation)
            if len(_reservations) > _KEPT:
                _reservations.popleft().close()
            return base
        if reservation:
            reservation.close()
    raise PortTaken(f"no {EPMD + 1} free ports in a row between {_RANDOM_BASES.start} and {_RANDOM_BASES.stop}")


def _reserve(base: int) -> socket.socket | None:
    """Reserve these ports for this process, while the result is open. None when another one has reserved them.

    Linux removes the name of an abstract socket when its owner ends.
    """
    reservation = socket.socket(socket.AF_UNIX)
    try:
        if sys.platform == "linux":
            reservation.bind(f"\0pulzar-ports-{base}")
    except OSError:
        reservation.close()
        return None
    return reservation


def wait_until(condition: Callable[[], bool], timeout: float, pause: float = 0.05) -> bool:
    """Wait for the condition; False when `timeout` seconds were not enough."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
    return True


def _all_free(base: int, ports: Mapping[str, int], old_base: int) -> bool:
    return all(is_free(base + port - old_base) for port in ports.values())


def migration_off(setting: Path = MIGRATION) -> str:
    """What to say where the kernel drops connections that wait for a web worker that ends; empty where it does not."""
    try:
        off = setting.read_text().strip() == "0"
    except OSError:  # another system, or a kernel before 5.14
        return ""
    said = "connections that wait for a web worker are dropped when it is killed"
    return f"net.ipv4.tcp_migrate_req is 0: {said}; as root: sysctl -w net.ipv4.tcp_migrate_req=1" if off else ""
