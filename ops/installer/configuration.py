"""The files in /etc/pulzar: settings, scripts, extensions, and the URL of RabbitMQ."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from broker import settings
from broker.settings import Settings
from ops.installer import files
from ops.installer.commands import say
from ops.installer.places import NAME, Places

URL, SECRET = "PULZAR_BROKER_URL", "PULZAR_GENERAL_SECRET"
_URL = re.compile(rf'^{URL}="(.*)"$', re.MULTILINE)
_OWN = re.compile(rf"amqp://{NAME}:([0-9a-f]+)@localhost:5672/{NAME}")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HEAD = "# Read by the services. The same on every machine: it also signs the addresses that clients are sent to."
_ROLE_HEAD = "# Read by this service alone: the user that it is in RabbitMQ."


def install(places: Places) -> bool:
    """Offer the settings, the scripts and the extensions of the checkout; whether a file changed."""
    files.make_folder(places.config, 0o751, group=places.group)  # jobs find their scripts there
    files.make_folder(places.shipped, 0o700)
    if places.environment.exists():  # of a release where the services' users could read it, and so could jobs
        places.environment.chmod(0o600)
    for folder in ("jobs", "extensions"):
        files.make_folder(places.config / folder, 0o755)
    sample = sample_settings((places.source / "ops/server.conf").read_text(encoding="utf-8"), places)
    changed = offer(places, sample.encode(), places.settings, 0o640)
    for path in _scripts(places.source):
        changed |= offer(places, (places.source / path).read_bytes(), places.config / path, 0o644)
    return changed


def offer(places: Places, content: bytes, place: Path, mode: int) -> bool:
    """Install a file that its owner may change; whether it changed.

    A file that was changed stays, with the new one beside it as `NAME.new`. One that was deleted stays away.
    """
    shipped = places.shipped / place.relative_to(places.config)
    before, there = files.read(shipped), files.read(place)
    new = place.with_name(f"{place.name}.new")
    changed = False
    if before == content:
        return False
    if there is not None and there not in (before, content):
        files.write(new, content, mode, places.group)
        say(f"{place} was changed here and stays as it is; the new one is {new}")
    elif there is not None or before is None:
        files.write(place, content, mode, places.group)
        new.unlink(missing_ok=True)
        changed = True
    files.write(shipped, content, 0o600)
    return changed


def sample_settings(sample: str, places: Places) -> str:
    """ops/server.conf as it is installed: the folders in /etc/pulzar, the user of jobs, and no URL of RabbitMQ."""
    lines, section = [], ""
    for line in sample.splitlines():
        section = line if line.startswith("[") else section
        if section == "[broker]" and line.startswith("url="):
            line = f"# {URL} in {places.config}/*environment, which beats what is set here."
        elif section in ("[jobs]", "[extensions]") and line.startswith("dir="):
            line = f"dir={places.config / section.strip('[]')}"
        elif section == "[jobs]" and line == "user=":
            line = f"user={places.jobs}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _scripts(source: Path) -> Iterator[Path]:
    for path in sorted((source / "jobs").glob("*/**/*.py")):
        yield path.relative_to(source)
    for path in sorted((source / "extensions").glob("[!_]*.py")):
        yield path.relative_to(source)


def broker_url(places: Places) -> str:
    """The URL in the environment file; empty without one."""
    found = _URL.search((files.read(places.environment) or b"").decode())
    return found[1] if found else ""


def own_password(places: Places) -> str:
    """The password of the RabbitMQ that the installer sets up; empty with another RabbitMQ."""
    found = _OWN.fullmatch(broker_url(places))
    return found[1] if found else ""


def set_broker_url(places: Places, given: str) -> bool:
    """Write the URL of RabbitMQ that all services share into the environment file; whether it changed."""
    return _set(places.environment, URL, given)


def remove_broker_url(places: Places) -> None:
    """Take the URL that all share out of the environment file."""
    _set(places.environment, URL, "")


def role_url(places: Places, role: str) -> str:
    """The URL of one service alone; empty without one."""
    found = _URL.search((files.read(places.role_environment(role)) or b"").decode())
    return found[1] if found else ""


def set_role_url(places: Places, role: str, url: str) -> bool:
    """Write the URL of one service; whether it changed."""
    return _set(places.role_environment(role), URL, url, _ROLE_HEAD)


def set_secret(places: Places, secret: str) -> bool:
    """Write the secret that signs addresses and jobs; whether it changed."""
    return _set(places.environment, SECRET, secret)


def old_secret(places: Places) -> str:
    """What signs without a secret: the credentials of the user that all share; see `Settings.secret`."""
    parts = urlsplit(broker_url(places))
    return f"{parts.username}:{parts.password}"


def passwords(places: Places) -> dict[str, str]:
    """The user that all share, if the installer set it up, with its password."""
    found = own_password(places)
    return {NAME: found} if found else {}


def quoted(value: str) -> str:
    """A value as it stands in an environment file."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _set(path: Path, name: str, value: str, head: str = _HEAD) -> bool:
    """Write a variable into a file of the environment, or take it out; whether the file changed.

    Root alone can read it: systemd does so for the services.
    """
    before = (files.read(path) or b"").decode().splitlines()
    kept = [line for line in before if not line.startswith(f"{name}=")]
    lines = [*(kept or [head]), *([f"{name}={quoted(value)}"] if value else [])]
    if lines == before or (not value and kept == before):
        return False
    files.write(path, ("\n".join(lines) + "\n").encode(), 0o600)
    return True


def load(places: Places) -> Settings:
    """The settings as the services read them. Raises `SettingsError`."""
    return settings.load(places.settings, variables((files.read(places.environment) or b"").decode()))


def variables(text: str) -> dict[str, str]:
    """The variables of an environment file, as systemd reads them: a name, `=`, and a value with or without quotes."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals or name.startswith(("#", ";")):
            continue
        try:
            words = shlex.split(value)
        except ValueError:
            words = []
        found[name] = words[0] if len(words) == 1 else value
    return found


def advice(known: Settings, roles: Sequence[str]) -> str:
    """What the owner should know: clients on other machines are refused. Empty when they are not, or can't be there."""
    hosts = [known.server.host] * ("master" in roles) + [known.volume.host] * ("node" in roles)
    if known.security.tokens or known.security.trust or all(host in _LOOPBACK for host in hosts):
        return ""
    return (
        "clients on other machines get 401: set [security] trust to their networks, like 10.0.0.0/8, or "
        "[security] tokens (docs/security.md)"
    )


def backup_type(places: Places) -> str:
    """`[backup] type` of the settings that are there. Raises `SettingsError`."""
    return load(places).backup.type if places.settings.exists() else ""


def check(places: Places, roles: Sequence[str], *, gets_secret: bool) -> None:
    """Raise `SettingsError` when a service would refuse the settings that are there.

    `gets_secret`: a secret that is missing is about to be made.
    """
    if not places.settings.exists():
        return
    known = load(places)
    known.address(known.server)
    if "node" in roles:
        known.address(known.volume)
    if not gets_secret:
        known.require_secret(known.server, *([known.volume] if "node" in roles else []))
