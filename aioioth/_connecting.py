"""From addresses to a connected socket of a stack."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import aiohappyeyeballs

from aioioth._literals import is_name

if TYPE_CHECKING:
    from aioioth.names import AddressInfo
    from aioioth.stack import Stack

SocketAddress = Any  # as its family has it

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
    wanted: Any = {"family": family, "type": kind, "proto": proto, "flags": flags}
    beyond = None if host is None or is_name(host) else _impossible_port(port)
    infos = await stack.getaddrinfo(host, port if beyond is None else 0, **wanted)
    if not infos:
        msg = "getaddrinfo() returned empty list"
        raise OSError(msg)
    if beyond is not None:
        # asyncio does not look literal addresses up, so it is the socket that refuses.
        # glibc would take the number modulo 65536.
        return [(*info[:4], (info[4][0], beyond, *info[4][2:])) for info in infos]
    return infos


def _impossible_port(port: object) -> int | None:
    try:
        number = int(port)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return None
    return None if 0 <= number < 1 << 16 else number


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
        pass
    else:
        return
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    descriptor = sock.fileno()
    loop.add_writer(descriptor, _finish, done)
    try:
        await done
    finally:
        loop.remove_writer(descriptor)
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, f"Connect call failed {address}")


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
    attempts: Any = _Attempts(stack, local)
    try:
        return await aiohappyeyeballs.start_connection(
            infos, loop=attempts, socket_factory=attempts.open, **timing
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
