"""Where the files of an installation are."""

from __future__ import annotations

from pathlib import Path

NAME = "pulzar"
SOURCE = Path(__file__).resolve().parents[2]


class Places:
    """Paths of an installation below `root`, made from the checkout `source`.

    `user` and `group` own what the services read and write.
    """

    def __init__(self, source: Path = SOURCE, root: Path = Path("/"), *, user: str = NAME, group: str = NAME) -> None:
        self.source = source
        self.root = root
        self.user = user
        self.group = group
        self.code = root / "opt/pulzar"  # releases, and `current`, a link to one of them
        self.changed = self.code / ".changed"  # a mark: the services are to be restarted, by the next run if need be
        self.config = root / "etc/pulzar"
        self.settings = self.config / "server.conf"
        self.environment = self.config / "environment"  # the URL of RabbitMQ, and what its owner adds
        self.requirements = self.config / "requirements.txt"  # packages that scripts need; made by the owner
        self.without_extensions = self.config / ".without-extensions"  # a mark: upgrades do without, too
        self.shipped = self.config / ".shipped"  # files as they were installed, to see which were changed
        self.data = root / "var/lib/pulzar"
        self.units = root / "etc/systemd/system"
        self.sysctl = root / "etc/sysctl.d/60-pulzar.conf"
        self.broker = root / "etc/rabbitmq/conf.d/30-pulzar.conf"  # the address that a RabbitMQ of its own listens on

    def unit(self, role: str) -> Path:
        """The unit of the master or of the node."""
        return self.units / f"pulzar-{role}.service"
