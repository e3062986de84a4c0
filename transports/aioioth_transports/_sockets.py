"""What several transports need of the kernel's sockets.

Source: unix(7), epoll(7), netdevice(7), packet(7); <linux/sockios.h>,
<linux/if_packet.h>, Linux 6.1.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioioth.vnl import Address

SIOCGIFMTU = 0x8921
SIOCGIFHWADDR = 0x8927
SIOCGIFINDEX = 0x8933

SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP = 1
PACKET_MR_PROMISC = 1
PACKET_MR_ALLMULTI = 2

_MAX_NAME = 15
_IFREQ_INT = struct.Struct("=16si20x")
_MEMBERSHIP = struct.Struct("=iHH8x")


def trouble_with(sock: socket.socket) -> select.epoll:
    """Return what is readable once a socket has an error or its peer hung up.

    It is what `aioioth.abc.Plug.hangup_fileno` wants. The socket itself will not do:
    libuv stops watching a descriptor for good, and tells nobody, when epoll reports an
    error for it. An epoll set is never in error; errors and hangups are what it waits
    for if nothing is asked. A frame costs nothing more, measured.
    """
    trouble = select.epoll()
    trouble.register(sock, 0)
    return trouble


def interface_name(parsed: Address, *, example: str, optional: bool = False) -> str:
    """Return the interface that an address names.

    Raises:
        VnlError: It cannot be the name of one.
    """
    name = parsed.base
    if not name and not optional:
        parsed.refuse("", f"expected the name of an interface: {example}")
    data = os.fsencode(name)
    if (
        len(data) > _MAX_NAME
        or data in {b".", b".."}
        or any(char in b"/:" or bytes((char,)).isspace() for char in data)
    ):
        parsed.refuse(
            "", "an interface's name has up to 15 characters, no '/', ' ', ':'"
        )
    return name


def interface_index(sock: socket.socket, name: str) -> int:
    """Return an interface's index, 1 or more.

    Raises:
        OSError: There is no such interface (ENODEV).
    """
    return _ask(sock, SIOCGIFINDEX, name)


def hardware_address(descriptor: int, name: str) -> bytes:
    """Return a struct sockaddr: the kind of hardware (ARPHRD_), and the address.

    Args:
        descriptor: Of a socket; or of a macvtap device, which knows its own name.
        name: The interface's.

    Raises:
        OSError: There is no such interface.
    """
    request = os.fsencode(name).ljust(40, b"\0")
    return fcntl.ioctl(descriptor, SIOCGIFHWADDR, request)[16:32]


def interface_mtu(sock: socket.socket, name: str) -> int:
    """Return an interface's MTU.

    Raises:
        OSError: There is no such interface (ENODEV).
    """
    return _ask(sock, SIOCGIFMTU, name)


def _ask(sock: socket.socket, question: int, name: str) -> int:
    request = _IFREQ_INT.pack(os.fsencode(name), 0)
    answer: int = _IFREQ_INT.unpack(fcntl.ioctl(sock, question, request))[1]
    return answer


def join(sock: socket.socket, index: int, kind: int) -> None:
    """Have an interface receive more than its own frames while a socket is open.

    Args:
        sock: Packet socket.
        index: The interface's.
        kind: PACKET_MR_PROMISC for everything, PACKET_MR_ALLMULTI for all multicasts.
    """
    request = _MEMBERSHIP.pack(index, kind, 0)
    sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, request)


def unix_socket(kind: int) -> socket.socket:
    """Return a new UNIX socket that never waits."""
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.setblocking(False)
    return sock


def reach(path: str) -> socket.socket | None:
    """Return a socket of the type that is at ``path``; None if nobody answers there.

    It is connected; for datagrams not, if the other one is connected to a third.

    Raises:
        OSError: It is a stream's (EPROTOTYPE), not permitted (EACCES), or who listens
            is busy (EAGAIN).
    """
    for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        sock = unix_socket(kind)
        try:
            sock.connect(path)
        except OSError as error:
            if error.errno == errno.EPERM:
                return sock
            sock.close()
            if error.errno in {errno.ENOENT, errno.ECONNREFUSED}:
                return None
            if error.errno != errno.EPROTOTYPE:
                raise
        else:
            return sock
    raise OSError(errno.EPROTOTYPE, os.strerror(errno.EPROTOTYPE))


def remove_stale(path: str) -> None:
    """Remove a socket's file, if it is there.

    Raises:
        OSError: It is no socket's (ENOTSOCK), or not ours (EPERM, EACCES).
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
        Path(path).unlink()


class SocketFile:
    """The name of a UNIX socket among the files, for its owner alone.

    Args:
        sock: Not bound yet.
        path: Must not exist; the socket is bound there.

    Raises:
        OSError: It cannot be (EADDRINUSE, ENOENT, EACCES, ...).
    """

    def __init__(self, sock: socket.socket, path: str) -> None:
        # Linux takes the file's permissions from the socket; a chmod of the file would
        # come a moment too late.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(path)
        self._path = Path(path)
        self._owner = os.getpid()
        self._identity = self._look()

    def remove(self) -> None:
        """Remove the file, unless it is somebody else's by now. Never raises.

        In a forked child nothing is done: the name is the parent's.
        """
        if os.getpid() == self._owner:
            with contextlib.suppress(OSError):
                if self._look() == self._identity:
                    self._path.unlink()

    def _look(self) -> tuple[int, int]:
        status = self._path.lstat()
        return status.st_dev, status.st_ino
