"""Who may have what from a name server."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Literal, get_args

from aioioth._ip import parse_network
from aioioth.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from aioioth._ip import IPAddress, IPNetwork

Service = Literal["static", "hash", "reverse", "otip", "cache", "forward"]
Services = frozenset[str]

ALL: Services = frozenset(get_args(Service))


class Access:
    """Services by network; the smallest network that a client is in counts.

    Args:
        table: None: everybody may have everything.

    Raises:
        ConfigurationError: There is no such network or service.
    """

    def __init__(self, table: Mapping[str, Collection[Service]] | None) -> None:
        self._open = table is None
        networks: dict[IPNetwork, Services] = {}
        for network, services in (table or {}).items():
            networks[parse_network("access", network)] = _check(network, services)
        self._networks = sorted(
            networks.items(), key=lambda item: item[0].prefixlen, reverse=True
        )

    def services(self, client: IPAddress) -> Services:
        """Return what a client may have; empty if nothing."""
        if self._open:
            return ALL
        if isinstance(client, ipaddress.IPv6Address):  # without its scope
            client = ipaddress.IPv6Address(client.packed)
        found = (services for network, services in self._networks if client in network)
        return next(found, frozenset())


def _check(network: str, services: Collection[str]) -> Services:
    # One text would be a collection of letters.
    wanted = frozenset([services] if isinstance(services, str) else services)
    if unknown := wanted - ALL:
        msg = (
            f"access[{network!r}]: {', '.join(map(repr, sorted(unknown)))}: "
            f"expected some of {', '.join(sorted(ALL))}"
        )
        raise ConfigurationError(msg)
    return wanted
