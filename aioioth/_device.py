"""The two ways to an interface's frames: a TAP, or a packet socket behind a veth pair.

Both are one descriptor that keeps everything behind it alive, and look the same to a
pump: see `aioioth._pump.End`.
"""

from __future__ import annotations

import contextlib
import socket
from io import FileIO
from typing import TYPE_CHECKING

from aioioth._iproute import Request, carry_out, control_socket
from aioioth._linux import netdevice, tuntap
from aioioth._merging import Merger
from aioioth.wire import rtnetlink
from aioioth.wire.offload import HEADER_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from aioioth._namespace import Namespace

# <linux/if_packet.h>, <linux/if_ether.h>, Linux 6.1
SOL_PACKET = 263
PACKET_VNET_HDR = 15
PACKET_QDISC_BYPASS = 20
PACKET_IGNORE_OUTGOING = 23
ETH_P_ALL = 3

# About 900 full-sized frames with the kernel's own overhead, if the system gives that
# much: with the default net.core.rmem_max it is 180.
_QUEUE_BYTES = 1 << 21

# More than what waits in a device whose network is away.
_QUEUE_FRAMES = 4096

# Name of the veth's far end; it is alone in its namespace.
_FAR = "far0"
_FAR_MTU = 65535

_ALONE = ("net/ipv6/conf/default/disable_ipv6=1",)


class TapDevice:
    """A TAP interface, through the descriptor that the keeper opened. Taken over.

    Attributes:
        offloads: Whether frames have a virtio header, both ways; see `set_offloads`.
        skip: Bytes in front of each frame that `recv_into` gives: that header if it is
            of no use.
        merger: Makes one segment of several on the way in; see `aioioth._merging`.
        write: Writes a frame with its header, past the merger.
    """

    kind = "tap"

    def __init__(self, descriptor: int) -> None:
        # Its methods are the system calls and nothing else: measured, 0.4 us less for
        # each frame than os.readv and os.write in methods of our own.
        self._file = FileIO(descriptor, "r+")
        self.offloads: bool = False
        self.skip: int = HEADER_SIZE
        self.recv_into: Callable[[memoryview], int | None] = self._file.readinto
        self.write: Callable[[Buffer], int | None] = self._file.write
        self.merger: Merger = Merger(self.write)
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

    def set_offloads(self, *, on: bool, buffer: memoryview) -> None:
        """Have the stack leave work to us, or do it itself.

        Args:
            on: Whether frames have a virtio header then, both ways.
            buffer: For frames that are thrown away: those that wait and are not what is
                wanted any more.

        Raises:
            OSError: The interface was deleted.
        """
        tuntap.set_offloads(self._file.fileno(), on=on)
        self.offloads = on
        self.skip = 0 if on else HEADER_SIZE
        self.send = self.merger.send_whole if on else self.merger.send
        if not on:
            _discard(self.recv_into, buffer)

    def close(self) -> None:
        """Close; the interface goes with its namespace."""
        self._file.close()


class PacketDevice:
    """A veth interface whose far end, alone in a namespace, is read as a packet socket.

    Args:
        sock: Packet socket on the far end. Taken over: with it go the far end's
            namespace and the pair.
        namespace: The near end's. It stays the stack's.
        index: The near end's number there.

    Attributes:
        offloads: See `TapDevice`.
        merger: See `TapDevice`; None while there is no virtio header.
        write: See `TapDevice`.
    """

    kind = "packet"
    skip = 0

    def __init__(self, sock: socket.socket, namespace: Namespace, index: int) -> None:
        self._sock = sock
        self._namespace = namespace
        self._index = index
        self.offloads: bool = False
        self.merger: Merger | None = None
        self.recv_into: Callable[[memoryview], int] = sock.recv_into
        self.write: Callable[[Buffer], int | None] = sock.send
        self.send: Callable[[memoryview], int | None] = sock.send

    @classmethod
    async def make(cls, namespace: Namespace, name: str) -> PacketDevice:
        """Make veth interface ``name`` in ``namespace``.

        Raises:
            OSError: The name is taken, or the kernel has no veth.
        """
        far = await namespace.home.namespace(f"far end of {name!r}", _ALONE)
        try:
            near = rtnetlink.link_body(name=name)
            peer = rtnetlink.link_body(
                name=_FAR, mtu=_FAR_MTU, namespace=rtnetlink.descriptor_place(1)
            )
            words = f"ip link add {name} type veth peer name {_FAR}"
            veth = Request(words, rtnetlink.veth(near, peer))
            await carry_out(namespace, [veth], far.fileno())
            sock = far.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        finally:
            far.close()
        try:
            with control_socket(namespace) as control:
                netdevice.switch_offloads_off(control, name)
                index = netdevice.interface_index(control, name)
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
        return cls(sock, namespace, index)

    def fileno(self) -> int:
        """Return the packet socket's descriptor."""
        return self._sock.fileno()

    def set_carrier(self, *, on: bool) -> None:
        """Plug the cable in or out, as the stack sees it."""
        netdevice.set_interface_up(self._sock.fileno(), _FAR, up=on)
        self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # and forget ENETDOWN

    def set_offloads(self, *, on: bool, buffer: memoryview) -> None:
        """See `TapDevice.set_offloads`."""
        with control_socket(self._namespace) as control:
            name = netdevice.interface_name(control, self._index)
            netdevice.set_offloads(control, name, on=on)
        self._sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, int(on))
        self.offloads = on
        self.merger = Merger(self.write) if on else None
        self.send = self.write if self.merger is None else self.merger.send_whole
        if not on:
            _discard(self.recv_into, buffer)

    def close(self) -> None:
        """Close; the pair and the far end's namespace go with the socket."""
        if self._sock.fileno() != -1:
            # Who closes the last copy waits for an RCU grace period, 8 to 16 ms.
            self._namespace.hand_over(self._sock.fileno())
        self._sock.close()


def _discard(recv_into: Callable[[memoryview], int | None], buffer: memoryview) -> None:
    with contextlib.suppress(BlockingIOError):
        for _ in range(_QUEUE_FRAMES):
            if recv_into(buffer) is None:
                break


Device = TapDevice | PacketDevice
