"""A user of RabbitMQ for each role: the master, each node, publishers.

One random key makes all their passwords, so that a user can be made again with the password that its machine knows.
The key and the list of users are on the machine of RabbitMQ, for root alone.
"""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from broker import topology
from broker.rights import of_node, password
from broker.settings import Settings
from ops.installer import commands, configuration, files, rabbitmq, services
from ops.installer.commands import say
from ops.installer.errors import InstallError
from ops.installer.places import NAME, Places

_DRAIN_SECS = 30.0
# A user, and what his connection says of itself.
_NODE_CONNECTION = re.compile(rf'{NAME}\t.*\{{"connection_name","pulzar node ([^"]+)"\}}.*')


def users(places: Places) -> list[str]:
    """The users that were made here."""
    return (files.read(places.users) or b"").decode().split()


def passwords(places: Places) -> dict[str, str]:
    """The password of each user that was made here, or is about to be."""
    key = (files.read(places.key) or b"").decode().strip()
    return {user: password(key, user) for user in users(places)} if key else {}


def add(places: Places, new: Iterable[str]) -> None:
    """Note users to be made; the first time, make the key, too."""
    if not places.key.exists():
        files.write(places.key, f"{secrets.token_hex(24)}\n".encode(), 0o600)
    known = users(places)
    wanted = [*known, *(user for user in new if user not in known)]
    if wanted != known:
        files.write(places.users, "".join(f"{user}\n" for user in wanted).encode(), 0o600)


def url(places: Places, user: str, host: str = "localhost") -> str:
    """The AMQP URL of one of these users."""
    return f"amqp://{user}:{passwords(places)[user]}@{host}:5672/{NAME}"


def set_up(places: Places, roles: Iterable[str], known: Settings) -> bool:
    """Give each role of this machine a user, a URL of its own, and the secret that they share; whether a file changed.

    A URL that a role has stays.
    """
    changed = False
    if not known.general.secret:
        changed |= configuration.set_secret(places, secrets.token_hex(24))
    for role in roles:
        if configuration.role_url(places, role):
            continue
        user = topology.MASTER_USER if role == "master" else topology.node_user(node_name(known))
        add(places, [user])
        changed |= configuration.set_role_url(places, role, url(places, user))
    return changed


def node_name(known: Settings) -> str:
    """The name of this machine's node: as it is set, as its directory has it, or a new one."""
    there = (files.read(Path(known.volume.dir) / "node-id") or b"").decode(errors="replace").strip()
    if name := known.volume.node or there:
        return name
    host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname().partition(".")[0]).strip("-")[:60]
    return f"{host or 'node'}-{secrets.token_hex(2)}"


def credentials(places: Places, user: str) -> str:
    """Make a user for another machine; what that machine's `--credentials` reads. Raises `InstallError`."""
    _require_own_broker(places)
    known = configuration.load(places)
    node = topology.node_of(user)
    if node:
        try:
            of_node(node)
        except ValueError as error:
            raise InstallError(str(error)) from error
    add(places, [user])
    rabbitmq.give_rights(configuration.passwords(places) | passwords(places))
    host, _, _ = known.server.advertise.rpartition(":")
    if not host:
        say("[server] advertise is not set: replace localhost in the URL by the name that others know this machine by")
    lines = {configuration.URL: url(places, user, host or "localhost")}
    if node:  # nobody else signs addresses or checks who signed jobs
        lines[configuration.SECRET] = ",".join(known.secret_texts()) or configuration.old_secret(places)
    return "".join(f"{name}={configuration.quoted(value)}\n" for name, value in lines.items())


def switch(places: Places) -> None:
    """Give the services of this machine users of their own, in place of the one that they share.

    The node first: the master believes it under both. Then the master, which from then on believes such users alone.
    May be repeated after it was broken off. Raises `InstallError`.
    """
    roles = services.installed(places)
    if places.key.exists() and not configuration.own_password(places):
        say("each role has a user of its own already")
        return
    _require_own_broker(places)
    if "master" not in roles:
        raise InstallError("This is for the machine of the master and RabbitMQ; a node elsewhere takes --credentials.")
    for role in roles:
        if str(places.role_environment(role)) not in places.unit(role).read_text(encoding="utf-8"):
            raise InstallError("The services are of a release without roles: ops/install --upgrade comes first.")
    known = configuration.load(places)
    own = node_name(known) if "node" in roles else ""
    if others := [node for node in _shared_by() if node != own]:
        raise InstallError(
            f"These nodes on other machines still use RabbitMQ's user {NAME}: {', '.join(others)}\n"
            "For each of them: ops/install --add-node NAME here, and there ops/install --node --credentials FILE"
        )
    if not known.general.secret:
        # The same as before: it has signed jobs that wait, and addresses that clients have.
        configuration.set_secret(places, configuration.old_secret(places))
    set_up(places, roles, configuration.load(places))
    rabbitmq.give_rights(configuration.passwords(places) | passwords(places))
    running = [role for role in ("node", "master") if role in roles and services.is_active(places.unit(role).name)]
    for role in running:
        if role == "master":
            with commands.step("waiting until the master has taken what nodes had sent"):
                rabbitmq.wait_empty(topology.RESULTS, _DRAIN_SECS)
        services.start(places, [role], configuration.load(places), restart=True, only_active=True)
    configuration.remove_broker_url(places)
    rabbitmq.delete_user(NAME)
    say("done: each role has a user of its own in RabbitMQ, and the shared one is gone")


def _require_own_broker(places: Places) -> None:
    if not (configuration.own_password(places) or places.key.exists()):
        raise InstallError(
            "RabbitMQ was not set up here by ops/install. For one of your own, python -m broker.rights prints the "
            "rights of each role."
        )


def _shared_by() -> list[str]:
    """The nodes that are connected as the shared user."""
    status, output = commands.attempt("rabbitmqctl", "-q", "-s", "list_connections", "user", "client_properties")
    if status != 0:
        raise InstallError(f"RabbitMQ does not say who is connected:\n{output}")
    return sorted({found[1] for line in output.splitlines() if (found := _NODE_CONNECTION.fullmatch(line))})


def parsed(text: str) -> Mapping[str, str]:
    """The variables of `credentials`. Raises `InstallError` for something else."""
    found = configuration.variables(text)
    if set(found) != {configuration.URL, configuration.SECRET}:
        raise InstallError(
            f"The credentials of a node have {configuration.URL} and {configuration.SECRET}, as printed by "
            f"ops/install --add-node NAME on the master's machine; these have {', '.join(sorted(found)) or 'nothing'}"
        )
    return found
