"""Links, addresses, routes, neighbours and rules, read from the kernel.

Source: netlink(7), rtnetlink(7); <linux/netlink.h>, <linux/rtnetlink.h>, Linux 6.1.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import struct
from typing import TYPE_CHECKING

from aioioth.errors import NetlinkError
from aioioth.iproute import Address, Link, Neighbour, NextHop, Route, Rule
from aioioth.wire import rtnetlink, rtroute
from aioioth.wire.rtnetlink import AF_INET, AF_INET6, attributes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aioioth._ip import IPAddress, IPNetwork
    from aioioth.abc import Space

    Message = tuple[int, bytes]

_SOL_NETLINK = 270
_NETLINK_GET_STRICT_CHK = 12

_IFLA_EXT_MASK = 29
_RTEXT_FILTER_SKIP_STATS = 1 << 3
_IFLA_LINK_NETNSID = 37

# A part of a dump has 32 KiB at most (netlink_dump).
_PART_BYTES = 1 << 16
# What changes all the time can make a dump start again and again.
_TRIES = 16
_TICKS_A_SECOND = 100  # USER_HZ

_LINK_SIZE = 16
_NUMBER = struct.Struct("=I")
_EXPIRES = struct.Struct("=8xi")  # in struct rta_cacheinfo

_ROUTE_TYPES = {number: word for word, number in rtroute.ROUTE_TYPES.items()}
_PROTOCOLS = {number: word for word, number in rtroute.ROUTE_PROTOCOLS.items()}
_SCOPES = {number: word for word, number in rtroute.SCOPES.items()}
_STATES = {number: word for word, number in rtroute.NEIGHBOUR_STATES.items()}
_ACTIONS = {number: word for word, number in rtroute.RULE_ACTIONS.items()}

LINKS = rtnetlink.request(
    rtnetlink.RTM_GETLINK,
    rtnetlink.link_body(rtnetlink.attribute(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)),
    rtnetlink.NLM_F_DUMP,
)
ADDRESSES = rtnetlink.request(
    rtnetlink.RTM_GETADDR, bytes(rtroute.ADDRESS.size), rtnetlink.NLM_F_DUMP
)
NEIGHBOURS = rtnetlink.request(
    rtnetlink.RTM_GETNEIGH, bytes(rtroute.NEIGHBOUR.size), rtnetlink.NLM_F_DUMP
)
PROXIES = rtnetlink.request(
    rtnetlink.RTM_GETNEIGH,
    rtroute.NEIGHBOUR.pack(0, 0, 0, rtroute.NTF_PROXY, 0),
    rtnetlink.NLM_F_DUMP,
)


def routes_of(family: int, table: int | None) -> bytes:
    """Return the request for all routes of a family, or those in one table."""
    small = table if table is not None and table < 256 else 0
    body = rtroute.ROUTE.pack(family, 0, 0, 0, small, 0, 0, 0, 0)
    if table is not None and table >= 256:
        body += rtnetlink.attribute(rtroute.RTA_TABLE, table)
    return rtnetlink.request(rtnetlink.RTM_GETROUTE, body, rtnetlink.NLM_F_DUMP)


def rules_of(family: int) -> bytes:
    """Return the request for all rules of a family."""
    body = rtroute.RULE.pack(family, 0, 0, 0, 0, 0, 0)
    return rtnetlink.request(rtnetlink.RTM_GETRULE, body, rtnetlink.NLM_F_DUMP)


async def dump(space: Space, words: str, *requests: bytes) -> list[Message]:
    """Ask the kernel for all that it has.

    Each part of an answer is ready when it is read; the loop has its turn in between.

    Args:
        space: The stack's.
        words: The request in iproute2's words, for errors.
        *requests: For one kind of thing each.

    Returns:
        Type and body of each message.

    Raises:
        NetlinkError: The kernel refused.
    """
    family, protocol = socket.AF_NETLINK, socket.NETLINK_ROUTE
    try:
        with space.socket(family, socket.SOCK_RAW, protocol) as sock:
            sock.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
            found: list[Message] = []
            for request in requests:
                found += await _read_all(sock, request)
            return found
    except OSError as error:
        text = str(error.strerror) if error.args[1:] else ""
        detail = "" if text == errno.errorcode.get(error.errno or 0) else text
        raise NetlinkError(error.errno or errno.EIO, words, detail) from None


async def _read_all(sock: socket.socket, request: bytes) -> list[Message]:
    found: list[Message] = []
    for _ in range(_TRIES):
        sock.send(request)
        found.clear()
        changed = False
        while True:
            data = sock.recv(_PART_BYTES)
            changed |= rtnetlink.was_interrupted(data)
            for kind, body in rtnetlink.messages(data):
                if kind == rtnetlink.NLMSG_DONE:
                    break
                found.append((kind, body))
            else:
                await asyncio.sleep(0)
                continue
            break
        if not changed:
            break
    return found


# What the messages say


def names(messages: list[Message]) -> dict[int, str]:
    """Return the name of each link, by its number."""
    return {
        struct.unpack_from("=i", body, 4)[0]: _text(told[rtnetlink.IFLA_IFNAME])
        for kind, body in messages
        if kind == rtnetlink.RTM_NEWLINK
        and rtnetlink.IFLA_IFNAME in (told := attributes(body[_LINK_SIZE:]))
    }


def link(body: bytes, names: Mapping[int, str]) -> Link | None:
    """Return a link; None for what is none, as a bridge's view of its port."""
    family, _, index, flags, _ = struct.unpack_from("=BxHiII", body)
    told = attributes(body[_LINK_SIZE:])
    if family or rtnetlink.IFLA_IFNAME not in told:
        return None
    info = attributes(told.get(rtnetlink.IFLA_LINKINFO, b""))
    parent = None
    if _IFLA_LINK_NETNSID not in told:  # else it is in another namespace
        parent = names.get(_number(told, rtnetlink.IFLA_LINK))
    mac = told.get(rtnetlink.IFLA_ADDRESS, b"")
    return Link(
        index=index,
        name=_text(told[rtnetlink.IFLA_IFNAME]),
        mac=mac.hex(":") if len(mac) == 6 else None,
        mtu=_number(told, rtnetlink.IFLA_MTU),
        up=bool(flags & rtnetlink.IFF_UP),
        carrier=bool(flags & rtnetlink.IFF_LOWER_UP),
        kind=_text(info.get(rtnetlink.IFLA_INFO_KIND, b"")),
        master=names.get(_number(told, rtnetlink.IFLA_MASTER)),
        parent=parent,
    )


def address(body: bytes, names: Mapping[int, str]) -> Address | None:
    """Return an address; None if it is no IP address, or nobody's."""
    family, bits, flags, scope, index = rtroute.ADDRESS.unpack_from(body)
    told = attributes(body[rtroute.ADDRESS.size :])
    local = told.get(rtroute.IFA_LOCAL) or told.get(rtroute.IFA_ADDRESS)
    if family not in _FAMILIES or local is None or index not in names:
        return None
    flags |= _number(told, rtroute.IFA_FLAGS)
    valid = preferred = None
    if rtroute.IFA_CACHEINFO in told:
        times = rtroute.ADDRESS_TIMES.unpack(told[rtroute.IFA_CACHEINFO])
        preferred, valid = map(_seconds, times[:2])
    peer = told.get(rtroute.IFA_ADDRESS, local)
    return Address(
        ipaddress.ip_interface((local, bits)),
        names[index],
        peer=None if peer == local else ipaddress.ip_address(peer),
        nodad=bool(flags & rtroute.IFA_F_NODAD),
        valid=valid,
        preferred=preferred,
        noprefixroute=bool(flags & rtroute.IFA_F_NOPREFIXROUTE),
        scope=_SCOPES.get(scope, str(scope)),
        tentative=bool(flags & rtroute.IFA_F_TENTATIVE),
        duplicated=bool(flags & rtroute.IFA_F_DADFAILED),
        deprecated=bool(flags & rtroute.IFA_F_DEPRECATED),
    )


def route(body: bytes, names: Mapping[int, str]) -> Route | None:
    """Return a route; None for what the kernel remembers for a moment only."""
    header = rtroute.ROUTE.unpack_from(body)
    family, bits, _, _, table, protocol, scope, flavour, flags = header
    if family not in _FAMILIES or flags & rtroute.RTM_F_CLONED:
        return None
    told = attributes(body[rtroute.ROUTE.size :])
    metrics = attributes(told.get(rtroute.RTA_METRICS, b""))
    source = told.get(rtroute.RTA_PREFSRC)
    expires = 0
    if rtroute.RTA_CACHEINFO in told:
        (expires,) = _EXPIRES.unpack_from(told[rtroute.RTA_CACHEINFO])
    return Route(
        _network(family, told.get(rtroute.RTA_DST), bits),
        via=_router(told),
        dev=names.get(_number(told, rtroute.RTA_OIF)),
        metric=_number(told, rtroute.RTA_PRIORITY),
        table=_number(told, rtroute.RTA_TABLE) or table,
        kind=_ROUTE_TYPES.get(flavour, str(flavour)),
        source=None if source is None else ipaddress.ip_address(source),
        nexthops=tuple(_hops(told.get(rtroute.RTA_MULTIPATH, b""), names)),
        mtu=_number(metrics, rtroute.RTAX_MTU) or None,
        onlink=bool(flags & rtroute.RTNH_F_ONLINK),
        lifetime=expires // _TICKS_A_SECOND if expires > 0 else None,
        scope=_SCOPES.get(scope, str(scope)),
        protocol=_PROTOCOLS.get(protocol, str(protocol)),
    )


def neighbour(body: bytes, names: Mapping[int, str]) -> Neighbour | None:
    """Return a neighbour; None for the kernel's own multicast groups and the like."""
    family, index, state, flags, _ = rtroute.NEIGHBOUR.unpack_from(body)
    told = attributes(body[rtroute.NEIGHBOUR.size :])
    is_proxy = bool(flags & rtroute.NTF_PROXY)
    is_hidden = not is_proxy and state in _HIDDEN_STATES
    if family not in _FAMILIES or is_hidden or index not in names:
        return None
    mac = told.get(rtroute.NDA_LLADDR, b"")
    return Neighbour(
        ipaddress.ip_address(told[rtroute.NDA_DST]),
        mac.hex(":") if len(mac) == 6 else None,
        dev=names[index],
        state=_STATES.get(state, str(state)),
        router=bool(flags & rtroute.NTF_ROUTER),
        proxy=is_proxy,
    )


def rule(body: bytes) -> Rule | None:
    """Return a rule; None for what is not about IP."""
    header = rtroute.RULE.unpack_from(body)
    family, to_bits, from_bits, _, table, action, _ = header
    if family not in _FAMILIES:
        return None
    told = attributes(body[rtroute.RULE.size :])
    mark = told.get(rtroute.FRA_FWMARK)
    is_lookup = action == rtroute.RULE_ACTIONS["lookup"]
    return Rule(
        (_number(told, rtroute.FRA_TABLE) or table) if is_lookup else 0,
        source=_network(family, told.get(rtroute.FRA_SRC), from_bits)
        if from_bits
        else None,
        destination=_network(family, told.get(rtroute.FRA_DST), to_bits)
        if to_bits
        else None,
        iif=_text(told.get(rtroute.FRA_IIFNAME, b"")) or None,
        oif=_text(told.get(rtroute.FRA_OIFNAME, b"")) or None,
        fwmark=None if mark is None else _NUMBER.unpack(mark)[0],
        fwmask=None if mark is None else _number(told, rtroute.FRA_FWMASK),
        priority=_number(told, rtroute.FRA_PRIORITY),
        version=4 if family == AF_INET else 6,
        action=_ACTIONS.get(action, str(action)),
    )


_FAMILIES = {AF_INET: 4, AF_INET6: 16}
# As ip-neighbour(8) does: groups need nobody to be asked.
_HIDDEN_STATES = {rtroute.NEIGHBOUR_STATES["noarp"], rtroute.NEIGHBOUR_STATES["none"]}


def _network(family: int, packed: bytes | None, bits: int) -> IPNetwork:
    packed = bytes(_FAMILIES[family]) if packed is None else packed
    return ipaddress.ip_network((packed, bits), strict=False)


def _router(told: Mapping[int, bytes]) -> IPAddress | None:
    if rtroute.RTA_GATEWAY in told:
        return ipaddress.ip_address(told[rtroute.RTA_GATEWAY])
    if rtroute.RTA_VIA in told:  # of the other family, which is in front
        return ipaddress.ip_address(told[rtroute.RTA_VIA][2:])
    return None


def _hops(data: bytes, names: Mapping[int, str]) -> Iterator[NextHop]:
    at = 0
    while at + rtroute.HOP.size <= len(data):
        size, _, weight, index = rtroute.HOP.unpack_from(data, at)
        told = attributes(data[at + rtroute.HOP.size : at + size])
        yield NextHop(_router(told), names.get(index), weight + 1)
        at += max(rtroute.HOP.size, (size + 3) & ~3)


def _number(told: Mapping[int, bytes], kind: int) -> int:
    value = told.get(kind)
    return 0 if value is None else _NUMBER.unpack_from(value)[0]


def _seconds(value: int) -> int | None:
    return None if value == rtroute.FOREVER else value


def _text(value: bytes) -> str:
    return value.partition(b"\0")[0].decode(errors="replace")
