"""What a setting may be: functions that read a text. Each raises `ValueError` with what is needed."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import unquote, urlsplit

from broker import MOST_REPLICAS, integers, keys
from broker.errors import InvalidKey

TB = 1 << 40
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:]+\])(?::\d{1,5})?")
_MAPPED = bytes(10) + b"\xff\xff"  # how an IPv6 address begins that stands for one of IPv4


def text(raw: str) -> str:
    """A text; "None" is an empty one, as in the first Pulzar."""
    return "" if raw in ("None", "") else raw


def flag(raw: str) -> bool:
    """True or False."""
    value = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if raw.lower() not in value:
        raise ValueError("True or False is needed")
    return value[raw.lower()]


def integer(least: int, most: int) -> Callable[[str], int]:
    """An integer from `least` to `most`."""

    def parse(raw: str) -> int:
        try:
            return integers.parse(raw, least, most)
        except ValueError:
            raise ValueError(f"an integer from {least} to {most} is needed") from None

    return parse


def seconds(least: float, most: float) -> Callable[[str], float]:
    """A number from `least` to `most`, of seconds or days."""

    def parse(raw: str) -> float:
        try:
            number = float(raw)
        except ValueError:
            number = float("nan")
        if not least <= number <= most:
            raise ValueError(f"a number from {least:g} to {most:g} is needed")
        return number

    return parse


# 64K and 64KiB are powers of 1024, 64KB of 1000.
_UNITS = {"": 1}
for _power, _letter in enumerate("kmgt", 1):
    _UNITS |= {_letter: 1024**_power, f"{_letter}ib": 1024**_power, f"{_letter}b": 1000**_power}


def size(least: int, most: int) -> Callable[[str], int]:
    """A number of bytes from `least` to `most`, like 4096, 64K, 5GiB or 100GB."""

    def parse(raw: str) -> int:
        digits = raw.lower().rstrip("kmgtib")
        try:
            number = integers.parse(digits) * _UNITS[raw.lower()[len(digits) :]]
        except (ValueError, KeyError):
            number = -1
        if not least <= number <= most:
            raise ValueError(f"a size from {least} to {most} bytes is needed, like 4096, 64K, 5GiB or 100GB")
        return number

    return parse


def quotas(raw: str) -> tuple[tuple[str, int], ...]:
    """Folders and the bytes that each may hold, like `folder/: 100GB, other/: 5GiB`; `/` is the whole store.

    A comma, a percent sign and blanks at the ends of a name are percent-encoded.
    """
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text(raw).split(","))):
        name, colon, most = part.rpartition(":")
        folder = unquote(name.strip()).removeprefix("/")
        try:
            if not colon or not name.strip().endswith("/"):
                raise ValueError("the folder ends with a slash, and a colon and a size follow")
            if folder:
                keys.check(f"{folder}name")
            if folder in found:
                raise ValueError("the folder has a quota already")
            found[folder] = size(0, integers.MAX)(most.strip())
        except (ValueError, InvalidKey) as error:
            raise ValueError(f"{part!r} is no quota like folder/: 100GB: {error}") from error
    return tuple(found.items())


def replicas(raw: str) -> tuple[tuple[str, int], ...]:
    """On how many nodes values are stored, like `2`, or `1, folder/: 2, logs/: 3`; "" is the whole store.

    A folder is written as in `quotas`.
    """
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text(raw).split(","))):
        name, colon, number = part.rpartition(":")
        folder = unquote(name.strip()).removeprefix("/")
        try:
            if colon and not name.strip().endswith("/"):
                raise ValueError("the folder ends with a slash, and a colon and a number follow")
            if folder:
                keys.check(f"{folder}name")
            if folder in found:
                raise ValueError("it is given already")
            found[folder] = integer(1, MOST_REPLICAS)(number.strip())
        except (ValueError, InvalidKey) as error:
            raise ValueError(
                f"{part!r} is neither a number like 2 nor one of a folder like logs/: 2: {error}"
            ) from error
    return tuple(found.items())


def choice(*choices: str) -> Callable[[str], str]:
    """One of some words."""

    def parse(raw: str) -> str:
        if raw not in choices:
            raise ValueError(f"one of {', '.join(choices)} is needed")
        return raw

    return parse


def choice_or_none(*choices: str) -> Callable[[str], str]:
    """One of some words, or none."""

    def parse(raw: str) -> str:
        if text(raw) and raw not in choices:
            raise ValueError(f"one of {', '.join(choices)} is needed, or nothing")
        return text(raw)

    return parse


def hosts(raw: str) -> str:
    """Hosts with or without a port, with commas between them, or `*`."""
    for one in filter(None, (part.strip() for part in text(raw).split(","))):
        try:
            parts = urlsplit(f"//{one}")
            usable = bool(parts.hostname) and parts.netloc == one and "@" not in one and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("hosts like pictures.example or 10.0.0.5:8080 with commas between them are needed, or *")
    return text(raw)


def origins(raw: str) -> tuple[str, ...]:
    """Origins as browsers write them, with commas between them, or `*`."""
    given = tuple(part.strip() for part in text(raw).split(",") if part.strip())
    for one in given:
        if one != "*" and not _ORIGIN.fullmatch(one):
            raise ValueError(
                "origins like https://ui.example or http://10.0.0.5:8080 with commas between them are needed, or *"
            )
    if "*" in given and len(given) > 1:
        raise ValueError("* stands for all origins, so it stands alone")
    return given


def host_names(raw: str) -> tuple[str, ...]:
    """Names of hosts, without ports, with commas between them."""
    given = tuple(part.strip() for part in text(raw).split(",") if part.strip())
    for one in given:
        if not re.fullmatch(r"[\w.-]+|[0-9A-Fa-f:.]+", one, re.ASCII):
            raise ValueError("names like store.example with commas between them are needed, without ports")
    return given


def networks(raw: str) -> tuple[str, ...]:
    """Networks like 10.0.0.0/8, with commas between them; an address alone is one."""
    given = tuple(part.strip() for part in text(raw).split(",") if part.strip())
    for one in given:
        try:
            ipaddress.ip_network(one)
        except ValueError as error:
            raise ValueError(
                f"networks like 10.0.0.0/8, fd00::/8 with commas between them are needed: {error}"
            ) from None
    return given


def host(raw: str) -> str:
    """A name or address to listen on; "" for every address."""
    if ":" in raw and not _is_address(socket.AF_INET6, raw.partition("%")[0]):
        raise ValueError(
            "a name or an address is needed, an IPv6 one without brackets, like ::; the port is a setting of its own"
        )
    return text(raw)


def address(raw: str) -> str:
    """`host:port` that others reach a process at, or ""."""
    given = text(raw)
    try:
        parts = urlsplit(f"//{given}")
        usable = bool(parts.hostname and parts.port) and parts.netloc == given and "@" not in given
    except ValueError:
        usable = False
    if given and not usable:
        raise ValueError("host:port is needed, like store.example:31415 or [fd00::1]:31415")
    if given and is_every(parts.hostname or ""):
        raise ValueError(
            "this is every address of a machine, and nobody reaches it at that; give the one that others use"
        )
    return given


def broker_url(raw: str) -> str:
    """Where RabbitMQ is."""
    try:
        parts = urlsplit(raw)
        usable = parts.scheme in ("amqp", "amqps") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("a URL like amqp://user:password@host:5672/%2F is needed")
    return raw


def console_url(raw: str) -> str:
    """Where RabbitMQ's console is, perhaps with a user and a password of its own, or ""."""
    given = text(raw)
    try:
        parts = urlsplit(given)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if given and (not usable or parts.query or parts.fragment):
        raise ValueError("a URL like http://mq.example:15672/ is needed, user:password@ before the name where needed")
    return given


def is_every(host: str) -> bool:
    """Whether a process that listens on `host` listens on every address of its machine, like 0.0.0.0 and ::."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):  # it is a name, or an address of the other kind
            packed = socket.inet_aton(host) if family == socket.AF_INET else socket.inet_pton(family, host)
            return not any(packed.removeprefix(_MAPPED) if family == socket.AF_INET6 else packed)
    return not host


def is_loopback(host: str) -> bool:
    """Whether who listens on `host` is reached from its own machine alone. A name other than localhost may be any."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:  # a name, which may lead anywhere
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _is_address(family: int, host: str) -> bool:
    try:
        socket.inet_pton(family, host)
    except OSError:
        return False  # a name, or a host with its port
    return True


def repositories(raw: str) -> tuple[str, ...]:
    """Names of restic repositories, with commas or blanks between them; * for all of them."""
    names = tuple(raw.replace(",", " ").split())
    for name in names:
        if name != "*" and not re.fullmatch("[A-Za-z0-9_@-][A-Za-z0-9._@/-]*[A-Za-z0-9._@-]|[A-Za-z0-9_@-]", name):
            raise ValueError(
                "names of restic repositories are needed, like laptop, office/server; or * for all of them"
            )
    return names


def names(raw: str) -> tuple[str, ...]:
    """Names of environment variables, with commas or blanks between them."""
    names = tuple(name for name in raw.replace(",", " ").split() if name)
    for name in names:
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) or name.startswith("PULZAR_"):
            raise ValueError(
                "names of environment variables are needed, like HTTPS_PROXY, OMP_NUM_THREADS; none of PULZAR_…"
            )
    return names


def modules(raw: str) -> tuple[str, ...]:
    """Names of Python modules, with commas or blanks between them."""
    names = tuple(name for name in raw.replace(",", " ").split() if name)
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError("names of modules are needed, like numpy, sklearn.ensemble; or auto")
    return names


PORT = integer(0, 65535)
