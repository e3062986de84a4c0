"""Datagrams that are answered from the address they were sent to.

Source: ip(7), IP_PKTINFO; ipv6(7), IPV6_RECVPKTINFO; RFC 2181 section 4.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioioth._ip import IPAddress
    from aioioth._receiver import Datagram

    Ancillary = Sequence[tuple[int, int, bytes]]

# <linux/in.h>, struct in_pktinfo, Linux 6.1
IP_PKTINFO = 8
_IN_PKTINFO = struct.Struct("=i4s4s")
# <linux/ipv6.h>, struct in6_pktinfo
_IN6_PKTINFO = struct.Struct("=16si")


def ask_for_destinations(sock: socket.socket) -> None:
    """Have the kernel say with each datagram where it was sent to."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)


def answering_from(datagram: Datagram) -> Ancillary | None:
    """Return what makes an answer come from where the datagram was sent to.

    None if it was sent to a group or to everybody, which has no such address. Empty if
    the kernel does not say, as of what came before it was asked to.
    """
    for level, kind, data in datagram.ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            _, local, destination = _IN_PKTINFO.unpack(data)
            if local != destination:
                return None
            return [(level, kind, _IN_PKTINFO.pack(0, local, bytes(4)))]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            local, index = _IN6_PKTINFO.unpack(data)
            address = ipaddress.IPv6Address(local)
            if address.is_multicast:
                return None
            # Only a link-local address needs to say on which link it is.
            index = index if address.is_link_local else 0
            return [(level, kind, _IN6_PKTINFO.pack(local, index))]
    return []


def address_of(sockaddr: tuple[str | int, ...]) -> IPAddress:
    """Return the address in a socket address."""
    return ipaddress.ip_address(sockaddr[0])
