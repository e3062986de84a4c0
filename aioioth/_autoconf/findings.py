"""What there is to know about an interface's network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ipaddress import IPv6Network

    from aioioth._ip import IPAddress
    from aioioth.iproute import Address, Route


@dataclass(frozen=True)
class Findings:
    """What one source knows of the network that an interface is on.

    Attributes:
        addresses: To be the interface's, with their lifetimes from now.
        routes: With their lifetimes from now, where they have any.
        dns: Addresses of DNS servers; a link-local one has the interface's scope.
        domains: Where names are searched that have no dot in them.
        mtu: In bytes; None: the network does not say.
        prefixes: Networks that are ours to give to others.
    """

    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: tuple[IPAddress, ...] = ()
    domains: tuple[str, ...] = ()
    mtu: int | None = None
    prefixes: tuple[IPv6Network, ...] = ()

    def __bool__(self) -> bool:
        return self != NOTHING


NOTHING: Final = Findings()
