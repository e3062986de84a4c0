"""``passt:///PATH`` and ``passt://[ARGUMENT...]``: the Internet, without root.

passt translates between a virtual network and plain sockets of the namespace that it
runs in, as which's machine the stack then appears: it hands out the same addresses by
DHCP and router advertisements. With a path it runs already, as ``passt -s PATH``.
Otherwise it is started, and ended with the plug; the arguments are its own:
``passt://--tcp-ports 8080`` lets connections in. Debian: ``apt install passt``.

Source: passt(1) of 2023-03-09; `aioioth.wire.vdestream`.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import socket
import struct
import termios
from contextlib import ExitStack, suppress

from aioioth.errors import BrokenTransportError, HandshakeTimeoutError
from aioioth.wire.vdestream import QEMU
from aioioth_transports._child import Child, ChildStream
from aioioth_transports._framed import StreamPlug
from aioioth_transports._listener import connect_unix, stream_of
from aioioth_transports.cmd import split_command

_OPEN_SECONDS = 10.0
_LOOK_SECONDS = 0.002

# passt does not greet, but one that runs reads. This is from and to nobody, of a type
# for experiments (RFC 5342), and so leaves nothing behind in it.
_PROBE = QEMU.pack(b"\xff" * 12 + b"\x88\xb5" + bytes(46))


class PasstTransport:
    """See `aioioth.abc.FrameTransport`.

    Args:
        address: ``/PATH``, or arguments for passt.

    Raises:
        VnlError: A quote is not closed.
    """

    def __init__(self, address: str) -> None:
        self._vnl = f"passt://{address}"
        self._path = address if address.startswith("/") else None
        self._arguments = [] if self._path else split_command(address)

    async def open(self, label: str) -> StreamPlug:
        """Connect to passt, or start it; see `aioioth.abc.FrameTransport.open`.

        Raises:
            BrokenTransportError: It is not there, or ends at once.
            HandshakeTimeoutError: It does not read what we send for 10 seconds.
        """
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                if self._path is not None:
                    return await self._connect(self._path)
                return await self._start()
        except BrokenTransportError:
            raise
        except TimeoutError:
            reason = f"passt did not answer within {_OPEN_SECONDS:g} s"
            raise HandshakeTimeoutError(self._vnl, reason) from None
        except OSError as error:
            reason = f"passt: {error.strerror or error}"
            if error.errno in {errno.ENOENT, errno.ECONNREFUSED}:
                reason = f"no passt listens there. Start one: passt -s {self._path}"
            raise BrokenTransportError(self._vnl, reason, errno=error.errno) from error

    async def _connect(self, path: str) -> StreamPlug:
        with ExitStack() as undo:
            sock = await connect_unix(path)
            undo.callback(sock.close)
            plug = StreamPlug(self._vnl, QEMU)
            undo.callback(plug.close)
            plug.connect(stream_of(sock))
            undo.pop_all()
        return plug

    async def _start(self) -> StreamPlug:
        with ExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            with theirs:
                number = theirs.fileno()
                command = ["passt", "--foreground", "--quiet", "--fd", str(number)]
                child = Child(
                    self._vnl,
                    [*command, *self._arguments],
                    pass_fds=[number],
                    own_session=True,
                )
            undo.callback(child.release)
            await self._until_it_reads(ours, child)
            ended = ChildStream(child, "passt")
            plug = StreamPlug(self._vnl, QEMU, on_lost=ended.on_lost)
            ended.serve(plug)
            undo.callback(plug.close)
            plug.connect(stream_of(ours))
            undo.pop_all()
        return plug

    async def _until_it_reads(self, ours: socket.socket, child: Child) -> None:
        with suppress(BrokenPipeError):  # told below
            ours.sendall(_PROBE)
        while _unread(ours):  # noqa: ASYNC110  (nothing tells when it has read)
            await asyncio.sleep(_LOOK_SECONDS)
        if _has_hung_up(ours):
            reason = (
                f"passt has ended: {await child.ended()}; what it wrote says why. It "
                f"needs an interface with an address and a default route"
            )
            raise BrokenTransportError(self._vnl, reason)


def _has_hung_up(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def _unread(sock: socket.socket) -> int:
    """Return how many bytes the other side has not read (SIOCOUTQ, unix(7))."""
    answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    return int(struct.unpack("i", answer)[0])
