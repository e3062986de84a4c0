"""The two ways to an interface's frames: a TAP, or a packet socket behind a veth pair.

Both are one descriptor that keeps everything behind it alive, and look the same to a
pump: see `aioioth._pump.End`.
"""

from __future__ import annotations

import socket
from io import FileIO
from typing import TYPE_CHECKING

from aioioth._iproute import add_veth
from aioioth._linux import netdevice, tuntap
from aioioth._merging import Merger
from aioioth.wire.offload import HEADER_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth._namespace import Namespace
    from aioioth.netlink import Netlink

# <linux/if_packet.h>, <linux/if_ether.h>, Linux 6.1
SOL_PACKET = 263
PACKET_QDISC_BYPASS = 20
PACKET_IGNORE_OUTGOING = 23
ETH_P_ALL = 3

# About 900 full-sized frames with the kernel's own overhead, if the system gives that
# much: with the default net.core.rmem_max it is 180.
_QUEUE_BYTES = 1 << 21

# Name of the veth's far end; it is alone in its namespace.
_FAR = "far0"
_FAR_MTU = 65535

_ALONE = ("net/ipv6/conf/default/disable_ipv6=1",)


class TapDevice:
    """A TAP interface, through the descriptor that the keeper opened. Taken over.

    Attributes:
        skip: Bytes in front of each frame that `recv_into` gives: a virtio header, of
            use only the other way.
        merger: Makes one segment of several on the way in; see `aioioth._merging`.
    """

    kind = "tap"
    skip = HEADER_SIZE

    def __init__(self, descriptor: int) -> None:
        # Its methods are the system calls and nothing else: measured, 0.4 us less for
        # each frame than os.readv and os.write in methods of our own.
        self._file = FileIO(descriptor, "r+")
        self.recv_into: Callable[[memoryview], int | None] = self._file.readinto
        self.merger: Merger = Merger(self._file.write)
        self.send: Callable[[memoryview], int | None] = self.merger.send
        tuntap.set_persistent(descriptor)

    @classmethod
    async def make(cls, namespace: Namespace, name: str) -> TapDevice:
        """Make TAP interface ``name`` in ``namespace``.

        Raises:
            MissingPrivilegeError: /dev/net/tun cannot be opened.
            OSError: The name is taken.
        """
        return cls(await namespace.tap(name))

    def fileno(self) -> int:
        """Return the TAP's descriptor."""
        return self._file.fileno()

    def set_carrier(self, *, on: bool) -> None:
        """Plug the cable in or out, as the stack sees it."""
        tuntap.set_carrier(self._file.fileno(), on=on)

    def close(self) -> None:
        """Close; the interface goes with its namespace."""
        self._file.close()


class PacketDevice:
    """A veth interface whose far end, alone in a namespace, is read as a packet socket.

    Args:
        sock: Packet socket on the far end. Taken over: with it go the far end's
            namespace and the pair.
    """

    kind = "packet"
    skip = 0

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.recv_into: Callable[[memoryview], int] = sock.recv_into
        self.send: Callable[[memoryview], int] = sock.send

    @classmethod
    async def make(
        cls, namespace: Namespace, name: str, netlink: Netlink
    ) -> PacketDevice:
        """Make veth interface ``name`` in ``namespace``.

        Raises:
            OSError: The name is taken, or the kernel has no veth.
        """
        far = await namespace.sibling(f"far end of {name!r}", _ALONE)
        try:
            await add_veth(
                netlink, name, peer=_FAR, peer_mtu=_FAR_MTU, peer_namespace=far.fileno()
            )
            sock = far.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        finally:
            far.close()
        try:
            netdevice.switch_offloads_off(netlink.fileno(), name)
            sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            # For some milliseconds after both ends are up, the far end's queue throws
            # everything away (noop_qdisc, until the kernel's linkwatch has run), and a
            # lost first packet costs a second.
            sock.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE_BYTES)
            # Up before bound: on an interface that is down the socket gets an error
            # (ENETDOWN), and libuv gives up a descriptor with an error for good.
            netdevice.set_interface_up(sock.fileno(), _FAR, up=True)
            sock.bind((_FAR, ETH_P_ALL))
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def fileno(self) -> int:
        """Return the packet socket's descriptor."""
        return self._sock.fileno()

    def set_carrier(self, *, on: bool) -> None:
        """Plug the cable in or out, as the stack sees it."""
        netdevice.set_interface_up(self._sock.fileno(), _FAR, up=on)
        self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # and forget ENETDOWN

    def close(self) -> None:
        """Close; the pair and the far end's namespace go with the socket."""
        self._sock.close()


Device = TapDevice | PacketDevice
