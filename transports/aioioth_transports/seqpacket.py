"""``seqpacket://FD``: a SOCK_SEQPACKET socket that the program has inherited.

FD is the number of its descriptor. It is duplicated, so the program may close its own
when the network is open; it becomes non-blocking. Each packet is a frame. When the
other end is closed the network is gone.

Source: libvdeplug4's ``seqpacket://``; unix(7).
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

from aioioth.errors import BrokenTransportError
from aioioth.vnl import parse_slash
from aioioth_transports._sockets import trouble_with

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

# VDE's largest frame is 9234 bytes.
_MTU = 9216

# As much as the system gives.
_SEND_BYTES = 1 << 20


class SeqpacketTransport:
    """See `aioioth.abc.FrameTransport`.

    Args:
        address: The descriptor's number.

    Raises:
        VnlError: It is no number.
    """

    def __init__(self, address: str) -> None:
        parsed = parse_slash(address)
        if not re.fullmatch("[0-9]{1,9}", parsed.base):
            parsed.refuse("", "expected a descriptor's number, such as seqpacket://3")
        self._vnl = f"seqpacket://{address}"
        self._descriptor = int(parsed.base)

    async def open(self, label: str) -> SeqpacketPlug:
        """Duplicate the socket; see `aioioth.abc.FrameTransport.open`.

        Raises:
            BrokenTransportError: It is not a connected SOCK_SEQPACKET socket.
        """
        with ExitStack() as undo:
            try:
                sock = _duplicate(self._descriptor)
                undo.callback(sock.close)
                if sock.type == socket.SOCK_SEQPACKET:
                    sock.getpeername()
            except OSError as error:
                reason = f"descriptor {self._descriptor}: {error.strerror}"
                raise BrokenTransportError(
                    self._vnl, reason, errno=error.errno
                ) from error
            if sock.type != socket.SOCK_SEQPACKET:
                reason = f"descriptor {self._descriptor} is no SOCK_SEQPACKET socket"
                raise BrokenTransportError(self._vnl, reason, errno=errno.EPROTOTYPE)
            plug = SeqpacketPlug(sock)
            undo.push(lambda *_: plug.close())
            # Otherwise the network would seem to come back, only to break again.
            if plug.has_hung_up():
                reason = f"the other end of descriptor {self._descriptor} is closed"
                raise BrokenTransportError(self._vnl, reason, errno=errno.EPIPE)
            undo.pop_all()
        return plug


class SeqpacketPlug:
    """See `aioioth.abc.Plug`.

    Args:
        sock: Connected. Taken over.
    """

    mtu = _MTU

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        self._sock = sock
        self._trouble = trouble_with(sock)
        self._receive: Callable[[memoryview], int] = sock.recv_into
        self._send: Callable[[Buffer], int] = sock.send

    def fileno(self) -> int:
        """See `aioioth.abc.Plug.fileno`; -1 when closed."""
        return self._sock.fileno()

    def frame_socket(self) -> int:
        """See `aioioth.abc.FrameSocket.frame_socket`."""
        return self._sock.fileno()

    def hangup_fileno(self) -> int:
        """See `aioioth.abc.Plug.hangup_fileno`; -1 when closed."""
        return -1 if self._trouble.closed else self._trouble.fileno()

    def has_hung_up(self) -> bool:
        """Tell whether the other end is closed."""
        waiting = select.poll()
        waiting.register(self._sock, 0)
        return bool(waiting.poll(0))

    def recv_into(self, buffer: memoryview, /) -> int:
        """See `aioioth.abc.Plug.recv_into`."""
        length = self._receive(buffer)
        if not length:
            raise ConnectionResetError(errno.ECONNRESET, "the other end was closed")
        return length

    def send(self, frame: Buffer, /) -> int:
        """See `aioioth.abc.Plug.send`."""
        if not memoryview(frame).nbytes:
            # It would look like the end of file.
            raise OSError(errno.ENOMSG, os.strerror(errno.ENOMSG))
        return self._send(frame)

    def close(self) -> None:
        """See `aioioth.abc.Plug.close`."""
        self._trouble.close()
        self._sock.close()


def _duplicate(descriptor: int) -> socket.socket:
    number = os.dup(descriptor)
    try:
        return socket.socket(fileno=number)
    except OSError:
        os.close(number)
        raise
