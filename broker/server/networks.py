"""Whether a client is on this machine or in a network that is trusted."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import psutil

from broker.refusals import Unauthorized

_MOST_REMEMBERED = 1024


class Networks:
    """This machine and the networks of `[security] trust`."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]
        self._known: dict[str, bool] = {}

    def __contains__(self, client: str) -> bool:
        """Whether a client, as `address:port`, is in one of them."""
        host = _host(client)
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            known = self._known[host] = self._has(host)
        return known

    def require(self, client: str) -> None:
        """Raises `Unauthorized` unless a client, as `address:port`, is in one of them."""
        if client not in self:
            raise Unauthorized(
                f"requests from {_host(client) or 'an unknown address'} are not served: [security] trust lists the "
                "networks that need no token, and none of them has this address"
            )

    def _has(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:  # no address
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if address.is_loopback or any(address in network for network in self._networks):
            return True
        return str(address) in _own_addresses()


def _own_addresses() -> set[str]:
    """The addresses of this machine: who reaches it by one of them from itself comes from there."""
    return {one.address.partition("%")[0] for addresses in psutil.net_if_addrs().values() for one in addresses}


def _host(client: str) -> str:
    return client.rpartition(":")[0].strip("[]")
