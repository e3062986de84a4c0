"""From addresses to a connected socket of a stack."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiohappyeyeballs

if TYPE_CHECKING:
    from aioioth.names import AddressInfo
    from aioioth.stack import Stack

SocketAddress = Any  # as its family has it

_CONNECTING = {errno.EALREADY, errno.EINPROGRESS, errno.EINTR}

_PROTOCOLS: dict[int, int] = {
    socket.SOCK_STREAM: socket.IPPROTO_TCP,
    socket.SOCK_DGRAM: socket.IPPROTO_UDP,
}

# Since this change to asyncio (3.13), what it says about a failed bind has the number
# in it, and an address that the host lacks is passed over by servers (bpo-30945).
BIND_ERRORS_NUMBERED = hasattr(asyncio.base_events, "errno")


async def addresses(
    stack: Stack,
    host: str | bytes | None,
    port: int | str | None,
    *,
    family: int = 0,
    kind: int = socket.SOCK_STREAM,
    proto: int = 0,
    flags: int = 0,
) -> list[AddressInfo]:
    """Look up, at least one address.

    Raises:
        OSError: There is none.
    """
    literal = _literal(host, port, family=family, kind=kind, proto=proto)
    if literal is not None:
        return [literal]
    infos = await stack.getaddrinfo(
        host, port, family=family, type=kind, proto=proto, flags=flags
    )
    if not infos:
        msg = "getaddrinfo() returned empty list"
        raise OSError(msg)
    return infos


def _literal(
    host: str | bytes | None,
    port: int | str | bytes | None,
    *,
    family: int,
    kind: int,
    proto: int,
) -> AddressInfo | None:
    """Return what a literal address means, or None if there is more to know.

    asyncio looks literal addresses up as little as this, so that an impossible port is
    refused by the socket; glibc would take it modulo 65536. It is quicker, too.
    """
    if kind not in _PROTOCOLS or proto not in {0, _PROTOCOLS[kind]}:
        return None
    if not isinstance(host, (str, bytes)):
        return None
    text = host if isinstance(host, str) else host.decode("ascii", "replace")
    try:
        number = int(port or 0)
    except (TypeError, ValueError):  # the name of a service, or nonsense
        return None
    families = [family] if family else [socket.AF_INET, socket.AF_INET6]
    for each in families:
        with suppress(OSError, ValueError):
            socket.inet_pton(each, text)
            address: Any = (text, number, 0, 0)[: 4 if each == socket.AF_INET6 else 2]
            known = socket.AddressFamily(each), socket.SocketKind(kind)
            return *known, _PROTOCOLS[kind], "", address
    return None


async def connect_socket(sock: socket.socket, address: SocketAddress) -> None:
    """Connect a non-blocking socket; errors are asyncio's.

    Not by the loop's own `sock_connect`: uvloop's asks the host's resolver even about
    literal addresses, and loses the scope of link-local ones (uvloop 0.23).

    Cancellation:
        The socket stays the caller's, and may be connecting still.
    """
    try:
        sock.connect(address)
    except (BlockingIOError, InterruptedError):
        # On lo everything has been said by now; to ask spares a turn of the loop.
        code = sock.connect_ex(address)
    else:
        return
    if code in _CONNECTING:
        code = await _outcome(sock)
    if code:
        raise OSError(code, f"Connect call failed {address}")


async def _outcome(sock: socket.socket) -> int:
    """Wait until the kernel has connected a socket, or failed; return which error."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    descriptor = sock.fileno()
    loop.add_writer(descriptor, _finish, done)
    try:
        await done
    finally:
        loop.remove_writer(descriptor)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def bind(sock: socket.socket, address: SocketAddress) -> None:
    """Bind a socket; errors are worded as asyncio words them.

    Raises:
        OSError: As asyncio raises it.
    """
    try:
        sock.bind(address)
    except OSError as error:
        reason = str(error) if BIND_ERRORS_NUMBERED else error.strerror
        msg = (
            f"error while attempting to bind on address {address!r}: "
            f"{(reason or str(error)).lower()}"
        )
        raise OSError(error.errno, msg) from None


class _Attempts:
    """What `aiohappyeyeballs` races: it opens sockets here, and connects them.

    It remembers what went wrong, in asyncio's order: attempt by attempt.
    """

    def __init__(self, stack: Stack, local: list[AddressInfo] | None) -> None:
        self._stack, self._local = stack, local
        self._errors: list[list[OSError]] = []
        self._errors_of: dict[socket.socket, list[OSError]] = {}

    @property
    def errors(self) -> list[OSError]:
        """All that went wrong so far."""
        return [error for errors in self._errors for error in errors]

    def open(self, info: AddressInfo) -> socket.socket:
        """Open a socket for an attempt."""
        errors: list[OSError] = []
        self._errors.append(errors)
        try:
            sock = self._stack.socket(*info[:3])
        except OSError as error:
            errors.append(error)
            raise
        self._errors_of[sock] = errors
        return sock

    async def only(self, info: AddressInfo) -> socket.socket:
        """Make the only attempt, without a race."""
        sock = self.open(info)
        try:
            await self.sock_connect(sock, info[4])
        except BaseException:
            sock.close()
            raise
        return sock

    async def sock_connect(self, sock: socket.socket, address: SocketAddress) -> None:
        """Bind and connect, in the place of the loop's own."""
        try:
            self._bind(sock)
            await connect_socket(sock, address)
        except OSError as error:
            self._errors_of[sock].append(error)
            raise

    def _bind(self, sock: socket.socket) -> None:
        if self._local is None:
            return
        errors: list[OSError] = []
        for family, *_, address in self._local:
            if family == sock.family:
                try:
                    bind(sock, address)
                except OSError as error:
                    errors.append(error)
                else:
                    self._errors_of[sock] += errors
                    return
        if not errors:
            msg = f"no matching local address with family={sock.family!r} found"
            raise OSError(msg)
        self._errors_of[sock] += errors[:-1]
        raise errors[-1]


async def connect(
    stack: Stack,
    infos: list[AddressInfo],
    local: list[AddressInfo] | None,
    *,
    all_errors: bool,
    **timing: Any,
) -> socket.socket:
    """Connect to the first address that accepts (happy eyeballs, RFC 8305).

    Args:
        stack: Where from.
        infos: Where to.
        local: Addresses to bind to before, or None.
        all_errors: Raise all that went wrong, as an exception group.
        timing: As for `aiohappyeyeballs.start_connection`.

    Returns:
        The connected socket, the caller's to close.

    Raises:
        OSError: As asyncio's loop raises it.
    """
    attempts = _Attempts(stack, local)
    try:
        if len(infos) == 1:
            return await attempts.only(infos[0])
        racing: Any = attempts  # a loop, as far as aiohappyeyeballs needs one
        return await aiohappyeyeballs.start_connection(
            infos, loop=racing, socket_factory=racing.open, **timing
        )
    except OSError:
        errors = attempts.errors
    if all_errors:
        message = "create_connection failed"
        raise ExceptionGroup(message, errors)
    # asyncio's rule: one for all, if they say the same. aiohappyeyeballs's differs.
    messages = [str(error) for error in errors]
    if len(set(messages)) == 1:
        raise errors[0]
    raise OSError("Multiple exceptions: " + ", ".join(messages))
