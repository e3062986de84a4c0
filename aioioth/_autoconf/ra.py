"""Router advertisements as a source of an interface's configuration.

The kernel could do some of it. It knows no DNS servers and no hash addresses, though,
and what it has set up nobody can undo as a whole. So stacks have it switched off
(``accept_ra=0``), and this is all there is. The hop limit and the times of neighbour
discovery that routers may set are left as they are.

Source: RFC 4861, RFC 4862, RFC 6980; icmp6(7), ipv6(7); <linux/in6.h>,
<linux/icmpv6.h>, Linux 6.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import socket
import struct
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from aioioth._autoconf.advertised import Host
from aioioth._autoconf.link_local import ensure_link_local
from aioioth._autoconf.ra_machine import RaMachine
from aioioth._linux import netdevice
from aioioth._receiver import Receiver
from aioioth.errors import NetlinkError
from aioioth.wire import nd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioioth._autoconf.ground import Ground
    from aioioth._autoconf.ra_machine import Change
    from aioioth._receiver import Datagram

    OpenSocket = Callable[[int, int, int], socket.socket]

__all__ = ["RaSource", "hop_limit_of", "open_icmp6"]

_log = logging.getLogger("aioioth")

# <asm-generic/socket.h>, <linux/icmpv6.h>, <linux/in6.h>
_SO_BINDTOIFINDEX = 62
_ICMP6_FILTER = 1
_IPV6_RECVFRAGSIZE = 77

_INT = struct.Struct("=i")


class RaSource:
    """Listens to router advertisements, and asks for them while there is no router.

    It asks first when it begins, and without the delay that RFC 4861 wants: that is for
    crowds of hosts, and here somebody waits for the answer. The interface gets a
    link-local address if it has none.

    Args:
        ground: The interface.
        addresses: Whether it gets addresses in the networks that are told of. False:
            routes, DNS servers and domains, and the MTU, only.
        metric: Of the routes; see `aioioth._autoconf.advertised.Host`.
    """

    def __init__(
        self, ground: Ground, *, addresses: bool = True, metric: int = 1000
    ) -> None:
        self._ground = ground
        self._addresses = addresses
        self._metric = metric
        self._machine: RaMachine | None = None
        self._probe: socket.socket
        self._news = asyncio.Event()

    async def run(self) -> None:
        """See `aioioth._autoconf.ground.Source.run`.

        Raises:
            OSError: No socket can be had, or the interface is gone.
        """
        ground = self._ground
        with contextlib.ExitStack() as undo:
            sock = open_icmp6(ground.socket, ground.index, nd.ROUTER_ADVERTISEMENT)
            receiver = Receiver(sock, self._take)
            undo.callback(receiver.close)
            self._probe = undo.enter_context(
                ground.socket(socket.AF_INET6, socket.SOCK_DGRAM, 0)
            )
            host = Host(
                dev=ground.dev,
                mac=ground.mac,
                fqdn=ground.fqdn,
                mtu=netdevice.interface_mtu(sock.fileno(), ground.dev),
                addresses=self._addresses,
                metric=self._metric,
            )
            self._machine = machine = RaMachine(host, _random)
            undo.callback(self._forget)
            while True:
                self._news.clear()
                if machine.solicit_due(_now()):
                    await self._solicit(sock)
                change = machine.take_change(_now())
                if change is not None:
                    await self._apply(machine, change)
                await self._sleep(machine)

    def refresh(self) -> None:
        """See `aioioth._autoconf.ground.Source.refresh`."""
        if self._machine is not None:
            self._machine.refresh()
            self._news.set()

    def release(self) -> None:
        """Nobody knows of us, so nobody is told."""

    def _forget(self) -> None:
        self._machine = None

    def _take(self, datagram: Datagram) -> None:
        machine = self._machine
        # What came in before the socket was bound may be from anywhere.
        if machine is None or datagram.source[3] != self._ground.index:
            return
        source = IPv6Address(datagram.source[0].partition("%")[0])
        if self._is_own(source):
            return
        try:
            hop_limit = hop_limit_of(datagram.ancillary)
            machine.receive(datagram.data, source, hop_limit, _now())
        except ValueError as error:
            _log.debug("%s: ignored on %s: %s", self._who, self._ground.dev, error)
        else:
            self._news.set()

    def _is_own(self, source: IPv6Address) -> bool:
        """Return whether an address is one of this interface.

        The kernel refuses routes by way of ourselves, and then all that comes with
        them: whoever says something in our name would keep us from every router.
        """
        # What is sent to ourselves leaves from the same address.
        try:
            self._probe.connect((str(source), 9, 0, self._ground.index))
        except OSError:  # there is no way at all, so it is not ours
            return False
        return IPv6Address(self._probe.getsockname()[0].partition("%")[0]) == source

    async def _solicit(self, sock: socket.socket) -> None:
        ground = self._ground
        try:
            # Each time: an interface that is set down loses its address.
            await ensure_link_local(ground.space, ground.dev)
            message = nd.RouterSolicitation(ground.mac).pack()
            sock.sendto(message, (str(nd.ALL_ROUTERS), 0, 0, ground.index))
        except OSError as error:  # it is down, or its queue is full; there is a next
            _log.debug("%s: asking on %s: %s", self._who, ground.dev, error)

    async def _apply(self, machine: RaMachine, change: Change) -> None:
        ground = self._ground
        try:
            taken = await ground.apply(change.findings, change.cause)
        except NetlinkError as error:
            # Anybody on the link can say things that the kernel does not take.
            _log.warning("%s: advertised on %s: %s", self._who, ground.dev, error)
            return
        for address in machine.duplicated(taken):
            _log.warning(
                "%s: %s on %s is another's already, and not used",
                self._who,
                address,
                ground.dev,
            )

    async def _sleep(self, machine: RaMachine) -> None:
        now = _now()
        deadline = machine.deadline(now)
        with contextlib.suppress(TimeoutError):
            wait = None if deadline == math.inf else max(0.0, deadline - now)
            async with asyncio.timeout(wait):
                await self._news.wait()

    @property
    def _who(self) -> str:
        return self._ground.label


def open_icmp6(open_socket: OpenSocket, index: int, kind: int) -> socket.socket:
    """Open a raw socket on one interface, for one type of ICMPv6 messages.

    Args:
        open_socket: The stack's.
        index: The interface's number.
        kind: The type.

    Returns:
        The socket; it says what `hop_limit_of` needs, sends with hop limit 255, and the
        kernel sees to checksums.

    Raises:
        OSError: It cannot be had.
    """
    sock = open_socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    try:
        # First, so that nothing comes from elsewhere; the bits say what to leave out.
        blocked = bytearray(b"\xff" * 32)
        word, bit = divmod(kind, 32)
        blocked[4 * word : 4 * word + 4] = struct.pack("=I", ~(1 << bit) & 0xFFFFFFFF)
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(blocked))
        sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, index)
        for option, value in (
            (socket.IPV6_RECVHOPLIMIT, 1),
            (_IPV6_RECVFRAGSIZE, 1),
            (socket.IPV6_MULTICAST_HOPS, nd.HOP_LIMIT),
            (socket.IPV6_UNICAST_HOPS, nd.HOP_LIMIT),
            (socket.IPV6_MULTICAST_LOOP, 0),
        ):
            sock.setsockopt(socket.IPPROTO_IPV6, option, value)
    except BaseException:
        sock.close()
        raise
    return sock


def hop_limit_of(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    """Return the hop limit that a message arrived with.

    Raises:
        ValueError: It was in fragments (RFC 6980), or the kernel does not say.
    """
    hop_limit = None
    for level, kind, data in ancillary:
        if level != socket.IPPROTO_IPV6:
            continue
        if kind == _IPV6_RECVFRAGSIZE:
            msg = "it came in fragments"
            raise ValueError(msg)
        if kind == socket.IPV6_HOPLIMIT:
            (hop_limit,) = _INT.unpack(data)
    if hop_limit is None:
        msg = "its hop limit is not known"
        raise ValueError(msg)
    return int(hop_limit)


def _random(least: float, most: float) -> float:
    return random.uniform(least, most)  # noqa: S311  (when to ask is no secret)


def _now() -> float:
    return asyncio.get_running_loop().time()
