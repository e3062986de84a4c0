"""The IPv4 address of an interface.

Source: netdevice(7); <linux/sockios.h>, <linux/in.h>, Linux 6.1.
"""

from __future__ import annotations

import fcntl
import struct
from ipaddress import IPv4Interface

SIOCGIFADDR = 0x8915
SIOCGIFNETMASK = 0x891B

# struct ifreq with a struct sockaddr_in: family, port, address.
_IFREQ_IPV4 = struct.Struct("=16sHH4s16x")


def ipv4_address(sock: int, name: str) -> IPv4Interface:
    """Return the first address of interface ``name``, with its prefix length.

    Raises:
        OSError: It has none (EADDRNOTAVAIL), or there is no such interface (ENODEV).
    """
    address, mask = (_ask(sock, name, what) for what in (SIOCGIFADDR, SIOCGIFNETMASK))
    return IPv4Interface((address, int.from_bytes(mask, "big").bit_count()))


def _ask(sock: int, name: str, what: int) -> bytes:
    answer = fcntl.ioctl(sock, what, _IFREQ_IPV4.pack(name.encode(), 2, 0, bytes(4)))
    address: bytes = _IFREQ_IPV4.unpack(answer)[3]
    return address
