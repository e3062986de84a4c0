"""The kernel's own counters of an interface.

Source: rtnetlink(7); <linux/if_link.h>, <linux/rtnetlink.h>, Linux 6.1.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioioth.wire.rtnetlink import attributes, messages, request

if TYPE_CHECKING:
    import socket

RTM_GETSTATS = 94
IFLA_STATS_LINK_64 = 1
IFLA_STATS_FILTER_LINK_64 = 1 << (IFLA_STATS_LINK_64 - 1)

_IF_STATS_MSG = struct.Struct("=BBHII")
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
    sock.send(request(RTM_GETSTATS, body))
    for _, answer in messages(sock.recv(65536)):
        told = attributes(answer[_IF_STATS_MSG.size :])
        if IFLA_STATS_LINK_64 in told:
            return LinkStats(*_STATS.unpack_from(told[IFLA_STATS_LINK_64]))
    raise OSError(errno.EPROTO, "no IFLA_STATS_LINK_64 in the kernel's answer")
