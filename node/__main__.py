"""`python -m node`: the data server and the agent."""

from __future__ import annotations

import sys

from granian.constants import Interfaces

from broker import logs
from broker.errors import PulzarError
from broker.server.web_server import WebServer
from broker.service.arguments import parse_arguments
from broker.service.companion import UNUSABLE
from broker.service.service import Service
from node import identity


def main() -> int:
    """Run a node until SIGTERM; exit status 0, 1 when it can't go on, 2 for a bad configuration."""
    try:
        config = parse_arguments("node", "A node of a Pulzar cluster: keeps values and serves them.")
        logs.setup(config.general.log_level, "node")
        for section in (config.volume, config.server):
            config.address(section)  # refused now rather than in the agent
        identity.load(config)  # the first start makes it here, before two processes want it
        host, port = config.volume.host, config.volume.port
        server = WebServer("node.web.application:create", Interfaces.ASGINL, host, port, workers=1)
    except PulzarError as error:
        print(f"pulzar node: {error}", file=sys.stderr)
        return UNUSABLE
    return Service(server, "node.agent").run()


if __name__ == "__main__":
    sys.exit(main())
