"""Which addresses there are in the network namespace of a socket.

Source: rtnetlink(7); <linux/rtnetlink.h>, <linux/if_addr.h>, Linux 6.1.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from aioioth.wire.rtnetlink import (
    NLM_F_DUMP,
    NLMSG_DONE,
    RTM_GETADDR,
    attributes,
    messages,
    request,
)
from aioioth.wire.rtroute import ADDRESS, IFA_ADDRESS, IFA_LOCAL

if TYPE_CHECKING:
    import socket


def addresses(
    sock: socket.socket,
) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Return the addresses of all interfaces, ``lo`` too.

    Args:
        sock: A netlink socket of family NETLINK_ROUTE. It may be non-blocking: the
            kernel has each part of the answer ready when it is asked for.

    Raises:
        OSError: The kernel refused.
    """
    sock.send(request(RTM_GETADDR, bytes(ADDRESS.size), NLM_F_DUMP))
    found: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    while True:
        for kind, body in messages(sock.recv(65536)):
            if kind == NLMSG_DONE:
                return found
            told = attributes(body[ADDRESS.size :])
            # On point-to-point links IFA_ADDRESS is the other end's.
            packed = told.get(IFA_LOCAL) or told[IFA_ADDRESS]
            found.append(ipaddress.ip_address(packed))
