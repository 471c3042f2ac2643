"""An installation or an upgrade, from its first step to its last."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from ops.installer import configuration, files, packages, rabbitmq, release, services
from ops.installer import roles as broker_roles
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
        configuration.check(places, self._roles, gets_secret=self._gets_secret)
        extensions = self.chooses_extensions()
        packages.install(places, packages.missing(places, own_broker, extensions, configuration.backup_type(places)))
        packages.make_users(places, self._roles)
        folder = release.make(places, extensions)
        self._note(release.switch(places, folder))
        self._note(configuration.install(places))
        self._note(self._set_urls())
        if "master" in self._roles:
            packages.set_kernel(places)
        # Nobody's but root's: who owns a folder can exchange those of others in it.
        files.make_folder(places.data, 0o751, user="root", group=places.group)
        self._note(services.install(places, self._roles, enable=not options.upgrade))
        rabbitmq.give_rights(configuration.passwords(places) | broker_roles.passwords(places))
        if own_broker:
            rabbitmq.remove_guest(ours=places.broker.exists())
        known = configuration.load(places)
        if "master" in self._roles:
            services.hand_over(places, Path(known.server.dir))
        restart = places.changed.exists()
        services.start(places, self._roles, known, restart=restart, only_active=options.upgrade)
        places.changed.unlink(missing_ok=True)
        if configuration.own_password(places):
            say("master and nodes share a user in RabbitMQ; for one each: ops/install --roles (docs/operate.md)")
        if advice := configuration.advice(known, self._roles):
            say(advice)
        say(f"done: {' '.join(self._roles)}; settings are in {places.settings}")

    def _set_urls(self) -> bool:
        """Give the services their URLs of RabbitMQ; whether one changed."""
        places, options = self._places, self._options
        if options.broker_url:
            changed = self._set_secret()
            for role in self._roles:
                places.role_environment(role).unlink(missing_ok=True)
            return configuration.set_broker_url(places, options.broker_url) or changed
        if options.credentials:
            given = broker_roles.parsed(options.credentials)
            changed = configuration.set_secret(places, given[configuration.SECRET])
            changed |= configuration.set_role_url(places, "node", given[configuration.URL])
            if "master" not in services.installed(places):
                configuration.remove_broker_url(places)  # of the user that all shared
            return changed
        if configuration.broker_url(places):
            return self._set_secret()
        return broker_roles.set_up(places, self._roles, configuration.load(places))

    @property
    def _gets_secret(self) -> bool:
        """Whether a secret that is missing is made: not for a node that is new, which needs that of its master."""
        options = self._options
        return bool(configuration.broker_url(self._places)) or not options.broker_url or "master" in self._roles

    def _set_secret(self) -> bool:
        """Write a secret where there is none; whether one was written.

        Where services ran without one it is what has signed until then, so that nothing breaks that is on its way.
        """
        places = self._places
        if configuration.load(places).general.secret or not self._gets_secret:
            return False
        known = bool(configuration.broker_url(places))
        return configuration.set_secret(places, configuration.old_secret(places) if known else secrets.token_hex(24))

    def has_own_broker(self) -> bool:
        """Whether RabbitMQ is installed here for Pulzar. Raises `InstallError` for a node without a RabbitMQ."""
        places = self._places
        if self._options.broker_url or self._options.credentials:
            return False
        if configuration.broker_url(places):
            return bool(configuration.own_password(places))
        if places.key.exists() or "master" in self._roles:
            return True
        if configuration.role_url(places, "node"):
            return False
        raise InstallError(
            "A node needs the RabbitMQ of its master: --credentials FILE, as printed there by ops/install --add-node "
            f"NAME; or --broker-url URL, as in {places.environment} there."
        )

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
