"""Whether the service of this container answers: the HEALTHCHECK of the images.

    python -m ops.health SECTION

SECTION is the section of its settings: `server` for the master, `volume` for a node. The exit status is 0 when the
service is alive, else 1. A master that is not ready is alive: a restart does not bring its RabbitMQ back.
"""

from __future__ import annotations

import http.client
import ssl
import sys
from contextlib import closing

from broker import settings
from broker.errors import PulzarError

TIMEOUT_SECS = 4.0


def main() -> int:
    """Ask the service once; the exit status."""
    if len(sys.argv) != 2 or sys.argv[1] not in ("server", "volume"):
        print(f"one of server and volume is needed, not {' '.join(sys.argv[1:]) or 'nothing'}")
        return 1
    section = sys.argv[1]
    try:
        known = settings.load()
    except PulzarError as error:
        print(error)
        return 1
    own = known.server if section == "server" else known.volume
    host, port = settings.reachable(own.host), own.port
    try:
        with closing(_connection(known.scheme(own), host, port)) as connection:
            connection.request("GET", "/health?live=1")
            response = connection.getresponse()
            print(f"{response.status} {response.read(500).decode(errors='replace').strip()}")
            return 0 if response.status == 200 else 1
    except (OSError, http.client.HTTPException) as error:
        print(f"nobody answers on {host}:{port}: {error or type(error).__name__}")
        return 1


def _connection(scheme: str, host: str, port: int) -> http.client.HTTPConnection:
    if scheme == "https":
        # The container's own service, at an address that its certificate need not have: nothing is told to it.
        unverified = ssl.create_default_context()
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECS, context=unverified)
    return http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECS)


if __name__ == "__main__":
    sys.exit(main())
