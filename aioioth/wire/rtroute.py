"""Requests to the kernel about addresses, routes, neighbours and rules.

Source: rtnetlink(7); <linux/if_addr.h>, <linux/rtnetlink.h>, <linux/neighbour.h>,
<linux/fib_rules.h>, Linux 6.1.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from aioioth.wire.rtnetlink import (
    AF_INET,
    AF_INET6,
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    RTM_DELADDR,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTM_NEWRULE,
    attribute,
    nest,
    request,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    IPAddress = IPv4Address | IPv6Address
    IPNetwork = IPv4Network | IPv6Network
    # Router, number of the interface, weight from 1.
    Hop = tuple[IPAddress | None, int | None, int]

__all__ = [
    "ADDRESS",
    "ADDRESS_TIMES",
    "FIB_RULE_INVERT",
    "FOREVER",
    "FRA_DST",
    "FRA_FWMARK",
    "FRA_FWMASK",
    "FRA_IIFNAME",
    "FRA_OIFNAME",
    "FRA_PRIORITY",
    "FRA_PROTOCOL",
    "FRA_SRC",
    "FRA_SUPPRESS_PREFIXLEN",
    "FRA_TABLE",
    "HOP",
    "IFA_ADDRESS",
    "IFA_BROADCAST",
    "IFA_CACHEINFO",
    "IFA_FLAGS",
    "IFA_F_DADFAILED",
    "IFA_F_DEPRECATED",
    "IFA_F_NODAD",
    "IFA_F_NOPREFIXROUTE",
    "IFA_F_PERMANENT",
    "IFA_F_TENTATIVE",
    "IFA_LOCAL",
    "IPV6_METRIC",
    "NDA_DST",
    "NDA_LLADDR",
    "NEIGHBOUR",
    "NEIGHBOUR_STATES",
    "NTF_PROXY",
    "NTF_ROUTER",
    "ROUTE",
    "ROUTE_PROTOCOLS",
    "ROUTE_TYPES",
    "RTAX_MTU",
    "RTA_CACHEINFO",
    "RTA_DST",
    "RTA_EXPIRES",
    "RTA_GATEWAY",
    "RTA_METRICS",
    "RTA_MULTIPATH",
    "RTA_OIF",
    "RTA_PREFSRC",
    "RTA_PRIORITY",
    "RTA_SRC",
    "RTA_TABLE",
    "RTA_VIA",
    "RTM_F_CLONED",
    "RTNH_F_ONLINK",
    "RTN_LOCAL",
    "RT_TABLE_MAIN",
    "RULE",
    "RULE_ACTIONS",
    "SCOPES",
    "change_address",
    "change_neighbour",
    "change_route",
    "change_rule",
    "family_of",
    "get_route",
    "route_type",
]

IFA_ADDRESS = 1
IFA_LOCAL = 2
IFA_BROADCAST = 4
IFA_CACHEINFO = 6
IFA_FLAGS = 8
IFA_F_NODAD = 0x02
IFA_F_DADFAILED = 0x08
IFA_F_DEPRECATED = 0x20
IFA_F_TENTATIVE = 0x40
IFA_F_PERMANENT = 0x80
IFA_F_NOPREFIXROUTE = 0x200

RTA_DST = 1
RTA_SRC = 2
RTA_OIF = 4
RTA_GATEWAY = 5
RTA_PRIORITY = 6
RTA_PREFSRC = 7
RTA_METRICS = 8
RTA_MULTIPATH = 9
RTA_CACHEINFO = 12
RTA_TABLE = 15
RTA_VIA = 18
RTA_EXPIRES = 23
RTAX_MTU = 2
RTNH_F_ONLINK = 4
RTM_F_CLONED = 0x200
RT_TABLE_MAIN = 254
RTN_LOCAL = 2

NDA_DST = 1
NDA_LLADDR = 2
NTF_PROXY = 0x08
NTF_ROUTER = 0x80

FRA_DST = 1
FRA_SRC = 2
FRA_IIFNAME = 3
FRA_PRIORITY = 6
FRA_FWMARK = 10
FRA_TABLE = 15
FRA_FWMASK = 16
FRA_OIFNAME = 17
FRA_PROTOCOL = 21
FRA_SUPPRESS_PREFIXLEN = 14
FIB_RULE_INVERT = 2

# iproute2's words for the kernel's numbers.
ROUTE_TYPES = {
    "unicast": 1,
    "local": 2,
    "broadcast": 3,
    "anycast": 4,
    "multicast": 5,
    "blackhole": 6,
    "unreachable": 7,
    "prohibit": 8,
    "throw": 9,
}
ROUTE_PROTOCOLS = {
    "redirect": 1,
    "kernel": 2,
    "boot": 3,
    "static": 4,
    "ra": 9,
    "dhcp": 16,
}
SCOPES = {"global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
NEIGHBOUR_STATES = {
    "incomplete": 0x01,
    "reachable": 0x02,
    "stale": 0x04,
    "delay": 0x08,
    "probe": 0x10,
    "failed": 0x20,
    "noarp": 0x40,
    "permanent": 0x80,
    "none": 0x00,
}
RULE_ACTIONS = {"lookup": 1, "blackhole": 6, "unreachable": 7, "prohibit": 8}

FOREVER = 0xFFFFFFFF  # seconds that an address is valid
IPV6_METRIC = 1024  # of routes that say none
ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
ADDRESS_TIMES = struct.Struct("=IIII")  # preferred, valid, created, updated
# family, lengths, TOS, table, protocol, scope, type, flags
ROUTE = struct.Struct("=BBBBBBBBI")
HOP = struct.Struct("=HBBi")  # size, flags, weight - 1, index
NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
# family, lengths, TOS, table, action, flags
RULE = struct.Struct("=BBBBBxxBI")

_FLAGS = {
    "add": NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
    "replace": NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
    # Of IPv6, besides others of the same destination and metric.
    "append": NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND,
    "del": NLM_F_ACK,
}


def change_address(  # noqa: PLR0913  (one keyword for each thing that can be said)
    command: str,
    index: int,
    address: IPAddress,
    prefixlen: int,
    broadcast: IPAddress | None = None,
    *,
    peer: IPAddress | None = None,
    flags: int | None = None,
    scope: int = 0,
    valid: int | None = None,
    preferred: int | None = None,
) -> bytes:
    """Return ``ip address add``, ``replace`` or ``del``.

    Args:
        command: Which.
        index: The interface's.
        address: Ours.
        prefixlen: Bits that all on the network have in common.
        broadcast: IPv4 only.
        peer: The other end's, on a link that has only two.
        flags: IFA_F_... None: an IPv6 address is not looked for elsewhere first.
        scope: As in SCOPES.
        valid: Seconds; None for ever.
        preferred: Seconds; None for as long as it is valid.
    """
    family = family_of(address)
    if flags is None:
        flags = IFA_F_NODAD if family == AF_INET6 else 0
    parts = [
        ADDRESS.pack(family, prefixlen, flags & 0xFF, scope, index),
        attribute(IFA_LOCAL, address.packed),
        attribute(IFA_ADDRESS, (peer or address).packed),
    ]
    if broadcast is not None:
        parts.append(attribute(IFA_BROADCAST, broadcast.packed))
    if flags:
        parts.append(attribute(IFA_FLAGS, flags))
    if valid is not None or preferred is not None:
        valid = FOREVER if valid is None else valid
        preferred = valid if preferred is None else preferred
        times = ADDRESS_TIMES.pack(preferred, valid, 0, 0)
        parts.append(attribute(IFA_CACHEINFO, times))
    kind = RTM_DELADDR if command == "del" else RTM_NEWADDR
    return request(kind, b"".join(parts), _FLAGS[command])


def change_route(  # noqa: PLR0913  (one keyword for each thing that can be said)
    command: str,
    network: IPNetwork,
    gateway: IPAddress | None,
    index: int | None,
    *,
    hops: Sequence[Hop] = (),
    metric: int = 0,
    table: int = RT_TABLE_MAIN,
    kind: str = "unicast",
    scope: int | None = None,
    protocol: int = 3,
    source: IPAddress | None = None,
    mtu: int | None = None,
    lifetime: int | None = None,
    onlink: bool = False,
) -> bytes:
    """Return ``ip route add``, ``replace`` or ``del``.

    Args:
        command: Which.
        network: Destination.
        gateway: Router; None: the network is on the link.
        index: The interface's; None: the kernel finds it by the router.
        hops: Several of them, in place of these two.
        metric: 0 for the kernel's own.
        table: The routing table.
        kind: As in ROUTE_TYPES, or a number as text.
        scope: As in SCOPES; None for what is usual.
        protocol: As in ROUTE_PROTOCOLS.
        source: Our address to send from.
        mtu: In bytes.
        lifetime: Seconds; None for ever. IPv6 only.
        onlink: Whether the router is on the link although no network says so.
    """
    family = AF_INET if network.version == 4 else AF_INET6
    flavour = _number(ROUTE_TYPES, kind)
    if command == "del":
        # The kernel looks for what it is told, and nothing else.
        protocol = 0
        flavour = 0 if kind == "unicast" else flavour
        scope = SCOPES["nowhere"] if scope is None else scope
    elif scope is None:
        scope = _usual_scope(family, kind, is_direct=gateway is None and not hops)
    flags = RTNH_F_ONLINK if onlink else 0
    header = (table if table < 256 else 0, protocol, scope, flavour, flags)
    parts = [ROUTE.pack(family, network.prefixlen, 0, 0, *header)]
    if table >= 256:
        parts.append(attribute(RTA_TABLE, table))
    if network.prefixlen:
        parts.append(attribute(RTA_DST, network.network_address.packed))
    parts += _way(family, gateway, index)
    if hops:
        packed = b"".join(_pack_hop(family, hop, flags) for hop in hops)
        parts.append(attribute(RTA_MULTIPATH, packed))
    if metric:
        parts.append(attribute(RTA_PRIORITY, metric))
    if source is not None:
        parts.append(attribute(RTA_PREFSRC, source.packed))
    if mtu is not None:
        parts.append(nest(RTA_METRICS, attribute(RTAX_MTU, mtu)))
    if lifetime is not None:
        parts.append(attribute(RTA_EXPIRES, lifetime))
    what = RTM_DELROUTE if command == "del" else RTM_NEWROUTE
    return request(what, b"".join(parts), _FLAGS[command])


def get_route(address: IPAddress, index: int) -> bytes:
    """Return ``ip route get ADDRESS oif INDEX``."""
    body = ROUTE.pack(family_of(address), address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    body += attribute(RTA_DST, address.packed) + attribute(RTA_OIF, index)
    return request(RTM_GETROUTE, body)


def change_neighbour(
    command: str,
    index: int,
    address: IPAddress,
    mac: bytes | None,
    *,
    state: int,
    flags: int = 0,
) -> bytes:
    """Return ``ip neighbour add``, ``replace`` or ``del``.

    Args:
        command: Which.
        index: The interface's.
        address: His.
        mac: His; None if it is not known.
        state: As in NEIGHBOUR_STATES.
        flags: NTF_...
    """
    parts = [NEIGHBOUR.pack(family_of(address), index, state, flags, 0)]
    parts.append(attribute(NDA_DST, address.packed))
    if mac is not None:
        parts.append(attribute(NDA_LLADDR, mac))
    kind = RTM_DELNEIGH if command == "del" else RTM_NEWNEIGH
    return request(kind, b"".join(parts), _FLAGS[command])


def change_rule(  # noqa: PLR0913  (one keyword for each thing that can be said)
    command: str,
    family: int,
    action: str,
    *,
    table: int = 0,
    source: IPNetwork | None = None,
    destination: IPNetwork | None = None,
    iif: str | None = None,
    oif: str | None = None,
    fwmark: int | None = None,
    fwmask: int | None = None,
    priority: int | None = None,
) -> bytes:
    """Return ``ip rule add`` or ``del``; see `aioioth.iproute.Rule`."""
    lengths = [0 if net is None else net.prefixlen for net in (destination, source)]
    small = table if table < 256 else 0
    parts = [RULE.pack(family, *lengths, 0, small, _number(RULE_ACTIONS, action), 0)]
    for kind, net in ((FRA_DST, destination), (FRA_SRC, source)):
        if net is not None:
            parts.append(attribute(kind, net.network_address.packed))
    numbers = {
        FRA_IIFNAME: iif,
        FRA_OIFNAME: oif,
        FRA_PRIORITY: priority,
        FRA_FWMARK: fwmark,
        FRA_FWMASK: fwmask,
        FRA_TABLE: table if table >= 256 else None,
    }
    for kind, value in numbers.items():
        if value is not None:
            parts.append(attribute(kind, value))
    what = RTM_DELRULE if command == "del" else RTM_NEWRULE
    return request(what, b"".join(parts), _FLAGS[command])


def family_of(address: IPAddress) -> int:
    """Return AF_INET or AF_INET6."""
    return AF_INET if address.version == 4 else AF_INET6


def route_type(body: bytes) -> int:
    """Return of what type a route is in an answer: RTN_LOCAL, for example."""
    flavour: int = ROUTE.unpack_from(body)[7]
    return flavour


def _number(words: Mapping[str, int], word: str) -> int:
    return words[word] if word in words else int(word)


def _usual_scope(family: int, kind: str, *, is_direct: bool) -> int:
    """Return the scope that iproute2 would give an IPv4 route; IPv6 has none."""
    if family == AF_INET and kind == "local":
        return SCOPES["host"]
    if family == AF_INET and (
        kind in {"broadcast", "multicast", "anycast"}
        or (kind == "unicast" and is_direct)
    ):
        return SCOPES["link"]
    return SCOPES["global"]


def _way(family: int, gateway: IPAddress | None, index: int | None) -> list[bytes]:
    parts = []
    if gateway is not None and family_of(gateway) == family:
        parts.append(attribute(RTA_GATEWAY, gateway.packed))
    elif gateway is not None:
        via = struct.pack("=H", family_of(gateway)) + gateway.packed
        parts.append(attribute(RTA_VIA, via))
    if index is not None:
        parts.append(attribute(RTA_OIF, index))
    return parts


def _pack_hop(family: int, hop: Hop, flags: int) -> bytes:
    gateway, index, weight = hop
    ways = b"".join(_way(family, gateway, None))
    return HOP.pack(HOP.size + len(ways), flags, weight - 1, index or 0) + ways
