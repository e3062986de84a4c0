"""Interfaces whose frames are read and written through a descriptor: TAP and macvtap.

Source: <linux/if_tun.h>, <linux/rtnetlink.h>, <linux/filter.h>, Linux 6.1;
Documentation/networking/tuntap.rst; drivers/net/tun.c and tap.c.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
import threading
from io import FileIO
from typing import TYPE_CHECKING

from aioioth.wire.rtnetlink import RTM_DELLINK
from aioioth_transports._sockets import interface_index

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

TUNSETIFF = 0x400454CA
TUNGETIFF = 0x800454D2
IFF_TAP = 0x0002
IFF_PERSIST = 0x0800
IFF_NO_PI = 0x1000

# The longest frame that fits the kernel's buffers is 65535 bytes, 18 of them headers.
MAX_MTU = 65517

_IFREQ_FLAGS = struct.Struct("=16sH22x")

_RTMGRP_LINK = 1
_SO_ATTACH_FILTER = 26
_INSTRUCTION = struct.Struct("=HBBI")
_PROGRAM = struct.Struct("@HP")

# Classic BPF: load a byte, a half word, a word at a place; compare; return.
_LDB, _LDH, _LDW, _JEQ, _RET = 0x30, 0x28, 0x20, 0x15, 0x06

# What a write says of a frame, not of the interface.
_DROPS = {
    errno.EIO: errno.ENETDOWN,  # the interface is down
    errno.EINVAL: errno.ENOMSG,  # shorter than a header
}


class TunPlug:
    """See `aioioth.abc.Plug`.

    Args:
        descriptor: Non-blocking. Taken over.
        name: The interface's.
        mtu: Largest payload in bytes.
        held: What else is to be closed. Taken over.
    """

    def __init__(
        self, descriptor: int, name: str, mtu: int, *held: socket.socket
    ) -> None:
        self.name = name
        self.mtu = mtu
        # Nothing tells through the descriptor that a macvtap was deleted. A TAP's is in
        # error then, which libuv hides: see _sockets.trouble_with.
        self._deleted = deletion_of(descriptor, name)
        self._held = held
        self._descriptor = descriptor
        self._owner = os.getpid()
        self._file = FileIO(descriptor, "r+", closefd=False)
        self.recv_into: Callable[[memoryview], int | None] = self._file.readinto
        self._write: Callable[[Buffer], int | None] = self._file.write

    def fileno(self) -> int:
        """See `aioioth.abc.Plug.fileno`; -1 when closed."""
        return self._descriptor

    def hangup_fileno(self) -> int:
        """Return what is readable when the interface was deleted; -1 when closed."""
        return self._deleted.fileno()

    def send(self, frame: Buffer, /) -> int | None:
        """See `aioioth.abc.Plug.send`; ENETDOWN while the interface is down."""
        try:
            return self._write(frame)
        except OSError as error:
            drop = _DROPS.get(error.errno or 0)
            if drop is None:
                raise
            raise OSError(drop, os.strerror(drop)) from None

    def close(self) -> None:
        """Close, in a thread; a TAP that is not persistent is gone soon after.

        The kernel waits for an RCU grace period in it: measured, 11 to 48 ms, in which
        the loop would stand still. (Made persistent a TAP would close at once, and stay
        behind.) In a forked child ours is not the last descriptor, and nothing waits.
        """
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor == -1:
            return
        self._file.close()
        self._deleted.close()
        for each in self._held:
            each.close()
        if os.getpid() == self._owner:
            try:
                threading.Thread(target=os.close, args=(descriptor,)).start()
            except RuntimeError:  # no thread to be had, or the interpreter is ending
                pass
            else:
                return
        os.close(descriptor)


def interface_of(descriptor: int) -> tuple[str, int]:
    """Return the name and the flags of the interface behind a descriptor.

    Raises:
        OSError: There is none.
    """
    answer = fcntl.ioctl(descriptor, TUNGETIFF, bytes(40))
    name, flags = _IFREQ_FLAGS.unpack(answer)
    return os.fsdecode(name.rstrip(b"\0")), flags


def take_interface(descriptor: int, name: str) -> None:
    """Choose the interface, and frames without anything in front of them.

    Without a virtio header frames come complete: the kernel computes the checksums and
    cuts what is too long.

    Raises:
        OSError: It cannot be had.
    """
    request = _IFREQ_FLAGS.pack(os.fsencode(name), IFF_TAP | IFF_NO_PI)
    fcntl.ioctl(descriptor, TUNSETIFF, request)


def deletion_of(descriptor: int, name: str) -> socket.socket:
    """Return a socket that is readable once an interface is deleted or moved away.

    Args:
        descriptor: Of the interface; looked at once more, when the socket is there.
        name: The interface's.

    Raises:
        OSError: It is deleted already.
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        sock.setblocking(False)
        _filter(sock, interface_index(sock, name))
        sock.bind((0, _RTMGRP_LINK))
        interface_of(descriptor)
    except BaseException:
        sock.close()
        raise
    return sock


def _filter(sock: socket.socket, index: int) -> None:
    """Let nothing but the message about one interface's end reach the socket.

    A struct nlmsghdr has its type at 4, the struct ifinfomsg behind it its family at 16
    and the index at 20. The family is not 0 when an interface leaves a bridge.
    """
    program = (
        # The filter takes numbers for big-endian; netlink's are the machine's own.
        (_LDH, 0, 0, 4),
        (_JEQ, 0, 5, socket.htons(RTM_DELLINK)),
        (_LDB, 0, 0, 16),
        (_JEQ, 0, 3, socket.AF_UNSPEC),
        (_LDW, 0, 0, 20),
        (_JEQ, 0, 1, socket.htonl(index)),
        (_RET, 0, 0, 0xFFFFFFFF),
        (_RET, 0, 0, 0),
    )
    code = array.array("B", b"".join(_INSTRUCTION.pack(*each) for each in program))
    address = code.buffer_info()[0]
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(len(program), address)
    )
