"""What the routes of one web worker work with, and the envelope of their responses."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from flask import Response, jsonify

from broker.link import Link
from broker.settings import Settings
from master.channel import ControllerClient
from master.cluster.nodes import Nodes
from master.index.index import Index
from master.jobs.ledger import Ledger
from master.web.jobs.files import JobFiles

UNEXPECTED = "something went wrong in the master; its log says what"


@dataclass(frozen=True)
class Context:
    """What the routes of one web worker work with."""

    settings: Settings
    index: Index
    network: Nodes
    link: Link
    controller: ControllerClient
    started: float  # seconds since the epoch
    ledger: Ledger
    kept: JobFiles


def ok(data: Any, message: str = "ok", status: int = 200) -> Response:
    """A good answer in its envelope."""
    response = jsonify(data=data, msg=message, status="ok")
    response.status_code = status
    return response


def ko(status: int, message: str, data: Any = None) -> Response:
    """An error in its envelope."""
    response = jsonify(data=data, msg=message, status="ko")
    response.status_code = status
    return response


def uptime(parts: Context) -> float:
    """Seconds since this worker started."""
    return round(time.time() - parts.started, 1)
