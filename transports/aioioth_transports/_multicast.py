"""What ``vxvde://`` and ``vxlan://`` share: a group, a header, and who is where.

Frames whose destination was heard lately go to where it was heard, all others to the
group. An address that is heard from elsewhere has moved there, at once: what restarts
comes back from another port, and could not be reached for minutes otherwise. So whoever
reaches our port, and knows or guesses the network's number, can redirect frames: as on
any Ethernet. ``seal://`` keeps such people out.

Source: RFC 7348 section 4; ip(7), ipv6(7).
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import re
import socket
import struct
from collections import Counter
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from aioioth.errors import BrokenTransportError
from aioioth.learning import LearningTable
from aioioth.wire.vxlan import HEADER_SIZE
from aioioth_transports._udp import (
    BUFFER_SIZE,
    MAX_FRAME,
    MIN_FRAME,
    MTU,
    READ_AT_ONCE,
    family_of,
    look_up,
    not_broken,
    open_socket,
    overflows,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Buffer

    from aioioth.vnl import Address
    from aioioth_transports._udp import SocketAddress

OPTIONS = ("port", "vni", "ttl", "rcvbuf", "hashsize", "expiretime", "if")
FLAGS = ("v4", "v6")

_DEFAULT_IPV4 = "239.0.0.1"
_DEFAULT_IPV6 = "ff05:56de::1"

_SHORTEST = HEADER_SIZE + MIN_FRAME
_LONGEST = HEADER_SIZE + MAX_FRAME
_READ_SIZE = _LONGEST + 1  # to see that there was more

# Where the frame's addresses stand in a datagram.
_DESTINATION = slice(HEADER_SIZE, HEADER_SIZE + 6)
_SOURCE = slice(HEADER_SIZE + 6, HEADER_SIZE + 12)

# <linux/in.h>, <linux/in6.h>, <linux/sockios.h>, Linux 6.1
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29
_SIOCGIFNAME = 0x8910
_SIOCGIFINDEX = 0x8933
_IFREQ = struct.Struct("=16si20x")
_MREQN = struct.Struct("=4s4si")
_MREQ6 = struct.Struct("=16si")

_INTERFACE = re.compile(r"[^\s/:]{1,15}")


class Peer(NamedTuple):
    """Somebody on the network, and where datagrams for it go.

    Attributes:
        mac: Its address there, such as ``02:00:00:00:00:01``.
        host: Address of the host where it is.
        port: And the port.
        age: Seconds since it was heard.
    """

    mac: str
    host: str
    port: int
    age: float


@dataclass(frozen=True)
class Group:
    """What a VNL says about the group and the way there.

    Attributes:
        vnl: In words.
        host: Name or address.
        family: AF_INET or AF_INET6; AF_UNSPEC for what the host has.
        port: Of the group.
        ttl: Routers that datagrams may pass, and one.
        receive_buffer: In bytes.
        interface: Name or number of the one to use; None for what the routes say.
        table_size: Most addresses of others to remember.
        expiry: Seconds to remember them.
    """

    vnl: str
    host: str
    family: int
    port: int
    ttl: int
    receive_buffer: int
    interface: str | None
    table_size: int
    expiry: float

    @classmethod
    def parse(
        cls, scheme: str, parsed: Address, *, port: int, least_ttl: int = 0
    ) -> Group:
        """Read the options that both schemes have.

        Args:
            scheme: For messages.
            parsed: Parsed with at least OPTIONS and FLAGS.
            port: The default.
            least_ttl: 0 if datagrams may be kept on this host.

        Raises:
            VnlError: They make no sense.
        """
        family = _family(parsed)
        default = _DEFAULT_IPV6 if family == socket.AF_INET6 else _DEFAULT_IPV4
        interface = parsed.options.get("if")
        if interface is not None and not _INTERFACE.fullmatch(interface):
            parsed.refuse("if", "if: expected the name of an interface, or its number")
        return cls(
            vnl=f"{scheme}://{parsed.text}",
            host=parsed.base or default,
            family=family,
            port=parsed.integer("port", port, low=1, high=65535),
            ttl=parsed.integer("ttl", 1, low=least_ttl, high=255),
            receive_buffer=parsed.size("rcvbuf", BUFFER_SIZE, high=1 << 30),
            interface=interface,
            table_size=parsed.integer("hashsize", 1024, low=1, high=1 << 20),
            expiry=parsed.integer("expiretime", 128, low=1, high=1 << 30),
        )

    async def look_up(self) -> SocketAddress:
        """Return the group's address.

        Raises:
            BrokenTransportError: It has none.
        """
        return await look_up(self.vnl, self.host, self.port, self.family)

    def open_socket(self, family: int) -> socket.socket:
        """Open a socket; see `aioioth_transports._udp.open_socket`."""
        sock = open_socket(self.vnl, family, self.receive_buffer)
        if family == socket.AF_INET:
            # 0 is no time to live for a datagram, but it is for one to a group: it
            # stays on this host.
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, self.ttl or 1)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, self.ttl)
        else:
            level = socket.IPPROTO_IPV6
            sock.setsockopt(level, socket.IPV6_UNICAST_HOPS, self.ttl or 1)
            sock.setsockopt(level, socket.IPV6_MULTICAST_HOPS, self.ttl)
        return sock

    def interface_index(self, sock: socket.socket) -> int:
        """Return the number of the interface, 0 if none was named.

        Args:
            sock: Any; the interface is looked for in its network namespace.

        Raises:
            BrokenTransportError: There is none.
        """
        if self.interface is None:
            return 0
        try:
            request = _IFREQ.pack(os.fsencode(self.interface), 0)
            return int(_IFREQ.unpack(fcntl.ioctl(sock, _SIOCGIFINDEX, request))[1])
        except OSError as error:
            index = int(self.interface) if self.interface.isdecimal() else 0
            try:
                if 0 < index < 1 << 31:
                    fcntl.ioctl(sock, _SIOCGIFNAME, _IFREQ.pack(b"", index))
                    return index
            except OSError:
                pass  # as said below
            reason = f"there is no interface {self.interface!r}: see 'ip link'"
            raise BrokenTransportError(self.vnl, reason, errno=errno.ENODEV) from error

    def join(self, sock: socket.socket, group: SocketAddress, index: int) -> None:
        """Receive what is sent to a group, on one interface only.

        Raises:
            BrokenTransportError: No interface leads there.
        """
        if _needs_interface(group):
            raise self._no_way(group, OSError(errno.EINVAL, "each link has its own"))
        try:
            if family_of(group) == socket.AF_INET:
                # Otherwise what any program here has joined is received, anywhere.
                sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
                request = _MREQN.pack(socket.inet_aton(group[0]), b"", index)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
                packed = socket.inet_pton(socket.AF_INET6, group[0].partition("%")[0])
                request = _MREQ6.pack(packed, index or group[-1])
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
        except OSError as error:
            raise self._no_way(group, error) from error

    def send_through(
        self, sock: socket.socket, group: SocketAddress, index: int
    ) -> None:
        """Have a socket send to the group through one interface, 0 for any.

        Raises:
            BrokenTransportError: There is no way to the group.
        """
        try:
            if family_of(group) == socket.AF_INET:
                through = _MREQN.pack(b"", b"", index)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, through)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        except OSError as error:
            raise self._no_way(group, error) from error

    def check_way(self, group: SocketAddress, index: int) -> None:
        """Find out whether datagrams to the group have a way.

        Raises:
            BrokenTransportError: They have none.
        """
        with self.open_socket(family_of(group)) as probe:
            self.send_through(probe, group, index)
            try:
                probe.connect(group)  # sends nothing, but looks for the route
            except OSError as error:
                raise self._no_way(group, error) from error

    def _no_way(self, group: SocketAddress, error: OSError) -> BrokenTransportError:
        if self.interface is None:
            reason = (
                f"no interface leads to the group {group[0]}: say which one to use, "
                f"/if=NAME, or add a route for multicasts"
            )
        else:
            reason = (
                f"interface {self.interface} does not lead to the group {group[0]}: "
                f"is it up, and has it an address of the kind?"
            )
        reason += f" ({error.strerror})"
        return BrokenTransportError(self.vnl, reason, errno=error.errno)


def on_interface(address: SocketAddress, index: int) -> SocketAddress:
    """Return an address as it is to be used on an interface, 0 for any."""
    if len(address) == 2 or not index:
        return address
    return *address[:3], index


def is_group(address: SocketAddress) -> bool:
    """Return whether an address is a multicast one."""
    return ipaddress.ip_address(address[0].partition("%")[0]).is_multicast


def _needs_interface(group: SocketAddress) -> bool:
    """Return whether an interface has to be named: IPv6 knows groups of one link.

    Source: RFC 4291 section 2.7.
    """
    if len(group) == 2 or group[3]:
        return False
    return ipaddress.ip_address(group[0].partition("%")[0]).packed[1] & 0x0F <= 2


def literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a host is written as; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _family(parsed: Address) -> int:
    ipv4, ipv6 = "v4" in parsed.options, "v6" in parsed.options
    address = literal(parsed.base)
    if address is not None:
        if (ipv4 or ipv6) and not (ipv4 if address.version == 4 else ipv6):
            flag = "v6" if ipv6 else "v4"
            parsed.refuse(flag, f"{flag}: the address is one of IPv{address.version}")
        return socket.AF_INET if address.version == 4 else socket.AF_INET6
    if ipv4 == ipv6:
        return socket.AF_UNSPEC if parsed.base else socket.AF_INET
    return socket.AF_INET if ipv4 else socket.AF_INET6


class GroupPlug:
    """See `aioioth.abc.Plug`; what a scheme does differently is in its own class.

    Args:
        sockets: All of ours; the first one sends. Taken over.
        receive: Reads a datagram, as `socket.socket.recvfrom`.
        destination: Where frames go whose destination was not heard.
        header: Stands before each frame.
        group: Gives the limits of the table.
    """

    mtu = MTU

    def __init__(
        self,
        sockets: tuple[socket.socket, ...],
        receive: Callable[[int], tuple[bytes, SocketAddress]],
        destination: SocketAddress,
        header: bytes,
        group: Group,
    ) -> None:
        self._sockets = sockets
        self._receive, self._send = receive, sockets[0].sendto
        self._destination = destination
        self._header = header
        self._table: LearningTable[bytes, SocketAddress] = LearningTable(
            ageing=group.expiry, capacity=group.table_size
        )
        self._find, self._learn = self._table.find, self._table.learn
        self._dropped: Counter[str] = Counter()
        self._overflows = 0

    def hangup_fileno(self) -> int:
        """Return -1: a group does not go away."""
        return -1

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Who was heard lately."""
        return tuple(
            Peer(entry.key.hex(":"), *entry.where[:2], entry.age)
            for entry in self._table.entries(monotonic())
        )

    @property
    def drops(self) -> Mapping[str, int]:
        """See `aioioth.abc.CountsDrops`."""
        self._overflows = overflows(self._overflows, *self._sockets)
        return self._dropped | Counter({"receive queue full": self._overflows})

    def recv_into(self, buffer: memoryview, /) -> int:
        """See `aioioth.abc.Plug.recv_into`."""
        header = self._header
        for _ in range(READ_AT_ONCE):
            datagram, source = self._receive(_READ_SIZE)
            length = len(datagram)
            if not (
                _SHORTEST <= length <= _LONGEST
                and (datagram.startswith(header) or self._is_ours(datagram))
            ):
                self._refuse(datagram, source)
                continue
            origin = self._origin(source)
            if origin is None:
                continue
            address = datagram[_SOURCE]
            if not address[0] & 1:
                self._learn(address, origin, monotonic())
            length -= HEADER_SIZE
            buffer[:length] = datagram[HEADER_SIZE:]
            return length
        raise BlockingIOError  # the rest wakes us in the loop's next turn

    def send(self, frame: Buffer, /) -> int:
        """See `aioioth.abc.Plug.send`."""
        # Measured: a copy takes less than sendmsg with two buffers.
        datagram = self._header + frame
        length = len(datagram) - HEADER_SIZE
        if length < MIN_FRAME:
            raise OSError(errno.ENOMSG, os.strerror(errno.ENOMSG))
        address = datagram[_DESTINATION]
        where = None if address[0] & 1 else self._find(address, monotonic())
        try:
            self._send(datagram, where or self._destination)
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise  # the interface is gone, and our membership: open anew
            raise not_broken(error) from None
        return length

    def close(self) -> None:
        """See `aioioth.abc.Plug.close`."""
        self._overflows = overflows(self._overflows, *self._sockets)
        for sock in self._sockets:
            sock.close()

    def _is_ours(self, datagram: bytes) -> bool:
        """Return whether another header than our own means our network, too."""
        return False

    def _origin(self, source: SocketAddress) -> SocketAddress | None:
        """Return where answers go; None if the datagram is not for us."""
        raise NotImplementedError

    def _refuse(self, datagram: bytes, source: SocketAddress) -> None:
        """Count a datagram that holds no frame for us."""
        if len(datagram) < HEADER_SIZE:
            cause = "short"
        elif not (datagram.startswith(self._header) or self._is_ours(datagram)):
            cause = "wrong network"
        else:
            cause = "short" if len(datagram) < _SHORTEST else "long"
        self._dropped[cause] += 1
