"""From names to connected and bound sockets of a stack, wherever anyio runs."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.abc import AsyncResource

from aioioth._connecting import addresses

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from anyio.abc import IPAddressType

    from aioioth.names import AddressInfo
    from aioioth.stack import Stack

    Address = tuple[str, int] | tuple[str, int, int, int]
    Place = tuple[int, Address]

_StreamT = TypeVar("_StreamT", bound=AsyncResource)

PASSIVE = socket.AI_PASSIVE | socket.AI_ADDRCONFIG
# Another program may have the port on one address that is free on the first.
_PORT_ATTEMPTS = 10


async def look_up(
    stack: Stack,
    host: IPAddressType | None,
    port: int | None,
    *,
    family: int = 0,
    kind: int = socket.SOCK_STREAM,
    flags: int = 0,
) -> list[AddressInfo]:
    """Return at least one address; a name may be in any script."""
    # The stack answers at once about literal addresses, and anyio never does.
    await anyio.lowlevel.checkpoint()
    name = None if host is None else _ascii(str(host))
    return await addresses(stack, name, port, family=family, kind=kind, flags=flags)


async def local_place(
    stack: Stack, host: IPAddressType, port: int, family: int
) -> Place:
    """Return the family and address to bind a UDP socket to."""
    found = await look_up(
        stack, host, port, family=family, kind=socket.SOCK_DGRAM, flags=PASSIVE
    )
    return found[0][0], found[0][4]


def _ascii(host: str) -> str:
    """Return a name as IDNA 2008 writes it; Python's own codec knows IDNA 2003."""
    if host.isascii():
        return host
    import idna  # anyio's, and seldom needed

    return idna.encode(host, uts46=True).decode()


def is_literal(host: IPAddressType) -> bool:
    """Whether it is an address, not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def in_order(found: list[AddressInfo]) -> list[AddressInfo]:
    """Put the first address of IPv6 first and the first of IPv4 second (RFC 6555)."""
    firsts = []
    for family in (socket.AF_INET6, socket.AF_INET):
        firsts += [each for each in found if each[0] == family][:1]
    return firsts + [each for each in found if each not in firsts]


async def race(
    stack: Stack, targets: list[AddressInfo], local: AddressInfo | None, delay: float
) -> socket.socket:
    """Connect to the first that accepts; the next gets its chance after ``delay``."""
    connected: list[socket.socket] = []
    errors: list[OSError] = []

    async def attempt(target: AddressInfo, over: anyio.Event) -> None:
        try:
            connected.append(await _connect(stack, target, local))
            group.cancel_scope.cancel()
        except OSError as error:
            errors.append(error)
        finally:
            over.set()

    with ExitStack() as undo:
        undo.callback(_close_all, connected)
        async with anyio.create_task_group() as group:
            for target in targets:
                over = anyio.Event()
                group.start_soon(attempt, target, over)
                with anyio.move_on_after(delay):
                    await over.wait()
        if connected:
            # Two may have been accepted in the same turn.
            winner = connected.pop(0)
            undo.close()
            return winner
    cause: Exception = errors[0]
    if len(errors) > 1:
        cause = ExceptionGroup("multiple connection attempts failed", errors)
    msg = "All connection attempts failed"
    raise OSError(msg) from cause


def _close_all(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


async def _connect(
    stack: Stack, target: AddressInfo, local: AddressInfo | None
) -> socket.socket:
    family, kind, proto, _, address = target
    with ExitStack() as undo:
        sock = stack.socket(family, kind, proto)
        undo.callback(sock.close)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if local is not None:
            if local[0] != family:
                msg = f"no matching local address with family={family!r} found"
                raise OSError(msg)
            sock.bind(local[4])
        try:
            sock.connect(address)
        except (BlockingIOError, InterruptedError):
            await anyio.wait_writable(sock)
            if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, f"Connect call failed {address}") from None
        undo.pop_all()
    return sock


async def handed_over(
    sock: socket.socket, wrap: Callable[[socket.socket], Coroutine[Any, Any, _StreamT]]
) -> _StreamT:
    """Return what anyio makes of a socket, which is closed if that fails.

    Cancellation:
        Waits for it, some turns of the loop, since uvloop 0.23 loses the descriptor of
        a datagram endpoint that is cancelled; and closes it then.
    """
    made: list[_StreamT] = []
    errors: list[BaseException] = []

    async def wrapping() -> None:
        try:
            with anyio.CancelScope(shield=True):
                made.append(await wrap(sock))
        except (OSError, ValueError) as error:
            errors.append(error)

    try:
        # A task of its own, which a cancellation of asyncio's does not reach.
        async with anyio.create_task_group() as group:
            group.start_soon(wrapping)
    except BaseException:
        sock.close()
        for each in made:
            await anyio.aclose_forcefully(each)
        raise
    if errors:
        sock.close()
        raise errors[0]
    return made[0]


def listen_all(
    stack: Stack, places: list[Place], options: list[tuple[int, int, int]], backlog: int
) -> list[socket.socket]:
    """Return a listening socket for each place; a port 0 becomes the same for all."""
    errors = []
    for _ in range(_PORT_ATTEMPTS):
        try:
            return _listen_each(stack, places, options, backlog)
        except OSError as error:
            picked = places[0][1][1] == 0 and len(places) > 1
            if error.errno != errno.EADDRINUSE or not picked:
                raise
            errors.append(error)
            places = [*places[1:], places[0]]
    msg = f"Could not create {len(places)} listeners with a consistent port"
    raise OSError(msg) from ExceptionGroup("Several bind attempts failed", errors)


def _listen_each(
    stack: Stack, places: list[Place], options: list[tuple[int, int, int]], backlog: int
) -> list[socket.socket]:
    with ExitStack() as undo:
        listening: list[socket.socket] = []
        for family, (host, port, *scope) in places:
            sock = stack.socket(family, socket.SOCK_STREAM)
            undo.callback(sock.close)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            for option in options:
                sock.setsockopt(*option)
            # A port that the kernel picked for the first is everybody's.
            same = listening[0].getsockname()[1] if listening else port
            sock.bind((host, same, *scope))
            sock.listen(backlog)
            listening.append(sock)
        undo.pop_all()
    return listening


def udp_socket(
    stack: Stack,
    family: int,
    local: Address | None,
    remote: Address | None,
    *,
    reuse_port: bool,
) -> socket.socket:
    """Return a UDP socket, bound and connected if so wanted."""
    with ExitStack() as undo:
        sock = stack.socket(family, socket.SOCK_DGRAM)
        undo.callback(sock.close)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if local is not None:
            sock.bind(local)
        if remote is not None:
            sock.connect(remote)
        undo.pop_all()
    return sock
