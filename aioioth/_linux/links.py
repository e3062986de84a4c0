"""Deleting an interface.

Source: rtnetlink(7); <linux/rtnetlink.h>, Linux 6.1.
"""

from __future__ import annotations

import contextlib
import os

from aioioth.wire.rtnetlink import RTM_DELLINK, link_body, request


def delete_link(sock: int, index: int) -> None:
    """Do ``ip link del``, and wait until the interface is gone.

    The kernel does it within the call, and waits for an RCU grace period. One that is
    gone already is all right.

    Args:
        sock: A NETLINK_ROUTE socket of the namespace.
        index: As in ``ip link``.
    """
    with contextlib.suppress(OSError):
        os.write(sock, request(RTM_DELLINK, link_body(index=index)))
