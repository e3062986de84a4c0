"""anyio's calls that open sockets, bound to a stack: on asyncio, uvloop and trio.

anyio is the specification: the same names, parameters and errors, and its own streams
and listeners. Only the sockets come from the stack, and the addresses from its own
resolver. They are methods of `aioioth.Stack` as well:

    stream = await stack.connect_tcp("10.0.0.1", 7)

Source: anyio 4.11 to 4.16, ``anyio.connect_tcp`` and its neighbours.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal, overload

import anyio
from anyio.abc import ConnectedUDPSocket, SocketListener, SocketStream, UDPSocket
from anyio.streams.stapled import MultiListener
from anyio.streams.tls import TLSStream

from aioioth._anyio_sockets import (
    PASSIVE,
    handed_over,
    in_order,
    is_literal,
    listen_all,
    local_place,
    look_up,
    race,
    udp_socket,
)

if TYPE_CHECKING:
    import ssl

    from anyio.abc import IPAddressType
    from typing_extensions import Unpack

    from aioioth._anyio_options import AnyIPAddressFamily, TLSOptions
    from aioioth._anyio_sockets import Place
    from aioioth.stack import Stack

__all__ = [
    "connect_tcp",
    "create_connected_udp_socket",
    "create_tcp_listener",
    "create_udp_socket",
]

_ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104  (as anyio)
_BACKLOG_LIMIT = 65536


@overload
async def connect_tcp(
    stack: Stack,
    remote_host: IPAddressType,
    remote_port: int,
    *,
    tls: bool = ...,
    ssl_context: ssl.SSLContext | None = ...,
    tls_hostname: str,
    **kwds: Unpack[TLSOptions],
) -> TLSStream: ...
@overload
async def connect_tcp(
    stack: Stack,
    remote_host: IPAddressType,
    remote_port: int,
    *,
    tls: bool = ...,
    ssl_context: ssl.SSLContext,
    tls_hostname: str | None = ...,
    **kwds: Unpack[TLSOptions],
) -> TLSStream: ...
@overload
async def connect_tcp(
    stack: Stack,
    remote_host: IPAddressType,
    remote_port: int,
    *,
    tls: Literal[True],
    ssl_context: ssl.SSLContext | None = ...,
    tls_hostname: str | None = ...,
    **kwds: Unpack[TLSOptions],
) -> TLSStream: ...
@overload
async def connect_tcp(
    stack: Stack,
    remote_host: IPAddressType,
    remote_port: int,
    *,
    tls: Literal[False] = ...,
    ssl_context: None = ...,
    tls_hostname: None = ...,
    **kwds: Unpack[TLSOptions],
) -> SocketStream: ...
async def connect_tcp(  # noqa: PLR0913  (as anyio's)
    stack: Stack,
    remote_host: IPAddressType,
    remote_port: int,
    *,
    local_host: IPAddressType | None = None,
    local_port: int | None = None,
    tls: bool = False,
    ssl_context: ssl.SSLContext | None = None,
    tls_standard_compatible: bool = True,
    tls_hostname: str | None = None,
    happy_eyeballs_delay: float = 0.25,
) -> SocketStream | TLSStream:
    """Connect from ``stack``; see `anyio.connect_tcp`.

    Args:
        stack: Where from.
        remote_host: Name or address.
        remote_port: TCP port.
        local_host: Address to bind to before, or a name of it.
        local_port: Port to bind to before; only with ``local_host``.
        tls: Do TLS; so do ``ssl_context`` and ``tls_hostname``.
        ssl_context: None for a default one.
        tls_standard_compatible: Say goodbye properly, and expect it from the peer.
        tls_hostname: What the peer's certificate is for; None for ``remote_host``.
        happy_eyeballs_delay: Seconds after which the next address is tried, too.

    Raises:
        OSError: No address accepted; the cause has the errors of all.
        ssl.SSLError: TLS failed.
        ClosedError: The stack is not open.
    """
    local = None
    if local_host:
        local = (await look_up(stack, local_host, local_port))[0]
    # A literal address is tried all the same, and its error says what is wrong.
    family = local[0] if local and not is_literal(remote_host) else 0
    targets = await look_up(stack, remote_host, remote_port, family=family)
    connected = await race(stack, in_order(targets), local, happy_eyeballs_delay)
    try:
        stream = await handed_over(connected, SocketStream.from_socket)
    except ValueError as error:  # "must be connected", which it was a moment ago
        code = errno.ECONNRESET
        raise ConnectionResetError(code, os.strerror(code)) from error
    if not (tls or tls_hostname or ssl_context):
        return stream
    try:
        return await TLSStream.wrap(
            stream,
            server_side=False,
            hostname=tls_hostname or str(remote_host),
            ssl_context=ssl_context,
            standard_compatible=tls_standard_compatible,
        )
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise


async def create_tcp_listener(
    stack: Stack,
    *,
    local_host: IPAddressType | None = None,
    local_port: int = 0,
    family: AnyIPAddressFamily = socket.AddressFamily.AF_UNSPEC,
    backlog: int = _BACKLOG_LIMIT,
    reuse_port: bool = False,
) -> MultiListener[SocketStream]:
    """Listen on ``stack``; see `anyio.create_tcp_listener`.

    Args:
        stack: Where.
        local_host: Name or address to listen on; None for all, of IPv4 and IPv6.
        local_port: TCP port; 0 for one that is free on all addresses.
        family: Which addresses of ``local_host``.
        backlog: How many connections may wait to be accepted.
        reuse_port: Let others listen on the same port, too.

    Raises:
        OSError: An address cannot be listened on.
        ClosedError: The stack is not open.
    """
    found = await look_up(stack, local_host, local_port, family=family, flags=PASSIVE)
    places: list[Place] = [(each[0], each[4]) for each in sorted(set(found))]
    options = [(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)]
    if reuse_port:
        options.append((socket.SOL_SOCKET, socket.SO_REUSEPORT, 1))
    both = [place for place in places if place[0] == socket.AF_INET6]
    if both and local_host is None and family == socket.AF_UNSPEC:
        places = both  # one socket of IPv6 takes IPv4, too
        options.append((socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0))
    with ExitStack() as undo:
        sockets = listen_all(stack, places, options, min(backlog, _BACKLOG_LIMIT))
        for each in sockets:
            undo.callback(each.close)
        listeners = [await SocketListener.from_socket(each) for each in sockets]
        undo.pop_all()
    return MultiListener(listeners)


async def create_udp_socket(
    stack: Stack,
    family: AnyIPAddressFamily = socket.AddressFamily.AF_UNSPEC,
    *,
    local_host: IPAddressType | None = None,
    local_port: int = 0,
    reuse_port: bool = False,
) -> UDPSocket:
    """Open a UDP socket of ``stack``; see `anyio.create_udp_socket`.

    Args:
        stack: Where.
        family: ``AF_INET`` or ``AF_INET6``; needed without ``local_host``.
        local_host: Name or address to receive on; None for all.
        local_port: UDP port; 0 for a free one.
        reuse_port: Let others receive on the same port, too.

    Raises:
        ValueError: Neither ``family`` nor ``local_host`` is given.
        OSError: The address cannot be used.
        ClosedError: The stack is not open.
    """
    if family == socket.AF_UNSPEC and not local_host:
        msg = 'Either "family" or "local_host" must be given'
        raise ValueError(msg)
    if local_host:
        local = await local_place(stack, local_host, local_port, family)
    else:
        stack.check_open()
        await anyio.lowlevel.checkpoint()
        local = family, (_ANY[family], local_port)
    sock = udp_socket(stack, local[0], local[1], None, reuse_port=reuse_port)
    return await handed_over(sock, UDPSocket.from_socket)


async def create_connected_udp_socket(
    stack: Stack,
    remote_host: IPAddressType,
    remote_port: int,
    *,
    family: AnyIPAddressFamily = socket.AddressFamily.AF_UNSPEC,
    local_host: IPAddressType | None = None,
    local_port: int = 0,
    reuse_port: bool = False,
) -> ConnectedUDPSocket:
    """Open a UDP socket for one peer; see `anyio.create_connected_udp_socket`.

    Args:
        stack: Where.
        remote_host: Name or address of the peer.
        remote_port: Its UDP port.
        family: ``AF_INET`` or ``AF_INET6``; else it follows from the hosts.
        local_host: Name or address to receive on; None for any.
        local_port: UDP port; 0 for a free one.
        reuse_port: Let others receive on the same port, too.

    Raises:
        OSError: An address cannot be used, or there is no route.
        ClosedError: The stack is not open.
    """
    local = None
    wanted: int = family
    if local_host:
        wanted, local = await local_place(stack, local_host, local_port, family)
    found = await look_up(
        stack, remote_host, remote_port, family=wanted, kind=socket.SOCK_DGRAM
    )
    wanted, *_, remote = found[0]
    if local is None and local_port:
        local = _ANY[wanted], local_port
    sock = udp_socket(stack, wanted, local, remote, reuse_port=reuse_port)
    return await handed_over(sock, ConnectedUDPSocket.from_socket)
