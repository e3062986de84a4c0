"""All that the kernel has of a kind, asked for.

Source: netlink(7), rtnetlink(7); <linux/netlink.h>, <linux/rtnetlink.h>, Linux 6.1.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from aioioth.errors import NetlinkError
from aioioth.wire import rtnetlink, rtroute

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aioioth.abc import Space

    Message = tuple[int, bytes]  # type and body

_SOL_NETLINK = 270
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12

# A part of a dump has 32 KiB at most (netlink_dump).
_PART_BYTES = 1 << 16
# What changes all the time can make a dump start again and again.
_TRIES = 16

LINKS = rtnetlink.get_link(rtnetlink.link_body(), rtnetlink.NLM_F_DUMP)
ADDRESSES = rtnetlink.request(
    rtnetlink.RTM_GETADDR, bytes(rtroute.ADDRESS.size), rtnetlink.NLM_F_DUMP
)
NEIGHBOURS = rtnetlink.request(
    rtnetlink.RTM_GETNEIGH, bytes(rtroute.NEIGHBOUR.size), rtnetlink.NLM_F_DUMP
)
PROXIES = rtnetlink.request(
    rtnetlink.RTM_GETNEIGH,
    rtroute.NEIGHBOUR.pack(0, 0, 0, rtroute.NTF_PROXY, 0),
    rtnetlink.NLM_F_DUMP,
)


def addresses_of(index: int) -> bytes:
    """Return the request for all addresses of one link."""
    body = rtroute.ADDRESS.pack(0, 0, 0, 0, index)
    return rtnetlink.request(rtnetlink.RTM_GETADDR, body, rtnetlink.NLM_F_DUMP)


def routes_of(family: int, table: int | None) -> bytes:
    """Return the request for all routes of a family, or those in one table.

    A table that has never been used is refused, with ENOENT.
    """
    small = table if table is not None and table < 256 else 0
    body = rtroute.ROUTE.pack(family, 0, 0, 0, small, 0, 0, 0, 0)
    if table is not None and table >= 256:
        body += rtnetlink.attribute(rtroute.RTA_TABLE, table)
    return rtnetlink.request(rtnetlink.RTM_GETROUTE, body, rtnetlink.NLM_F_DUMP)


def rules_of(family: int) -> bytes:
    """Return the request for all rules of a family."""
    body = rtroute.RULE.pack(family, 0, 0, 0, 0, 0, 0)
    return rtnetlink.request(rtnetlink.RTM_GETRULE, body, rtnetlink.NLM_F_DUMP)


async def dump(
    space: Space, words: str, *requests: bytes, absent: int | None = None
) -> list[Message]:
    """Ask the kernel for all that it has.

    Args:
        space: The stack's.
        words: The request in iproute2's words, for errors.
        *requests: For one kind of thing each.
        absent: The errno that means that there is nothing of a kind.

    Returns:
        Each message.

    Raises:
        NetlinkError: The kernel refused.
    """
    try:
        # Closed before the loop has its turn, so that nobody ever sees it.
        with asking_socket(space) as sock:
            parts = read(sock, *requests)
        found: list[Message] = []
        for part in parts:
            try:
                found += taken_apart([part])
            except OSError as error:
                if error.errno != absent:
                    raise
            await asyncio.sleep(0)
    except OSError as error:
        text = str(error.strerror)
        detail = "" if text == errno.errorcode.get(error.errno or 0) else text
        raise NetlinkError(error.errno or errno.EIO, words, detail) from None
    return found


def asking_socket(space: Space) -> socket.socket:
    """Open a socket for `read`.

    Raises:
        OSError: It cannot be had.
    """
    family, protocol = socket.AF_NETLINK, socket.NETLINK_ROUTE
    sock = space.socket(family, socket.SOCK_RAW, protocol)
    sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
    sock.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
    return sock


def read(sock: socket.socket, *requests: bytes) -> list[bytes]:
    """Ask the kernel for all that it has, and do not look at it yet.

    It does not wait: a part of the answer is there when it is asked for. Looking takes
    far longer than this (0.6 us for a route, measured), and can be done in pieces.

    Args:
        sock: From `asking_socket`.
        *requests: For one kind of thing each.

    Returns:
        What there is at this moment, for `taken_apart`.

    Raises:
        OSError: There is no memory, say.
    """
    return [part for request in requests for part in _read(sock, request)]


def taken_apart(parts: Iterable[bytes]) -> Iterator[Message]:
    """Return each message in what was `read`.

    Raises:
        OSError: The kernel refused; with its own words.
    """
    for part in parts:
        for message in rtnetlink.messages(part):
            if message[0] != rtnetlink.NLMSG_DONE:
                yield message


def _read(sock: socket.socket, request: bytes) -> list[bytes]:
    parts: list[bytes] = []
    for _ in range(_TRIES):
        sock.send(request)
        parts.clear()
        with suppress(BlockingIOError):  # that was all
            while True:
                parts.append(sock.recv(_PART_BYTES))
        if not any(map(rtnetlink.was_interrupted, parts)):
            break
    return parts
