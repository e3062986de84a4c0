"""``ptp://PATH[[FORM]]``: a cable between two programs, made of UNIX sockets.

Who comes first makes a socket at PATH, who comes second finds it there; a third is
refused. FORM counts for the first; the second does as the first did. ``datagram``, also
without brackets, is that of Debian 12: the second has a socket at PATH and a plus sign.
``seqpacket`` is that of newer releases of VDE: the second connects, and the first
answers with one byte, 0 or an errno.

Frames are dropped while the other one is not there. Sockets are removed by who made
them; one that nobody answers at is replaced.

Source: the ``ptp://`` of vdeplug4 4.0.1 (Debian 12) and of its later versions; unix(7);
net/unix/af_unix.c, Linux 6.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

from aioioth.errors import BrokenTransportError, HandshakeTimeoutError
from aioioth.vnl import parse_bracket
from aioioth_transports._sockets import (
    SocketFile,
    reach,
    remove_stale,
    trouble_with,
    unix_socket,
)
from aioioth_transports.seqpacket import SeqpacketPlug

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from aioioth.abc import Plug

# sun_path has 108 bytes: one for the NUL, one for the plus sign.
_MAX_PATH = 106

# VDE's largest frame is 9234 bytes.
_MTU = 9216

# As much as the system gives.
_SEND_BYTES = 1 << 20

# Whoever listens answers when its loop comes to it; VDE waits as long.
_HANDSHAKE_SECONDS = 2.0

# Two that come at the same moment get out of each other's way.
_ATTEMPTS = 10
_RETRY_SECONDS = 0.02

# A datagram socket is not told that its peer was closed.
_LOOK_SECONDS = 0.5

_ALONE = {errno.ENOTCONN, errno.ECONNREFUSED}


class PtpTransport:
    """See `aioioth.abc.FrameTransport`.

    Args:
        address: ``PATH``, or with the form in brackets.

    Raises:
        VnlError: There is no path, it is too long, or an option is unknown.
    """

    def __init__(self, address: str) -> None:
        parsed = parse_bracket(address, flags=("datagram", "seqpacket"))
        if not parsed.base:
            parsed.refuse("", "expected the path of a socket: ptp:///tmp/cable")
        self._path = os.path.abspath(parsed.base)  # noqa: PTH100  (a str, for bind)
        if (length := len(os.fsencode(self._path))) > _MAX_PATH:
            parsed.refuse(
                "", f"the path has {length} bytes; a socket's has {_MAX_PATH} at most"
            )
        if len(parsed.options) > 1:
            parsed.refuse("seqpacket", "either datagram or seqpacket, not both")
        self._vnl = f"ptp://{address}"
        self._seqpacket = "seqpacket" in parsed.options

    async def open(self, label: str) -> Plug:
        """Be the first, or plug into the first; see `aioioth.abc.FrameTransport.open`.

        Raises:
            BrokenTransportError: Two are joined already, or there cannot be a socket.
            HandshakeTimeoutError: The first did not answer within 2 seconds.
        """
        for _ in range(_ATTEMPTS):
            try:
                plug = await self._attempt()
            except BrokenTransportError:
                raise
            except BlockingIOError:
                plug = None  # others are being answered
            except OSError as error:
                raise self._explain(error) from error
            if plug is not None:
                return plug
            await asyncio.sleep(_RETRY_SECONDS)
        reason = f"{self._path} is there, but nobody answers and it cannot be replaced"
        raise BrokenTransportError(self._vnl, reason, errno=errno.EADDRINUSE)

    async def _attempt(self) -> Plug | None:
        """Return a plug; None if somebody else was quicker."""
        with ExitStack() as undo:
            sock = reach(self._path)
            if sock is None:
                if not await self._clear_away(self._path):
                    return None
                return self._be_first()
            undo.callback(sock.close)
            if sock.type == socket.SOCK_DGRAM:
                plug: Plug | None = await self._be_second(sock)
            else:
                plug = await self._shake_hands(sock)
            if plug is not None:
                undo.pop_all()
            return plug

    async def _clear_away(self, path: str) -> bool:
        """Remove a socket that nobody answers at; False if somebody does."""
        # Who listens has been bound a moment before, and refuses until then.
        if os.path.lexists(path):  # noqa: ASYNC240  (as quick as connect)
            await asyncio.sleep(_RETRY_SECONDS)
        if (sock := reach(path)) is not None:
            sock.close()
            return False
        remove_stale(path)
        return True

    def _be_first(self) -> Plug | None:
        second = f"{self._path}+"
        # Who was second, and is alone now, waits for datagrams.
        waits = reach(second)
        if waits is not None:
            waits.close()
        listens = self._seqpacket and waits is None
        kind = socket.SOCK_SEQPACKET if listens else socket.SOCK_DGRAM
        with ExitStack() as undo:
            sock = unix_socket(kind)
            undo.callback(sock.close)
            try:
                file = SocketFile(sock, self._path)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return None
                raise
            undo.callback(file.remove)
            if listens:
                sock.listen(1)
                plug: Plug = ListeningPlug(sock, file)
            else:
                plug = DatagramPlug(sock, file, second)
            undo.pop_all()
        return plug

    async def _be_second(self, sock: socket.socket) -> DatagramPlug | None:
        path = f"{self._path}+"
        if (other := reach(path)) is not None:
            other.close()
            raise self._taken()
        if not await self._clear_away(path):
            raise self._taken()
        try:
            file = SocketFile(sock, path)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return None
            raise
        try:
            return DatagramPlug(sock, file, self._path)
        except BaseException:
            file.remove()
            raise

    async def _shake_hands(self, sock: socket.socket) -> SeqpacketPlug | None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                answer = await loop.sock_recv(sock, 1)
        except TimeoutError:
            reason = f"who listens there said nothing for {_HANDSHAKE_SECONDS:g} s"
            raise HandshakeTimeoutError(self._vnl, reason) from None
        except ConnectionResetError:
            return None  # it was closed, and has not seen us
        if not answer:
            return None
        if answer[0] == errno.EISCONN:
            raise self._taken()
        if answer[0]:
            reason = f"who listens there refused: {os.strerror(answer[0])}"
            raise BrokenTransportError(self._vnl, reason, errno=answer[0])
        return SeqpacketPlug(sock)

    def _taken(self) -> BrokenTransportError:
        reason = (
            "two are joined there already, and this cable has two ends: take another "
            "path, or switch:// for more than two"
        )
        return BrokenTransportError(self._vnl, reason, errno=errno.EBUSY)

    def _explain(self, error: OSError) -> BrokenTransportError:
        parent = os.path.dirname(self._path)  # noqa: PTH120  (a str)
        reason = {
            errno.EACCES: f"you may not use {self._path}: it is somebody else's, or "
            f"{parent} is",
            errno.EPERM: f"{self._path} is there and somebody else's: you may not "
            f"remove it",
            errno.ENOENT: f"there is no directory {parent}",
            errno.EPROTOTYPE: f"{self._path} is the socket of something else",
            errno.ENOTSOCK: f"{self._path} is there and no socket: take another path",
        }.get(error.errno or 0, f"{self._path}: {error.strerror or error}")
        return BrokenTransportError(self._vnl, reason, errno=error.errno)


class DatagramPlug:
    """See `aioioth.abc.Plug`: one end of the datagram form.

    Our socket and the other's are connected to each other. What bounds the frames on
    their way is then our send buffer, and not the system's few datagrams for a socket
    (net.unix.max_dgram_qlen): a full way is told, and nobody ever waits in a send.

    Args:
        sock: Bound. Taken over.
        file: Its name. Taken over.
        peer: Path of the other one's socket.
    """

    mtu = _MTU

    def __init__(self, sock: socket.socket, file: SocketFile, peer: str) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        self._sock = sock
        self._file = file
        self._peer = peer
        self._owner = os.getpid()
        # Of the other one connecting elsewhere while it has frames of ours.
        self._trouble = trouble_with(sock)
        self.recv_into: Callable[[memoryview], int] = sock.recv_into
        self._send: Callable[[Buffer], int] = sock.send
        self._loop = asyncio.get_running_loop()
        self._look()

    def fileno(self) -> int:
        """See `aioioth.abc.Plug.fileno`; -1 when closed."""
        return self._sock.fileno()

    def hangup_fileno(self) -> int:
        """See `aioioth.abc.Plug.hangup_fileno`; -1 when closed."""
        return -1 if self._trouble.closed else self._trouble.fileno()

    def send(self, frame: Buffer, /) -> int:
        """See `aioioth.abc.Plug.send`; ENETUNREACH while the other one is not there."""
        try:
            return self._send(frame)
        except OSError as error:
            if error.errno not in _ALONE:
                raise
        try:
            self._sock.connect(self._peer)
            return self._send(frame)
        except BlockingIOError:
            raise
        except OSError:
            raise OSError(errno.ENETUNREACH, "the other one is not there") from None

    def close(self) -> None:
        """See `aioioth.abc.Plug.close`."""
        if os.getpid() == self._owner:
            self._looking.cancel()
        self._file.remove()
        self._trouble.close()
        self._sock.close()

    def _look(self) -> None:
        """Meet another one that has come, and part from one that has gone.

        While we are connected to a socket that is closed, nobody else may connect to
        us. The kernel parts us from it when we send, which we may have no reason to.
        """
        if self._sock.fileno() == -1:
            return
        self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)
        try:
            self._sock.connect(self._peer)  # to the same one, it does nothing
        except OSError:
            with contextlib.suppress(OSError):
                # Too short for a frame, if it should be there after all: its file may
                # have been removed. Empty, it would look like the end to VDE.
                self._send(b"\0")


class ListeningPlug:
    """See `aioioth.abc.Plug`: the end of the SEQPACKET form that was there first.

    When the other end hangs up this plug breaks, as its own does: whoever opens first
    again listens.

    Args:
        listener: Listens. Taken over.
        file: Its name. Taken over.
    """

    mtu = _MTU

    def __init__(self, listener: socket.socket, file: SocketFile) -> None:
        self._listener = listener
        self._file = file
        self._peer: SeqpacketPlug | None = None
        # Both sockets in one descriptor, and never in error: see trouble_with.
        self._ready = select.epoll()
        self._ready.register(listener, select.EPOLLIN)

    def fileno(self) -> int:
        """See `aioioth.abc.Plug.fileno`; -1 when closed."""
        return -1 if self._ready.closed else self._ready.fileno()

    def hangup_fileno(self) -> int:
        """Return -1: `recv_into` tells."""
        return -1

    def room_fileno(self) -> int:
        """See `aioioth.abc.SignalsRoom.room_fileno`."""
        return self._listener.fileno() if self._peer is None else self._peer.fileno()

    def recv_into(self, buffer: memoryview, /) -> int:
        """See `aioioth.abc.Plug.recv_into`; also answers who connects."""
        if self._peer is not None:
            try:
                return self._peer.recv_into(buffer)
            except BlockingIOError:
                pass
        for descriptor, _ in self._ready.poll(0):
            if descriptor == self._listener.fileno():
                self._answer()
        raise BlockingIOError

    def send(self, frame: Buffer, /) -> int:
        """See `aioioth.abc.Plug.send`; ENETUNREACH while the other one is not there."""
        if self._peer is None:
            raise OSError(errno.ENETUNREACH, "the other one is not there")
        return self._peer.send(frame)

    def close(self) -> None:
        """See `aioioth.abc.Plug.close`."""
        # The name first: who is told that we are gone becomes the next to listen.
        self._file.remove()
        if self._peer is not None:
            self._peer.close()
        self._listener.close()
        self._ready.close()

    def _answer(self) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        try:
            sock.send(bytes((0 if self._peer is None else errno.EISCONN,)))
        except OSError:  # gone already
            sock.close()
            return
        if self._peer is not None:
            sock.close()
            return
        try:
            self._peer = SeqpacketPlug(sock)
        except OSError:
            sock.close()
            raise
        self._ready.register(sock, select.EPOLLIN)
