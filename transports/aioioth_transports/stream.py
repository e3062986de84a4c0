"""``stream://PLACE[OPTIONS]``: a network at the other end of a stream of bytes.

Frames go in it as VDE's programs send them through pipes (vdestream). The place is

* ``-``: standard input and output of this program, which are pipes or sockets, as
  ``dpipe`` or ``vde_plug VNL = PROGRAM`` make them. Nothing else may be printed there
* ``HOST:PORT``: a TCP connection, to be made or with ``listen`` to be waited for; then
  the host may be left out. An IPv6 address may be in brackets, these in quotes
* ``/PATH``: a UNIX socket, likewise

Options, separated by ``/``; quote a value that has slashes:

* ``listen``: wait for the other end. One peer at a time is let in; before it has come
  and after it has gone frames are dropped, and the next one is let in
* ``mode=OCTAL``: permissions of the UNIX socket that is made, 0600 unless given
* ``offload``: at both ends, which are aioioth's: stacks leave checksums and cutting to
  the network, segments of up to 64 KiB pass, and TCP is three to four times as fast.
  If only one end has it, that one says so, and nothing passes
* ``tls``: encrypt, TLS 1.2 or later. A client checks the server's certificate against
  the system's authorities, or only against those of ``ca=FILE``, and its name against
  the host's, or ``name=NAME``. A listener needs ``cert=FILE`` (and ``key=FILE``, if it
  is not in the same), and ``ca=FILE``: only clients with a certificate from there are
  let in. ``anyone`` instead lets everybody in. A client shows ``cert=FILE`` too, if
  given. All files are PEM; keys may not be encrypted

Without TLS everybody who reaches a listener is let in, and can read and write on the
network.

Source: `aioioth.wire.vdestream`.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import socket
import stat
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

import aiohappyeyeballs

from aioioth.errors import BrokenTransportError, HandshakeTimeoutError
from aioioth.vnl import parse_bracket
from aioioth.wire.vdestream import VDESTREAM
from aioioth_transports._framed import (
    PIPE_BATCH_SIZE,
    PIPE_SIZE,
    ByteStream,
    StreamPlug,
)
from aioioth_transports._listener import (
    HANDSHAKE_SECONDS,
    Listener,
    connect_unix,
    listen_internet,
    listen_unix,
    stream_of,
)
from aioioth_transports._offloaded import OffloadedPlug
from aioioth_transports._tls import TlsOptions

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from aioioth.vnl import Address

_OPTIONS = ("ca", "cert", "key", "mode", "name")
_FLAGS = ("anyone", "listen", "offload", "tls")
_TLS_ONLY = ("anyone", "ca", "cert", "key", "name")
_STDIO = "-"

# Between addresses of a host.
_NEXT_ADDRESS_SECONDS = 0.25


class StreamTransport:
    """See `aioioth.abc.FrameTransport`.

    Args:
        address: ``-``, ``[HOST]:PORT`` or ``/PATH``, and options in brackets.

    Raises:
        VnlError: It makes no sense.
    """

    def __init__(self, address: str) -> None:
        parsed = parse_bracket(address, options=_OPTIONS, flags=_FLAGS)
        self._vnl = f"stream://{address}"
        self._listens = "listen" in parsed.options
        self._place = parsed.base
        self._host, self._port = "", 0
        if parsed.base != _STDIO and not parsed.base.startswith("/"):
            self._host, self._port = _parse_host(parsed, may_be_empty=self._listens)
        self._tls = _parse_tls(parsed, self._host) if "tls" in parsed.options else None
        self._mode = parsed.octal("mode", 0o600)
        self._offload = "offload" in parsed.options
        _check(parsed)

    async def open(self, label: str) -> StreamPlug:
        """Connect or listen; see `aioioth.abc.FrameTransport.open`.

        Raises:
            BrokenTransportError: That cannot be had, or the other side is not whom it
                should be.
            HandshakeTimeoutError: The other side did not answer within 10 seconds.
        """
        if self._place == _STDIO:
            return _open_stdio(self._vnl)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                context = None
                if self._tls is not None:
                    # The system's authorities take a while to read.
                    context = await asyncio.to_thread(self._tls.make_context)
                if self._listens:
                    return await self._listen(context)
                return await self._connect(context)
        except BrokenTransportError:
            raise
        except TimeoutError:
            reason = f"no answer within {HANDSHAKE_SECONDS:g} s"
            if self._offload:
                reason += "; the option offload has to be given at both ends"
            raise HandshakeTimeoutError(self._vnl, reason) from None
        except socket.gaierror as error:
            reason = f"host {self._host!r}: {error.strerror}"
            raise BrokenTransportError(self._vnl, reason) from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise BrokenTransportError(self._vnl, reason, errno=error.errno) from error

    async def _listen(self, context: ssl.SSLContext | None) -> StreamPlug:
        with ExitStack() as undo:
            if self._place.startswith("/"):
                sock, file = listen_unix(self._place, self._mode)
                undo.callback(file.remove)
                sockets = [sock]
            else:
                file = None
                sockets = await listen_internet(self._host, self._port)
            listener = Listener(self._vnl, sockets, context)
            undo.callback(listener.release, forked=False)
            plug = self._make_plug(listener.on_lost)
            listener.start(plug)
            plug.undo(
                partial(listener.release, forked=False),
                partial(listener.release, forked=True),
            )
            if file is not None:
                plug.undo(file.remove)
            undo.pop_all()
        return plug

    async def _connect(self, context: ssl.SSLContext | None) -> StreamPlug:
        if self._place.startswith("/"):
            sock = await connect_unix(self._place)
        else:
            sock = await _connect_internet(self._host, self._port)
        with ExitStack() as undo:
            undo.callback(sock.close)
            stream = stream_of(sock)
            undo.callback(stream.release, forked=False)
            plug = self._make_plug()
            undo.callback(plug.close)
            if self._tls is None or context is None:
                plug.connect(stream)
            else:
                await self._tls.shake_hands(stream, context, plug)
            await plug.greeted()
            undo.pop_all()
        return plug

    def _make_plug(
        self, on_lost: Callable[[str, OSError | None], None] | None = None
    ) -> StreamPlug:
        if self._offload:
            return OffloadedPlug(self._vnl, on_lost=on_lost)
        return StreamPlug(self._vnl, VDESTREAM, on_lost=on_lost)


def _parse_host(parsed: Address, *, may_be_empty: bool) -> tuple[str, int]:
    host, colon, port = parsed.base.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not (host or may_be_empty):
        expected = "HOST:PORT, /PATH of a UNIX socket, or - for standard input"
        parsed.refuse("", f"expected {expected}")
    if not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536):
        parsed.refuse("", f"expected a port from 1 to 65535, not {port!r}")
    return host, int(port)


def _parse_tls(parsed: Address, host: str) -> TlsOptions:
    options = parsed.options
    tls = TlsOptions(
        server="listen" in options,
        name=options.get("name", host),
        ca=options.get("ca"),
        cert=options.get("cert"),
        key=options.get("key"),
    )
    if tls.server:
        if tls.cert is None:
            parsed.refuse("tls", "tls: a listener needs cert=FILE, and key=FILE")
        if (tls.ca is None) != ("anyone" in options):
            reason = (
                "tls: a listener needs ca=FILE, to check clients' certificates with, "
                "or anyone, to let in everybody; one of the two"
            )
            parsed.refuse("tls", reason)
    elif not tls.name:
        parsed.refuse("tls", "tls: say name=HOST, whom the certificate must be for")
    if tls.key is not None and tls.cert is None:
        parsed.refuse("key", "key: it belongs to a cert=FILE")
    return tls


def _check(parsed: Address) -> None:
    """Refuse what does not go together."""
    options = parsed.options
    if parsed.base == _STDIO and options:
        parsed.refuse(next(iter(options)), "standard input has no options")
    if "tls" not in options:
        for name in _TLS_ONLY:
            if name in options:
                parsed.refuse(name, f"{name}: only with tls")
    if "mode" in options and not ("listen" in options and parsed.base[:1] == "/"):
        parsed.refuse("mode", "mode: only for a UNIX socket with listen")
    server_only, client_only = "anyone", "name"
    wrong = client_only if "listen" in options else server_only
    if wrong in options:
        where = "without" if wrong == client_only else "with"
        parsed.refuse(wrong, f"{wrong}: only {where} listen")


async def _connect_internet(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await aiohappyeyeballs.start_connection(
        found, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS
    )


_stdio_users: set[str] = set()


def _open_stdio(vnl: str) -> StreamPlug:
    if _stdio_users:
        reason = "another plug has this program's standard input and output"
        raise BrokenTransportError(vnl, reason, errno=errno.EBUSY)
    with ExitStack() as undo:
        for number, name in enumerate(("input", "output")):
            try:
                _borrow(number, undo)
            except OSError as error:
                reason = f"standard {name} must be a pipe or a socket"
                raise BrokenTransportError(vnl, reason, errno=error.errno) from error
        waiting = select.poll()
        waiting.register(0, select.POLLIN)
        if [event for _, event in waiting.poll(0)] == [select.POLLHUP]:
            reason = "standard input has ended"
            raise BrokenTransportError(vnl, reason, errno=errno.EPIPE)
        stream = _copy_of_stdio()
        undo.callback(stream.release, forked=False)
        plug = StreamPlug(vnl, VDESTREAM, batch=PIPE_BATCH_SIZE)
        undo.callback(plug.close)
        plug.connect(stream)
        _stdio_users.add(vnl)
        given_back = undo.pop_all()
    given_back.callback(_stdio_users.discard, vnl)
    # A child's copies of 0 and 1 are the same pipes as ours, which stay as they are.
    plug.undo(given_back.close)
    return plug


def _copy_of_stdio() -> ByteStream:
    with ExitStack() as undo:
        reading = os.dup(0)
        undo.callback(os.close, reading)
        writing = os.dup(1)
        undo.callback(os.close, writing)
        stream = ByteStream(reading, writing)
        undo.pop_all()
    return stream


def _borrow(number: int, undo: ExitStack) -> None:
    """Have a standard descriptor not block, until it is given back."""
    mode = os.fstat(number).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if os.get_blocking(number):
        os.set_blocking(number, False)
        undo.callback(_if_open, os.set_blocking, number, True)
    if number == 1 and stat.S_ISFIFO(mode):
        size = fcntl.fcntl(number, fcntl.F_GETPIPE_SZ)
        with suppress(OSError):  # more than that is in it already
            fcntl.fcntl(number, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
            undo.callback(_if_open, fcntl.fcntl, number, fcntl.F_SETPIPE_SZ, size)


def _if_open(function: Callable[..., object], *arguments: int) -> None:
    """Give back what may have been closed by somebody else meanwhile."""
    with suppress(OSError):
        function(*arguments)
