"""The services of compose.yaml: the part of the compose specification that the file uses.

Unknown keys are refused, so a trial runs all that the file says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from ops.images.errors import Unreadable

# A trial does not show the effect of these: restarts, the size of logs, pulls of images, connections of a worker
# that was killed. It has the network of this machine in place of one of its own.
_PASSED_OVER = {"restart", "logging", "pull_policy", "sysctls"}
_VARIABLE = re.compile(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Build:
    """The build of an image. Paths are relative to the folder of compose.yaml."""

    context: str
    dockerfile: str
    target: str


@dataclass(frozen=True)
class Service:
    """A service, with its variables replaced."""

    name: str
    image: str
    build: Build | None
    """None when no service builds the image."""
    options: tuple[str, ...]
    """Options of `podman run`, without those that the trial adds."""
    environment: Mapping[str, str]
    ports: tuple[tuple[str, int], ...]
    """Each address and port that is published; the container has the same port."""
    volumes: tuple[tuple[str, str, str], ...]
    """Source (a name, or a path that begins with a dot), path in the container, options."""
    names: tuple[str, ...]
    """The names that the other services know it by."""
    needs: tuple[str, ...]
    """Services that must be healthy before it starts."""
    stop_secs: int
    files: tuple[int, int]
    """Soft and hard limit of open files."""


@dataclass(frozen=True)
class Composition:
    """All services, each after those that it needs."""

    services: tuple[Service, ...]
    volumes: tuple[str, ...] = field(default=())


def read(path: Path, variables: Mapping[str, str]) -> Composition:
    """The composition in a file, without what only a profile runs.

    Raises `Unreadable` for an unknown key, or without a variable that has no default.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise Unreadable(f"{path} can't be read: {error}") from error
    # The parser has replaced the anchors.
    document = {name: part for name, part in document.items() if not name.startswith("x-")}
    document = _filled(document, variables)
    _only(path.name, document, {"name", "services", "networks", "volumes"})
    # Those of a profile run only when it is asked for.
    always = {name: content for name, content in document["services"].items() if "profiles" not in content}
    services = {name: _service(name, dict(content)) for name, content in always.items()}
    builds = {service.image: service.build for service in services.values() if service.build}
    services = {name: replace(service, build=builds.get(service.image)) for name, service in services.items()}
    volumes = tuple(document.get("volumes") or ())
    for service in services.values():
        for source, _, _ in service.volumes:
            if not source.startswith(".") and source not in volumes:
                raise Unreadable(f"{service.name}: the volume {source} is not among {', '.join(volumes) or 'none'}")
    return Composition(tuple(_ordered(services)), volumes)


def seconds(text: str) -> float:
    """The seconds of a time like `30s` or `2m`. Raises `Unreadable`."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.isdecimal():
        raise Unreadable(f"a time like 30s or 2m is needed, not {text!r}")
    return int(number) * _UNITS[unit]


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    """The value with its variables replaced."""
    if isinstance(value, dict):
        return {key: _filled(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        if known := variables.get(name):
            return known
        if operator == ":-":
            return str(rest)
        raise Unreadable(f"{name} is missing: {rest or 'it has no default'}")

    return _VARIABLE.sub(fill, value)


def _service(name: str, content: dict[str, Any]) -> Service:
    for key in _PASSED_OVER:
        content.pop(key, None)
    build = content.pop("build", None)
    if build is not None:
        _only(f"{name}: build", build, {"context", "dockerfile", "target"})
        build = Build(**build)
    service = Service(
        name=name,
        image=content.pop("image"),
        build=build,
        environment={key: str(value) for key, value in content.pop("environment", {}).items()},
        ports=tuple(_port(name, port) for port in content.pop("ports", [])),
        volumes=tuple(_volume(name, volume) for volume in content.pop("volumes", [])),
        names=(name, *_aliases(name, content.pop("networks", {}))),
        needs=tuple(_needs(name, content.pop("depends_on", {}))),
        stop_secs=int(seconds(content.pop("stop_grace_period", "10s"))),
        files=_files(name, content.pop("ulimits")),
        options=tuple(_options(name, content)),
    )
    _only(name, content, set())
    return service


def _options(name: str, content: dict[str, Any]) -> list[str]:
    """Options of `podman run`. Removes the keys that it reads from `content`."""
    options = []
    if "hostname" in content:
        options += ["--hostname", content.pop("hostname")]
    if content.pop("read_only", False):
        options.append("--read-only")
    for path in content.pop("tmpfs", []):
        options += ["--tmpfs", path]
    for capability in content.pop("cap_drop", []):
        options += ["--cap-drop", capability]
    for option in content.pop("security_opt", []):
        options += ["--security-opt", option.replace(":", "=")]
    if "pids_limit" in content:
        options += ["--pids-limit", str(content.pop("pids_limit"))]
    if "mem_limit" in content:
        options += ["--memory", content.pop("mem_limit")]
    health = dict(content.pop("healthcheck", {}))
    if health:
        # The trial decides when it is run.
        for key in ("interval", "retries", "start_period", "start_interval"):
            health.pop(key, None)
        kind, *command = health.pop("test")
        if kind != "CMD":
            raise Unreadable(f"{name}: a health check of the kind CMD is needed, not {kind}")
        options += ["--health-cmd", " ".join(command), "--health-timeout", health.pop("timeout")]
        _only(f"{name}: healthcheck", health, set())
    return options


def _port(name: str, text: str) -> tuple[str, int]:
    address, _, ports = text.rpartition(":")
    address, _, outside = address.rpartition(":")
    if outside != ports or not address:
        raise Unreadable(f"{name}: ADDRESS:PORT:PORT with equal ports is needed, not {text}")
    return address, int(ports)


def _volume(name: str, text: str) -> tuple[str, str, str]:
    source, _, rest = text.partition(":")
    path, _, options = rest.partition(":")
    if not source or not path.startswith("/"):
        raise Unreadable(f"{name}: SOURCE:/PATH or SOURCE:/PATH:OPTIONS is needed as a volume, not {text}")
    return source, path, options


def _aliases(name: str, networks: dict[str, Any]) -> list[str]:
    _only(f"{name}: networks", networks, {"default"})
    content = dict(networks.get("default") or {})
    aliases: list[str] = content.pop("aliases", [])
    _only(f"{name}: networks", content, set())
    return aliases


def _needs(name: str, depends: dict[str, Any]) -> list[str]:
    for other, how in depends.items():
        if how != {"condition": "service_healthy"}:
            raise Unreadable(f"{name}: it may depend on {other} as service_healthy, not as {how}")
    return list(depends)


def _files(name: str, limits: dict[str, Any]) -> tuple[int, int]:
    _only(f"{name}: ulimits", limits, {"nofile"})
    return limits["nofile"]["soft"], limits["nofile"]["hard"]


def _only(where: str, content: Mapping[str, Any], known: set[str]) -> None:
    if unknown := set(content) - known:
        raise Unreadable(f"{where}: {', '.join(sorted(unknown))}: how to carry that out is not known here")


def _ordered(services: dict[str, Service]) -> list[Service]:
    try:
        order = tuple(TopologicalSorter({service.name: service.needs for service in services.values()}).static_order())
        return [services[name] for name in order]
    except CycleError as error:
        raise Unreadable(f"these services wait for each other: {' → '.join(error.args[1])}") from error
    except KeyError as error:
        raise Unreadable(f"a service waits for {error}, which is no service") from error
