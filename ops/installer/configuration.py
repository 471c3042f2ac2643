"""The files in /etc/pulzar: settings, scripts, extensions, and the URL of RabbitMQ."""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from broker import settings
from broker.settings import Settings
from ops.installer import files
from ops.installer.commands import say
from ops.installer.places import NAME, Places

_KEY = "PULZAR_BROKER_URL"
_URL = re.compile(rf'^{_KEY}="(.*)"$', re.MULTILINE)
_OWN = re.compile(rf"amqp://{NAME}:([0-9a-f]+)@localhost:5672/{NAME}")
_HEAD = "# Read by the services. The same on every machine: it also signs the addresses that clients are sent to."


def install(places: Places) -> bool:
    """Offer the settings, the scripts and the extensions of the checkout; whether a file changed."""
    files.make_folder(places.config, 0o750, group=places.group)
    files.make_folder(places.shipped, 0o700)
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
    """ops/server.conf as it is installed: the folders in /etc/pulzar, and no URL of RabbitMQ."""
    lines, section = [], ""
    for line in sample.splitlines():
        section = line if line.startswith("[") else section
        if section == "[broker]" and line.startswith("url="):
            line = f"# {_KEY} in {places.environment}, which beats what is set here."
        elif section in ("[jobs]", "[extensions]") and line.startswith("dir="):
            line = f"dir={places.config / section.strip('[]')}"
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
    """Write the URL of RabbitMQ into the environment file; whether it changed.

    Without a URL an existing one stays, else one is made with a password of its own.
    """
    known = broker_url(places)
    url = given or known or f"amqp://{NAME}:{secrets.token_hex(24)}@localhost:5672/{NAME}"
    if url == known:
        return False
    before = (files.read(places.environment) or b"").decode().splitlines()
    kept = [line for line in before if not line.startswith(f"{_KEY}=")] or [_HEAD]
    text = "\n".join([*kept, f'{_KEY}="{url}"']) + "\n"
    files.write(places.environment, text.encode(), 0o640, places.group)
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


def check(places: Places, roles: Sequence[str]) -> None:
    """Raise `SettingsError` when a service would refuse the settings that are there."""
    if not places.settings.exists():
        return
    known = load(places)
    known.address(known.server)
    if "node" in roles:
        known.address(known.volume)
