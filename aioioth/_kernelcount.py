"""What the kernel itself counts of an interface, as counters of ours."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from aioioth._linux import linkstats, netdevice
from aioioth._pump import Counters

if TYPE_CHECKING:
    from aioioth.abc import Space


def count(space: Space, name: str) -> tuple[Counters, Counters]:
    """Return what an interface sent and received so far.

    Raises:
        OSError: There is no such interface any more (ENODEV).
        ClosedError: The space was closed.
    """
    with space.socket(
        socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE
    ) as sock:
        index = netdevice.interface_index(sock.fileno(), name)
        found = linkstats.link_stats(sock, index)
    sent = Counters(found.sent_frames, found.sent_bytes)
    received = Counters(found.received_frames, found.received_bytes)
    for counters, drops, errors in (
        (sent, found.sent_drops, found.sent_errors),
        (received, found.received_drops, found.received_errors),
    ):
        causes = {"dropped by the kernel": drops, "malformed": errors}
        counters.drops.update({why: n for why, n in causes.items() if n})
    return sent, received
