"""Where an extension may fetch from: keys of this cluster, and the hosts that `[extensions] fetch` lists.

The owner of a name decides where it leads, so names prove nothing. Only the address of the connection counts.
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
_EVERY_ADDRESS = ("", "0.0.0.0", "::")  # a master with one of these listens on all addresses


class Place(NamedTuple):
    """A host, and a port of it or all of them (None)."""

    host: str
    port: int | None

    @classmethod
    def of(cls, text: str) -> Place:
        """The place that `host` or `host:port` means."""
        parts = urlsplit(f"//{text.strip()}")
        return cls(parts.hostname or "", parts.port)


class Reach:
    """The addresses that may be connected to."""

    def __init__(self, master: str, listen: str, listed: str, nodes: Callable[[], Iterable[str]], ca: str = "") -> None:
        """`master`: its URL for clients, without a path; `listen`: `host:port` where it listens.

        `listed`: `host` or `host:port`, with commas between them; `*` is everything. `nodes`: gives URLs of all nodes.
        `ca`: a file of certificates to trust, besides those of the system.
        """
        self._master = _place_of_url(master)
        self._keys = f"{master}{_KEYS}…"
        self.ca = ca
        self._listen = Place.of(listen)
        self._listed = [Place.of(one) for one in listed.split(",") if one.strip()]
        self._nodes = nodes
        self.token = ""  # of who called the extension; for the master alone

    def token_for(self, address: str, port: int, path: str) -> str:
        """The token to send over a connection to an address, for a path: only the master gets it, and only for keys.

        A name is no proof: its owner says where it leads.
        """
        if not self.token or not path.startswith(_KEYS):
            return ""
        return self.token if _plain(address) in {_plain(one) for one in self._of_master(port)} else ""

    def addresses(self, url: str, host: str, port: int, path: str) -> list[str]:
        """The addresses of a host that may be connected to for a path at a port.

        Raises `Refused` when there is none, and `OSError` when a host that is listed has no address.
        """
        named = any(place.host in (host.lower(), _ALL) and place.port in (port, None) for place in self._listed)
        try:
            found = list(dict.fromkeys(_resolved(host, port)))
        except (OSError, UnicodeError):
            if named:
                raise
            found = []  # the client does not learn whether a name exists
        if not named:
            allowed = {_plain(address) for address in self._allowed(port, path)}
            found = [address for address in found if _plain(address) in allowed]
        if not found:
            reason = f"image_url leads to {shown(url)}, which is no key of this cluster; only those are fetched"
            raise Refused(400, f"{reason} ({self._keys}), unless [extensions] fetch lists the host")
        return found

    def _allowed(self, port: int, path: str) -> Iterator[str]:
        for place in self._listed:
            if place.port in (port, None):
                yield from _known(place.host, port)
        if not path.startswith(_KEYS):
            return
        for place in map(_place_of_url, self._nodes()):
            if place.port == port:
                yield from _known(place.host, port)
        yield from self._of_master(port)

    def _of_master(self, port: int) -> Iterator[str]:
        """The addresses of the master at a port."""
        if self._master.port == port:
            yield from _known(self._master.host, port)
        if self._listen.port == port:
            if self._listen.host in _EVERY_ADDRESS:
                for of_interface in psutil.net_if_addrs().values():
                    yield from (one.address for one in of_interface if one.family in (socket.AF_INET, socket.AF_INET6))
            else:
                yield from _known(self._listen.host, port)


def _place_of_url(url: str) -> Place:
    return Place.of(urlsplit(url).netloc)


def _resolved(host: str, port: int) -> Iterator[str]:
    for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        yield str(address[0])


def _known(host: str, port: int) -> list[str]:
    """The addresses of a host of this cluster; none while its name has none."""
    try:
        return list(_resolved(host, port))
    except (OSError, UnicodeError):  # the name has no address just now
        return []


def _plain(address: str) -> str:
    """The one form of an address: IPv4 in IPv6 becomes IPv4, and the interface is dropped."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
