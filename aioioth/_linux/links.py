"""Deleting an interface.

Source: rtnetlink(7); <linux/rtnetlink.h>, Linux 6.1.
"""

from __future__ import annotations

import contextlib
import os
import struct

from aioioth.wire.rtnetlink import request

RTM_DELLINK = 17

_IF_INFO_MSG = struct.Struct("=BxHiII")


def delete_link(sock: int, index: int) -> None:
    """Do ``ip link del``, and wait until the interface is gone.

    The kernel does it within the call, and waits for an RCU grace period. One that is
    gone already is all right.

    Args:
        sock: A NETLINK_ROUTE socket of the namespace.
        index: As in ``ip link``.
    """
    with contextlib.suppress(OSError):
        os.write(sock, request(RTM_DELLINK, _IF_INFO_MSG.pack(0, 0, index, 0, 0)))
