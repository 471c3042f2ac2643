"""Where a RabbitMQ is installed, and the commands that run its programs.

It is the machine's own (Debian's package), an unpacked generic archive, or one in a root directory of its own, as made
by `debootstrap --include=rabbitmq-server`. A root directory may have another Debian than the machine.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ops.cluster.errors import ClusterError

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # where Debian's package has it
ARCHIVE_SERVER = Path("sbin/rabbitmq-server")  # where the generic archive has it

# Where a broker in a root directory sees its files. Every Debian has this folder, and it is empty.
INSIDE = Path("/mnt")

# Only this process and its children see the mounts. Then it becomes the server, so there is one process to watch.
_ENTER = f"""\
mount --bind "$2" "$1{INSIDE}"
mount --rbind /proc "$1/proc"
mount --rbind /dev "$1/dev"
exec chroot "$1" "$3"
"""


@dataclass(frozen=True)
class Installation:
    """The programs of a RabbitMQ. With `root`, that directory is their file system and has the path `server`."""

    server: Path = SERVER
    root: Path | None = None

    @classmethod
    def at(cls, directory: Path) -> Installation:
        """The one in a root directory or in an unpacked archive. Raises `ClusterError` when it is neither."""
        directory = directory.resolve()
        # First: a root directory with Debian's package has a program at the archive's place too.
        if (directory / SERVER.relative_to("/")).is_file():
            return cls(SERVER, directory)
        if (directory / ARCHIVE_SERVER).is_file():
            return cls(directory / ARCHIVE_SERVER)
        raise ClusterError(
            f"there is no RabbitMQ in {directory}: neither {ARCHIVE_SERVER}, as in the generic archive, nor "
            f"{SERVER.relative_to('/')}, as made by: debootstrap --variant=minbase --include=rabbitmq-server trixie DIR"
        )

    def check(self) -> None:
        """Raise `ClusterError` when it can't be run."""
        if self.root and os.geteuid() != 0:
            raise ClusterError(f"only root can run the RabbitMQ in {self.root}, which is a root directory of its own")
        if not shutil.which(self.root / self.server.relative_to("/") if self.root else self.server):
            raise ClusterError(f"there is no RabbitMQ at {self.server}; ops/up installs it")

    def run_server(self, directory: Path) -> list[str]:
        """The command that becomes a broker whose files are in `directory`."""
        if not self.root:
            return [str(self.server)]
        enter = ["unshare", "--mount", "sh", "-euc", _ENTER, "enter"]
        return [*enter, str(self.root), str(directory), str(self.server)]

    def run_epmd(self, *arguments: str) -> list[str]:
        """The command that becomes Erlang's name server."""
        return [*(["chroot", str(self.root)] if self.root else []), "epmd", *arguments]

    def seen_as(self, directory: Path) -> Path:
        """The path by which the broker knows the directory of its files."""
        return INSIDE if self.root else directory


MACHINE = Installation()
