"""``kvxlan://[GROUP][/OPTION...]``: ``vxlan://``, by the kernel's engine.

The address is one of ``vxlan://``; both understand each other. No frame enters the
program, so this is how networks span machines at the kernel's speed. The UDP socket is
the host's. A group needs an interface: the one the route leads through, or ``if=``.

What differs: ``rcvbuf`` has no effect, ``ttl`` is 1 at least, and once ``hashsize``
addresses are known, frames to further ones go to all. With one other host, whoever else
reaches the port is let in, too: that is for the host's firewall. The MTU is 50 bytes
less than the interface's, with IPv6 70: nothing is sent in fragments.

One host has each network, port and VNI, once. Let several stacks share it through a
switch or bridge.

It takes root (CAP_NET_ADMIN). Where frames are wanted, as for a `Cable`, it is
``vxlan://``.

Source: RFC 7348; drivers/net/vxlan, Linux 6.1; ip-link(8).
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from functools import partial
from typing import TYPE_CHECKING

from aioioth.wire.hostlinks import route_link, vxlan
from aioioth.wire.rtroute import get_route
from aioioth_transports._hostlink import (
    HostLinkJunction,
    Recipe,
    ask,
    host_socket,
    mtu_of,
    require_privilege,
)
from aioioth_transports._multicast import is_group, on_interface
from aioioth_transports._udp import family_of
from aioioth_transports.vxlan import VxlanTransport

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from aioioth_transports._udp import SocketAddress

# IP, UDP and VXLAN headers, and the frame's own.
_OVERHEAD: dict[int, int] = {
    socket.AF_INET: 20 + 8 + 8 + 14,
    socket.AF_INET6: 40 + 8 + 8 + 14,
}
_COMMON_MTU = 1500
_LARGEST_MTU = 65535


class KernelVxlanTransport(VxlanTransport):
    """See `aioioth.abc.KernelTransport`; as frames it is the same network.

    Args:
        address: ``[GROUP][/OPTION...]``.

    Raises:
        ConfigurationError: An option is unknown or has a bad value.
    """

    _scheme = "kvxlan"
    _least_ttl = 1  # to the kernel, 0 is 1

    async def join(self, label: str, /) -> HostLinkJunction:
        """Find the way to the group; see `aioioth.abc.KernelTransport.join`.

        Raises:
            MissingPrivilegeError: Links of the host may not be made.
            BrokenTransportError: Nothing leads to the group.
        """
        require_privilege(
            "making a vxlan link",
            "Without, take vxlan:// in place of kvxlan://, which is the same network.",
        )
        group = self._group
        there = await group.look_up()
        with group.open_socket(family_of(there)) as probe:
            index = group.interface_index(probe) or _scope(there)
            there = on_interface(there, index)
            if is_group(there):
                # Nothing of this stays; it finds out what is wrong, and says it.
                group.join(probe, there, index)
                group.check_way(there, index)
        address = ipaddress.ip_address(there[0].partition("%")[0])
        through, mtu = _way(address, index)
        link = through if is_group(there) else index
        mtu = min(mtu - _OVERHEAD[family_of(there)], _LARGEST_MTU)
        return HostLinkJunction(self._recipe(address, link, mtu))

    def _recipe(self, there: IPv4Address | IPv6Address, link: int, mtu: int) -> Recipe:
        group, vni = self._group, self._vni
        kind = "group" if there.is_multicast else "remote"
        through = f" dev {group.interface or link}" if link else ""
        return Recipe(
            kind="vxlan",
            words=f"type vxlan id {vni} {kind} {there} dstport {group.port}{through}",
            make=partial(
                vxlan,
                there=there,
                vni=vni,
                port=group.port,
                ttl=group.ttl,
                link=link,
                ageing=int(group.expiry),
                limit=group.table_size,
            ),
            mtu=mtu,
            reasons={
                errno.EEXIST: (
                    f"this host has VNI {vni} on port {group.port} already: let stacks "
                    f"share it through a switch or bridge, or take another vni="
                ),
                errno.EADDRINUSE: (
                    f"UDP port {group.port} is taken on this host, maybe by a "
                    f"vxlan://: 'ss -uanp' may tell"
                ),
                errno.ENODEV: "the interface to send through is gone",
            },
            passing={errno.EEXIST, errno.EADDRINUSE},
        )


def _scope(there: SocketAddress) -> int:
    """Return the number of the link that an IPv6 address is good on; 0 for any."""
    return there[3] if len(there) == 4 else 0


def _way(there: IPv4Address | IPv6Address, index: int) -> tuple[int, int]:
    """Return number and MTU of the link to send through; 0 if there is no route yet."""
    with host_socket() as sock:
        try:
            index = index or route_link(ask(sock, get_route(there, index)))
            return index, mtu_of(sock, index)
        except OSError:
            return index, _COMMON_MTU
