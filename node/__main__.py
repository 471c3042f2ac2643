"""`python -m node`: the data server and the agent."""

from __future__ import annotations

import sys
from pathlib import Path

from granian.constants import Interfaces

from broker import logs, process
from broker.errors import PulzarError
from broker.server.web_server import Place, WebServer
from broker.service.arguments import parse_arguments
from broker.service.companion import UNUSABLE
from broker.service.service import Service
from broker.tls.certificates import CertificateFiles
from node import identity, twin


def main() -> int:
    """Run a node until SIGTERM; exit status 0, 1 when it can't go on, 2 for a bad configuration."""
    process.hide()  # from jobs
    try:
        config = parse_arguments("node", "A node of a Pulzar cluster: keeps values and serves them.")
        logs.setup(config.general.log_level, "node")
        for section in (config.volume, config.server):
            config.address(section)  # refused now rather than in the agent
        config.require_secret(config.volume, config.server)
        node = identity.load(config)  # the first start makes it here, before two processes want it
        twin.check(config, node)
        own = config.volume
        certificate = CertificateFiles("volume", own.cert, own.key, Path(own.dir))
        place = Place(own.host, own.port, certificate)
        server = WebServer("node.web.application:create", Interfaces.ASGINL, place, workers=1)
    except PulzarError as error:
        print(f"pulzar node: {error}", file=sys.stderr)
        return UNUSABLE
    return Service(server, "node.agent").run()


if __name__ == "__main__":
    sys.exit(main())
