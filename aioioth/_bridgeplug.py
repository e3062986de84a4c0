"""A bridge's frames, for cables and for networks around it.

Source: packet(7); <linux/if_packet.h>, Linux 6.1.
"""

from __future__ import annotations

import os
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING

from aioioth import _iproute
from aioioth._bridgerequests import delete, random_name
from aioioth._device import SOL_PACKET, PacketDevice, TapDevice
from aioioth.errors import MissingPrivilegeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from aioioth._bridging import Joined, Seat
    from aioioth._device import Device

# The largest that fits a 64 KiB frame buffer.
FRAME_MTU = 65517

# <linux/if_packet.h>, Linux 6.1: struct tpacket_auxdata
_PACKET_AUXDATA = 8
_AUXDATA = struct.Struct("=IIIHHHH")
_TOLD_SIZE = socket.CMSG_SPACE(_AUXDATA.size)
_TP_STATUS_VLAN_VALID = 0x10
_TAG = struct.Struct(">HH")


class BridgePlug:
    """A bridge's frames: see `aioioth.abc.Plug`.

    Attributes:
        mtu: See `aioioth.abc.Plug.mtu`.
    """

    mtu = FRAME_MTU

    def __init__(self, seat: Seat, device: Device, index: int) -> None:
        self._seat = seat
        self._device = device
        self._index = index
        self._sock: socket.socket | None = None
        descriptor = device.fileno()
        self.fileno: Callable[[], int] = device.fileno
        self.recv_into: Callable[[memoryview], int | None] = device.recv_into
        self.send: Callable[[Buffer], int | None] = device.write
        if skip := device.skip:
            # What the device itself writes together would need an end of each wake-up.
            before, none = bytearray(skip), bytes(skip)
            self.recv_into = lambda into: os.readv(descriptor, (before, into)) - skip
            self.send = lambda frame: os.writev(descriptor, (none, frame)) - skip
        else:
            self._sock = socket.socket(fileno=os.dup(descriptor))
            self._sock.setsockopt(SOL_PACKET, _PACKET_AUXDATA, 1)
            self.recv_into = partial(_receive_with_tag, self._sock)

    def hangup_fileno(self) -> int:
        """Return -1: the bridge is there as long as we are."""
        return -1

    def close(self) -> None:
        """See `aioioth.abc.Plug.close`."""
        index, self._index = self._index, 0
        if index:
            # The interface would stay as long as the bridge does.
            self._seat.tell(delete(index))
        if self._sock is not None:
            self._sock.close()
        self._device.close()
        self._seat.leave()


def _receive_with_tag(sock: socket.socket, into: memoryview) -> int:
    """Receive a frame from a packet socket, which says beside it what tag it had."""
    size, told, _, _ = sock.recvmsg_into((into,), _TOLD_SIZE)
    for _, _, auxdata in told:
        status, *_, tci, tpid = _AUXDATA.unpack_from(auxdata)
        if status & _TP_STATUS_VLAN_VALID:
            into[16 : size + 4] = into[12:size]
            _TAG.pack_into(into, 12, tpid, tci)
            return size + 4
    return size


async def make_device(joined: Joined) -> tuple[Device, str, int]:
    """Make an interface beside the bridge whose frames come to us."""
    name, _ = random_name()
    try:
        device: Device = await TapDevice.make(joined.namespace, name)
    except MissingPrivilegeError:
        device = await PacketDevice.make(joined.namespace, name)
    try:
        words = f"ip link show {name}"
        index = _iproute.find_index(joined.namespace, name, words)
    except BaseException:
        device.close()
        raise
    return device, name, index
