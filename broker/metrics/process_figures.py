"""What every process tells of itself: memory, processor time, open files, and its connection to RabbitMQ."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from broker.link import Link
from broker.metrics.layout import Layout

_PAGE = os.sysconf("SC_PAGE_SIZE")


class ProcessFigures:
    """The gauges of one process."""

    def __init__(self, layout: Layout) -> None:
        self._memory = layout.gauge("pulzar_process_resident_bytes", "Memory of the process.", own=True)
        self._time = layout.gauge(
            "pulzar_process_cpu_seconds", "Processor time of the process since it started.", own=True
        )
        self._files = layout.gauge("pulzar_process_open_files", "Open files of the process.", own=True)
        self._up = layout.gauge("pulzar_broker_up", "1: the process is connected to RabbitMQ.", own=True)
        self._connections = layout.counter(
            "pulzar_broker_connections_total", "Connections to RabbitMQ that were made; each one but the first again."
        )

    def of(self, link: Link | None = None) -> Callable[[], None]:
        """A function that measures this process, for its `Keeper`. Counts connections of the link from now on."""
        if link is not None:
            link.on_up.append(self._connections.add)

        def measure() -> None:
            self._memory.set(int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE)
            self._time.set(time.process_time())
            self._files.set(len(os.listdir("/proc/self/fd")))
            if link is not None:
                self._up.set(link.ready)

        return measure
