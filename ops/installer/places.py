"""Where the files of an installation are."""

from __future__ import annotations

from pathlib import Path

NAME = "pulzar"
SOURCE = Path(__file__).resolve().parents[2]


class Places:
    """Paths of an installation below `root`, made from the checkout `source`.

    `user` is the node and owns what it writes; `group` may read the settings. The master is a user of its own.
    """

    def __init__(self, source: Path = SOURCE, root: Path = Path("/"), *, user: str = NAME, group: str = NAME) -> None:
        self.source = source
        self.root = root
        self.user = user
        self.master = f"{user}-master"  # a user, and its group
        self.jobs = f"{user}-jobs"  # a user, and its group: that of jobs
        self.group = group
        self.code = root / "opt/pulzar"  # releases, and `current`, a link to one of them
        self.changed = self.code / ".changed"  # a mark: the services are to be restarted, by the next run if need be
        self.config = root / "etc/pulzar"
        self.settings = self.config / "server.conf"
        self.environment = self.config / "environment"  # a URL of RabbitMQ for all, a secret, and what its owner adds
        self.key = self.config / ".roles.key"  # makes the passwords of the roles in RabbitMQ
        self.users = self.config / ".roles"  # those that were made
        self.requirements = self.config / "requirements.txt"  # packages that scripts need; made by the owner
        self.without_extensions = self.config / ".without-extensions"  # a mark: upgrades do without, too
        self.shipped = self.config / ".shipped"  # files as they were installed, to see which were changed
        self.data = root / "var/lib/pulzar"
        self.units = root / "etc/systemd/system"
        self.sysctl = root / "etc/sysctl.d/60-pulzar.conf"
        self.broker_environment = root / "etc/rabbitmq/rabbitmq-env.conf"  # what Erlang listens on
        self.epmd = self.units / "epmd.socket.d/local.conf"
        self.broker = root / "etc/rabbitmq/conf.d/30-pulzar.conf"  # the address that a RabbitMQ of its own listens on

    def role_environment(self, role: str) -> Path:
        """The variables of one service alone: its URL of RabbitMQ."""
        return self.config / f"{role}.environment"

    def unit(self, role: str) -> Path:
        """The unit of the master or of the node."""
        return self.units / f"pulzar-{role}.service"
