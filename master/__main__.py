"""`python -m master`: the web workers and the controller."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from granian.constants import Interfaces

from broker import logs, process, tls
from broker.errors import PulzarError, SettingsError
from broker.link import roles
from broker.server.web_server import Place, WebServer
from broker.service.arguments import parse_arguments, web_workers
from broker.service.companion import UNUSABLE
from broker.service.service import Service
from broker.tls.certificates import CertificateFiles
from master.extensions import bodies
from master.index import checkpoints
from master.index.index import Index
from master.jobs.ledger import Ledger
from master.security.gate import open_tokens


def main() -> int:
    """Run the master until SIGTERM; exit status 0, 1 when it can't go on, 2 for a bad configuration."""
    try:
        config = parse_arguments("master", "The master of a Pulzar cluster: REST API, index and placement.")
        logs.setup(config.general.log_level, "master")
        # Refused now rather than in each web worker.
        config.address(config.server)
        tls.trust(config.security.ca)
        config.require_secret(config.server)
        roles.of_master(config)
        if tokens := open_tokens(config.security.tokens, config.security.queue):
            tokens.look()
        held = hold(Path(config.server.dir))
        # What a master that was killed had received for extensions.
        bodies.empty(Path(config.server.dir) / bodies.FOLDER)
        # The workers only read these, so they must be there before the workers are.
        make_index(Path(config.server.dir) / "index", config.server.index_map, config.general.tombstone_days)
        Ledger(Path(config.server.dir) / "ledger", True, config.jobs.ledger_map).close()
        own = config.server
        certificate = CertificateFiles("server", own.cert, own.key, Path(own.dir))
        place = Place(own.host, own.port, certificate)
        server = WebServer("master.worker:create", Interfaces.RSGI, place, web_workers(config))
    except PulzarError as error:
        print(f"pulzar master: {error}", file=sys.stderr)
        return UNUSABLE
    try:
        return Service(server, "master.controller").run()
    finally:
        os.close(held)


def hold(directory: Path) -> int:
    """Become the only master of a data directory while the returned descriptor is open. Raises `SettingsError`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return process.hold(directory)
    except BlockingIOError as error:
        raise SettingsError(f"{directory} is in use by another master; every master needs its own") from error
    except OSError as error:
        raise SettingsError(f"[server] dir = {str(directory)!r} can't be used: {error.strerror or error}") from error


def make_index(directory: Path, map_size: int, tombstone_days: int) -> None:
    """Make the index, or make it whole again after a power cut. Raises `PulzarError`."""
    try:
        checkpoints.make_ready(directory, tombstone_days)
        Index(directory, map_size, write=True).close()
    except OSError as error:
        raise SettingsError(f"the index in {directory} can't be used: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
