"""Sockets for streams: connected, or listening for one peer at a time."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aioioth_transports._framed import ByteStream
from aioioth_transports._tls import TlsStream

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from aioioth_transports._framed import StreamPlug

_log = logging.getLogger("aioioth")

# Strangers who wait, or are in the middle of a TLS handshake. Where there are more, the
# oldest goes, so that those who say nothing do not keep the others out.
_MAX_STRANGERS = 16
HANDSHAKE_SECONDS = 10.0

# Somebody who comes back may be here before we know that he had gone.
_LEAVING_SECONDS = 0.2

_ACCEPTED_AT_ONCE = 16
_REST_SECONDS = 1.0
_RETRY_SECONDS = 0.05

# A peer whose machine or cable is gone is noticed within half a minute.
_KEEPALIVE = (
    (socket.TCP_NODELAY, 1),
    (socket.TCP_KEEPIDLE, 15),
    (socket.TCP_KEEPINTVL, 5),
    (socket.TCP_KEEPCNT, 3),
    (socket.TCP_USER_TIMEOUT, 30_000),
)


def stream_of(sock: socket.socket) -> ByteStream:
    """Return a connected socket as a stream.

    Args:
        sock: Taken over.

    Raises:
        OSError: There are no descriptors left; nothing was taken over.
    """
    if sock.family != socket.AF_UNIX:
        with suppress(OSError):  # it is reset already, which reading tells
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setblocking(False)
    stream = ByteStream(sock.fileno(), sock.fileno())
    sock.detach()
    return stream


async def connect_unix(path: str) -> socket.socket:
    """Connect to a UNIX socket, which may take a while.

    Raises:
        OSError: Nobody is there, or it is not for us.
    """
    with ExitStack() as undo:
        sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        sock.setblocking(False)
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:  # its queue is full
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                undo.pop_all()
                return sock


class Listener:
    """Gives a plug its peer, and the next one when that is gone.

    Until there is one, and in between, frames to be sent are dropped. Whoever comes
    while somebody is there is hung up on, after a moment.

    Args:
        vnl: For log messages.
        sockets: They listen. Taken over.
        context: For TLS; None without.
    """

    def __init__(
        self, vnl: str, sockets: list[socket.socket], context: ssl.SSLContext | None
    ) -> None:
        self._vnl = vnl
        self._sockets = sockets
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._plug: StreamPlug | None = None
        self._strangers: dict[ByteStream | TlsStream, asyncio.TimerHandle] = {}
        self._resting: dict[socket.socket, asyncio.TimerHandle] = {}

    def start(self, plug: StreamPlug) -> None:
        """Let peers in."""
        self._plug = plug
        for sock in self._sockets:
            sock.setblocking(False)
            self._loop.add_reader(sock.fileno(), self._on_callers, sock)

    def release(self, *, forked: bool) -> None:
        """Close at once, without touching the loop if forked. Idempotent."""
        self._plug = None
        for stream, timer in self._strangers.items():
            if not forked:
                timer.cancel()
            stream.release(forked=forked)
        self._strangers.clear()
        for sock in self._sockets:
            if not forked:
                if (resting := self._resting.get(sock)) is not None:
                    resting.cancel()
                if not self._loop.is_closed():
                    self._loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets = []

    def on_lost(self, reason: str, error: OSError | None) -> None:
        """Have the next peer come; see `StreamPlug`."""
        # One who speaks another language comes again and again, until somebody looks.
        wrong = error is not None and error.errno == errno.EPROTO
        level = logging.WARNING if wrong else logging.INFO
        _log.log(level, "%s: the peer is gone: %s", self._vnl, reason)

    def _on_callers(self, sock: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            if self._plug is None:
                return
            try:
                caller, _ = sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # No descriptors left, usually: the loop would not do anything else.
                _log.warning("%s: cannot accept: %s", self._vnl, error)
                self._loop.remove_reader(sock.fileno())
                self._resting[sock] = self._loop.call_later(
                    _REST_SECONDS, self._wake, sock
                )
                return
            try:
                self._let_in(caller, self._plug)
            except OSError as error:
                caller.close()
                _log.warning("%s: cannot accept: %s", self._vnl, error)

    def _wake(self, sock: socket.socket) -> None:
        del self._resting[sock]
        self._loop.add_reader(sock.fileno(), self._on_callers, sock)

    def _let_in(self, caller: socket.socket, plug: StreamPlug) -> None:
        stream = stream_of(caller)
        if self._context is not None:
            self._shake_hands(stream, self._context)
        elif plug.has_channel:
            self._hold(stream, _LEAVING_SECONDS, self._look_again, stream)
        else:
            self._connect(stream)

    def _shake_hands(self, stream: ByteStream, context: ssl.SSLContext) -> None:
        tls = TlsStream(
            stream, context, server_name=None, on_ready=lambda: self._look_again(tls)
        )
        tls.on_lost = lambda error: self._turn_away(tls, str(error))
        reason = f"no TLS handshake within {HANDSHAKE_SECONDS:g} s"
        self._hold(tls, HANDSHAKE_SECONDS, self._turn_away, tls, reason)
        tls.start()

    def _hold(
        self,
        stream: ByteStream | TlsStream,
        seconds: float,
        callback: Callable[..., None],
        *arguments: object,
    ) -> None:
        if len(self._strangers) >= _MAX_STRANGERS:
            self._turn_away(next(iter(self._strangers)), "too many at once")
        self._strangers[stream] = self._loop.call_later(seconds, callback, *arguments)

    def _look_again(self, stream: ByteStream | TlsStream) -> None:
        """Let in who was held, or turn him away."""
        if self._plug is None or self._plug.has_channel:
            self._turn_away(stream, "somebody else is there")
        else:
            self._strangers.pop(stream).cancel()
            self._connect(stream)

    def _connect(self, stream: ByteStream | TlsStream) -> None:
        assert self._plug is not None
        self._plug.connect(stream)
        _log.info("%s: a peer has come", self._vnl)

    def _turn_away(self, stream: ByteStream | TlsStream, reason: str) -> None:
        timer = self._strangers.pop(stream, None)
        if timer is not None:
            timer.cancel()
            stream.release(forked=False)
            _log.info("%s: a stranger was turned away: %s", self._vnl, reason)


async def listen_internet(host: str, port: int) -> list[socket.socket]:
    """Listen on TCP, on all the addresses of a host, or of this one if it is empty.

    Raises:
        OSError: One of them cannot be had.
    """
    if not host:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        return [socket.create_server(("", port), family=family, dualstack_ipv6=dual)]
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    )
    with ExitStack() as undo:
        sockets = [
            undo.enter_context(socket.create_server(address, family=family))
            for family, address in dict.fromkeys((info[0], info[4]) for info in found)
        ]
        undo.pop_all()
    return sockets


def listen_unix(path: str, mode: int) -> tuple[socket.socket, SocketFile]:
    """Listen on a UNIX socket, in place of one where nobody listens any more.

    Raises:
        OSError: The path cannot be had; EADDRINUSE if somebody listens there.
    """
    with ExitStack() as undo:
        sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_abandoned(path):
                raise
            Path(path).unlink()
            sock.bind(path)
        file = SocketFile(path)
        undo.callback(file.remove)
        # Nobody can connect before somebody listens, so these are in time.
        Path(path).chmod(mode)
        sock.listen()
        undo.pop_all()
    return sock, file


def _is_abandoned(path: str) -> bool:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


class SocketFile:
    """The file of a UNIX socket, as long as it is the same one."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._identity = self._look()

    def remove(self) -> None:
        """Remove it, unless somebody has replaced it. Never raises."""
        with suppress(OSError):
            if self._look() == self._identity:
                Path(self._path).unlink()

    def _look(self) -> tuple[int, int]:
        status = os.lstat(self._path)
        return status.st_dev, status.st_ino
