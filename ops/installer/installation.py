"""An installation or an upgrade, from its first step to its last."""

from __future__ import annotations

from collections.abc import Sequence

from ops.installer import configuration, files, packages, rabbitmq, release, services
from ops.installer.commands import say
from ops.installer.errors import InstallError
from ops.installer.options import Options
from ops.installer.places import Places


class Installation:
    """Installs the services of `roles`. It may be repeated: each step does what is missing."""

    def __init__(self, places: Places, options: Options, roles: Sequence[str]) -> None:
        self._places = places
        self._options = options
        self._roles = tuple(roles)

    def run(self) -> None:
        """Install or upgrade. Raises `InstallError` or `SettingsError`; what was done until then stays."""
        places, options = self._places, self._options
        own_broker = self.has_own_broker()
        # Before anything changes: the services of the new release would not start.
        configuration.check(places, self._roles)
        extensions = self.chooses_extensions()
        packages.install(places, packages.missing(places, own_broker, extensions))
        packages.make_user(places)
        folder = release.make(places, extensions)
        self._note(release.switch(places, folder))
        self._note(configuration.install(places))
        self._note(configuration.set_broker_url(places, options.broker_url))
        if "master" in self._roles:
            packages.set_kernel(places)
        files.make_folder(places.data, 0o750, user=places.user, group=places.group)
        self._note(services.install(places, self._roles, enable=not options.upgrade))
        rabbitmq.give_rights(configuration.own_password(places))
        known = configuration.load(places)
        restart = places.changed.exists()
        services.start(places, self._roles, known, restart=restart, only_active=options.upgrade)
        places.changed.unlink(missing_ok=True)
        say(f"done: {' '.join(self._roles)}; settings are in {places.settings}")

    def has_own_broker(self) -> bool:
        """Whether RabbitMQ is installed here for Pulzar. Raises `InstallError` for a node without a RabbitMQ."""
        if self._options.broker_url:
            return False
        if configuration.broker_url(self._places):
            return bool(configuration.own_password(self._places))
        if "master" not in self._roles:
            raise InstallError(
                "A node needs the RabbitMQ of its master: --broker-url URL, as in "
                f"{self._places.environment} on the master's machine."
            )
        return True

    def chooses_extensions(self) -> bool:
        """Whether what extensions need is installed: for a master, unless its owner does without."""
        mark = self._places.without_extensions
        if self._options.without_extensions:
            mark.parent.mkdir(0o750, parents=True, exist_ok=True)
            mark.touch()
        elif not self._options.upgrade:
            mark.unlink(missing_ok=True)
        roles = {*self._roles, *services.installed(self._places)}
        return "master" in roles and not mark.exists()

    def _note(self, changed: bool) -> None:
        if changed:
            self._places.changed.touch()
