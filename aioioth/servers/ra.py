"""Router advertisements for a test or small network.

``async with RouterAdvertiser(stack):`` tells all hosts on the stack's first interface
that the stack is their router, and in which networks they may make addresses for
themselves: those that the interface has itself.

A stack forwards packets between its interfaces only with
``await stack.sysctl("net.ipv6.conf.all.forwarding", 1)``. Without, hosts that look
closely (Linux does) find that it is no router, and forget their default route; say
``lifetime=0`` if it is none.

Source: RFC 4861 section 6.2; RFC 4862; RFC 4191; RFC 8106.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import socket
import struct
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from aioioth._autoconf.link_local import ensure_link_local
from aioioth._autoconf.ra import hop_limit_of, open_icmp6
from aioioth._hosts import check_domain, listed
from aioioth._ip import parse_address, parse_network
from aioioth.errors import ClosedError, ConfigurationError
from aioioth.servers._linkserver import LinkServer
from aioioth.servers._ra_schedule import Schedule
from aioioth.wire import nd
from aioioth.wire.ethernet import packed_mac
from aioioth.wire.nd import Prefix, RouteTo

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioioth._ip import IPAddress, IPNetwork
    from aioioth._receiver import Datagram
    from aioioth.iproute import Address
    from aioioth.stack import Stack

__all__ = ["Prefix", "RouteTo", "RouterAdvertiser"]

_log = logging.getLogger("aioioth")

_PREFERENCES: Final = {
    "low": nd.Preference.LOW,
    "medium": nd.Preference.MEDIUM,
    "high": nd.Preference.HIGH,
}
# Without an IPv6 header, on links with the smallest MTU. Hosts ignore what comes in
# fragments (RFC 6980).
_LONGEST_MESSAGE = 1280 - 40
# Of the interface's own ones, so that they fit.
_MOST_PREFIXES = 16

_MREQ = struct.Struct("=16si")


class RouterAdvertiser(LinkServer):
    """Advertises a stack as a router, from `open` to `aclose`.

    Hosts that ask are answered at once, and all are told from time to time. When it
    ends, hosts are told that it is no router any more, and that addresses of its
    networks are for nothing new.

    Args:
        stack: Where; the interface gets a link-local address if it has none.
        dev: Name of the interface. None: the stack's first.
        prefixes: Networks that are on the link, and in which hosts may make addresses;
            a `Prefix` says more exactly what is meant. None: those of the interface's
            own addresses with 64 bits, as they are at each advertisement.
        lifetime: Seconds that hosts may take it for the default router; 0: it is none.
        valid: Seconds that addresses are good for.
        preferred: Seconds that they are good for something new.
        interval: Seconds between two advertisements to all hosts, least and most.
        dns: IPv6 addresses of DNS servers, one or several.
        domain: Where hosts search names, one or several.
        mtu: In bytes, for all hosts of the link.
        routes: Networks that it leads to besides; a `RouteTo` says more exactly how.
        managed: Hosts shall ask DHCPv6 for addresses.
        other: Hosts shall ask DHCPv6 for everything else.
        preference: ``low``, ``medium`` or ``high``, where there are other routers.

    Raises:
        ConfigurationError: An argument cannot be right.
    """

    def __init__(  # noqa: PLR0913  (one keyword for each thing that can be told)
        self,
        stack: Stack,
        *,
        dev: str | None = None,
        prefixes: Sequence[str | IPNetwork | Prefix] | None = None,
        lifetime: int = 1800,
        valid: int = 86400,
        preferred: int = 14400,
        interval: tuple[float, float] = (200.0, 600.0),
        dns: str | IPAddress | Sequence[str | IPAddress] = (),
        domain: str | Sequence[str] = (),
        mtu: int | None = None,
        routes: Sequence[str | IPNetwork | RouteTo] = (),
        managed: bool = False,
        other: bool = False,
        preference: str = "medium",
    ) -> None:
        super().__init__(stack, dev)
        _check_times(lifetime, valid, preferred, interval)
        self._interval = interval
        self._valid, self._preferred = valid, preferred
        self._prefixes = (
            None if prefixes is None else [self._prefix(each) for each in prefixes]
        )
        if preference not in _PREFERENCES:
            msg = f"preference={preference!r}: one of {', '.join(_PREFERENCES)}"
            raise ConfigurationError(msg)
        if mtu is not None and not 1280 <= mtu <= 65535:
            msg = f"mtu={mtu}: 1280 to 65535, IPv6's smallest and an Ethernet's largest"
            raise ConfigurationError(msg)
        # As long as an advertisement or two may get lost, also without being a router.
        kept = max(lifetime, round(3 * interval[1]), 1)
        servers = tuple(map(_server, listed(dns)))
        domains = tuple(check_domain("domain", each) for each in listed(domain))
        self._told = nd.RouterAdvertisement(
            lifetime=lifetime,
            preference=_PREFERENCES[preference] if lifetime else nd.Preference.MEDIUM,
            managed=managed,
            other=other,
            hop_limit=64,
            mtu=mtu,
            routes=tuple(_route(each, kept) for each in routes),
            dns=(nd.DnsServers(servers, kept),) if servers else (),
            domains=(nd.DnsSuffixes(domains, kept),) if domains else (),
        )
        some = Prefix(IPv6Network("fd00::/64"), valid, preferred)
        told = replace(self._told, source_mac=bytes(6))
        if self._prefixes is None:
            _packed(told, [some] * _MOST_PREFIXES)  # complains
        else:
            _packed(told, self._prefixes)

    @override
    def __str__(self) -> str:
        return f"router advertiser of {self.stack}"

    @override
    async def _start(self) -> None:
        place = self._find_place()
        dev, index, mac = place.dev, place.index, place.mac
        await ensure_link_local(self._space(), dev)
        self._told = replace(self._told, source_mac=packed_mac(mac))
        sock = open_icmp6(self.stack.socket, index, nd.ROUTER_SOLICITATION)
        schedule = Schedule(self._interval, _random, _now())
        news = asyncio.Event()

        def take(datagram: Datagram) -> None:
            if datagram.source[3] not in {0, index}:
                return  # from before the socket was bound
            source = IPv6Address(datagram.source[0].partition("%")[0])
            try:
                hop_limit = hop_limit_of(datagram.ancillary)
                schedule.solicited(datagram.data, source, hop_limit, _now())
            except ValueError as error:
                _log.debug("%s: ignored: %s", self, error)
            else:
                news.set()

        self._listen(sock, take)
        group = _MREQ.pack(nd.ALL_ROUTERS.packed, index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        sender = _Sender(sock, index, str(self))
        self._at_end(lambda: self._say_goodbye(sender))
        self._spawn(self._advertise(sender, schedule, news, dev), str(self))

    async def _advertise(
        self, sender: _Sender, schedule: Schedule, news: asyncio.Event, dev: str
    ) -> None:
        while True:
            news.clear()
            hosts = schedule.take(_now())
            if hosts:
                await self._prepare(sender, dev)
                sender.send(_packed(self._told, sender.last), hosts)
            wait = max(0.0, schedule.deadline - _now())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await news.wait()

    async def _prepare(self, sender: _Sender, dev: str) -> None:
        """Find out what to say, and from where."""
        try:
            # Each time: an interface that is set down loses its address, and hosts
            # believe no other one.
            await ensure_link_local(self._space(), dev)
            if self._prefixes is None:
                sender.last = self._own_prefixes(await self.stack.addresses(dev))
            else:
                sender.last = tuple(self._prefixes)
        except (OSError, ClosedError) as error:  # one of the two is going
            _log.debug("%s: %s", self, error)

    def _own_prefixes(self, addresses: Iterable[Address]) -> tuple[Prefix, ...]:
        """Return the networks that the interface is in."""
        found: dict[IPv6Network, Prefix] = {}
        for address in addresses:
            network = address.address.network
            if not isinstance(network, IPv6Network):
                continue
            if network.is_link_local or network.prefixlen != 64:
                continue
            valid = _least(self._valid, address.valid)
            preferred = min(_least(self._preferred, address.preferred), valid)
            found.setdefault(network, Prefix(network, valid, preferred))
        return tuple(found.values())[:_MOST_PREFIXES]

    def _say_goodbye(self, sender: _Sender) -> None:
        told = self._told
        over = replace(
            told,
            lifetime=0,
            preference=nd.Preference.MEDIUM,
            prefixes=tuple(replace(each, preferred=0) for each in sender.last),
            routes=tuple(replace(each, lifetime=0) for each in told.routes),
            dns=tuple(replace(each, lifetime=0) for each in told.dns),
            domains=tuple(replace(each, lifetime=0) for each in told.domains),
        )
        sender.send(over.pack(), [nd.ALL_NODES])

    def _prefix(self, prefix: str | IPNetwork | Prefix) -> Prefix:
        if isinstance(prefix, Prefix):
            if _seconds(prefix.preferred) > _seconds(prefix.valid):
                msg = f"prefix {prefix.network}: preferred for longer than valid"
                raise ConfigurationError(msg)
            return prefix
        return Prefix(_network("prefix", prefix), self._valid, self._preferred)


class _Sender:
    """Sends to hosts on one interface.

    Attributes:
        last: The networks that hosts were told of last.
    """

    def __init__(self, sock: socket.socket, index: int, label: str) -> None:
        self._sock = sock
        self._index = index
        self._label = label
        self.last: tuple[Prefix, ...] = ()

    def send(self, message: bytes, hosts: Iterable[IPv6Address]) -> None:
        """Send an advertisement; who does not get it gets the next one."""
        for host in hosts:
            try:
                self._sock.sendto(message, (str(host), 0, 0, self._index))
            except OSError as error:  # the interface is down, or its queue is full
                _log.debug("%s: to %s: %s", self._label, host, error)


def _packed(told: nd.RouterAdvertisement, prefixes: Iterable[Prefix]) -> bytes:
    try:
        packed = replace(told, prefixes=tuple(prefixes)).pack()
    except ValueError as error:
        msg = f"router advertisement: {error}"
        raise ConfigurationError(msg) from None
    if len(packed) > _LONGEST_MESSAGE:
        msg = (
            f"a router advertisement of {len(packed)} bytes: at most "
            f"{_LONGEST_MESSAGE} fit a packet on all links; say less"
        )
        raise ConfigurationError(msg)
    return packed


def _check_times(
    lifetime: int, valid: int, preferred: int, interval: tuple[float, float]
) -> None:
    least, most = interval
    if not 0 < least <= most <= 65535:
        msg = f"interval={interval}: the least seconds and the most, up to 65535"
        raise ConfigurationError(msg)
    if lifetime and not most <= lifetime <= 65535:
        msg = (
            f"lifetime={lifetime}: 0, or up to 65535 seconds and not below the "
            f"interval's {most:g}, or hosts lose their router now and then"
        )
        raise ConfigurationError(msg)
    if not 0 <= preferred <= valid < 0xFFFFFFFF:
        msg = f"valid={valid}, preferred={preferred}: seconds, valid the longer ones"
        raise ConfigurationError(msg)


def _network(what: str, text: object) -> IPv6Network:
    network = parse_network(what, text)
    if not isinstance(network, IPv6Network):
        msg = f"{what} {network}: routers advertise IPv6 networks only"
        raise ConfigurationError(msg)
    return network


def _route(route: str | IPNetwork | RouteTo, lifetime: int) -> RouteTo:
    if isinstance(route, RouteTo):
        return route
    return RouteTo(_network("route", route), lifetime)


def _server(server: object) -> IPv6Address:
    address = parse_address("dns", server)
    if not isinstance(address, IPv6Address):
        msg = f"dns {address}: routers advertise IPv6 servers only; DHCP has the others"
        raise ConfigurationError(msg)
    return address


def _least(ours: int, left: int | None) -> int:
    return ours if left is None else min(ours, left)


def _seconds(lifetime: int | None) -> float:
    return math.inf if lifetime is None else lifetime


def _random(least: float, most: float) -> float:
    return random.uniform(least, most)  # noqa: S311  (when to speak is no secret)


def _now() -> float:
    return asyncio.get_running_loop().time()
