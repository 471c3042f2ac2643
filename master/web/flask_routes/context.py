"""What the routes of one web worker work with, and the envelope of their responses."""

from __future__ import annotations

import time
from dataclasses import dataclass

from flask import Response, current_app

from broker.http import responses
from broker.link import Link
from broker.settings import Settings
from broker.tls import certificates
from broker.tls.certificates import CertificateEnd
from jobs.secret_file import SecretFile
from master.channel import ControllerClient
from master.cluster.nodes import Nodes
from master.index.index import Index
from master.jobs.ledger import Ledger
from master.web.jobs.files import JobFiles

EXTENSION = "pulzar"  # key of the `Context` in the application's extensions


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
    job_files: JobFiles
    certificate: CertificateEnd
    secrets: SecretFile  # hidden in arguments of jobs

    def certificate_ends(self) -> dict[str, float]:
        """When the certificates of master and nodes end, in seconds since the epoch; 0 for none."""
        ends = {row["node"]: float(row["cert_until"]) for row in self.network.describe()}
        return ends | {"the master": self.certificate.until()}

    def certificate_warnings(self) -> list[str]:
        """A sentence for each certificate of master and nodes that ends soon."""
        return certificates.warnings(self.certificate_ends(), time.time())

    def objection(self) -> str:
        """Why a PUT would not be stored just now; "" when it would."""
        if not self.link.ready:
            return f"no connection to RabbitMQ: {self.link.problem}"
        if not self.controller.connected:
            return "the controller is being started again"
        return self.network.objection()

    @property
    def uptime(self) -> float:
        """Seconds since this worker started."""
        return round(time.time() - self.started, 1)


def context() -> Context:
    """The context of the application that handles this request."""
    found: Context = current_app.extensions[EXTENSION]
    return found


def from_response(response: responses.Response) -> Response:
    """A response as Flask wants it."""
    return Response(response.body, response.status, response.headers)


def ok(data: object, message: str = "ok", status: int = 200) -> Response:
    """The response to a request that was done, in its envelope."""
    return from_response(responses.make_plain(status, data, message, (), compact=True))


def ko(status: int, message: str, data: object, headers: list[responses.Header]) -> Response:
    """The response to a request that was not done, in its envelope."""
    return from_response(responses.make_plain(status, data, message, headers, compact=True))
