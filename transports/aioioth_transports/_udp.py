"""UDP sockets for frames: what ``udp://``, ``vxvde://`` and ``vxlan://`` share.

Source: udp(7), ip(7), ipv6(7); sock_diag(7) for SO_MEMINFO.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from contextlib import ExitStack

from aioioth.errors import BrokenTransportError

# (host, port) of IPv4, (host, port, flow label, interface) of IPv6.
SocketAddress = tuple[str, int] | tuple[str, int, int, int]

# VDE's largest frame. Longer than what most underlays take in one piece: IP fragments.
MTU = 9216
MIN_FRAME = 14
MAX_FRAME = MTU + 18

# Datagrams of no use that are read one after the other before the loop gets its turn.
READ_AT_ONCE = 64

# What a burst of a fast peer needs; without privileges the kernel gives 208 KiB, or
# what net.core.rmem_max and wmem_max say.
BUFFER_SIZE = 2 << 20

_LOOKUP_SECONDS = 5.0

_KINDS: dict[int, str] = {socket.AF_INET: "IPv4 ", socket.AF_INET6: "IPv6 "}

# <linux/in.h>, <linux/in6.h>, <asm-generic/socket.h>, <linux/sock_diag.h>, Linux 6.1
_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_DONT = 0
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=9I")  # the last one is SK_MEMINFO_DROPS

# No route, no such neighbour, a route to an address that cannot be: they may pass.
_LOST = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EHOSTDOWN,
    errno.ECONNREFUSED,
    errno.ENETDOWN,
    errno.EADDRNOTAVAIL,
    errno.EINVAL,
    errno.EACCES,
    errno.ENODEV,
}


async def look_up(
    vnl: str, host: str, port: int, family: int = socket.AF_UNSPEC
) -> SocketAddress:
    """Return the first address of a host, of a family if one is given.

    Raises:
        BrokenTransportError: It has none, or nobody said within 5 seconds.
    """
    wanted = (family, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
    try:
        try:
            found = socket.getaddrinfo(host, port, *wanted, socket.AI_NUMERICHOST)
        except socket.gaierror as error:
            if error.errno != socket.EAI_NONAME:
                raise
            # Not the loop's: that one may ask in the default stack's world, but it is
            # plain sockets that will be used.
            async with asyncio.timeout(_LOOKUP_SECONDS):
                found = await asyncio.to_thread(socket.getaddrinfo, host, port, *wanted)
    except TimeoutError:
        reason = f"no answer within {_LOOKUP_SECONDS:g} s to what {host!r} is"
        raise BrokenTransportError(vnl, reason, errno=errno.ETIMEDOUT) from None
    except (OSError, ValueError) as error:
        kind = _KINDS.get(family, "")
        reason = f"{host!r} has no {kind}address: {error}"
        raise BrokenTransportError(vnl, reason, errno=errno.EADDRNOTAVAIL) from error
    address: SocketAddress = found[0][4]  # type: ignore[assignment]
    return address


def family_of(address: SocketAddress) -> int:
    """Return the address family of a socket's address."""
    return socket.AF_INET if len(address) == 2 else socket.AF_INET6


def any_address(family: int) -> str:
    """Return the address that stands for all of ours."""
    return "0.0.0.0" if family == socket.AF_INET else "::"  # noqa: S104  (asked for)


def open_socket(
    vnl: str, family: int, receive_buffer: int = BUFFER_SIZE
) -> socket.socket:
    """Open a UDP socket for frames: non-blocking, of one family, with large buffers.

    Raises:
        BrokenTransportError: The kernel has no such family.
    """
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise BrokenTransportError(vnl, str(error), errno=error.errno) from error
    with ExitStack() as undo:
        undo.enter_context(sock)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        else:
            # Frames are larger than what they travel in. Routers may cut them up as we
            # do, and need not tell us what fits, which would take a lost frame each.
            # With IPv6 only senders do so.
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
        for force, ask, size in (
            (_SO_RCVBUFFORCE, socket.SO_RCVBUF, receive_buffer),
            (_SO_SNDBUFFORCE, socket.SO_SNDBUF, BUFFER_SIZE),
        ):
            try:
                sock.setsockopt(socket.SOL_SOCKET, force, size)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, ask, size)
        undo.pop_all()
    return sock


def bind(vnl: str, sock: socket.socket, address: SocketAddress) -> None:
    """Bind a socket.

    Raises:
        BrokenTransportError: The port is taken, or the address is not ours.
    """
    host, port = address[:2]
    try:
        sock.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = f"port {port} is taken: 'ss -uanp' may tell by whom"
        elif error.errno == errno.EADDRNOTAVAIL:
            reason = f"{host} is no address of this host: see 'ip address'"
        elif error.errno == errno.EACCES:
            reason = f"port {port} is reserved for root: take one from 1024 on"
        else:
            reason = f"{host} port {port}: {error.strerror}"
        raise BrokenTransportError(vnl, reason, errno=error.errno) from error


def overflows(before: int, *sockets: socket.socket) -> int:
    """Return how many datagrams the kernel dropped because nobody read them.

    Args:
        before: What is returned once the sockets are closed.
        sockets: Added up.
    """
    if any(sock.fileno() == -1 for sock in sockets):
        return before
    return sum(
        _MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[
            -1
        ]
        for sock in sockets
    )


def not_broken(error: OSError) -> OSError:
    """Return the error for a frame that could not be sent now; the next one may be."""
    if error.errno in _LOST:
        return OSError(errno.EHOSTUNREACH, os.strerror(error.errno or 0))
    return error
