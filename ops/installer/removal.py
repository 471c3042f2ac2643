"""The removal of an installation."""

from __future__ import annotations

import shutil

from ops.installer import commands, configuration, packages, rabbitmq, roles, services
from ops.installer.commands import say
from ops.installer.places import Places


def remove(places: Places, *, purge: bool) -> None:
    """Remove services and code; with `purge` settings, data, user and RabbitMQ's user too. Raises `CommandFailed`."""
    for role in reversed(services.installed(places)):
        unit = places.unit(role)
        if services.systemd_runs():
            services.stop(unit.name)
        services.control("-q", "disable", unit.name)
        unit.unlink()
    if services.systemd_runs():
        services.control("daemon-reload")
    if purge:
        _purge(places)
    if places.code.exists():
        shutil.rmtree(places.code)
    places.sysctl.unlink(missing_ok=True)
    if not purge:
        say(f"removed; settings stay in {places.config}, data in {places.data}. Without them too: --remove --purge")
        return
    say(f"removed, with everything in {places.config} and {places.data}")
    if places.broker.exists():
        say(f"RabbitMQ stays, and listens where {places.broker} says")


def _purge(places: Places) -> None:
    if users := [*configuration.passwords(places), *roles.users(places)]:
        rabbitmq.remove_users(users)
    for folder in (places.config, places.data):
        if folder.exists():
            shutil.rmtree(folder)
    for user in (places.master, places.user):
        if packages.has_user(user):
            commands.run(f"deleting the user {user}", "userdel", user)
    # userdel takes a group of the same name along.
    if packages.has_group(places.group):
        commands.run(f"deleting the group {places.group}", "groupdel", places.group)
