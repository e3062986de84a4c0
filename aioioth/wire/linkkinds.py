"""What new links of each kind need to be told, beside their names.

Source: rtnetlink(7), ip-link(8); <linux/if_link.h>, <linux/veth.h>, Linux 6.1.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from aioioth.wire.rtnetlink import (
    NLA_F_NESTED,
    VETH_INFO_PEER,
    attribute,
    link_body,
    link_info,
)

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    IPAddress = IPv4Address | IPv6Address

__all__ = ["MACVLAN_MODES", "macvlan", "plain", "veth", "vlan", "vxlan"]

# The kernel's MACVLAN_MODE_ constants, as iproute2 calls them.
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}

_IFLA_VLAN_ID = 1
_IFLA_MACVLAN_MODE = 1
_IFLA_VXLAN_ID = 1
_IFLA_VXLAN_GROUP = 2
_IFLA_VXLAN_LINK = 3
_IFLA_VXLAN_LOCAL = 4
_IFLA_VXLAN_PORT = 15
_IFLA_VXLAN_GROUP6 = 16
_IFLA_VXLAN_LOCAL6 = 17


def plain(kind: str) -> bytes:
    """Return ``type KIND``, with nothing more to say."""
    return link_info(kind)


def veth(peer: str) -> bytes:
    """Return ``type veth peer name PEER``."""
    body = link_body(name=peer)
    return link_info("veth", attribute(VETH_INFO_PEER | NLA_F_NESTED, body))


def vlan(number: int) -> bytes:
    """Return ``type vlan id NUMBER``."""
    data = attribute(_IFLA_VLAN_ID, struct.pack("=H", number))
    return link_info("vlan", data)


def macvlan(mode: str) -> bytes:
    """Return ``type macvlan mode MODE``, one of MACVLAN_MODES."""
    return link_info("macvlan", attribute(_IFLA_MACVLAN_MODE, MACVLAN_MODES[mode]))


def vxlan(
    number: int,
    *,
    there: IPAddress | None = None,
    here: IPAddress | None = None,
    link: int | None = None,
    port: int = 4789,
) -> bytes:
    """Return ``type vxlan id NUMBER remote THERE local HERE dev LINK dstport PORT``.

    Args:
        number: The network's.
        there: The one other host, or a multicast group.
        here: Our address to send from.
        link: Number of the link to send and receive through; needed for a group.
        port: Everybody's UDP port.
    """
    data = [attribute(_IFLA_VXLAN_ID, number)]
    for address, kinds in (
        (there, (_IFLA_VXLAN_GROUP, _IFLA_VXLAN_GROUP6)),
        (here, (_IFLA_VXLAN_LOCAL, _IFLA_VXLAN_LOCAL6)),
    ):
        if address is not None:
            data.append(attribute(kinds[address.version == 6], address.packed))
    if link is not None:
        data.append(attribute(_IFLA_VXLAN_LINK, link))
    data.append(attribute(_IFLA_VXLAN_PORT, struct.pack("!H", port)))
    return link_info("vxlan", *data)
