"""What a DHCPv4 server has given a client, and what follows from it.

Source: RFC 2131 section 4.4.5 (times), RFC 2132 (options), RFC 3442 (routes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from itertools import islice
from typing import TYPE_CHECKING

from aioioth._autoconf.findings import Findings
from aioioth.iproute import Address, Route
from aioioth.wire.dhcp4 import Message, Option

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOREVER = 0xFFFFFFFF
# RFC 2131 has no time for a lease that says none; busybox and others take an hour, too.
_USUAL_SECONDS = 3600
# RFC 2131 section 4.4.5.
_RENEWAL, _REBINDING = 0.5, 0.875
# The least that every host takes (RFC 791). Less would break more than it helps.
_LEAST_MTU = 576
# Routes, and DNS servers. One packet of Ethernet has room for about as many; a network
# of larger ones shall not have the kernel told of thousands with each renewal.
_MOST = 256
_NOBODY = IPv4Address(0)
_EVERYBODY = IPv4Address(0xFFFFFFFF)


@dataclass(frozen=True)
class Lease:
    """An address for some time, and what the server says of its network.

    Times are the client's clock's, in seconds, counted from when it asked.

    Attributes:
        address: Ours, and how many of its bits are the network's.
        server: Who gave it, and is asked for more time.
        renew: When to ask him; infinity for never.
        rebind: When to ask anybody.
        expires: When to stop using the address.
        routes: Networks and their routers, 0.0.0.0: it is on the link.
        dns: Whom to ask for names.
        domains: Where names are searched.
        mtu: In bytes; None: the server does not say.
    """

    address: IPv4Interface
    server: IPv4Address
    renew: float
    rebind: float
    expires: float
    routes: tuple[tuple[IPv4Network, IPv4Address], ...] = ()
    dns: tuple[IPv4Address, ...] = ()
    domains: tuple[str, ...] = ()
    mtu: int | None = None

    @classmethod
    def read(cls, ack: Message, asked: float) -> Lease | None:
        """Return what a server's answer gives us; None if it gives nothing usable.

        Args:
            ack: The answer.
            asked: When the request was sent that it answers.
        """
        server, address = ack.address(Option.SERVER), ack.yours
        own = _own(ack)
        if server is None or not is_host(address) or _is_networks(address, own.network):
            return None
        seconds = ack.number(Option.LEASE_TIME, 4)
        if seconds == 0:
            return None
        renew, rebind, expires = _times(ack, seconds)
        mtu = ack.number(Option.MTU, 2)
        return cls(
            own,
            server,
            asked + renew,
            asked + rebind,
            asked + expires,
            routes=tuple(islice(_routes(ack, own), _MOST)),
            dns=tuple(islice(filter(is_host, ack.addresses(Option.DNS)), _MOST)),
            domains=ack.domains,
            mtu=mtu if mtu is not None and mtu >= _LEAST_MTU else None,
        )

    def findings(self, dev: str, metric: int, now: float) -> Findings:
        """Return it in the words of all sources of configuration.

        Args:
            dev: Name of the interface.
            metric: Of the routes.
            now: The client's clock.
        """
        seconds = None
        if self.expires != math.inf:
            # Rounded up: it is for us to take the address away in time. The kernel does
            # it if we are held up, but never before us. For it, 0 is no time at all.
            seconds = max(1, math.ceil(self.expires - now))
        address = Address(self.address, dev, valid=seconds, preferred=seconds)
        return Findings(
            addresses=(address,),
            routes=tuple(self._kernel_routes(dev, metric)),
            dns=self.dns,
            domains=self.domains,
            mtu=self.mtu,
        )

    def _kernel_routes(self, dev: str, metric: int) -> Iterator[Route]:
        for network, router in self.routes:
            if router == _NOBODY:
                yield Route(
                    network, dev=dev, metric=metric, scope="link", protocol="dhcp"
                )
            else:
                yield Route(
                    network,
                    via=router,
                    dev=dev,
                    metric=metric,
                    # Some providers' routers are in no network of ours; whoever sends a
                    # route to them besides (RFC 3442) means just that.
                    onlink=router not in self.address.network,
                    protocol="dhcp",
                )


def is_host(address: IPv4Address) -> bool:
    """Whether an address can be one host's."""
    return not (
        address.is_unspecified
        or address.is_multicast
        or address.is_loopback
        or address == _EVERYBODY
        or int(address) >> 24 == 0
    )


def _times(ack: Message, seconds: int | None) -> tuple[float, float, float]:
    if seconds == _FOREVER:
        return math.inf, math.inf, math.inf
    if seconds is None:
        seconds = _USUAL_SECONDS
    renew = ack.number(Option.RENEWAL_TIME, 4)
    rebind = ack.number(Option.REBINDING_TIME, 4)
    told_renew = _RENEWAL * seconds if renew is None else float(renew)
    told_rebind = _REBINDING * seconds if rebind is None else float(rebind)
    if 0 < told_renew < told_rebind < seconds:
        return told_renew, told_rebind, seconds
    return _RENEWAL * seconds, _REBINDING * seconds, seconds


def _routes(
    ack: Message, own: IPv4Interface
) -> Iterator[tuple[IPv4Network, IPv4Address]]:
    # The kernel refuses routes through ourselves, or through everybody.
    def usable(router: IPv4Address) -> bool:
        is_special = router == own.ip or _is_networks(router, own.network)
        return is_host(router) and not is_special

    # Who sends the newer option has everything in it (RFC 3442).
    if routes := ack.routes:
        there: set[IPv4Network] = set()
        for network, router in routes:
            if network not in there and (router == _NOBODY or usable(router)):
                there.add(network)
                yield network, router
        return
    # They are in the order of preference, and the kernel would not look at the second
    # one as long as the first one's route is there.
    routers = filter(usable, ack.addresses(Option.ROUTERS))
    for router in list(routers)[:1]:
        yield IPv4Network("0.0.0.0/0"), router


def _is_networks(address: IPv4Address, network: IPv4Network) -> bool:
    """Whether an address is the one of a network, or of everybody in it."""
    special = {network.network_address, network.broadcast_address}
    return network.prefixlen < 31 and address in special


def _own(ack: Message) -> IPv4Interface:
    """Return our address; in the network of its class if none is told (RFC 791)."""
    first = int(ack.yours) >> 24
    natural = 8 if first < 128 else 16 if first < 192 else 24
    own = IPv4Interface((ack.yours, ack.prefix_length or natural))
    # The kernel has no route to a network that begins with 0: nobody would be in it.
    if int(own.network.network_address) >> 24 == 0:
        return IPv4Interface((ack.yours, natural))
    return own
