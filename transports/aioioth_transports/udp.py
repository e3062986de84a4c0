"""``udp://[SRCADDR:]SRCPORT->DSTADDR:DSTPORT``: one peer, one datagram for each frame.

Addresses are names or numbers; IPv6 addresses may stand in brackets. There is one peer:
datagrams from any other address or port are dropped and counted. There is no other
protection: who can forge the peer's address is let in. A peer that is not there is no
error, and neither is what routers say about it.

Source: the behaviour of Debian's vde_plug 4.0.1; udp(7), ip(7), ipv6(7).
"""

from __future__ import annotations

import errno
import ipaddress
import re
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

from aioioth.errors import BrokenTransportError, VnlError
from aioioth_transports._udp import (
    MAX_FRAME,
    MIN_FRAME,
    MTU,
    READ_AT_ONCE,
    any_address,
    bind,
    family_of,
    look_up,
    not_broken,
    open_socket,
    overflows,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from typing_extensions import Buffer

    from aioioth_transports._udp import SocketAddress

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
