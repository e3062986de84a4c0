"""``udp://[SRCADDR:]SRCPORT->DSTADDR:DSTPORT``: one peer, one datagram for each frame.

Addresses are names or numbers; IPv6 addresses may stand in brackets. There is one peer:
datagrams from any other address or port are dropped and counted. There is no other
protection: who can forge the peer's address is let in. A peer that is not there is no
error, and neither is what routers say about it.

Source: the behaviour of Debian's vde_plug 4.0.1; udp(7), ip(7), ipv6(7).
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import re
import socket
import struct
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

from aioioth.errors import BrokenTransportError, VnlError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Buffer

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

_PLACE = re.compile(r"(?:(?P<host>\[[^][]*\]|[^][>\s]+):)?(?P<port>[0-9]{1,5})")
_EXPECTED = "expected [SRCADDR:]SRCPORT->DSTADDR:DSTPORT, such as 5000->192.0.2.1:5000"


class UdpTransport:
    """See `aioioth.abc.FrameTransport`.

    Args:
        address: ``[SRCADDR:]SRCPORT->DSTADDR:DSTPORT``.

    Raises:
        ConfigurationError: It is anything else.
    """

    def __init__(self, address: str) -> None:
        self._vnl = f"udp://{address}"
        source, arrow, destination = address.partition("->")
        if not arrow:
            raise VnlError(address, len(address), _EXPECTED)
        after = len(source) + len(arrow)
        self._source = _place(address, source, 0)
        host, self._port = _place(address, destination, after)
        if host is None:
            raise VnlError(
                address, after, f"the peer's address is missing: {_EXPECTED}"
            )
        self._host = host

    async def open(self, label: str) -> UdpPlug:
        """Bind our port; see `aioioth.abc.FrameTransport.open`.

        Raises:
            BrokenTransportError: A name is unknown, or the port is taken.
        """
        peer = await look_up(self._vnl, self._host, self._port)
        if ipaddress.ip_address(peer[0].partition("%")[0]).is_multicast:
            reason = f"{peer[0]} is a group, not a peer: see vxvde://"
            raise BrokenTransportError(self._vnl, reason, errno=errno.EINVAL)
        host, port = self._source
        family = family_of(peer)
        ours = await look_up(self._vnl, host or any_address(family), port, family)
        with ExitStack() as undo:
            sock = undo.enter_context(open_socket(self._vnl, family))
            bind(self._vnl, sock, ours)
            undo.pop_all()
        return UdpPlug(sock, peer)


class UdpPlug:
    """See `aioioth.abc.Plug`.

    Args:
        sock: Bound. Taken over.
        peer: Where frames go to and come from.
    """

    mtu = MTU

    def __init__(self, sock: socket.socket, peer: SocketAddress) -> None:
        # Not connected: it would get an error for each ICMP message, and libuv never
        # looks again at a descriptor that had one.
        self._socket = sock
        self._peer = peer
        self._dropped: Counter[str] = Counter()
        self._overflows = 0
        self._receive, self._send = sock.recvfrom_into, sock.sendto
        self.fileno: Callable[[], int] = sock.fileno

    def hangup_fileno(self) -> int:
        """Return -1: nobody tells whether the peer is there."""
        return -1

    @property
    def drops(self) -> Mapping[str, int]:
        """See `aioioth.abc.CountsDrops`."""
        self._overflows = overflows(self._overflows, self._socket)
        return self._dropped | Counter({"receive queue full": self._overflows})

    def recv_into(self, buffer: memoryview, /) -> int:
        """See `aioioth.abc.Plug.recv_into`."""
        for _ in range(READ_AT_ONCE):
            length, source = self._receive(buffer)
            if source == self._peer and MIN_FRAME <= length <= MAX_FRAME:
                return length
            if source != self._peer:
                self._dropped["stranger"] += 1
            else:
                self._dropped["short" if length < MIN_FRAME else "long"] += 1
        raise BlockingIOError  # the rest wakes us in the loop's next turn

    def send(self, frame: Buffer, /) -> int:
        """See `aioioth.abc.Plug.send`."""
        try:
            return self._send(frame, self._peer)
        except OSError as error:
            raise not_broken(error) from None

    def close(self) -> None:
        """See `aioioth.abc.Plug.close`."""
        self._overflows = overflows(self._overflows, self._socket)
        self._socket.close()


def _place(address: str, text: str, start: int) -> tuple[str | None, int]:
    """Return host and port; the host is None if there is none."""
    match = _PLACE.fullmatch(text)
    if match is None:
        raise VnlError(address, start, _EXPECTED)
    port = int(match["port"])
    if not 1 <= port <= 65535:
        where = start + match.start("port")
        raise VnlError(address, where, "expected a port from 1 to 65535")
    host = match["host"]
    if host is not None:
        host = host.removeprefix("[").removesuffix("]")
        if not host:
            raise VnlError(address, start, "expected an address in the brackets")
    return host, port


# What vxvde and vxlan need as well


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
