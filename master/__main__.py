"""`python -m master`: the web workers and the controller."""

from __future__ import annotations

import sys
from pathlib import Path

from broker import logs, service
from broker.errors import PulzarError
from master.index import Index


def main() -> int:
    """Run the master until SIGTERM; exit status 0, 1 when it can't go on, 2 for a bad configuration."""
    try:
        config = service.parse_arguments("master", "The master of a Pulzar cluster: REST API, index and placement.")
        logs.setup(config["general", "log_level"], "master")
        # The workers only read the index, so it must be there before they are.
        Index(Path(config["server", "dir"]) / "index", config["server", "index_map"], write=True).close()
        running = service.Service(
            "master.web:create",
            "master.controller",
            config["server", "host"],
            config["server", "port"],
            service.workers(config),
            config["server", "threads"],
        )
    except PulzarError as error:
        print(f"pulzar master: {error}", file=sys.stderr)
        return 2
    return running.run()


if __name__ == "__main__":
    sys.exit(main())
