"""The kernel's own counters of an interface.

Source: rtnetlink(7); <linux/if_link.h>, <linux/rtnetlink.h>, Linux 6.1.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

NLM_F_REQUEST = 0x1
NLMSG_ERROR = 2
RTM_NEWSTATS = 92
RTM_GETSTATS = 94
IFLA_STATS_LINK_64 = 1
IFLA_STATS_FILTER_LINK_64 = 1 << (IFLA_STATS_LINK_64 - 1)

_HEADER = struct.Struct("=IHHII")
_IF_STATS_MSG = struct.Struct("=BBHII")
_ATTRIBUTE = struct.Struct("=HH")
# The beginning of struct rtnl_link_stats64.
_STATS = struct.Struct("=8Q")


@dataclass(frozen=True)
class LinkStats:
    """What an interface received and sent, as the namespace's own kernel counts it."""

    received_frames: int
    sent_frames: int
    received_bytes: int
    sent_bytes: int
    received_errors: int
    sent_errors: int
    received_drops: int
    sent_drops: int


def link_stats(sock: socket.socket, index: int) -> LinkStats:
    """Return the counters of the interface with number ``index``.

    Args:
        sock: A NETLINK_ROUTE socket of the namespace that nobody else reads. The kernel
            answers within ``send``, so this never waits.
        index: As in ``ip link``.

    Raises:
        OSError: There is no such interface (ENODEV).
    """
    body = _IF_STATS_MSG.pack(0, 0, 0, index, IFLA_STATS_FILTER_LINK_64)
    length = _HEADER.size + len(body)
    sock.send(_HEADER.pack(length, RTM_GETSTATS, NLM_F_REQUEST, 1, 0) + body)
    answer = sock.recv(65536)
    _, kind, *_ = _HEADER.unpack_from(answer)
    if kind == NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, _HEADER.size)
        raise OSError(-code, os.strerror(-code))
    at = _HEADER.size + _IF_STATS_MSG.size
    while at + _ATTRIBUTE.size <= len(answer):
        size, name = _ATTRIBUTE.unpack_from(answer, at)
        if name == IFLA_STATS_LINK_64:
            return LinkStats(*_STATS.unpack_from(answer, at + _ATTRIBUTE.size))
        at += max(_ATTRIBUTE.size, size + 3 & ~3)
    raise OSError(errno.EPROTO, "no IFLA_STATS_LINK_64 in the kernel's answer")
