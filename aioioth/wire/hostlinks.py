"""Requests for links on the host's networks: macvlan, VXLAN, and what they lie on.

Source: netlink(7), rtnetlink(7); <linux/if_link.h>, <linux/rtnetlink.h>, Linux 6.1.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from aioioth.wire.rtnetlink import (
    IFLA_IFNAME,
    IFLA_LINK,
    IFLA_MTU,
    NLM_F_ACK,
    RTM_GETLINK,
    RTM_SETLINK,
    attribute,
    attributes,
    del_link,
    link_body,
    link_info,
    new_link,
    request,
    set_link,
)
from aioioth.wire.rtroute import RTA_OIF

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address, IPv6Address

    IPAddress = IPv4Address | IPv6Address

__all__ = [
    "MACVLAN_MODES",
    "get_link",
    "link_mtu",
    "macvlan",
    "make_and_move",
    "no_change",
    "route_link",
    "vxlan",
]

# The kernel's MACVLAN_MODE_ constants, as iproute2 calls them.
MACVLAN_MODES = {"bridge": 4, "private": 1, "vepa": 2, "passthru": 8}

_IFLA_NEW_IFINDEX = 49
_IFLA_MACVLAN_MODE = 1
_IFLA_VXLAN_ID = 1
_IFLA_VXLAN_GROUP = 2
_IFLA_VXLAN_LINK = 3
_IFLA_VXLAN_TTL = 5
_IFLA_VXLAN_AGEING = 8
_IFLA_VXLAN_LIMIT = 9
_IFLA_VXLAN_PORT = 15
_IFLA_VXLAN_GROUP6 = 16

# Of struct ifinfomsg and struct rtmsg.
_LINK_SIZE, _ROUTE_SIZE = 16, 12
_NUMBER = struct.Struct("=I")


def macvlan(body: bytes, *, parent: int, mode: str) -> bytes:
    """Return ``ip link add link PARENT type macvlan mode MODE``.

    Args:
        body: See `aioioth.wire.rtnetlink.link_body`.
        parent: Number of the link that it is on, where the request is sent.
        mode: One of MACVLAN_MODES.
    """
    data = attribute(_IFLA_MACVLAN_MODE, MACVLAN_MODES[mode])
    return new_link(body + attribute(IFLA_LINK, parent) + link_info("macvlan", data))


def vxlan(  # noqa: PLR0913  (one keyword for each thing that ours have)
    body: bytes,
    *,
    there: IPAddress,
    vni: int,
    port: int,
    ttl: int,
    link: int,
    ageing: int,
    limit: int,
) -> bytes:
    """Return ``ip link add type vxlan``; its UDP socket is where the request is sent.

    Args:
        body: See `aioioth.wire.rtnetlink.link_body`.
        there: The group, or the one other host.
        vni: The network's number.
        port: Everybody's.
        ttl: Routers that datagrams may pass, and one.
        link: Number of the link to send and receive through; 0 for any.
        ageing: Seconds to remember where an address was heard.
        limit: Most addresses to remember.
    """
    group = _IFLA_VXLAN_GROUP if there.version == 4 else _IFLA_VXLAN_GROUP6
    data = [
        attribute(_IFLA_VXLAN_ID, vni),
        attribute(group, there.packed),
        attribute(_IFLA_VXLAN_TTL, struct.pack("=B", ttl)),
        attribute(_IFLA_VXLAN_AGEING, ageing),
        attribute(_IFLA_VXLAN_LIMIT, limit),
        attribute(_IFLA_VXLAN_PORT, struct.pack("!H", port)),
    ]
    if link:
        data.append(attribute(_IFLA_VXLAN_LINK, link))
    return new_link(body + link_info("vxlan", *data))


def make_and_move(
    make: Callable[[bytes], bytes], body: bytes, name: str, namespace: int, index: int
) -> bytes:
    """Return three requests that make a link here and move it to another namespace.

    Sent at once they are one step: no signal comes between them. The last one deletes
    what could not be moved, and fails with ENODEV if all went well.

    Args:
        make: Makes the first one, such as `macvlan`.
        body: What it is to be like, without name, index and namespace.
        name: Of nothing else; it keeps it.
        namespace: Descriptor of where it goes.
        index: Its number there.
    """
    going = link_body(
        attribute(_IFLA_NEW_IFINDEX, index), name=name, namespace=namespace
    )
    named = body + attribute(IFLA_IFNAME, name)
    return make(named) + set_link(going) + del_link(link_body(name=name))


def no_change() -> bytes:
    """Return what is refused: EPERM to who may not change links, EINVAL to others."""
    return request(RTM_SETLINK, link_body(), NLM_F_ACK)


def get_link(index: int) -> bytes:
    """Return ``ip link show``."""
    return request(RTM_GETLINK, link_body(index=index))


def link_mtu(body: bytes) -> int:
    """Return the MTU of a link in an answer."""
    found: int = _NUMBER.unpack(attributes(body[_LINK_SIZE:])[IFLA_MTU])[0]
    return found


def route_link(body: bytes) -> int:
    """Return the number of the link that a route in an answer leads through."""
    found: int = _NUMBER.unpack(attributes(body[_ROUTE_SIZE:])[RTA_OIF])[0]
    return found
