"""The event loop's calls that open, connect or bind sockets, bound to a stack.

asyncio is the specification: same parameters, same errors, its own transports. Only the
sockets come from the stack, and the addresses from its own resolver.

Source: CPython 3.11 to 3.13, documentation of asyncio's event loop.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from aioioth._connecting import SocketAddress, addresses, connect, connect_socket
from aioioth._datagrams import create_datagram_endpoint
from aioioth._listening import bind_all, listening_addresses
from aioioth._server import ServerGroup

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import Callable, Sequence

    from aioioth.stack import Stack

__all__ = [
    "create_connection",
    "create_datagram_endpoint",
    "create_server",
    "sock_connect",
]

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)


async def create_connection(  # noqa: PLR0913  (as the loop's)
    stack: Stack,
    protocol_factory: Callable[[], _ProtocolT],
    host: str | bytes | None = None,
    port: int | str | None = None,
    *,
    ssl: bool | ssl_module.SSLContext | None = None,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    sock: socket.socket | None = None,
    local_addr: tuple[str, int | str] | None = None,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    happy_eyeballs_delay: float | None = None,
    interleave: int | None = None,
    all_errors: bool = False,
) -> tuple[asyncio.Transport, _ProtocolT]:
    """Connect from ``stack``; see `asyncio.loop.create_connection`.

    Raises:
        OSError: As asyncio raises it.
        ClosedError: The stack is not open.
    """
    loop = asyncio.get_running_loop()
    _check_ssl_arguments(
        ssl, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout
    )
    if server_hostname is None and ssl:
        if not host:
            msg = "You must set server_hostname when using ssl without a host"
            raise ValueError(msg)
        server_hostname = host.decode() if isinstance(host, bytes) else host
    with ExitStack() as undo:
        if sock is None:
            if host is None and port is None:
                msg = "host and port was not specified and no sock specified"
                raise ValueError(msg)
            wanted: Any = {"family": family, "proto": proto, "flags": flags}
            infos = await addresses(stack, host, port, **wanted)
            local = None
            if local_addr is not None:
                local = await addresses(stack, *local_addr, **wanted)
            sock = await connect(
                stack,
                infos,
                local,
                happy_eyeballs_delay=happy_eyeballs_delay,
                interleave=interleave,
                all_errors=all_errors,
            )
            # Ours until the loop has it.
            undo.callback(sock.close)
        elif host is not None or port is not None:
            msg = "host/port and sock can not be specified at the same time"
            raise ValueError(msg)
        transport, protocol = await loop.create_connection(
            protocol_factory,
            sock=sock,
            ssl=ssl,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        undo.pop_all()
    return transport, protocol


async def create_server(  # noqa: PLR0913  (as the loop's)
    stack: Stack,
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: str | Sequence[str] | None = None,
    port: int | str | None = None,
    *,
    family: int = socket.AF_UNSPEC,
    flags: int = socket.AI_PASSIVE,
    sock: socket.socket | None = None,
    backlog: int = 100,
    ssl: ssl_module.SSLContext | bool | None = None,
    reuse_address: bool | None = None,
    reuse_port: bool | None = None,
    keep_alive: bool | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    start_serving: bool = True,
) -> asyncio.Server:
    """Listen on ``stack``; see `asyncio.loop.create_server`.

    Returns:
        asyncio's own server when there is one address to listen on. Otherwise, and on
        other loops, one that does the same for all of them.

    Raises:
        OSError: As asyncio raises it.
        ClosedError: The stack is not open.
    """
    loop = asyncio.get_running_loop()
    if isinstance(ssl, bool):
        msg = "ssl argument must be an SSLContext or None"
        raise TypeError(msg)
    _check_ssl_arguments(ssl, None, ssl_handshake_timeout, ssl_shutdown_timeout)
    with ExitStack() as undo:
        if sock is not None:
            if host is not None or port is not None:
                msg = "host/port and sock can not be specified at the same time"
                raise ValueError(msg)
            sockets = [sock]
        else:
            if host is None and port is None:
                msg = "Neither host/port nor sock were specified"
                raise ValueError(msg)
            options = {
                socket.SO_REUSEADDR: reuse_address is None or reuse_address,
                socket.SO_REUSEPORT: bool(reuse_port),
                socket.SO_KEEPALIVE: bool(keep_alive),
            }
            infos = await listening_addresses(
                stack, host, port, family=family, flags=flags
            )
            sockets = bind_all(stack, infos, options)
            for bound in sockets:
                undo.callback(bound.close)
        servers = []
        for listening in sockets:
            server = await loop.create_server(
                protocol_factory,
                sock=listening,
                backlog=backlog,
                ssl=ssl,
                ssl_handshake_timeout=ssl_handshake_timeout,
                ssl_shutdown_timeout=ssl_shutdown_timeout,
                # All or none: none must accept before the last one is bound.
                start_serving=False,
            )
            undo.callback(server.close)
            servers.append(server)
        alone = len(servers) == 1 and isinstance(servers[0], asyncio.Server)
        # uvloop's server is none, and does not do all that one does.
        together = servers[0] if alone else ServerGroup(servers)
        if start_serving:
            await together.start_serving()
        undo.pop_all()
    return together


def _check_ssl_arguments(
    ssl: object,
    server_hostname: str | None,
    handshake_timeout: float | None,
    shutdown_timeout: float | None,
) -> None:
    if ssl:
        return
    for name, value in (
        ("server_hostname", server_hostname),
        ("ssl_handshake_timeout", handshake_timeout),
        ("ssl_shutdown_timeout", shutdown_timeout),
    ):
        if value is not None:
            msg = f"{name} is only meaningful with ssl"
            raise ValueError(msg)


async def sock_connect(
    stack: Stack, sock: socket.socket, address: SocketAddress
) -> None:
    """Connect a socket of ``stack``; see `asyncio.loop.sock_connect`.

    Raises:
        OSError: As asyncio raises it.
        ClosedError: The stack is not open.
        ValueError: The socket is blocking, and the loop in debug mode.
    """
    # Only then, as the loops do.
    if asyncio.get_running_loop().get_debug() and sock.gettimeout() != 0:
        msg = "the socket must be non-blocking"
        raise ValueError(msg)
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        (host, port), scope = address[:2], address[2:]
        infos = await addresses(
            stack, host, port, family=sock.family, kind=sock.type, proto=sock.proto
        )
        address = infos[0][4]
        if len(scope) == 2 and not address[3]:
            address = (*address[:2], *scope)
    await connect_socket(sock, address)
