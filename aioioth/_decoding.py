"""What the kernel's messages say of links, addresses, routes, neighbours and rules.

Nothing is refused: what the kernel has is so, also where nobody could ask for it, such
as a route through interfaces that are not known yet.

Source: rtnetlink(7); <linux/rtnetlink.h>, <linux/if_addr.h>, <linux/neighbour.h>,
<linux/fib_rules.h>, Linux 6.1.
"""

from __future__ import annotations

import ipaddress
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from aioioth.iproute import Address, Link, Neighbour, NextHop, Route, Rule
from aioioth.wire import rtnetlink, rtroute
from aioioth.wire.rtnetlink import AF_INET, AF_INET6, attributes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from aioioth._ip import IPAddress, IPNetwork

_IFLA_LINK_NETNSID = 37
_TICKS_A_SECOND = 100  # USER_HZ

_LINK_SIZE = 16
_NUMBER = struct.Struct("=I")
_EXPIRES = struct.Struct("=8xi")  # in struct rta_cacheinfo

_ROUTE_TYPES = {number: word for word, number in rtroute.ROUTE_TYPES.items()}
_PROTOCOLS = {number: word for word, number in rtroute.ROUTE_PROTOCOLS.items()}
_SCOPES = {number: word for word, number in rtroute.SCOPES.items()}
_STATES = {number: word for word, number in rtroute.NEIGHBOUR_STATES.items()}
_ACTIONS = {number: word for word, number in rtroute.RULE_ACTIONS.items()}


def names(messages: Iterable[tuple[int, bytes]]) -> dict[int, str]:
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
    return _value(
        Link,
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
    return _value(
        Address,
        address=ipaddress.ip_interface((local, bits)),
        dev=names[index],
        peer=None if peer == local else _ip(peer),
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
    return _value(
        Route,
        destination=_network(family, told.get(rtroute.RTA_DST), bits),
        via=_router(told),
        dev=names.get(_number(told, rtroute.RTA_OIF)),
        metric=_number(told, rtroute.RTA_PRIORITY),
        table=_number(told, rtroute.RTA_TABLE) or table,
        kind=_ROUTE_TYPES.get(flavour, str(flavour)),
        source=None if source is None else _ip(source),
        nexthops=tuple(_hops(told.get(rtroute.RTA_MULTIPATH, b""), names)),
        mtu=_number(metrics, rtroute.RTAX_MTU) or None,
        onlink=bool(flags & rtroute.RTNH_F_ONLINK),
        lifetime=expires // _TICKS_A_SECOND if expires > 0 else None,
        scope=_SCOPES.get(scope, str(scope)),
        protocol=_PROTOCOLS.get(protocol, str(protocol)),
    )


def neighbour(
    body: bytes, names: Mapping[int, str], *, hidden: bool = False
) -> Neighbour | None:
    """Return a neighbour; None for what is none of IP.

    Args:
        body: The message's.
        names: Of links, by their numbers.
        hidden: Also return what `is_hidden`.
    """
    family, index, state, flags, _ = rtroute.NEIGHBOUR.unpack_from(body)
    told = attributes(body[rtroute.NEIGHBOUR.size :])
    if family not in _FAMILIES or index not in names or rtroute.NDA_DST not in told:
        return None
    mac = told.get(rtroute.NDA_LLADDR, b"")
    found = _value(
        Neighbour,
        address=_ip(told[rtroute.NDA_DST]),
        mac=mac.hex(":") if len(mac) == 6 else None,
        dev=names[index],
        state=_STATES.get(state, str(state)),
        router=bool(flags & rtroute.NTF_ROUTER),
        proxy=bool(flags & rtroute.NTF_PROXY),
    )
    return None if is_hidden(found) and not hidden else found


def is_hidden(neighbour: Neighbour) -> bool:
    """Whether it is one of the kernel's own: a multicast group, or unused.

    As ip-neighbour(8) does: they need nobody to be asked.
    """
    return not neighbour.proxy and neighbour.state in {"noarp", "none"}


def rule(body: bytes) -> Rule | None:
    """Return a rule; None for what is not about IP."""
    header = rtroute.RULE.unpack_from(body)
    family, to_bits, from_bits, tos, table, action, flags = header
    if family not in _FAMILIES:
        return None
    told = attributes(body[rtroute.RULE.size :])
    mark = told.get(rtroute.FRA_FWMARK)
    is_lookup = action == rtroute.RULE_ACTIONS["lookup"]
    return _value(
        Rule,
        table=(_number(told, rtroute.FRA_TABLE) or table) if is_lookup else 0,
        source=_network(family, told.get(rtroute.FRA_SRC), from_bits)
        if from_bits
        else None,
        destination=_network(family, told.get(rtroute.FRA_DST), to_bits)
        if to_bits
        else None,
        iif=_text(told.get(rtroute.FRA_IIFNAME, b"")) or None,
        oif=_text(told.get(rtroute.FRA_OIFNAME, b"")) or None,
        fwmark=None if mark is None else _number(told, rtroute.FRA_FWMARK),
        fwmask=None if mark is None else _number(told, rtroute.FRA_FWMASK),
        priority=_number(told, rtroute.FRA_PRIORITY),
        version=4 if family == AF_INET else 6,
        action=_ACTIONS.get(action, str(action)),
        partial=bool(
            tos
            or flags & rtroute.FIB_RULE_INVERT
            or told.keys() - _RULE_SAID
            or told.get(rtroute.FRA_SUPPRESS_PREFIXLEN, _NONE) != _NONE
        ),
    )


# What a rule can say here, or means nothing.
_RULE_SAID = {
    rtroute.FRA_DST,
    rtroute.FRA_SRC,
    rtroute.FRA_IIFNAME,
    rtroute.FRA_PRIORITY,
    rtroute.FRA_FWMARK,
    rtroute.FRA_SUPPRESS_PREFIXLEN,
    rtroute.FRA_TABLE,
    rtroute.FRA_FWMASK,
    rtroute.FRA_OIFNAME,
    rtroute.FRA_PROTOCOL,
}
_NONE = b"\xff" * 4

_FAMILIES = {AF_INET: 4, AF_INET6: 16}

_T = TypeVar("_T")


def _value(what: type[_T], /, **said: object) -> _T:
    """Return a value with all its fields as they are said, unchecked."""
    made = object.__new__(what)
    vars(made).update(said)
    return made


@lru_cache(1024)
def _ip(packed: bytes) -> IPAddress:
    """Return an address; a thousand routes have few routers."""
    return ipaddress.ip_address(packed)


def _network(family: int, packed: bytes | None, bits: int) -> IPNetwork:
    packed = bytes(_FAMILIES[family]) if packed is None else packed
    return ipaddress.ip_network((packed, bits), strict=False)


def _router(told: Mapping[int, bytes]) -> IPAddress | None:
    if rtroute.RTA_GATEWAY in told:
        return _ip(told[rtroute.RTA_GATEWAY])
    if rtroute.RTA_VIA in told:  # of the other family, which is in front
        return _ip(told[rtroute.RTA_VIA][2:])
    return None


def _hops(data: bytes, names: Mapping[int, str]) -> Iterator[NextHop]:
    at = 0
    while at + rtroute.HOP.size <= len(data):
        size, _, weight, index = rtroute.HOP.unpack_from(data, at)
        told = attributes(data[at + rtroute.HOP.size : at + size])
        yield _value(
            NextHop, via=_router(told), dev=names.get(index), weight=weight + 1
        )
        at += max(rtroute.HOP.size, (size + 3) & ~3)


def _number(told: Mapping[int, bytes], kind: int) -> int:
    value = told.get(kind)
    return 0 if value is None else _NUMBER.unpack_from(value)[0]


def _seconds(value: int) -> int | None:
    return None if value == rtroute.FOREVER else value


def _text(value: bytes) -> str:
    return value.partition(b"\0")[0].decode(errors="replace")
