"""`ops/install`: read the options, then install, upgrade or remove."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
from pathlib import Path

from broker import topology
from broker.errors import PulzarError
from ops.installer import options, removal, roles, services
from ops.installer.errors import InstallError
from ops.installer.installation import Installation
from ops.installer.places import Places

LOCK = Path("/run/lock/pulzar-install")


def main() -> int:
    """Do what the arguments ask for; the exit status."""
    try:
        wanted = options.parse(sys.argv[1:])
        if wanted is None:
            print(options.USAGE, end="")
            return 0
        if not wanted.actions:
            print(options.USAGE, end="", file=sys.stderr)
            return 2
        _run(wanted)
    except (PulzarError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(wanted: options.Options) -> None:
    places = Places()
    if os.geteuid() != 0:
        raise InstallError("Only root can do that: sudo ops/install …")
    if not shutil.which("apt-get") or not shutil.which("systemctl"):
        raise InstallError("This needs a Debian with systemd; ops/up runs anywhere.")
    # A removal may delete the directory that this program was started from; all of its modules are loaded by now.
    os.chdir("/")
    os.umask(0o022)
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InstallError("another ops/install is running") from None
        if wanted.remove:
            removal.remove(places, purge=wanted.purge)
            return
        if wanted.switch:
            roles.switch(places)
            return
        if wanted.add_node or wanted.add_publisher:
            user = topology.node_user(wanted.add_node) if wanted.add_node else topology.PUBLISHER_USER
            with contextlib.redirect_stdout(sys.stderr):
                made = roles.credentials(places, user)
            print(made, end="")
            return
        parts = wanted.roles
        if wanted.upgrade:
            parts = services.installed(places)
            if not parts:
                raise InstallError("Nothing is installed here to upgrade: --master, --node or both")
        Installation(places, wanted, parts).run()


if __name__ == "__main__":
    sys.exit(main())
