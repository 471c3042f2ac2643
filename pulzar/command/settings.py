"""Which cluster is meant: options, then the environment, then the file of clusters.

The file is `~/.config/pulzar/config`, or below XDG_CONFIG_HOME. It has a section for each cluster:

    [office]
    url = https://store.example:31414
    token = …
    ca = /etc/pulzar/ca.pem

    [DEFAULT]
    cluster = office

Address and token belong together: the token of a section goes to no other address than that of the section.
"""

from __future__ import annotations

import configparser
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pulzar.client import CA_VARIABLE, DEFAULT_URL, TOKEN_VARIABLE, URL_VARIABLE
from pulzar.errors import BadRequest

CLUSTER_VARIABLE = "PULZAR_CLUSTER"
KEYS = ("url", "token", "ca", "cluster")


class Place(NamedTuple):
    """A cluster, its token and the file of certificates that it needs."""

    url: str
    token: str
    ca: str


def file_of(environment: Mapping[str, str]) -> Path:
    """Where the file of clusters is."""
    base = environment.get("XDG_CONFIG_HOME") or os.path.join(environment.get("HOME") or str(Path.home()), ".config")
    return Path(base) / "pulzar" / "config"


def choose(url: str, cluster: str, config: Path | None, environment: Mapping[str, str]) -> Place:
    """The cluster that is meant. Raises `BadRequest` for a name that is not in the file, or a file that is not good."""
    token, ca = environment.get(TOKEN_VARIABLE, ""), environment.get(CA_VARIABLE, "")
    if url and cluster:
        raise BadRequest("--url and --cluster were both given; give one of them")
    if not url and not cluster:
        url = environment.get(URL_VARIABLE, "")
    if url:
        return Place(url, token, ca)
    path = config or file_of(environment)
    wanted = cluster or environment.get(CLUSTER_VARIABLE, "")
    if config is None and not wanted and not path.exists():
        return Place(DEFAULT_URL, token, ca)
    sections = read(path)
    wanted = wanted or sections.get("DEFAULT", {}).get("cluster", "")
    clusters = [name for name in sections if name != "DEFAULT"]
    if not wanted and len(clusters) == 1:
        wanted = clusters[0]
    if wanted not in clusters:
        known = ", ".join(clusters) or "none"
        said = f"{path} has no cluster {wanted!r}" if wanted else f"{path} has several clusters; choose by --cluster"
        raise BadRequest(f"{said}; it has {known}")
    chosen = sections[wanted]
    if not chosen.get("url"):
        raise BadRequest(f"{path}: [{wanted}] has no url")
    return Place(chosen["url"], chosen.get("token", "") or token, chosen.get("ca", "") or ca)


def read(path: Path) -> dict[str, dict[str, str]]:
    """The sections of a file of clusters; raises `BadRequest`."""
    parser = configparser.ConfigParser(interpolation=None, default_section="\0")
    try:
        with path.open(encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            parser.read_file(file, str(path))
    except (OSError, ValueError, configparser.Error) as error:
        raise BadRequest(f"the file of clusters can't be read: {error}") from error
    sections = {name: dict(parser[name]) for name in parser.sections()}
    for name, values in sections.items():
        for key in values:
            if key not in KEYS or (key == "cluster") != (name == "DEFAULT"):
                raise BadRequest(f"{path}: [{name}] {key} is no setting; there are {', '.join(KEYS)}")
    has_token = any(values.get("token") for values in sections.values())
    if has_token and os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BadRequest(f"{path} has a token, and others may read it: chmod 600 {path}")
    return sections
