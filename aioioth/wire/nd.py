"""Router solicitations and router advertisements, as ICMPv6 messages.

Both begin with ICMPv6's type, code and checksum, and end with options: type, length in
units of 8 bytes, and what they say. The checksum is the kernel's business on raw
sockets: it is written as 0 and not looked at. So are the IPv6 header's: an
advertisement has to come from a link-local address with hop limit 255, which whoever
received it knows.

A message whose options have no length, or go beyond its end, is none. An option that
makes no sense by itself is left out, and so are those of unknown types.

Source: RFC 4861 sections 4.1, 4.2, 4.6, 6.1; RFC 4191 section 2 (preferences, routes);
RFC 8106 section 5 (DNS); <linux/icmpv6.h>.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING, TypeVar

from aioioth.wire.domains import pack_names, parse_names

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "ALL_NODES",
    "ALL_ROUTERS",
    "HOP_LIMIT",
    "ROUTER_ADVERTISEMENT",
    "ROUTER_SOLICITATION",
    "DnsServers",
    "DnsSuffixes",
    "Preference",
    "Prefix",
    "RouteTo",
    "RouterAdvertisement",
    "RouterSolicitation",
    "parse_advertisement",
    "parse_solicitation",
]

ROUTER_SOLICITATION = 133
ROUTER_ADVERTISEMENT = 134

ALL_NODES = IPv6Address("ff02::1")
ALL_ROUTERS = IPv6Address("ff02::2")

# No router lets a packet through that arrives with it: it is from this link.
HOP_LIMIT = 255

_SOURCE_MAC = 1
_PREFIX = 3
_MTU = 5
_ROUTE = 24
_DNS_SERVERS = 25
_DNS_SUFFIXES = 31

# Type, code, checksum; reserved.
_SOLICITATION = struct.Struct("!BBH4x")
# Type, code, checksum; hop limit, flags, lifetime; reachable time, retransmission time.
_ADVERTISEMENT = struct.Struct("!BBHBBHII")
# After type and length. Prefix: its length, flags, valid, preferred, reserved, address.
_PREFIX_BODY = struct.Struct("!BBII4x16s")
_MTU_BODY = struct.Struct("!2xI")
_ROUTE_BODY = struct.Struct("!BBI")
_LIFETIME_BODY = struct.Struct("!2xI")

_MANAGED = 0x80
_OTHER = 0x40
_ON_LINK = 0x80
_AUTONOMOUS = 0x40

_FOREVER = 0xFFFFFFFF
_LONGEST_OPTION = 255 * 8


class Preference(IntEnum):
    """Which router to choose if there are several."""

    LOW = -1
    MEDIUM = 0
    HIGH = 1


@dataclass(frozen=True)
class Prefix:
    """A network that the link has (Prefix Information).

    Attributes:
        network: Bits beyond its length were ignored.
        valid: Seconds; None for ever.
        preferred: Seconds that addresses in it are good for something new; None for
            ever.
        on_link: Its addresses are reached without a router.
        autonomous: Hosts may make addresses in it for themselves.
    """

    network: IPv6Network
    valid: int | None
    preferred: int | None
    on_link: bool = True
    autonomous: bool = True


@dataclass(frozen=True)
class RouteTo:
    """A network that the router leads to (Route Information).

    Attributes:
        network: Where to.
        lifetime: Seconds; None for ever.
        preference: Among routers that lead there.
    """

    network: IPv6Network
    lifetime: int | None
    preference: Preference = Preference.MEDIUM


@dataclass(frozen=True)
class DnsServers:
    """Addresses of DNS servers (RDNSS), at least one.

    Attributes:
        addresses: In the order to ask them.
        lifetime: Seconds; None for ever.
    """

    addresses: tuple[IPv6Address, ...]
    lifetime: int | None


@dataclass(frozen=True)
class DnsSuffixes:
    """Where names are searched (DNSSL), at least one.

    Attributes:
        domains: In the order to try them, without a dot at the end.
        lifetime: Seconds; None for ever.
    """

    domains: tuple[str, ...]
    lifetime: int | None


@dataclass(frozen=True)
class RouterSolicitation:
    """A host asks what there is.

    Attributes:
        source_mac: The host's MAC address, 6 bytes; None if it does not say.
    """

    source_mac: bytes | None = None

    def pack(self) -> bytes:
        """Return the message, with a checksum of 0."""
        message = _SOLICITATION.pack(ROUTER_SOLICITATION, 0, 0)
        return message + _source_mac(self.source_mac)


@dataclass(frozen=True)
class RouterAdvertisement:
    """A router tells what there is.

    Attributes:
        lifetime: Seconds that it can be the default router, 0 to 65535; 0: it is none.
        preference: Among default routers.
        managed: Addresses are to be had by DHCPv6.
        other: The rest is to be had by DHCPv6.
        hop_limit: For packets that hosts send; 0: it does not say.
        reachable_ms: How long a neighbour is believed to be there; 0 as above.
        retransmit_ms: Between two questions for a neighbour; 0 as above.
        source_mac: The router's MAC address, 6 bytes; None if it does not say.
        mtu: In bytes; None if it does not say.
        prefixes: The link's networks.
        routes: Where the router leads besides.
        dns: Servers.
        domains: Where to search.
    """

    lifetime: int = 0
    preference: Preference = Preference.MEDIUM
    managed: bool = False
    other: bool = False
    hop_limit: int = 0
    reachable_ms: int = 0
    retransmit_ms: int = 0
    source_mac: bytes | None = None
    mtu: int | None = None
    prefixes: tuple[Prefix, ...] = ()
    routes: tuple[RouteTo, ...] = ()
    dns: tuple[DnsServers, ...] = ()
    domains: tuple[DnsSuffixes, ...] = ()

    def pack(self) -> bytes:
        """Return the message, with a checksum of 0.

        Raises:
            ValueError: Something has no place in it: a lifetime that is too long, more
                servers than fit an option, what is no domain, ...
        """
        flags = _MANAGED * self.managed | _OTHER * self.other
        flags |= _preference_bits(self.preference)
        try:
            parts = [
                _ADVERTISEMENT.pack(
                    ROUTER_ADVERTISEMENT,
                    0,
                    0,
                    self.hop_limit,
                    flags,
                    self.lifetime,
                    self.reachable_ms,
                    self.retransmit_ms,
                ),
                _source_mac(self.source_mac),
            ]
            if self.mtu is not None:
                parts.append(_option(_MTU, _MTU_BODY.pack(self.mtu)))
            parts += map(_pack_prefix, self.prefixes)
            parts += map(_pack_route, self.routes)
            parts += map(_pack_servers, self.dns)
            parts += map(_pack_suffixes, self.domains)
        except struct.error as error:
            msg = f"a number that a router advertisement has no place for: {error}"
            raise ValueError(msg) from None
        return b"".join(parts)


def parse_solicitation(message: bytes) -> RouterSolicitation:
    """Read a router solicitation.

    Args:
        message: The ICMPv6 message, without the IPv6 header.

    Raises:
        ValueError: It is none, or it must be ignored.
    """
    _check(message, _SOLICITATION.size, ROUTER_SOLICITATION, "router solicitation")
    mac = None
    for kind, body in _options(message, _SOLICITATION.size):
        if kind == _SOURCE_MAC and len(body) == 6:
            mac = body
    return RouterSolicitation(mac)


def parse_advertisement(message: bytes) -> RouterAdvertisement:
    """Read a router advertisement.

    Args:
        message: The ICMPv6 message, without the IPv6 header.

    Raises:
        ValueError: It is none, or it must be ignored.
    """
    what = "router advertisement"
    _check(message, _ADVERTISEMENT.size, ROUTER_ADVERTISEMENT, what)
    found = _Options()
    for kind, body in _options(message, _ADVERTISEMENT.size):
        found.take(kind, body)
    header = _ADVERTISEMENT.unpack_from(message)
    hop_limit, flags, lifetime, reachable_ms, retransmit_ms = header[3:]
    return RouterAdvertisement(
        lifetime=lifetime,
        # The reserved value counts as medium here, and takes an option away.
        preference=_preference(flags) or Preference.MEDIUM,
        managed=bool(flags & _MANAGED),
        other=bool(flags & _OTHER),
        hop_limit=hop_limit,
        reachable_ms=reachable_ms,
        retransmit_ms=retransmit_ms,
        source_mac=found.source_mac,
        mtu=found.mtu,
        prefixes=tuple(found.prefixes),
        routes=tuple(found.routes),
        dns=tuple(found.dns),
        domains=tuple(found.domains),
    )


# Reading


@dataclass
class _Options:
    """What the options of an advertisement say; of single ones the last counts."""

    source_mac: bytes | None = None
    mtu: int | None = None
    prefixes: list[Prefix] = field(default_factory=list)
    routes: list[RouteTo] = field(default_factory=list)
    dns: list[DnsServers] = field(default_factory=list)
    domains: list[DnsSuffixes] = field(default_factory=list)

    def take(self, kind: int, body: bytes) -> None:
        if kind == _SOURCE_MAC and len(body) == 6:
            self.source_mac = body
        elif kind == _MTU and len(body) == _MTU_BODY.size:
            (self.mtu,) = _MTU_BODY.unpack(body)
        elif kind == _PREFIX:
            _append(self.prefixes, _prefix(body))
        elif kind == _ROUTE:
            _append(self.routes, _route(body))
        elif kind == _DNS_SERVERS:
            _append(self.dns, _servers(body))
        elif kind == _DNS_SUFFIXES:
            _append(self.domains, _suffixes(body))


_T = TypeVar("_T")


def _append(found: list[_T], one: _T | None) -> None:
    if one is not None:
        found.append(one)


def _check(message: bytes, size: int, kind: int, what: str) -> None:
    if len(message) < size:
        msg = f"{len(message)} bytes are no {what}; it has {size} at least"
        raise ValueError(msg)
    if message[0] != kind or message[1] != 0:
        msg = f"ICMPv6 type {message[0]}, code {message[1]} is no {what}"
        raise ValueError(msg)


def _options(message: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Go through the options; all of them, or the whole message counts for nothing."""
    while at < len(message):
        size = 8 * message[at + 1] if at + 2 <= len(message) else 0
        if size == 0 or at + size > len(message):
            msg = f"an option at byte {at} of {len(message)} has no length, or too much"
            raise ValueError(msg)
        yield message[at], message[at + 2 : at + size]
        at += size


def _prefix(body: bytes) -> Prefix | None:
    if len(body) != _PREFIX_BODY.size:
        return None
    bits, flags, valid, preferred, packed = _PREFIX_BODY.unpack(body)
    network = _network(packed, bits)
    if network is None:
        return None
    return Prefix(
        network,
        _seconds(valid),
        _seconds(preferred),
        on_link=bool(flags & _ON_LINK),
        autonomous=bool(flags & _AUTONOMOUS),
    )


def _route(body: bytes) -> RouteTo | None:
    # As many bytes of the address are there as are needed, in units of 8.
    if len(body) not in {6, 14, 22}:
        return None
    bits, flags, lifetime = _ROUTE_BODY.unpack_from(body)
    packed = body[_ROUTE_BODY.size :]
    preference = _preference(flags)
    if bits > 8 * len(packed) or preference is None:
        return None
    network = _network(packed.ljust(16, b"\0"), bits)
    return None if network is None else RouteTo(network, _seconds(lifetime), preference)


def _servers(body: bytes) -> DnsServers | None:
    packed = body[_LIFETIME_BODY.size :]
    if not packed or len(packed) % 16:
        return None
    (lifetime,) = _LIFETIME_BODY.unpack_from(body)
    each = (packed[at : at + 16] for at in range(0, len(packed), 16))
    return DnsServers(tuple(map(IPv6Address, each)), _seconds(lifetime))


def _suffixes(body: bytes) -> DnsSuffixes | None:
    try:
        domains = parse_names(body[_LIFETIME_BODY.size :])
    except ValueError:
        return None
    if not domains:
        return None
    (lifetime,) = _LIFETIME_BODY.unpack_from(body)
    return DnsSuffixes(domains, _seconds(lifetime))


def _network(packed: bytes, bits: int) -> IPv6Network | None:
    if bits > 128:
        return None
    return ipaddress.IPv6Network((packed, bits), strict=False)


def _preference(flags: int) -> Preference | None:
    """Return what the bits say; None for the value that is reserved."""
    return (Preference.MEDIUM, Preference.HIGH, None, Preference.LOW)[flags >> 3 & 3]


def _seconds(value: int) -> int | None:
    return None if value == _FOREVER else value


# Writing


def _option(kind: int, body: bytes) -> bytes:
    body += bytes(-(len(body) + 2) % 8)
    size = len(body) + 2
    if size > _LONGEST_OPTION:
        msg = f"{len(body)} bytes do not fit an option; say it in several"
        raise ValueError(msg)
    return bytes([kind, size // 8]) + body


def _source_mac(mac: bytes | None) -> bytes:
    return b"" if mac is None else _option(_SOURCE_MAC, mac)


def _pack_prefix(prefix: Prefix) -> bytes:
    flags = _ON_LINK * prefix.on_link | _AUTONOMOUS * prefix.autonomous
    body = _PREFIX_BODY.pack(
        prefix.network.prefixlen,
        flags,
        _from_seconds(prefix.valid),
        _from_seconds(prefix.preferred),
        prefix.network.network_address.packed,
    )
    return _option(_PREFIX, body)


def _pack_route(route: RouteTo) -> bytes:
    bits = route.network.prefixlen
    body = _ROUTE_BODY.pack(
        bits, _preference_bits(route.preference), _from_seconds(route.lifetime)
    )
    packed = route.network.network_address.packed
    return _option(_ROUTE, body + packed[: (bits + 63) // 64 * 8])


def _pack_servers(servers: DnsServers) -> bytes:
    body = _LIFETIME_BODY.pack(_from_seconds(servers.lifetime))
    packed = b"".join(address.packed for address in servers.addresses)
    return _option(_DNS_SERVERS, body + packed)


def _pack_suffixes(suffixes: DnsSuffixes) -> bytes:
    body = _LIFETIME_BODY.pack(_from_seconds(suffixes.lifetime))
    return _option(_DNS_SUFFIXES, body + pack_names(suffixes.domains))


def _preference_bits(preference: Preference) -> int:
    return (preference & 3) << 3  # two's complement, of two bits


def _from_seconds(lifetime: int | None) -> int:
    return _FOREVER if lifetime is None else lifetime
