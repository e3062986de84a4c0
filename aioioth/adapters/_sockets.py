"""Sockets of a stack, connected or bound, for libraries that take them ready."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from aioioth._connecting import addresses, connect
from aioioth._listening import bind_all

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioioth.stack import Stack

# As asyncio's servers: an address can be taken again at once.
_REUSE = {socket.SO_REUSEADDR: True}


async def connected(
    stack: Stack,
    host: str,
    port: int,
    *,
    local_addr: tuple[str, int] | None = None,
    family: int = 0,
) -> socket.socket:
    """Connect from ``stack``, to the first address of ``host`` that accepts.

    Returns:
        A non-blocking socket, the caller's to close.

    Raises:
        OSError: As asyncio raises it.
        ClosedError: The stack is not open.

    Cancellation:
        Nothing stays open.
    """
    stack.check_open()
    infos = await addresses(stack, host, port, family=family)
    local = None
    if local_addr is not None:
        local = await addresses(stack, *local_addr, family=family)
    return await connect(
        stack, infos, local, all_errors=False, happy_eyeballs_delay=0.25
    )


async def bound(
    stack: Stack,
    host: str | None,
    port: int,
    *,
    kind: int = socket.SOCK_STREAM,
) -> list[socket.socket]:
    """Bind a socket of ``stack`` to each address of ``host``; None for all.

    Returns:
        Non-blocking sockets that do not listen yet, the caller's to close.

    Raises:
        OSError: As asyncio raises it; nothing stays open.
        ClosedError: The stack is not open.
    """
    stack.check_open()
    flags = socket.AI_PASSIVE
    infos = await addresses(stack, host or None, port, kind=kind, flags=flags)
    return bind_all(stack, list(dict.fromkeys(infos)), _REUSE)


async def bound_once(stack: Stack, host: str | None, port: int) -> socket.socket:
    """Bind one socket of ``stack``, for libraries that take no more.

    Args:
        stack: Where it will listen.
        host: A name or address; None or empty for all addresses, of IPv4 and IPv6 (an
            IPv4 client's address is then seen as ``::ffff:10.0.0.2``).
        port: TCP port; 0 for a free one.

    Raises:
        OSError: As asyncio raises it, and for a name of several addresses.
        ClosedError: The stack is not open.
    """
    if host:
        sockets = await bound(stack, host, port)
        if len(sockets) == 1:
            return sockets[0]
        let_go(sockets)
        msg = f"{host} has {len(sockets)} addresses; name the one to listen on"
        raise OSError(msg)
    sock = stack.socket(socket.AF_INET6, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", port))
    except BaseException:
        sock.close()
        raise
    return sock


def let_go(sockets: Iterable[socket.socket]) -> None:
    """Close what is still open of listening sockets that a library was given."""
    loop = asyncio.get_running_loop()
    for sock in sockets:
        if sock.fileno() != -1:
            # A server that was cancelled while it started may be watching it still.
            loop.remove_reader(sock.fileno())
            sock.close()
