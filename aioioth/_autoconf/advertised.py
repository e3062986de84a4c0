"""What router advertisements said of a link, and for how long that is true.

What each router said is kept until its time is over, or until it is taken back. The
prefixes, DNS servers, domains and MTU are the link's, whichever router told of them;
routes are each router's own. Moments are in seconds of one clock that goes on evenly.

Source: RFC 4861 section 6.3.4; RFC 4862 section 5.5.3; RFC 4191 section 3; RFC 8106
section 5.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING, Final, TypeVar

from aioioth._autoconf.findings import Findings
from aioioth.hashes import eui64_address, hash_address
from aioioth.iproute import Address, Route
from aioioth.wire import nd

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from aioioth._ip import IPAddress

__all__ = [
    "MOST_DOMAINS",
    "MOST_PREFIXES",
    "MOST_ROUTERS",
    "MOST_ROUTES",
    "MOST_SERVERS",
    "Advertised",
    "Host",
]

# Whoever is on the link can make up routers and networks without end. What is known
# stays, and what comes in addition is left out.
MOST_ROUTERS: Final = 16
MOST_ROUTES: Final = 32  # of one router, besides the default route
MOST_PREFIXES: Final = 64
MOST_SERVERS: Final = 8
MOST_DOMAINS: Final = 16

_DEFAULT = IPv6Network("::/0")
# Loopback, IPv4's and nobody's addresses; 64:ff9b::/96 is for routes only.
_RESERVED = IPv6Network("::/8")
_SMALLEST_MTU = 1280
_TWO_HOURS = 7200.0
_NEVER = -math.inf

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True)
class Host:
    """Who listens, and what he wants.

    Attributes:
        dev: Name of the interface.
        mac: Its MAC address, 6 bytes.
        fqdn: Name that addresses are made of; None: they are made of ``mac``.
        mtu: The most that the interface carries, in bytes.
        addresses: Whether to make addresses at all.
        metric: Of routes. The routers' own numbers, up to 15, are added; for those of
            high preference it is 16 less, of low preference 16 more. What is on the
            link wins over all of them, with 17 less.
    """

    dev: str
    mac: bytes
    fqdn: str | None = None
    mtu: int = 1500
    addresses: bool = True
    metric: int = 1000


@dataclass
class _Prefix:
    on_link_until: float = _NEVER
    # Of the address made in it: there is one as long as it is valid.
    valid_until: float = _NEVER
    preferred_until: float = _NEVER
    duplicated: bool = False

    @property
    def until(self) -> float:
        return max(self.on_link_until, self.valid_until)


@dataclass
class _RouteTo:
    until: float
    preference: nd.Preference


@dataclass
class _Router:
    number: int
    routes: dict[IPv6Network, _RouteTo] = field(default_factory=dict)


class Advertised:
    """What is known of a link; call `expire` before asking for it.

    Args:
        host: Who listens.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._routers: dict[IPv6Address, _Router] = {}
        self._prefixes: dict[IPv6Network, _Prefix] = {}
        self._servers: dict[IPv6Address, float] = {}
        self._domains: dict[str, float] = {}
        self._mtu: int | None = None

    # What comes in

    def take(
        self, source: IPv6Address, told: nd.RouterAdvertisement, now: float
    ) -> None:
        """Take in what a router said.

        Args:
            source: Its link-local address, without a scope.
            told: What it said.
            now: The moment.
        """
        self._take_routes(source, told, now)
        if told.mtu is not None and _SMALLEST_MTU <= told.mtu <= self._host.mtu:
            self._mtu = told.mtu
        for prefix in told.prefixes:
            if _can_be_a_links(prefix.network):
                self._take_prefix(prefix, now)
        for servers in told.dns:
            until = _until(servers.lifetime, now)
            for server in servers.addresses:
                if not server.is_multicast and not server.is_unspecified:
                    _keep(self._servers, server, until, now, MOST_SERVERS)
        for suffixes in told.domains:
            until = _until(suffixes.lifetime, now)
            for domain in suffixes.domains:
                _keep(self._domains, domain, until, now, MOST_DOMAINS)

    def expire(self, now: float) -> bool:
        """Forget what is out of date.

        Returns:
            Whether that was anything.
        """
        over = False
        for address, router in list(self._routers.items()):
            over |= _drop(router.routes, now, lambda route: route.until)
            if not router.routes:
                del self._routers[address]
        over |= _drop(self._servers, now, lambda until: until)
        over |= _drop(self._domains, now, lambda until: until)
        for prefix in self._prefixes.values():
            if _NEVER < prefix.on_link_until <= now:
                prefix.on_link_until, over = _NEVER, True
            if _NEVER < prefix.valid_until <= now:
                prefix.valid_until, over = _NEVER, True
        over |= _drop(self._prefixes, now, lambda prefix: prefix.until)
        return over

    def duplicated(self, addresses: Collection[IPAddress]) -> tuple[IPv6Address, ...]:
        """Do without addresses that others have, as long as their prefixes stay.

        Returns:
            Those that are ours, and were not known for it.
        """
        ours: list[IPv6Address] = []
        for network, prefix in self._prefixes.items():
            address = self._address(network)
            if address in addresses and not prefix.duplicated:
                prefix.duplicated = True
                ours.append(address)
        return tuple(ours)

    def forget_duplicates(self) -> None:
        """Try all addresses again: who had them may not be on the link any more."""
        for prefix in self._prefixes.values():
            prefix.duplicated = False

    # What is known

    def is_router(self, source: IPv6Address) -> bool:
        """Return whether somebody is a default router."""
        router = self._routers.get(source)
        return router is not None and _DEFAULT in router.routes

    @property
    def has_router(self) -> bool:
        """Whether there is a default router."""
        return any(map(self.is_router, self._routers))

    def soonest(self, now: float) -> float:
        """Return the moment when something is over; infinite for never."""
        moments = [*self._servers.values(), *self._domains.values()]
        for prefix in self._prefixes.values():
            moments += (prefix.on_link_until, prefix.valid_until)
        for router in self._routers.values():
            moments += (route.until for route in router.routes.values())
        return min((each for each in moments if each > now), default=math.inf)

    def findings(self, now: float) -> Findings:
        """Return what is known, with the times that are left."""
        return Findings(
            addresses=tuple(self._all_addresses(now)),
            routes=tuple(self._all_routes(now)),
            dns=tuple(map(self._scoped, self._servers)),
            domains=tuple(self._domains),
            mtu=self._mtu if self._is_known() else None,
        )

    def _is_known(self) -> bool:
        """Return whether anybody has said anything that is still true."""
        # The MTU has no time of its own.
        return bool(self._routers or self._prefixes or self._servers or self._domains)

    def _scoped(self, server: IPv6Address) -> IPv6Address:
        if not server.is_link_local:
            return server
        return IPv6Address(f"{server}%{self._host.dev}")

    # Routes

    def _take_routes(
        self, source: IPv6Address, told: nd.RouterAdvertisement, now: float
    ) -> None:
        # An option about ::/0 comes later, and says it more exactly than the header.
        default = nd.RouteTo(_DEFAULT, told.lifetime, told.preference)
        routes = [default, *filter(_leads_somewhere, told.routes)]
        router = self._routers.get(source)
        if router is None:
            taken = {each.number for each in self._routers.values()}
            free = [each for each in range(MOST_ROUTERS) if each not in taken]
            if not free:
                return
            router = _Router(free[0])
        for route in routes:
            until = _until(route.lifetime, now)
            kept = _RouteTo(until, route.preference)
            if until <= now:
                router.routes.pop(route.network, None)
            elif (
                route.network in router.routes
                or route.network == _DEFAULT  # there is always room for it
                or len(router.routes) < MOST_ROUTES
            ):
                router.routes[route.network] = kept
        if router.routes:
            self._routers[source] = router
        else:
            self._routers.pop(source, None)

    def _all_routes(self, now: float) -> Iterator[Route]:
        for network, prefix in self._prefixes.items():
            if prefix.on_link_until > now:
                # No router can tell of a better way there, and none has a route of the
                # same metric, which the kernel would take for this one.
                yield Route(
                    network,
                    dev=self._host.dev,
                    metric=self._host.metric - 17,
                    lifetime=_left(prefix.on_link_until, now),
                    protocol="ra",
                )
        for address, router in self._routers.items():
            for network, route in router.routes.items():
                # A metric of its own for each: with the same one, the kernel takes the
                # second route in place of the first. The next one is used if a router
                # does not answer.
                metric = self._host.metric - 16 * route.preference + router.number
                yield Route(
                    network,
                    via=address,
                    dev=self._host.dev,
                    metric=metric,
                    lifetime=_left(route.until, now),
                    protocol="ra",
                )

    # Prefixes and addresses

    def _take_prefix(self, told: nd.Prefix, now: float) -> None:
        prefix = self._prefixes.get(told.network)
        if prefix is None:
            if len(self._prefixes) == MOST_PREFIXES:
                return
            prefix = _Prefix()
        if told.on_link:
            until = _until(told.valid, now)
            prefix.on_link_until = until if until > now else _NEVER
        if self._makes_address(told):
            _take_lifetimes(prefix, told, now)
        if prefix.until > now:
            self._prefixes[told.network] = prefix
        else:
            self._prefixes.pop(told.network, None)

    def _makes_address(self, told: nd.Prefix) -> bool:
        if not self._host.addresses or told.network.prefixlen != 64:
            return False
        if _seconds(told.preferred) > _seconds(told.valid):
            return False
        # A name's address is the host's own choice, whatever the router thinks.
        return told.autonomous or self._host.fqdn is not None

    def _address(self, network: IPv6Network) -> IPv6Address:
        if self._host.fqdn is not None:
            return hash_address(self._host.fqdn, network)
        return eui64_address(self._host.mac, network)

    def _all_addresses(self, now: float) -> Iterator[Address]:
        for network, prefix in self._prefixes.items():
            if prefix.valid_until <= now or prefix.duplicated:
                continue
            yield Address(
                IPv6Interface((self._address(network), network.prefixlen)),
                self._host.dev,
                nodad=False,
                valid=_left(prefix.valid_until, now),
                preferred=_left(min(prefix.preferred_until, prefix.valid_until), now),
                # Whether the network is on the link is said by itself.
                noprefixroute=True,
            )


def _take_lifetimes(prefix: _Prefix, told: nd.Prefix, now: float) -> None:
    valid, left = _seconds(told.valid), prefix.valid_until - now
    if left <= 0 or valid > _TWO_HOURS or valid > left:
        prefix.valid_until = now + valid if valid else _NEVER
    elif left > _TWO_HOURS:
        # Anybody can say that it is over. So it is not at once, and the real router
        # has the time to say otherwise.
        prefix.valid_until = now + _TWO_HOURS
    prefix.preferred_until = now + _seconds(told.preferred)


def _keep(
    known: dict[_K, float], what: _K, until: float, now: float, most: int
) -> None:
    if until <= now:
        known.pop(what, None)
    elif what in known or len(known) < most:
        known[what] = until


def _drop(known: dict[_K, _V], now: float, until: Callable[[_V], float]) -> bool:
    over = [key for key, value in known.items() if until(value) <= now]
    for key in over:
        del known[key]
    return bool(over)


def _can_be_a_links(network: IPv6Network) -> bool:
    first = network.network_address
    return not (
        first.is_link_local or first.is_multicast or network.overlaps(_RESERVED)
    )


def _leads_somewhere(route: nd.RouteTo) -> bool:
    if route.network == _DEFAULT:
        return True
    first = route.network.network_address
    return not (
        first.is_link_local
        or first.is_multicast
        or first.is_loopback
        or first.is_unspecified
    )


def _seconds(lifetime: int | None) -> float:
    return math.inf if lifetime is None else lifetime


def _until(lifetime: int | None, now: float) -> float:
    return now + _seconds(lifetime)


def _left(until: float, now: float) -> int | None:
    """Return the whole seconds left, 0 if it is over; None for ever."""
    if until == math.inf:
        return None
    # Of a second that has begun all is left, but not of one that has not, for which
    # the sums of floating-point numbers may be a little too large.
    return max(1, math.ceil(round(until - now, 3))) if until > now else 0
