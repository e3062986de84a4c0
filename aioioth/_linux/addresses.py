"""Which addresses there are in the network namespace of a socket.

Source: rtnetlink(7); <linux/rtnetlink.h>, <linux/if_addr.h>, Linux 6.1.
"""

from __future__ import annotations

import ipaddress
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from typing_extensions import Buffer

NLMSG_ERROR = 2
NLMSG_DONE = 3
RTM_GETADDR = 22
NLM_F_REQUEST = 0x1
NLM_F_DUMP = 0x300

IFA_ADDRESS = 1
IFA_LOCAL = 2  # where IFA_ADDRESS is the other end's, on point-to-point links

_NLMSGHDR = struct.Struct("=IHHII")
_IFADDRMSG = struct.Struct("=BBBBI")
_RTATTR = struct.Struct("=HH")
_ERROR = struct.Struct("=i")


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
    size = _NLMSGHDR.size + _IFADDRMSG.size
    header = _NLMSGHDR.pack(size, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
    sock.send(header + bytes(_IFADDRMSG.size))
    found: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    while True:
        for kind, body in _messages(sock.recv(65536)):
            if kind == NLMSG_DONE:
                return found
            if kind == NLMSG_ERROR:
                code = -_ERROR.unpack_from(body)[0]
                raise OSError(code, os.strerror(code))
            attributes = dict(_attributes(body[_IFADDRMSG.size :]))
            packed = attributes.get(IFA_LOCAL) or attributes[IFA_ADDRESS]
            found.append(ipaddress.ip_address(packed))


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        size, kind, *_ = _NLMSGHDR.unpack_from(data, at)
        yield kind, data[at + _NLMSGHDR.size : at + size]
        at += _aligned(size)


def _attributes(data: Buffer) -> Iterator[tuple[int, bytes]]:
    view = memoryview(data)
    while len(view) >= _RTATTR.size:
        size, kind = _RTATTR.unpack_from(view)
        yield kind, bytes(view[_RTATTR.size : size])
        view = view[_aligned(size) :]


def _aligned(size: int) -> int:
    return (size + 3) & ~3
