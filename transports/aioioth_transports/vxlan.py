"""``vxlan://[GROUP][/OPTION...]``: a VXLAN, as the kernel's and routers' are.

GROUP is a multicast group, or one other host (the kernel's ``remote``). Without it,
the group is 239.0.0.1, or ff05:56de::1 with ``/v6``. Options: ``port=4789``, ``vni=1``
(the network's number), ``ttl=1``, ``rcvbuf=SIZE``, ``v4``, ``v6`` (what a name is
looked up for), ``hashsize=1024`` and ``expiretime=128`` (addresses remembered, and for
how many seconds) and ``if=INTERFACE`` (send and receive only there).

Everybody uses the same port, so there is one endpoint for each port of a host, or, with
``if``, of an interface; the kernel's VXLAN devices count. Several on one host: let them
share a switch, or use ``vxvde://``.

With a group whoever reaches the port is let in. With one other host, datagrams from
elsewhere are dropped and counted.

Source: RFC 7348; Linux 6.1, drivers/net/vxlan, by its behaviour.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from aioioth.vnl import parse_slash
from aioioth.wire.vxlan import MAX_VNI, pack_header, unpack_header
from aioioth_transports._multicast import (
    FLAGS,
    OPTIONS,
    Group,
    GroupPlug,
    is_group,
    on_interface,
)
from aioioth_transports._udp import any_address, bind, family_of, look_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth_transports._udp import SocketAddress

_PORT = 4789  # IANA's

_SO_BINDTOIFINDEX = 62  # <asm-generic/socket.h>, Linux 5.1


class VxlanTransport:
    """See `aioioth.abc.FrameTransport`.

    Args:
        address: ``[GROUP][/OPTION...]``.

    Raises:
        ConfigurationError: An option is unknown or has a bad value.
    """

    _scheme: ClassVar[str] = "vxlan"
    _least_ttl: ClassVar[int] = 0

    def __init__(self, address: str) -> None:
        parsed = parse_slash(address, options=OPTIONS, flags=FLAGS)
        self._group = Group.parse(
            self._scheme, parsed, port=_PORT, least_ttl=self._least_ttl
        )
        self._vni = parsed.integer("vni", 1, low=0, high=MAX_VNI)

    async def open(self, label: str) -> VxlanPlug:
        """Bind the port and join the group; see `aioioth.abc.FrameTransport.open`.

        Raises:
            BrokenTransportError: The port is taken, or nothing leads to the group.
        """
        group = self._group
        there = await group.look_up()
        family = family_of(there)
        here = await look_up(group.vnl, any_address(family), group.port, family)
        with ExitStack() as undo:
            sock = undo.enter_context(group.open_socket(family))
            index = group.interface_index(sock)
            there = on_interface(there, index)
            if index:
                sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, index)
            bind(group.vnl, sock, here)
            if is_group(there):
                group.join(sock, there, index)
                group.send_through(sock, there, index)
                group.check_way(there, index)
                _do_not_loop(sock)
            undo.pop_all()
        return VxlanPlug(sock, there, self._vni, group)


class VxlanPlug(GroupPlug):
    """See `aioioth.abc.Plug`.

    Args:
        sock: Bound and joined. Taken over.
        there: The group, or the one other host.
        vni: The network's number.
        group: What else the VNL says.
    """

    def __init__(
        self, sock: socket.socket, there: SocketAddress, vni: int, group: Group
    ) -> None:
        super().__init__((sock,), sock.recvfrom, there, pack_header(vni), group)
        self._vni = vni
        self._port = group.port
        self._only = None if is_group(there) else there[0]
        self.fileno: Callable[[], int] = sock.fileno

    @override
    def _is_ours(self, datagram: bytes) -> bool:
        # Reserved bits may be set; they are not to be looked at.
        try:
            return unpack_header(datagram) == self._vni
        except ValueError:
            return False

    @override
    def _origin(self, source: SocketAddress) -> SocketAddress | None:
        if self._only is not None and source[0] != self._only:
            self._dropped["stranger"] += 1
            return None
        # Whatever port it was sent from: senders choose one for each flow.
        if source[1] == self._port:
            return source
        return source[0], self._port, *source[2:]


def _do_not_loop(sock: socket.socket) -> None:
    """Do not receive what we send to the group; nobody else here has the port."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
