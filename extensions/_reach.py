"""Where an extension may fetch from for its clients: keys of this cluster, and the hosts that `[extensions] fetch` lists.

Names prove nothing, since whoever has one lets it lead where he likes: what counts is the address that is connected to.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil

from extensions._errors import Refused
from extensions._parameters import shown

_KEYS = "/get_key/"  # where master and nodes have them
_ALL = "*"
_EVERY_ADDRESS = ("", "0.0.0.0", "::")  # of a master that listens on all of its machine


class Place(NamedTuple):
    """A host, and a port of it or all of them (None)."""

    host: str
    port: int | None

    @classmethod
    def of(cls, text: str) -> Place:
        """Of `host` or `host:port`."""
        parts = urlsplit(f"//{text.strip()}")
        return cls(parts.hostname or "", parts.port)


class Reach:
    """What may be connected to."""

    def __init__(self, master: str, listening: str, listed: str, nodes: Callable[[], Iterable[str]]) -> None:
        """`master` and `listening`: `host:port` that the master is reached and listens at; `nodes`: tells the URLs of all nodes.

        `listed`: `host` or `host:port`, with commas between them; `*` is everything.
        """
        self._master = Place.of(master)
        self._listening = Place.of(listening)
        self._listed = [Place.of(one) for one in listed.split(",") if one.strip()]
        self._nodes = nodes

    def addresses(self, url: str, host: str, port: int, path: str) -> list[str]:
        """The addresses of a host that may be connected to, for a path at a port.

        Raises `Refused` when there is none, and `OSError` when a host that is listed has no address.
        """
        named = any(place.host in (host.lower(), _ALL) and place.port in (port, None) for place in self._listed)
        try:
            found = list(dict.fromkeys(_resolved(host, port)))
        except (OSError, UnicodeError):
            if named:
                raise
            found = []  # whether a name exists is nobody's business either
        if not named:
            allowed = {_plain(address) for address in self._allowed(port, path)}
            found = [address for address in found if _plain(address) in allowed]
        if not found:
            raise Refused(
                400,
                f"image_url leads to {shown(url)}, which is no key of this cluster; only those are fetched (http://"
                f"{self._master.host}:{self._master.port}{_KEYS}…), unless [extensions] fetch lists the host",
            )
        return found

    def _allowed(self, port: int, path: str) -> Iterator[str]:
        for place in self._listed:
            if place.port in (port, None):
                yield from _known(place.host, port)
        if not path.startswith(_KEYS):
            return
        for place in (self._master, *map(_place_of_url, self._nodes())):
            if place.port == port:
                yield from _known(place.host, port)
        if self._listening.port == port:
            if self._listening.host in _EVERY_ADDRESS:
                for of_interface in psutil.net_if_addrs().values():
                    yield from (one.address for one in of_interface if one.family in (socket.AF_INET, socket.AF_INET6))
            else:
                yield from _known(self._listening.host, port)


def _place_of_url(url: str) -> Place:
    return Place.of(urlsplit(url).netloc)


def _resolved(host: str, port: int) -> Iterator[str]:
    for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        yield str(address[0])


def _known(host: str, port: int) -> list[str]:
    """The addresses of a host of ours; none while it has none."""
    try:
        return list(_resolved(host, port))
    except (OSError, UnicodeError):
        return []


def _plain(address: str) -> str:
    """An address in its one form: IPv4 in IPv6 is IPv4, and an interface is no part of it."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
