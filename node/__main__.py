"""`python -m node`: the data server and the agent."""

from __future__ import annotations

import sys

from granian.constants import Interfaces

from broker import logs, service
from broker.errors import PulzarError
from node import identity


def main() -> int:
    """Run a node until SIGTERM; exit status 0, 1 when it can't go on, 2 for a bad configuration."""
    try:
        config = service.parse_arguments("node", "A node of a Pulzar cluster: keeps values and serves them.")
        logs.setup(config.general.log_level, "node")
        identity.load(config)  # the first start makes it here, before two processes want it
        running = service.Service(
            "node.web.application:create",
            Interfaces.ASGINL,
            "node.agent",
            config.volume.host,
            config.volume.port,
            1,
        )
    except PulzarError as error:
        print(f"pulzar node: {error}", file=sys.stderr)
        return 2
    return running.run()


if __name__ == "__main__":
    sys.exit(main())
