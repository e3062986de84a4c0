"""``vxvde://[GROUP][/OPTION...]``: a switch without a middle, on a LAN.

Everybody on the network joins a multicast group and says there what is for all; what is
for one goes straight to its port. GROUP is 239.0.0.1 if it is not given, ff05:56de::1
with ``/v6``. Any number of endpoints may be on a host, or in a program. Options:

* ``port=14789``: the group's port
* ``vni=1``: the network's number, or the name of a UNIX group, for its number; ``vni``
  alone is the number of our own
* ``grp=GROUP``: a UNIX group's number, in the same forms, makes the last three bytes of
  the group's address, and the ``vni`` if there is none
* ``ttl=1``: routers to pass, and one; 0 stays on this host
* ``if=INTERFACE``: a name or a number; ``bind=ADDRESS``: which of ours to send from
* ``v4``, ``v6``: what a name is looked up for
* ``rcvbuf=SIZE``, ``hashsize=1024`` and ``expiretime=128``: the receive buffer, and how
  many addresses to remember for how many seconds

On ``lo``, add ``bind=127.0.0.1``: datagrams to the group have no source address there
otherwise, and others cannot tell whose goodbye it was.

There are no strangers: who is in the group's reach is on the network, and the numbers
only tell networks apart.

Source: the behaviour of Debian's vde_plug 4.0.1; ip(7), ipv6(7), epoll(7).
"""

from __future__ import annotations

import contextlib
import errno
import grp
import ipaddress
import os
import select
import socket
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth.errors import BrokenTransportError
from aioioth.vnl import parse_slash
from aioioth.wire.vxlan import MAX_VNI, pack_header
from aioioth_transports._multicast import (
    FLAGS,
    OPTIONS,
    Group,
    GroupPlug,
    is_group,
    literal,
    on_interface,
)
from aioioth_transports._udp import any_address, bind, family_of, look_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth.vnl import Address
    from aioioth_transports._udp import SocketAddress

_PORT = 14789

# <linux/in.h>, <linux/in6.h>, <linux/socket.h>, Linux 6.1
_IP_PKTINFO = 8
_PKTINFO = struct.Struct("=i4s4s")
_PKTINFO6 = struct.Struct("=16si")
_MSG_PROBE = 0x10
_SEND_NOTHING = socket.MSG_CONFIRM | _MSG_PROBE

# Frames from one of the two sockets before the other gets its turn: a pump's budget.
_TURN = 64


class VxvdeTransport:
    """See `aioioth.abc.FrameTransport`.

    Args:
        address: ``[GROUP][/OPTION...]``.

    Raises:
        ConfigurationError: An option is unknown or has a bad value.
    """

    def __init__(self, address: str) -> None:
        parsed = parse_slash(
            address, options=(*OPTIONS, "grp", "bind"), flags=(*FLAGS, "vni", "grp")
        )
        self._group = Group.parse("vxvde", parsed, port=_PORT)
        host = literal(parsed.base)
        if host is not None and not host.is_multicast:
            parsed.refuse(
                "", "expected a multicast group, such as 239.0.0.1 or ff05:56de::1"
            )
        self._unix_group = _number(parsed, "grp")
        vni = _number(parsed, "vni")
        if vni is None:
            vni = 1 if self._unix_group is None else self._unix_group
        self._vni = vni
        self._bind = parsed.options.get("bind")
        if self._bind is not None and literal(self._bind) is None:
            parsed.refuse("bind", "bind: expected one of our IP addresses")

    async def open(self, label: str) -> VxvdePlug:
        """Join the group; see `aioioth.abc.FrameTransport.open`.

        Raises:
            BrokenTransportError: The group's name is unknown, or nothing leads to it.
        """
        group = self._group
        there = await group.look_up()
        if not is_group(there):
            reason = f"{there[0]} is not a multicast group"
            raise BrokenTransportError(group.vnl, reason, errno=errno.EINVAL)
        if self._unix_group is not None:
            there = _numbered(there, self._unix_group)
        family = family_of(there)
        ours = await look_up(group.vnl, self._bind or any_address(family), 0, family)
        with ExitStack() as undo:
            heard = undo.enter_context(group.open_socket(family))
            index = group.interface_index(heard)
            there = on_interface(there, index)
            heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            group.join(heard, there, index)
            bind(group.vnl, heard, there)
            own = undo.enter_context(group.open_socket(family))
            group.send_through(own, there, index)
            bind(group.vnl, own, on_interface(ours, index))
            group.check_way(there, index)
            ears = undo.enter_context(contextlib.closing(_Ears(own, heard)))
            undo.pop_all()
        return VxvdePlug(own, heard, ears, there, self._vni, group)


class _Ears:
    """Two sockets that are read like one, with one descriptor for both.

    Args:
        own: One; not taken over.
        heard: The other.
    """

    def __init__(self, own: socket.socket, heard: socket.socket) -> None:
        self._waiting = select.epoll()
        for sock in (own, heard):
            self._waiting.register(sock, select.EPOLLIN)
        self._receive, self._other = own.recvfrom, heard.recvfrom
        self._left = _TURN

    def fileno(self) -> int:
        """Return the descriptor that is readable when either is; -1 when closed."""
        return -1 if self._waiting.closed else self._waiting.fileno()

    def recvfrom(self, size: int) -> tuple[bytes, SocketAddress]:
        """Read a datagram; BlockingIOError if none waits where the last one came from.

        Then the other socket, should it have any, wakes us again: that is seldom, and
        cheaper than to ask it each time.
        """
        if not self._left:
            self._turn()
        try:
            received = self._receive(size)
        except BlockingIOError:
            if self._left != _TURN:
                self._left = _TURN
                raise
            self._turn()
            received = self._receive(size)
        self._left -= 1
        return received

    def _turn(self) -> None:
        self._receive, self._other = self._other, self._receive
        self._left = _TURN

    def close(self) -> None:
        """Release the descriptor. Idempotent."""
        self._waiting.close()


class VxvdePlug(GroupPlug):
    """See `aioioth.abc.Plug`.

    Args:
        own: Sends everything, and gets what is for us alone. Taken over.
        heard: Gets what is for the group. Taken over.
        ears: Reads both. Taken over.
        there: The group.
        vni: The network's number.
        group: What else the VNL says.
    """

    def __init__(  # noqa: PLR0917  (one call site)
        self,
        own: socket.socket,
        heard: socket.socket,
        ears: _Ears,
        there: SocketAddress,
        vni: int,
        group: Group,
    ) -> None:
        header = pack_header(vni)
        super().__init__((own, heard), ears.recvfrom, there, header, group)
        self._ears = ears
        self._process = os.getpid()
        name = own.getsockname()
        self._port: int = name[1]
        # Source addresses that are known to be ours. Which one a datagram gets is up
        # to the routes, if the socket is bound to none.
        self._ours: set[str] = {name[0]}
        self.fileno: Callable[[], int] = ears.fileno
        self.room_fileno: Callable[[], int] = own.fileno

    @override
    def close(self) -> None:
        """See `aioioth.abc.Plug.close`; says goodbye to the group."""
        if self._process == os.getpid():
            # The others forget at once that they heard us here.
            with contextlib.suppress(OSError):
                self._send(self._header, self._destination)
        self._ears.close()
        super().close()

    @override
    def _origin(self, source: SocketAddress) -> SocketAddress | None:
        if source[1] == self._port and self._is_own(source):
            return None
        if not source[1]:  # nobody can answer
            self._dropped["stranger"] += 1
            return None
        return source

    @override
    def _refuse(self, datagram: bytes, source: SocketAddress) -> None:
        if datagram == self._header:
            self._table.forget(source)  # goodbye
        elif source[1] != self._port or not self._is_own(source):
            super()._refuse(datagram, source)

    def _is_own(self, source: SocketAddress) -> bool:
        """Return whether a datagram from a port with our number is our own echo.

        Another host may have the same number. Which addresses are ours can change at
        any time; the kernel knows, and is asked whether it would send from this one.
        """
        host = source[0]
        if host in self._ours:
            return True
        if len(source) == 2:
            packed = _PKTINFO.pack(0, socket.inet_aton(host), b"")
            control = socket.IPPROTO_IP, _IP_PKTINFO, packed
        else:
            packed = _PKTINFO6.pack(socket.inet_pton(socket.AF_INET6, host), source[3])
            control = socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, packed
        try:
            self._sockets[0].sendmsg((), (control,), _SEND_NOTHING, self._destination)
        except OSError:
            return False
        self._ours.add(host)
        return True


def _number(parsed: Address, option: str) -> int | None:
    """Return a network's number: a number, or that of a UNIX group; None if not given.

    Of a UNIX group's number the lowest 24 bits count.
    """
    text = parsed.options.get(option)
    if text is None:
        return None
    if not text:
        return os.getegid() & MAX_VNI
    if text.isdecimal():
        return parsed.integer(option, 0, low=0, high=MAX_VNI)
    try:
        return grp.getgrnam(text).gr_gid & MAX_VNI
    except KeyError:
        reason = f"{option}: expected a number up to {MAX_VNI}, or a UNIX group's name"
        parsed.refuse(option, reason)


def _numbered(address: SocketAddress, number: int) -> SocketAddress:
    """Return an address with a number as its last three bytes."""
    group = ipaddress.ip_address(address[0].partition("%")[0])
    packed = group.packed[:-3] + number.to_bytes(3, "big")
    return str(ipaddress.ip_address(packed)), *address[1:]
